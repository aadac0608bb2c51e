"""What one client of a load does when it is its turn: a check-in, with what it downloads, or an upload."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, Optional

from muster.client import UnreachableError
from muster.load.shape import LoadShape
from muster.load.targets import Answer, Target
from muster.load.times import Histogram, Times
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import Array

_OK, _UNAUTHENTICATED = 200, 401
_LATER = (0, 429, 502, 503, 504)  # what a client meets with patience: no answer, or one that asks for it
_PAUSE, _TRIES = 1.0, 5  # seconds until it tries again, and how often it does
_AGAIN = ("assignment_expired", "assignment_invalid")  # what sends a client back to a check-in
_FULL = "round_full"

# What becomes of a client.
ACCEPTED, WAITED, VANISHED = "accepted", "told to wait", "vanished"
LATE_ASSIGNMENT, LATE_ROUND = "too late for its assignment", "too late for its round"
AT_WORK, NO_SLOT, AFTER = "still at work when its round ended", "got no slot", "came after its round"
UNANSWERED, GAVE_UP = "not answered", "gave up"


class LoadError(RuntimeError):
    """The load can't go on; the text says at which request, and why."""


class Turn(NamedTuple):
    """What a client does next: a check-in; with an assignment, its downloads; and when it has `fetched` them, its upload.

    `attempt` is which try at an assignment it is, from 0; `came` whether it has checked in before; `full` whether it was sent away
    since every slot was taken; `failed` how many requests in a row were not answered.
    """

    client: int
    attempt: int = 0
    came: bool = False
    full: bool = False
    failed: int = 0
    assignment: Optional[Mapping[str, Any]] = None
    fetched: bool = False


Following = Optional[
    tuple[float, Turn]
]  # when what comes next is due, in POSIX seconds of the target's clock; None: the client is done


class Tally:
    """What became of clients, taken down by several threads.

    Attributes:
      outcomes: How often there was each.
      waits: How long they were told to wait.
      last_upload: When the last update was accepted, in POSIX seconds by the target's clock; 0: none was.
    """

    def __init__(self) -> None:
        self.outcomes: Counter[str] = Counter()
        self.waits = Histogram()
        self.last_upload = 0.0
        self._lock = threading.Lock()

    def count(self, outcome: str, number: int = 1) -> None:
        """So many clients, or tries, ended so."""
        with self._lock:
            self.outcomes[outcome] += number

    def told_to_wait(self, seconds: float) -> None:
        """One was sent away."""
        with self._lock:
            self.outcomes[WAITED] += 1
            self.waits.add(seconds)

    def accepted(self, now: float) -> None:
        """An update was accepted."""
        with self._lock:
            self.outcomes[ACCEPTED] += 1
            self.last_upload = max(self.last_upload, now)


