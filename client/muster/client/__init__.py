"""The client: checks in, works and uploads over connections that it opens itself. Imports no TensorFlow.

from muster.client import MusterClient
MusterClient("https://muster.example", "phones", my_dataset).run()
"""

from __future__ import annotations

from .body import TensorBody
from .failures import ConfigurationError, ForeignAnswerError, UnreachableError
from .limits import LimitError, Limits
from .local_data import WorkContext
from .muster_client import MusterClient, SetupError
from .outcomes import (
    Assigned,
    Computed,
    Contributed,
    Event,
    Failed,
    Ineligible,
    Missed,
    Outcome,
    Sending,
    Summary,
    Unreached,
    Waited,
)
from .plans import RuntimeFactory, Worker
from .sessions import new_session
from .transport import Transport

__all__ = [
    "Assigned",
    "Computed",
    "ConfigurationError",
    "Contributed",
    "Event",
    "Failed",
    "ForeignAnswerError",
    "Ineligible",
    "LimitError",
    "Limits",
    "Missed",
    "MusterClient",
    "Outcome",
    "RuntimeFactory",
    "Sending",
    "SetupError",
    "Summary",
    "TensorBody",
    "Transport",
    "UnreachableError",
    "Unreached",
    "Waited",
    "WorkContext",
    "Worker",
    "new_session",
]
