"""Client SDK: check-ins, local work and uploads. Imports no TensorFlow.

A client opens every connection itself and needs no open port.

    from muster.client import MusterClient
    MusterClient("https://muster.example", "phones", my_dataset).run()
"""

from __future__ import annotations

from muster.client.budget import BudgetError
from muster.client.client import MusterClient, SetupError
from muster.client.limits import LimitError, Limits
from muster.client.local_data import WorkContext
from muster.client.outcomes import (
    Assigned,
    ClientEvent,
    Computed,
    Contributed,
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
from muster.client.plans import RuntimeFactory, Worker
from muster.client.policy import BudgetRules, ClientPolicy
from muster.client.policy_faults import PolicyFileError
from muster.client.policy_guard import PolicyError
from muster.transport.body import TensorBody
from muster.transport.failures import ConfigurationError, ForeignAnswerError, UnreachableError
from muster.transport.http import Transport
from muster.transport.sessions import new_session

__all__ = [
    "Assigned",
    "BudgetError",
    "BudgetRules",
    "ClientEvent",
    "ClientPolicy",
    "Computed",
    "ConfigurationError",
    "Contributed",
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
