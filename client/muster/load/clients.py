"""The clients of a load: each is a coroutine that checks in, fetches, works and uploads."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Callable, Optional

from muster.client import UnreachableError
from muster.load.arrivals import ArrivalRecorder
from muster.load.loop import LoadError, run_beside
from muster.load.shape import LoadShape
from muster.load.targets import Answer, Target
from muster.load.times import Histogram, Times
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array

_OK, _UNAUTHENTICATED = 200, 401
_RETRIED = (0, 429, 502, 503, 504)  # statuses after which a client tries again; 0: no response
_BACK_OFF, _MAX_TRIES = 1.0, 5  # seconds before the first retry, doubled before each further one
_LOST = ("assignment_expired", "assignment_invalid")  # problems after which a client checks in again
_ROUND_FULL = "round_full"
_POLL_SECONDS = 1.0  # between polls of whether the round is over

# Outcomes of clients, or of their tries. They are names in JSON output.
ACCEPTED, VANISHED = "accepted", "vanished"
WAITED = "told to wait"  # prose: the name was published
LATE_ASSIGNMENT, LATE_ROUND = "too late for its assignment", "too late for its round"
AT_WORK, NO_SLOT = "still at work when its round ended", "got no slot"
AFTER = "came after its round"  # prose: the name was published
UNANSWERED, GAVE_UP = "not answered", "gave up"


@dataclass(frozen=True)
class Contribution:
    """Requests of every client of a load.

    Attributes:
      population: The clients' population.
      update: Tensors of the update, by path.
      encoded: The update as bytes.
      token_of: Returns the enrolment token of a client, by its name; None if clients need none.
    """

    population: str
    update: Mapping[str, Array]
    encoded: bytes
    token_of: Optional[Callable[[str], str]] = None


@dataclass
class Tally:
    """Outcomes of the clients of one round.

    Attributes:
      outcomes: Number of clients or tries, by outcome.
      waits: Seconds for which clients had to wait.
      checked_in: Number of clients that have checked in.
      last_upload: POSIX seconds when the last update was accepted; 0 before.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    waits: Histogram = field(default_factory=Histogram)
    checked_in: int = 0
    last_upload: float = 0.0


class _Ended(Exception):  # noqa: N818  an outcome, not an error
    """Raised when a client is done, with its outcome."""


class _AssignmentLost(Exception):  # noqa: N818  as above
    """Raised when a client's assignment has expired."""


