"""One real round through a deployment, step by step, with the reason where a step fails. Its plan, `smoke.plan`, travels along.

Needs TensorFlow (`muster-fl[tensorflow]`) for the two clients, which work in this process. The recipe of the plan is in
tests/data/rebuild.py.
"""

from __future__ import annotations

from muster.smoke.round import run, smoke_plan
from muster.smoke.steps import SmokeResult, Step

__all__ = ["SmokeResult", "Step", "run", "smoke_plan"]
