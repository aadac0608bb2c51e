"""The demo's plan as it travels with Muster, for machines that can't have TFF: compiled and signed elsewhere, and verified here.

`digits.plan` is `muster.demo.computation:fed_avg` with seed 0; `python tests/data/rebuild.py --key FILE` makes it again from a checkout.
The key has no other purpose. To rotate it: make one with `muster plan keygen`, put its public half here, sign, and release.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec

from muster.wire.plan import Plan

SIGNER = "ed25519:yNTpdNTtUnBLQjEt8AdWw0BuzUZnylhSUYx9yrfKQlQ"
SEED = 0  # drew the plan's initial weights


def tff_is_here() -> bool:
    """Whether TensorFlow Federated is installed; it is not imported."""
    return find_spec("tensorflow_federated") is not None


def published_plan() -> Plan:
    """The plan, signed by the demo's key.

    Raises:
      ProblemError: `plan_invalid`, if it is not what was signed.
      ImportError: `cryptography` is not installed.
    """
    plan = Plan.decode(files(__package__).joinpath("digits.plan").read_bytes())
    plan.check_signed([SIGNER])
    return plan