@dataclass
class RoundClients:
    """The clients of one attempt at a round.

    Attributes:
      target: The coordinator.
      shape: The clients' number and behavior.
      contribution: What they send.
      attempt: Number of this attempt in the load, from 1. Each attempt has other clients.
      number: Number of the round.
      times: Receives the time of each request.
      recorder: Records how clients arrive in open loop.
      plans: URLs of plans that were fetched before; extended, since devices cache plans.
      tally: Outcomes so far.
    """

    target: Target
    shape: LoadShape
    contribution: Contribution
    attempt: int
    number: int
    times: Times
    recorder: Optional[ArrivalRecorder] = None
    plans: set[str] = field(default_factory=set)
    tally: Tally = field(default_factory=Tally)

    def __post_init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lanes = asyncio.Semaphore(self.target.lanes)
        self._over = False
        self._waiting: set[asyncio.Future[None]] = set()  # clients that wait for a time
        self._due: dict[int, float] = {}  # POSIX seconds, of clients before their first request
        self._done = 0
        self._progress: Callable[[int], None] = lambda _done: None

    async def run(self, *, is_over: Callable[[], bool], progress: Callable[[int], None]) -> None:
        """Runs every client to its end.

        Args:
          is_over: Polls whether the round is over. Blocks; raises `LoadError` if it can't end.
          progress: Called with the number of clients that are done.

        Raises:
          LoadError: A request was refused.
        """
        self._progress = progress
        start = self._loop.time()
        arrivals = enumerate(start + at for at in self.shape.times(self.attempt))
        if self.recorder is None:
            lanes = min(self.shape.lanes, self.shape.clients)
            loops = [self._closed_loop(arrivals) for _ in range(lanes)]
        else:
            self.recorder.begin(start + at for at in self.shape.times(self.attempt))
            loops = [self._open_loop(arrivals)]
        await run_beside(self._watch(is_over), asyncio.gather(*loops))

    async def _closed_loop(self, arrivals: Iterator[tuple[int, float]]) -> None:
        for client, due in arrivals:
            await self.run_client(client, due)

    async def _open_loop(self, arrivals: Iterator[tuple[int, float]]) -> None:
        clients = []
        for client, due in arrivals:
            await self._wait_until(due)
            clients.append(asyncio.ensure_future(self.run_client(client, due)))
        await asyncio.gather(*clients)

    async def _watch(self, is_over: Callable[[], bool]) -> None:
        await self.target.changed(_POLL_SECONDS)
        while not await self.target.call(is_over):
            await self.target.changed(_POLL_SECONDS)
        self._end_round()

    def _end_round(self) -> None:
        """Ends all clients that wait, and those that have not arrived."""
        self._over = True
        for waiting in self._waiting:
            _wake(waiting)

    async def run_client(self, client: int, due: float) -> None:
        """Runs one client, which is due at `due` (POSIX seconds), and counts its outcome."""
        try:
            outcome = await self._contribute(client, due)
        except _Ended as ended:
            outcome = str(ended)
        except LoadError:
            self._end_round()
            raise
        self.tally.outcomes[outcome] += 1
        self._done += 1
        self._progress(self._done)
        self.target.settle()

    async def _contribute(self, client: int, due: float) -> str:
        await self._sleep_until(due, otherwise=AFTER)
        self._due[client] = due
        for tries in itertools.count():
            assignment = await self._check_in(client)
            if self.shape.drops(client):
                return VANISHED
            try:
                await asyncio.sleep(0)  # other clients take their next step
                await self._fetch(assignment)
                self.target.settle()
                await asyncio.sleep(0)
                seconds = self.shape.seconds_of_work(client, attempt=tries)
                if seconds:
                    await self._sleep_until(self._loop.time() + seconds, otherwise=AT_WORK)
                await self._upload(assignment)
                self.tally.last_upload = self._loop.time()
                break
            except _AssignmentLost:
                self.tally.outcomes[LATE_ASSIGNMENT] += 1
        return ACCEPTED

    async def _check_in(self, client: int) -> Mapping[str, Any]:
        """Checks in until there is a slot, and returns the assignment."""
        name, token_of = f"load-{self.attempt}-{client}", self.contribution.token_of
        path = f"/v1/populations/{self.contribution.population}:checkin"
        body = json.dumps({"client": name}).encode()
        token = None if token_of is None else token_of(name)
        otherwise = AFTER
        while True:
            response = await self._send(
                "check-in", "POST", path, body=body, token=token, client=client, otherwise=otherwise
            )
            self.target.settle()
            answer: dict[str, Any] = json.loads(response)["answer"]
            if answer["status"] == "assigned":
                break
            self.tally.outcomes[WAITED] += 1
            self.tally.waits.add(answer["retry_after"])
            otherwise = NO_SLOT if answer["reason"] == _ROUND_FULL else AFTER
            await self._sleep_until(self._loop.time() + answer["retry_after"], otherwise=otherwise)
        if answer["round"] != self.number:  # a slot of other clients
            body = json.dumps({"outcome": "failed", "reason": "cancelled"}).encode()
            await self._request("report", "POST", "/v1/updates:report", body=body, token=answer["token"])
            raise _Ended(AFTER)
        return answer

    async def _fetch(self, assignment: Mapping[str, Any]) -> None:
        plan = assignment["plan"]["url"]
        if plan not in self.plans:
            await self._send("plan", "GET", plan, otherwise=AT_WORK)
            self.plans.add(plan)
        await self._send("broadcast", "GET", assignment["broadcast"]["url"], otherwise=AT_WORK)

    async def _upload(self, assignment: Mapping[str, Any]) -> None:
        direct_above, body = assignment.get("direct_above"), self.contribution.encoded
        if direct_above is not None and len(body) > direct_above:
            request = partial(self._upload_to_store, assignment)
            if await self._retry(request, "The upload to the store", otherwise=AT_WORK) is not None:
                return
        await self._send("upload", "PUT", "/v1/updates", body=body, token=assignment["token"], otherwise=AT_WORK)

    async def _upload_to_store(self, assignment: Mapping[str, Any]) -> Optional[Answer]:
        """Uploads an update directly to the store; None if the store takes none from here."""

        def upload() -> Optional[Answer]:
            with self.times.phase("upload to the store"):
                self.times.moved(up=len(self.contribution.encoded), down=0)
                done = self.target.upload_to_store(assignment, self.contribution.update)
            return Answer(_OK, b"") if done else None

        try:
            async with self._lanes:
                return await self.target.call(upload)
        except ProblemError as problem:
            return Answer(problem.status, problem.to_problem().model_dump_json().encode())
        except UnreachableError as error:
            return Answer(0, str(error).encode())

    async def _send(self, phase: str, method: str, path: str, *, otherwise: str, **more: Any) -> bytes:
        """Returns the body of the response to a request, with retries. Raises as `_retry`."""
        request = partial(self._request, phase, method, path, **more)
        return await self._retry(request, path, otherwise=otherwise) or b""

    async def _retry(self, request: Callable[[], Any], where: str, *, otherwise: str) -> Optional[bytes]:
        """Returns the body of a successful response, or None if `request` returns None.

        Raises:
          _Ended: The client is done: its round has closed, or no request was answered.
          _AssignmentLost: The client has to check in again.
          LoadError: The request was refused.
        """
        for tries in range(_MAX_TRIES):
            if tries:
                pause = _BACK_OFF * 2 ** (tries - 1)
                await self._sleep_until(self._loop.time() + pause, otherwise=otherwise)
            answer: Optional[Answer] = await request()
            if answer is None or answer.status == _OK:
                return None if answer is None else answer.body
            if answer.status not in _RETRIED:
                raise _refusal(answer, where)
            self.tally.outcomes[UNANSWERED] += 1
        raise _Ended(GAVE_UP)

    async def _request(
        self,
        phase: str,
        method: str,
        path: str,
        *,
        body: bytes = b"",
        token: Optional[str] = None,
        client: Optional[int] = None,
    ) -> Answer:
        """Sends one request; the first one of `client` is recorded as its arrival."""

        def send() -> Answer:
            with self.times.phase(phase):
                answer = self.target.request(method, path, body=body, token=token)
                self.times.moved(up=len(body), down=len(answer.body))
            return answer

        due = None if client is None else self._due.pop(client, None)
        async with self._lanes:
            if due is not None and self.recorder is not None:
                self.recorder.sent(due, self._loop.time())
            answer = await self.target.call(send)
        if due is not None:
            self.tally.checked_in += 1
            if self.recorder is not None:
                self.recorder.answered(due, self._loop.time())
        return answer

    async def _sleep_until(self, instant: float, *, otherwise: str) -> None:
        """Waits until `instant` (POSIX seconds). Raises `_Ended(otherwise)` at the round's end."""
        await self._wait_until(instant)
        if self._over:
            raise _Ended(otherwise)

    async def _wait_until(self, instant: float) -> None:
        if self._over or instant <= self._loop.time():
            return
        waiting = self._loop.create_future()
        timer = self._loop.call_at(instant, _wake, waiting)
        self._waiting.add(waiting)
        try:
            await waiting
        finally:
            timer.cancel()
            self._waiting.discard(waiting)


def _wake(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


def _refusal(answer: Answer, where: str) -> Exception:
    """Returns the exception for a response that is neither a success nor worth a retry."""
    try:
        problem = json.loads(answer.body)
    except ValueError:
        problem = {}
    kind = problem.get("type", "").rpartition("/")[2]
    if kind in _LOST:
        return _AssignmentLost()
    if kind == ProblemType.ROUND_CLOSED.value:
        return _Ended(LATE_ROUND)
    reason = problem.get("detail") or "without a reason"
    hint = "; --enrolment-key makes tokens for clients" if answer.status == _UNAUTHENTICATED else ""
    return LoadError(f"{where} answered {answer.status}: {reason}{hint}")
