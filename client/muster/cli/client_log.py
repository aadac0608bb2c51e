"""Logs a client's events as lines with the time, or as JSON. Repeated events are logged rarely."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Optional

from muster.terminal import size, write_json

if TYPE_CHECKING:
    from muster.client import ClientEvent

_REPEAT_SECONDS = 600.0  # between two lines with the same text


class ClientLog:
    """Log of one client's events on stdout.

    Args:
      population: Population of the client.
      quiet_errors: Whether to log only the kind of an error.
      clock: Monotonic clock, in seconds.
    """

    def __init__(
        self, population: str, *, quiet_errors: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._population = population
        self._quiet = quiet_errors
        self._clock = clock
        self._reached = False  # whether a coordinator has ever responded
        self._failure: Optional[str] = None  # reason of the last failure since a contribution
        self._kind: Optional[type[ClientEvent]] = None  # kind of the last event
        self._written: dict[str, float] = {}  # time of the last line by topic, since the kind changed

    def write(self, event: ClientEvent) -> None:
        """Writes an event, unless it repeats recent lines."""
        from muster.client import PolicyNote

        if isinstance(event, PolicyNote):
            self.line(event.detail)
            return
        text, topic = self._text_of(event), self._topic(event)
        if type(event) is not self._kind:
            self._kind, self._written = type(event), {}
        if topic is None:
            self.line(text)
            return
        now = self._clock()
        if now - self._written.get(topic, now - _REPEAT_SECONDS) >= _REPEAT_SECONDS:
            self._written[topic] = now
            self.line(f"{text} (repeated every {_REPEAT_SECONDS / 60:.0f} minutes while it lasts)")

    @staticmethod
    def line(text: str) -> None:
        """Writes a line with the time."""
        sys.stdout.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")
        sys.stdout.flush()

    def _topic(self, event: ClientEvent) -> Optional[str]:
        """Returns the topic of a repeating event, or None for other events."""
        from muster.client import Ineligible, Unreached, Waited

        if isinstance(event, Waited):
            return f"{event.reason.value} {self._failure}"
        if isinstance(event, (Unreached, Ineligible)):
            return event.detail
        return None

    def _text_of(self, event: ClientEvent) -> str:
        from muster.client import Contributed, Failed, Unreached, Waited

        first = not self._reached and isinstance(event, Unreached)
        self._reached = self._reached or not isinstance(event, Unreached)
        if isinstance(event, Failed):
            self._failure = (event.code or event.reason).value
        if isinstance(event, Contributed):
            self._failure = None
        if isinstance(event, Waited):
            return f"{self._why(event.reason.value)}; next check-in in {event.retry_after:.1f} s"
        text = describe(event, quiet_errors=self._quiet)
        return f"Warning: no coordinator has responded yet. {text}" if first else text

    def _why(self, reason: str) -> str:
        """Returns the reason why there is no work, with an explanation."""
        more = {
            "no_task": f": population {self._population!r} has no task; check the name, or wait for an operator to "
            "create one",
            "round_full": ": every slot of the open round is taken",
            "between_rounds": ": the next round has not opened yet",
            "already_in": ": this client has contributed to the open round",
            "task_paused": ": an operator has paused the task",
            "too_soon": ": the task requires more time between two contributions of one client",
            "not_eligible": ": this client's attributes do not satisfy the task's rules",
            "outside_window": ": the task assigns work at other hours",
            "reserved": ": the client is reserved for an evaluation, or not for this one",
        }.get(reason, "")
        if reason == "already_in" and self._failure is not None:
            more = (
                f": this client gave its assignment of the open round back ({self._failure}), "
                "and waits for the next round"
            )
        return f"no work ({reason}){more}"


def describe(event: ClientEvent, *, quiet_errors: bool = False) -> str:
    """Returns an event as one line of text."""
    from muster.client import Assigned, Computed, Contributed, Failed, Missed, PolicyNote, Sending, Waited

    if isinstance(event, PolicyNote):
        return event.detail
    if isinstance(event, Waited):
        return f"no work ({event.reason.value}); next check-in in {event.retry_after:.1f} s"
    if isinstance(event, (Assigned, Computed, Sending, Contributed, Missed, Failed)):
        return f"{event.task} round {event.round}: {_progress(event, quiet_errors=quiet_errors)}"
    return f"{event.detail}; retry in {event.retry_after:.1f} s"


def _progress(event: Any, *, quiet_errors: bool) -> str:
    from muster.client import Assigned, Computed, Contributed, Missed, Sending

    if isinstance(event, Assigned):
        clear = "; its secure sums are summed in the clear, not securely" if event.sums_in_the_clear else ""
        return f"assigned ({event.kind}){clear}"
    if isinstance(event, Computed):
        return f"computed {size(event.update_bytes)} in {event.seconds:.2f} s"
    if isinstance(event, Sending):
        return f"sent {size(event.sent)} of {size(event.update_bytes)}"
    if isinstance(event, Contributed):
        return "accepted"
    if isinstance(event, Missed):
        return f"missed: {event.detail}"
    return f"failed ({(event.code or event.reason).value}): {_detail_of(event, quiet_errors=quiet_errors)}"


def _detail_of(failed: Any, *, quiet_errors: bool) -> str:
    from muster.client.kinds import kind_of

    return kind_of(failed.error) if quiet_errors and failed.error is not None else str(failed.detail)


def write_event(event: ClientEvent, *, quiet_errors: bool = False) -> None:
    """Writes an event as one line of JSON, with its time `at` in POSIX seconds."""
    from muster.client import Failed
    from muster.client.kinds import kind_of

    fields = {name: _plain(value) for name, value in vars(event).items()}
    if isinstance(event, Failed) and quiet_errors and event.error is not None:
        fields["detail"] = fields["error"] = kind_of(event.error)
    write_json({"event": type(event).__name__, "at": round(time.time(), 3), **fields})


def _plain(value: Any) -> Any:
    return value if value is None or isinstance(value, (bool, int, float, str)) else str(value)
