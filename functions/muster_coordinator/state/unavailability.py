"""Logs that something is not possible now, at the level that its reason deserves."""

from __future__ import annotations

from logging import Logger

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.ports import BusyError, QueueNotFoundError, UnavailableError


def is_unavailable(error: Exception) -> bool:
    """Returns whether an error means that the same request may succeed later."""
    return isinstance(error, UnavailableError) or (
        isinstance(error, ProblemError) and error.type is ProblemType.UNAVAILABLE
    )


def log_unavailable(logger: Logger, what: str, error: Exception) -> None:
    """Logs the reason why something is not possible now.

    Contention is part of normal operation. A queue that is not found may be, so an operator has to
    see it; its message has the whole reason. Only a store or service that does not answer has a
    traceback.

    Args:
      logger: The logger.
      what: The request or work.
      error: The reason, for which `is_unavailable` is true.
    """
    if isinstance(error, QueueNotFoundError):
        logger.warning("%s: %s", what, error)
    elif isinstance(error, BusyError | ProblemError):
        logger.info("%s: %s", what, error.detail if isinstance(error, ProblemError) else error)
    else:
        logger.warning("%s: %s", what, error, exc_info=error)
