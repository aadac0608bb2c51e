"""Compiled and signed plan of the demo, for machines without TFF.

`digits.plan` is `muster.demo.computation:fed_avg` with seed 0. In a checkout,
`python tests/data/rebuild.py --key FILE` builds it again. The key serves this purpose only. To
rotate
it: create a key with `muster plan keygen`, write its public half here, sign the plan, and release.
"""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec

from muster.wire.plan import Plan

SIGNER = "ed25519:yNTpdNTtUnBLQjEt8AdWw0BuzUZnylhSUYx9yrfKQlQ"
SEED = 0  # of the plan's initial weights


def tff_is_here() -> bool:
    """Returns whether TensorFlow Federated is installed. Does not import it."""
    return find_spec("tensorflow_federated") is not None


def published_plan() -> Plan:
    """Returns the published plan after a check of its signature.

    Raises:
      ProblemError: `plan_invalid`, if the signature does not match.
      ImportError: `cryptography` is not installed.
    """
    plan = Plan.decode(files(__package__).joinpath("digits.plan").read_bytes())
    plan.check_signed([SIGNER])
    return plan