class Steps:
    """What clients do.

    Args:
      target: What they talk to.
      shape: How they behave.
      update: What every one of them uploads.
      encoded: The same as bytes.
      population: Which they belong to.
      token_of: What a client shows at its check-in, by its name; None: nothing.
      times: Where durations go.
    """

    def __init__(
        self,
        target: Target,
        shape: LoadShape,
        *,
        update: Mapping[str, Array],
        encoded: bytes,
        population: str,
        token_of: Optional[Callable[[str], str]],
        times: Times,
    ) -> None:
        self.tally = Tally()
        self._target = target
        self._shape = shape
        self._update = update
        self._encoded = encoded
        self._path = f"/v1/populations/{population}:checkin"
        self._token_of = token_of
        self._times = times
        self._plans: set[str] = set()  # by address; a device keeps those that it has fetched
        self._play = self._round = 0

    def begin(self, number: int, *, round_: int) -> None:
        """The load's `number`-th attempt at a round begins, at the `round_`-th. Its clients are other ones than those before."""
        self.tally = Tally()
        self._play, self._round = number, round_

    def take(self, turn: Turn) -> Following:
        """Has a client do what it does next. Raises `LoadError`, where that is refused for good."""
        if turn.assignment is None:
            return self._checkin(turn)
        return (self._upload if turn.fetched else self._fetch)(turn, turn.assignment)

    def _checkin(self, turn: Turn) -> Following:
        name = f"load-{self._play}-{turn.client}"
        body = json.dumps({"client": name}).encode()
        token = None if self._token_of is None else self._token_of(name)
        answer = self._request("check-in", "POST", self._path, body=body, token=token)
        now = self._target.now()
        turn = turn._replace(came=True)
        if answer.status != _OK:
            return self._refused(turn, answer, self._path)
        found = json.loads(answer.body)["answer"]
        if found["status"] != "assigned":
            self.tally.told_to_wait(found["retry_after"])
            return now + found["retry_after"], turn._replace(full=found["reason"] == _FULL, failed=0)
        if found["round"] != self._round:
            self._give_back(found)
            return None
        if self._shape.drops(turn.client):
            self.tally.count(VANISHED)
            return None
        return now, turn._replace(assignment=found, failed=0)

    def _give_back(self, found: Mapping[str, Any]) -> None:
        """Hands on the slot of a later round, which is that of other clients."""
        body = json.dumps({"outcome": "failed", "reason": "cancelled"}).encode()
        self._request("report", "POST", "/v1/updates:report", body=body, token=found["token"])
        self.tally.count(AFTER)

    def _fetch(self, turn: Turn, given: Mapping[str, Any]) -> Following:
        plan, broadcast = given["plan"]["url"], given["broadcast"]["url"]
        if plan not in self._plans:
            answer = self._request("plan", "GET", plan)
            if answer.status != _OK:
                return self._refused(turn, answer, plan)
            self._plans.add(plan)
        answer = self._request("broadcast", "GET", broadcast)
        if answer.status != _OK:
            return self._refused(turn, answer, broadcast)
        work = self._shape.seconds_of_work(turn.client, attempt=turn.attempt)
        return self._target.now() + work, turn._replace(fetched=True, failed=0)

    def _upload(self, turn: Turn, given: Mapping[str, Any]) -> Following:
        above = given.get("direct_above")
        if above is not None and len(self._encoded) > above:
            stored = self._to_store(given)
            if stored is not None:
                return self._sent(turn, stored, "The upload to the store")
        answer = self._request("upload", "PUT", "/v1/updates", body=self._encoded, token=given["token"])
        return self._sent(turn, answer, "/v1/updates")

    def _to_store(self, given: Mapping[str, Any]) -> Optional[Answer]:
        """Brings an update straight to the store; None: it does not take it from here."""
        try:
            with self._times.phase("upload to the store"):
                self._times.moved(up=len(self._encoded), down=0)
                return Answer(_OK, b"") if self._target.to_store(given, self._update) else None
        except ProblemError as problem:
            return Answer(problem.status, problem.to_problem().model_dump_json().encode())
        except UnreachableError as error:
            return Answer(0, str(error).encode())

    def _sent(self, turn: Turn, answer: Answer, where: str) -> Following:
        if answer.status != _OK:
            return self._refused(turn, answer, where)
        self.tally.accepted(self._target.now())
        return None

    def _refused(self, turn: Turn, answer: Answer, where: str) -> Following:
        """What a device does about an answer that is no success."""
        if answer.status in _LATER:
            return self._later(turn)
        kind = _problem(answer).get("type", "").rpartition("/")[2]
        if kind in _AGAIN:
            self.tally.count(LATE_ASSIGNMENT)
            return self._target.now(), Turn(turn.client, attempt=turn.attempt + 1, came=True)
        if kind == ProblemType.ROUND_CLOSED.value:
            self.tally.count(LATE_ROUND)
            return None
        raise _error(answer, where)

    def _later(self, turn: Turn) -> Following:
        """It tries again, a few times."""
        self.tally.count(UNANSWERED)
        if turn.failed + 1 >= _TRIES:
            self.tally.count(GAVE_UP)
            return None
        return self._target.now() + _PAUSE * 2**turn.failed, turn._replace(failed=turn.failed + 1)

    def _request(self, phase: str, method: str, path: str, *, body: bytes = b"", token: Optional[str] = None) -> Answer:
        with self._times.phase(phase):
            answer = self._target.request(method, path, body=body, token=token)
            self._times.moved(up=len(body), down=len(answer.body))
        return answer


def _error(answer: Answer, where: str) -> LoadError:
    why = _problem(answer).get("detail", "") or "nothing that says why"
    hint = "; --enrolment-key makes tokens, where it takes those" if answer.status == _UNAUTHENTICATED else ""
    return LoadError(f"{where} answered {answer.status}: {why}{hint}")


def _problem(answer: Answer) -> dict[str, Any]:
    try:
        found = json.loads(answer.body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
