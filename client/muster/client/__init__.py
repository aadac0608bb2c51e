"""The client: checks in, works and uploads over connections that it opens itself. Imports no TensorFlow.

from muster.client import MusterClient
MusterClient("https://muster.example", "phones", my_dataset).run()
"""

from __future__ import annotations

from .body import TensorBody
from .budget import BudgetError
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
    PolicyNote,
    Sending,
    Summary,
    Unreached,
    Waited,
)
from .plans import RuntimeFactory, Worker
from .policy import BudgetRules, ClientPolicy
from .policy_faults import PolicyFileError
from .policy_guard import PolicyError
from .sessions import new_session
from .transport import Transport

__all__ = [
    "Assigned",
    "BudgetError",
    "BudgetRules",
    "ClientPolicy",
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
    "PolicyError",
    "PolicyFileError",
    "PolicyNote",
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
