"""Smoke test (`muster smoke`): one real round through a deployment, step by step.

Two clients work in this process, which needs TensorFlow (`muster-fl[tensorflow]`). Their plan is
`smoke.plan`, which `tests/data/rebuild.py` builds.
"""

from __future__ import annotations

from muster.smoke.round import run, smoke_plan
from muster.smoke.steps import SmokeResult, Step

__all__ = ["SmokeResult", "Step", "run", "smoke_plan"]
