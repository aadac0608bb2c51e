"""The clients of a load: each is a coroutine that checks in, fetches, works and uploads."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Callable, Optional

from muster.client import UnreachableError
from muster.load.arrivals import Arriving
from muster.load.loop import LoadError, TaskGroup
from muster.load.shape import LoadShape
from muster.load.targets import Answer, Target
from muster.load.times import Histogram, Times
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array

_OK, _UNAUTHENTICATED = 200, 401
_RETRIED = (0, 429, 502, 503, 504)  # statuses after which a client tries again; 0: no response
_BACK_OFF, _MAX_TRIES = 1.0, 5  # seconds before the first retry, doubled before each further one
_EXPIRED = ("assignment_expired", "assignment_invalid")  # problems after which a client checks in again
_ROUND_FULL = "round_full"
_POLL_SECONDS = 1.0  # between polls of whether the round is over

# Outcomes of clients, or of their tries.
ACCEPTED, WAITED, VANISHED = "accepted", "told to wait", "vanished"
LATE_ASSIGNMENT, LATE_ROUND = "too late for its assignment", "too late for its round"
AT_WORK, NO_SLOT, AFTER = "still at work when its round ended", "got no slot", "came after its round"
UNANSWERED, GAVE_UP = "not answered", "gave up"


@dataclass(frozen=True)
class Contribution:
    """What every client of a load sends.

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


class Tally:
    """Outcomes of the clients of one round.

    Attributes:
      outcomes: Number of clients or tries, by outcome.
      waits: Seconds for which clients were told to wait.
      checked_in: Number of clients that have checked in.
      last_upload: POSIX seconds when the last update was accepted; 0 before.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.waits = Histogram()
        self.checked_in = 0
        self.last_upload = 0.0


class _Ended(Exception):  # noqa: N818  an outcome, not an error
    """Raised when a client is done, with its outcome."""


class _AssignmentLost(Exception):  # noqa: N818  as above
    """Raised when a client's assignment has expired."""


