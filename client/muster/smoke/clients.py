"""Clients of the smoke test: `MusterClient`s in threads, with a recording transport."""

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
_MAX_WAIT = 5.0  # seconds between check-ins, because a user waits for the result


class RecordingTransport(Transport):
    """Transport that records the assignment and the path of the update.

    Args:
      url: The client API's address.
      direct: Whether to request a direct upload for an update of any size, if the deployment
        supports direct uploads.

    Attributes:
      assignment: The assignment, or None before it.
      direct: Whether a direct upload is expected.
      through: Whether the update went through the function.
      store: The store's last answer, or None.
    """

    def __init__(self, url: str, *, direct: bool) -> None:
        super().__init__(url)
        self.direct = direct
        self.assignment: Optional[Assignment] = None
        self.through = False
        self.store: Optional[StoreAnswer] = None

    def call(self, method: str, path: str, **more: Any) -> Any:
        """Calls `Transport.call`, and records an assignment."""
        answer = super().call(method, path, **more)
        if not isinstance(answer, CheckinResponse) or not isinstance(answer.answer, Assignment):
            return answer
        assignment = answer.answer
        self.direct = self.direct and assignment.direct_above is not None
        self.assignment = assignment.model_copy(update={"direct_above": 0 if self.direct else None})
        return answer.model_copy(update={"answer": self.assignment})

    def upload(self, path: str, body: Union[Body, bytes], **more: Any) -> Any:
        """Calls `Transport.upload`, and records that it was used."""
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
        """Calls `Transport.exchange`, and records the store's answer."""
        self.store = super().exchange(method, url, headers=headers, body=body, seconds=seconds)
        return self.store


class SmokeClient:
    """Client in a separate thread, which ends after its contribution.

    Args:
      url: The client API's address.
      population: The population to check in to.
      name: The client id.
      numbers: The client's data.
      direct: As in `RecordingTransport`.
      token: The client's bearer token; None: identity is self-asserted.

    Attributes:
      seen: The last event of each type.
      error: The error that ended the client, or None.
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
        # A daemon: an unanswered request must not delay the end of the process.
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        """Starts the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the client after its current cycle."""
        self._stop.set()

    @property
    def waited(self) -> Optional[Waited]:
        """Returns the last wait, if the client has no assignment yet."""
        event = self.seen.get(Waited)
        return event if isinstance(event, Waited) and Assigned not in self.seen else None

    def send_late(self) -> Optional[ProblemError]:
        """Uploads invalid bytes with the used assignment. Returns the refusal, or None if accepted.

        An instance that does not know the round's end yet refuses them as `update_invalid`, so that
        no update is stored.
        """
        if self.transport.assignment is None:
            raise AssertionError("no assignment")
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
                self._stop.wait(min(outcome.retry_after, _MAX_WAIT))
        except (ProblemError, UnreachableError, SetupError) as error:
            self.error = error
