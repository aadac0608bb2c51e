"""The two clients: `MusterClient` as it is, each in a thread, with a transport that notes which way its update went."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sized
from typing import Any, Optional, Union

import numpy as np

from muster.client import (
    Assigned,
    ClientEvent,
    Contributed,
    Failed,
    MusterClient,
    SetupError,
    Transport,
    UnreachableError,
    Waited,
)
from muster.transport.body import Body
from muster.transport.http import StoreAnswer
from muster.wire.messages import Assignment, CheckinResponse, Receipt
from muster.wire.problems import ProblemError

_NO_UPDATE = b"\xff" * 16  # a safetensors header of 2⁶⁴ - 1 bytes
_LONGEST = 5.0  # seconds that a client waits, whatever it is told: somebody watches


class RecordingTransport(Transport):
    """A transport that remembers the assignment, and the way of the update.

    Args:
      url: The client API's address.
      direct: Whether the update goes straight to the store, where the deployment has that, however small it is.

    Attributes:
      assignment: What was assigned; None before.
      direct: Whether it is to go straight to the store.
      through: Whether it went through the function.
      store: What the store answered last; None: nothing.
    """

    def __init__(self, url: str, *, direct: bool) -> None:
        super().__init__(url)
        self.direct = direct
        self.assignment: Optional[Assignment] = None
        self.through = False
        self.store: Optional[StoreAnswer] = None

    def call(self, method: str, path: str, **more: Any) -> Any:
        """As `Transport.call`."""
        answer = super().call(method, path, **more)
        if not isinstance(answer, CheckinResponse) or not isinstance(answer.answer, Assignment):
            return answer
        given = answer.answer
        self.direct = self.direct and given.direct_above is not None
        self.assignment = given.model_copy(update={"direct_above": 0 if self.direct else None})
        return answer.model_copy(update={"answer": self.assignment})

    def upload(self, path: str, body: Union[Body, bytes], **more: Any) -> Any:
        """As `Transport.upload`."""
        self.through = True
        return super().upload(path, body, **more)

    def exchange(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Union[Sized, Iterable[memoryview], None] = None,
        seconds: Optional[float] = None,
    ) -> StoreAnswer:
        """As `Transport.exchange`."""
        self.store = super().exchange(method, url, headers=headers, body=body, seconds=seconds)
        return self.store


class SmokeClient:
    """One client at work in a thread of its own, until its update is in.

    Args:
      url: The client API's address.
      population: Where it checks in.
      name: Its identity.
      numbers: Its data.
      direct: See `Noting`.
      token: What it shows at its check-in.

    Attributes:
      seen: The events so far, by kind.
      error: What ended it before its time.
    """

    def __init__(
        self,
        url: str,
        *,
        population: str,
        name: str,
        numbers: tuple[int, ...],
        direct: bool,
        token: Optional[str] = None,
    ) -> None:
        self.transport = RecordingTransport(url, direct=direct)
        self.seen: dict[type[ClientEvent], ClientEvent] = {}
        self.error: Optional[Exception] = None
        data = np.array(numbers, np.int64)
        self._client = MusterClient(
            self.transport, population, lambda: data, client_id=name, token=token, on_event=self._note
        )
        self._stop = threading.Event()
        # Not waited for at the end of the process: it may hang in a request that nobody answers.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Begins."""
        self._thread.start()

    def stop(self) -> None:
        """Ends it after the turn that it is in."""
        self._stop.set()

    @property
    def waited(self) -> Optional[Waited]:
        """How it was sent away, if that was the last that happened."""
        found = self.seen.get(Waited)
        return found if isinstance(found, Waited) and Assigned not in self.seen else None

    def late(self) -> Optional[ProblemError]:
        """Sends something on the old assignment once more; gives the refusal, or None if it was taken.

        It is no update, so that nothing is left behind where the round's end is not known yet: `update_invalid` then.
        """
        if self.transport.assignment is None:
            raise AssertionError("nothing was assigned")
        try:
            self.transport.upload("/v1/updates", _NO_UPDATE, answer=Receipt, token=self.transport.assignment.token)
        except ProblemError as refusal:
            return refusal
        return None

    def close(self) -> None:
        """Closes the connections."""
        self._client.close()

    def _note(self, event: ClientEvent) -> None:
        self.seen[type(event)] = event

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                outcome = self._client.run_once()
                if isinstance(outcome, (Contributed, Failed)):
                    return
                self._stop.wait(min(outcome.retry_after, _LONGEST))
        except (ProblemError, UnreachableError, SetupError) as error:
            self.error = error