class RoundClients:
    """The clients of one attempt at a round.

    Args:
      target: The coordinator.
      shape: The clients' number and behavior.
      contribution: What they send.
      attempt: Number of this attempt within the load, from 1. Each attempt has other clients.
      round_: Number of the round.
      times: Receives the time of each request.
      plans: URLs of plans that were fetched before, which is extended: devices cache plans.
    """

    def __init__(
        self,
        target: Target,
        shape: LoadShape,
        contribution: Contribution,
        *,
        attempt: int,
        round_: int,
        times: Times,
        plans: set[str],
    ) -> None:
        self.tally = Tally()
        self._target = target
        self._shape = shape
        self._contribution = contribution
        self._attempt = attempt
        self._round = round_
        self._times = times
        self._plans = plans
        self._loop = asyncio.get_running_loop()
        self._lanes = asyncio.Semaphore(target.lanes)
        self._over = False
        self._waiting: set[asyncio.Future[None]] = set()  # clients that wait for a time, or for the round's end
        self._due: dict[int, float] = {}  # POSIX seconds, of clients before their first request
        self._arriving: Optional[Arriving] = None
        self._ended = 0
        self._progress: Callable[[int], None] = lambda _ended: None

    async def run(self, *, is_over: Callable[[], bool], arriving: Arriving, progress: Callable[[int], None]) -> None:
        """Runs every client to its end.

        Args:
          is_over: Polls whether the round is over. Blocks; raises `LoadError` if the round can't end.
          arriving: Records how clients arrive in open loop.
          progress: Called with the number of clients that are done.

        Raises:
          LoadError: A request was refused.
        """
        self._progress = progress
        start = self._loop.time()
        arrivals = enumerate(start + at for at in self._shape.times(self._attempt))
        group = TaskGroup()
        group.start(self._watch(is_over), background=True)
        if self._shape.arrivals is None:
            for _ in range(min(self._shape.lanes, self._shape.clients)):
                group.start(self._lane(arrivals))
        else:
            self._arriving = arriving
            arriving.begin(start + at for at in self._shape.times(self._attempt))
            group.start(self._arrivals(arrivals, group))
        await group.join()

    async def _lane(self, arrivals: Iterator[tuple[int, float]]) -> None:
        """Closed loop: runs one client after another."""
        for client, due in arrivals:
            await self.run_client(client, due)

    async def _arrivals(self, arrivals: Iterator[tuple[int, float]], group: TaskGroup) -> None:
        """Open loop: starts each client when it is due."""
        for client, due in arrivals:
            await self._wait_until(due)
            group.start(self.run_client(client, due))

    async def _watch(self, is_over: Callable[[], bool]) -> None:
        """Waits for the round's end, and then wakes all clients that wait."""
        while not self._over:
            await self._target.changed(_POLL_SECONDS)
            self._over = await self._target.call(is_over)
        for waiting in self._waiting:
            _wake(waiting)

    async def run_client(self, client: int, due: float) -> None:
        """Runs one client, which is due at `due` (POSIX seconds), and counts its outcome."""
        try:
            outcome = await self._contribute(client, due)
        except _Ended as ended:
            outcome = str(ended)
        self.tally.outcomes[outcome] += 1
        self._ended += 1
        self._progress(self._ended)
        self._target.settle()

    async def _contribute(self, client: int, due: float) -> str:
        await self._sleep_until(due, otherwise=AFTER)
        self._due[client] = due
        for tries in itertools.count():
            assignment = await self._check_in(client)
            if self._shape.drops(client):
                return VANISHED
            try:
                await self._yield()
                await self._fetch(assignment)
                await self._yield()
                seconds = self._shape.seconds_of_work(client, attempt=tries)
                if seconds:
                    await self._sleep_until(self._loop.time() + seconds, otherwise=AT_WORK)
                await self._upload(assignment)
            except _AssignmentLost:
                self.tally.outcomes[LATE_ASSIGNMENT] += 1
            else:
                self.tally.last_upload = self._loop.time()
                break
        return ACCEPTED

    async def _check_in(self, client: int) -> Mapping[str, Any]:
        """Checks in until there is a slot, and returns the assignment."""
        name, token_of = f"load-{self._attempt}-{client}", self._contribution.token_of
        request = partial(
            self._send,
            "check-in",
            "POST",
            f"/v1/populations/{self._contribution.population}:checkin",
            body=json.dumps({"client": name}).encode(),
            token=None if token_of is None else token_of(name),
            client=client,
        )
        otherwise = AFTER
        while True:
            answer = json.loads(await request(otherwise=otherwise))["answer"]
            if answer["status"] == "assigned":
                break
            self.tally.outcomes[WAITED] += 1
            self.tally.waits.add(answer["retry_after"])
            otherwise = NO_SLOT if answer["reason"] == _ROUND_FULL else AFTER
            await self._sleep_until(self._loop.time() + answer["retry_after"], otherwise=otherwise)
        if answer["round"] != self._round:
            # A slot of a later round, which is for that round's clients.
            body = json.dumps({"outcome": "failed", "reason": "cancelled"}).encode()
            await self._request("report", "POST", "/v1/updates:report", body=body, token=answer["token"])
            raise _Ended(AFTER)
        return answer  # type: ignore[no-any-return]

    async def _fetch(self, assignment: Mapping[str, Any]) -> None:
        plan = assignment["plan"]["url"]
        if plan not in self._plans:
            await self._send("plan", "GET", plan, otherwise=AT_WORK)
            self._plans.add(plan)
        await self._send("broadcast", "GET", assignment["broadcast"]["url"], otherwise=AT_WORK)

    async def _upload(self, assignment: Mapping[str, Any]) -> None:
        direct_above, encoded = assignment.get("direct_above"), self._contribution.encoded
        if direct_above is not None and len(encoded) > direct_above:
            store = partial(self._upload_to_store, assignment)
            if await self._answered(store, "The upload to the store", otherwise=AT_WORK) is not None:
                return
        await self._send("upload", "PUT", "/v1/updates", body=encoded, token=assignment["token"], otherwise=AT_WORK)

    async def _upload_to_store(self, assignment: Mapping[str, Any]) -> Optional[Answer]:
        """Uploads an update directly to the store; None if the store takes none from here."""

        def upload() -> Optional[Answer]:
            with self._times.phase("upload to the store"):
                self._times.moved(up=len(self._contribution.encoded), down=0)
                done = self._target.upload_to_store(assignment, self._contribution.update)
            return Answer(_OK, b"") if done else None

        try:
            async with self._lanes:
                return await self._target.call(upload)
        except ProblemError as problem:
            return Answer(problem.status, problem.to_problem().model_dump_json().encode())
        except UnreachableError as error:
            return Answer(0, str(error).encode())

    async def _send(self, phase: str, method: str, path: str, *, otherwise: str, **more: Any) -> bytes:
        """Sends a request, with retries, and returns the response's body. Raises as `_answered`."""
        body = await self._answered(partial(self._request, phase, method, path, **more), path, otherwise=otherwise)
        return body or b""

    async def _answered(self, request: Callable[[], Any], where: str, *, otherwise: str) -> Optional[bytes]:
        """Returns the body of a successful response, or None if the request was not sent.

        Raises:
          _Ended: The client is done: its round has closed, or no request was answered.
          _AssignmentLost: The client has to check in again.
          LoadError: The request was refused.
        """
        for tries in range(1, _MAX_TRIES + 1):
            answer: Optional[Answer] = await request()
            if answer is None or answer.status == _OK:
                return None if answer is None else answer.body
            if answer.status not in _RETRIED:
                raise _refusal(answer, where)
            self.tally.outcomes[UNANSWERED] += 1
            if tries < _MAX_TRIES:
                await self._sleep_until(self._loop.time() + _BACK_OFF * 2 ** (tries - 1), otherwise=otherwise)
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
            with self._times.phase(phase):
                answer = self._target.request(method, path, body=body, token=token)
                self._times.moved(up=len(body), down=len(answer.body))
            return answer

        due = None if client is None else self._due.pop(client, None)
        async with self._lanes:
            if due is not None and self._arriving is not None:
                self._arriving.came(due, self._loop.time())
            answer = await self._target.call(send)
        if due is not None:
            self.tally.checked_in += 1
            if self._arriving is not None:
                self._arriving.answered(due, self._loop.time())
        return answer

    async def _sleep_until(self, instant: float, *, otherwise: str) -> None:
        """Waits until `instant`, in POSIX seconds. Raises `_Ended(otherwise)` if the round is over first."""
        await self._wait_until(instant)
        if self._over:
            raise _Ended(otherwise)

    async def _yield(self) -> None:
        """Lets queued work and other clients proceed after a step."""
        self._target.settle()
        await asyncio.sleep(0)

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
    """Returns what a client does about a response that is neither a success nor worth a retry."""
    try:
        problem = json.loads(answer.body)
    except ValueError:
        problem = {}
    kind = problem.get("type", "").rpartition("/")[2]
    if kind in _EXPIRED:
        return _AssignmentLost()
    if kind == ProblemType.ROUND_CLOSED.value:
        return _Ended(LATE_ROUND)
    detail = problem.get("detail") or "without a reason"
    hint = "; --enrolment-key makes tokens for clients" if answer.status == _UNAUTHENTICATED else ""
    return LoadError(f"{where} answered {answer.status}: {detail}{hint}")
