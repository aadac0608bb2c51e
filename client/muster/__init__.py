"""Muster: federated learning over HTTP with stateless clients.

Packages are imported separately, so that a device installs no more than it needs. Importing
`muster` loads none of them. The public ones, and the names to import from each:

- `muster`: `Plan`, `ProblemError`, `ProblemType`, which several of the packages share.
- `muster.client`: `MusterClient` checks in, works and uploads.
- `muster.author`: `build_plan` compiles a TFF computation to a plan.
- `muster.operator`: `Operator` manages tasks, rounds and checkpoints.
- `muster.runtime`: `Runtime` executes a plan's graphs on plain TensorFlow.
- `muster.simulation`: `run` executes a computation by the whole protocol in one process.
- `muster.local`: `LocalCoordinator` runs the deployed functions on this machine.
- `muster.testing`: a coordinator in this process with a manual clock, for tests.

All other packages are internal. Names outside the `__all__` of a public package are internal too.

Exceptions that public names raise:

    Exception
    ├─ ProblemError                 typed error of a coordinator, or of a check on this side
    │  ├─ TimeLimitError            a graph ran longer than its time limit (muster.wire.problems)
    │  └─ SecureSumsError           a secure sum was not allowed in the clear (muster.author)
    ├─ LimitError                   an assignment exceeds a limit of the device (muster.client)
    │  └─ PolicyError               an assignment breaks the data owner's policy (muster.client)
    ├─ CancelledError               a computation was cancelled (muster.runtime)
    ├─ ConnectionError
    │  └─ UnreachableError          no response arrived from the coordinator (muster.client)
    │     ├─ ConfigurationError     proxy or certificate settings prevent requests (muster.client)
    │     └─ ForeignAnswerError     another server responded (muster.client)
    ├─ RuntimeError
    │  ├─ BudgetError               the file of a device's budget is unusable (muster.client)
    │  ├─ SetupError                the client is set up wrongly (muster.client)
    │  ├─ SimulationError           a simulation can't continue (muster.simulation)
    │  └─ StartError                a local coordinator did not start (muster.local)
    └─ ValueError
       ├─ PolicyFileError           a policy's file is not valid (muster.client)
       ├─ TensorsError              bytes are not a safetensors file (muster.wire.tensors)
       ├─ EncodingError             bytes are not valid in their encoding (muster.wire.encodings)
       │  └─ TruncatedError         encoded bytes end early (muster.wire.encodings)
       └─ EnrolmentError            a token, key or name is not valid (muster.wire.enrolment)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from muster.wire.plan import Plan
    from muster.wire.problems import ProblemError, ProblemType

__all__ = ["Plan", "ProblemError", "ProblemType", "__version__"]

__version__ = "0.1.0"

_HOMES = {"Plan": "wire.plan", "ProblemError": "wire.problems", "ProblemType": "wire.problems"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
