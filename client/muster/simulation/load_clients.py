"""The clients of a load: each a few fields in a queue of events, and none of them does any work."""

from __future__ import annotations

import heapq
import json
import threading
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Callable, Optional

from .load_shape import LoadShape
from .load_targets import Answer, Target
from .load_times import Histogram, Times

_OK, _MULTIPLE = 200, 300
_AGAIN = ("assignment_expired", "assignment_invalid")  # what sends a client back to a check-in
_PATIENCE = 3600.0  # seconds


class LoadError(RuntimeError):
    """The load can't go on; the text says at which request, and why."""


@dataclass(frozen=True)
class _Turn:
    """What a client does next: a check-in, or, with a token, its upload."""

    client: int
    attempt: int = 0
    token: str = ""
    broadcast: str = ""


class Clients:
    """Brings every client of one round to its end.

    Args:
      target: What they talk to.
      shape: How many there are, and how they behave.
      update: The bytes that every one of them uploads.
      population: Which they belong to.
      times: Where durations go.
      seen: Plans and broadcasts that have been fetched, by address: a device keeps a plan.
      progress: Is told how many clients are done.
    """

    def __init__(
        self,
        target: Target,
        shape: LoadShape,
        *,
        update: bytes,
        population: str,
        times: Times,
        seen: set[str],
        progress: Callable[[int], None],
    ) -> None:
        self.outcomes: Counter[str] = Counter()
        self.waits = Histogram()
        self.last_upload = 0.0  # POSIX seconds, by the target's clock
        self._target = target
        self._shape = shape
        self._update = update
        self._population = population
        self._times = times
        self._seen = seen
        self._progress = progress
        self._due: list[tuple[float, int, _Turn]] = []
        self._arrivals: Iterator[tuple[int, float]] = iter(())
        self._number = 0  # of events, so that equal times keep their order
        self._done = 0
        self._lock = threading.Condition()
        self._woken = threading.Event()
        self._error: Optional[BaseException] = None

    def play(self, number: int) -> None:
        """Plays the `number`-th round, which is open. Raises `LoadError`."""
        start = self._target.now()
        self._arrivals = ((client, start + at) for client, at in enumerate(self._shape.times(number)))
        with self._lock:
            for _ in range(1 if self._shape.arrivals else self._shape.concurrency):
                self._arrive()
        if self._target.threads == 1:
            self._run()
        else:
            threads = [threading.Thread(target=self._run, name=f"load-{at}") for at in range(self._target.threads)]
            for thread in threads:
                thread.start()
            try:
                for thread in threads:
                    thread.join()
            except BaseException as error:
                self._fail(error)
                raise
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        try:
            while (turn := self._next()) is not None:
                following = self._step(turn)
                with self._lock:
                    if following is not None:
                        self._push(*following)
                    else:
                        self._done += 1
                        self._progress(self._done)
                        if not self._shape.arrivals:
                            self._arrive()
                    self._lock.notify()
                self._target.settle()
        except BaseException as error:  # of a thread: what it was is told by `play`
            self._fail(error)
            if self._target.threads == 1 or not isinstance(error, Exception):
                raise

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            self._error = self._error or error
            self._lock.notify_all()

    def _arrive(self) -> None:
        """Lets the next client come, and in open loop the one after it when it has come."""
        for client, at in self._arrivals:
            self._push(at, _Turn(client))
            return

    def _push(self, at: float, turn: _Turn) -> None:
        self._number += 1
        heapq.heappush(self._due, (at, self._number, turn))

    def _next(self) -> Optional[_Turn]:
        """Waits for the next event; None when all clients are done."""
        with self._lock:
            while self._error is None and self._done < self._shape.clients:
                now = self._target.now()
                if self._due and self._due[0][0] <= now:
                    turn = heapq.heappop(self._due)[2]
                    if self._shape.arrivals and not turn.token and not turn.attempt:
                        self._arrive()
                    return turn
                self._wait(now)
            self._lock.notify_all()
            return None

    def _wait(self, now: float) -> None:
        at = self._due[0][0] if self._due else now + _PATIENCE
        if self._target.threads > 1:
            self._lock.wait(at - now)
            return
        due = self._target.next_due()
        self._target.wait_until(at if due is None else min(at, due), self._woken)
        self._target.settle()

    def _step(self, turn: _Turn) -> Optional[tuple[float, _Turn]]:
        return self._upload(turn) if turn.token else self._checkin(turn)

    def _checkin(self, turn: _Turn) -> Optional[tuple[float, _Turn]]:
        body = json.dumps({"client": f"load-{turn.client}"}).encode()
        path = f"/v1/populations/{self._population}:checkin"
        with self._times.phase("check-in"):
            answer = self._target.request("POST", path, body=body)
        found = self._expect(answer, path)["answer"]
        now = self._target.now()
        if found["status"] != "assigned":
            self.outcomes["told to wait"] += 1
            self.waits.add(found["retry_after"])
            # It came: in open loop the next one does not wait for it.
            return now + found["retry_after"], replace(turn, attempt=max(turn.attempt, 1))
        if self._shape.drops(turn.client):
            self.outcomes["vanished"] += 1
            return None
        attempt = turn.attempt
        work = self._shape.seconds_of_work(turn.client, attempt=attempt if attempt != 1 else 0)
        self._fetch("plan", found["plan"]["url"], once=True)
        self._fetch("broadcast", found["broadcast"]["url"])
        return now + work, replace(turn, attempt=max(attempt, 1), token=found["token"])

    def _fetch(self, phase: str, url: str, *, once: bool = False) -> None:
        if once and url in self._seen:
            return
        with self._times.phase(phase):
            answer = self._target.request("GET", url)
        if answer.status != _OK:
            self._expect(answer, url)
        self._seen.add(url)

    def _upload(self, turn: _Turn) -> Optional[tuple[float, _Turn]]:
        with self._times.phase("upload"):
            answer = self._target.request("PUT", "/v1/updates", body=self._update, token=turn.token)
        now = self._target.now()
        if answer.status == _OK:
            with self._lock:
                self.outcomes["accepted"] += 1
                self.last_upload = max(self.last_upload, now)
            return None
        problem = self._problem(answer)
        kind = problem.get("type", "").rpartition("/")[2]
        if kind in _AGAIN:
            self.outcomes["too late for its assignment"] += 1
            return now, _Turn(turn.client, attempt=turn.attempt + 1)
        if kind == "round_closed":
            self.outcomes["too late for its round"] += 1
            return None
        raise LoadError(f"An upload was refused ({answer.status}): {problem.get('detail', '')}")

    def _expect(self, answer: Answer, path: str) -> Any:
        if not _OK <= answer.status < _MULTIPLE:
            raise LoadError(f"{path} answered {answer.status}: {self._problem(answer).get('detail', '')}")
        return json.loads(answer.body)

    @staticmethod
    def _problem(answer: Answer) -> dict[str, Any]:
        try:
            found = json.loads(answer.body)
        except ValueError:
            return {}
        return found if isinstance(found, dict) else {}
