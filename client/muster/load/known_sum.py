"""The sum of a load's round, which is known: each client brings the same update of ones."""

from __future__ import annotations

from typing import Optional

import numpy as np

from muster.load.targets import Target
from muster.operator import Operator
from muster.wire.dtypes import DType
from muster.wire.manifest import FoldKind
from muster.wire.messages import RoundView
from muster.wire.plan import Plan
from muster.wire.tensors import Array


class KnownSum:
    """What a round should have summed up.

    Args:
      target: Where an accumulator may be seen.
      operator: Where a result may be had.
      plan: The plan.
      known: Whether it is the one whose result is the sum itself.
    """

    def __init__(self, target: Target, operator: Operator, plan: Plan, *, known: bool) -> None:
        self.update = ones(plan)
        self._target = target
        self._operator = operator
        self._plan = plan
        self._known = known

    def is_exact(self, view: RoundView) -> Optional[bool]:
        """Whether a committed round's sum is that of as many updates as it counted, however many; None: it can't be seen there."""
        found = self._target.accumulator()
        if found is None:
            if not self._known:
                return None
            result = self._operator.result(view.task, view.round)
            return all(bool(np.all(value == view.folded)) for value in result.values())
        for rule in self._plan.manifest.folds:
            one = self.update.get(rule.update or "")
            if rule.kind is FoldKind.TENSORFLOW or one is None:
                return None
            wanted = one * view.folded if rule.kind is FoldKind.SUM else one
            if rule.path in found and not np.array_equal(found[rule.path], wanted.astype(found[rule.path].dtype)):
                return False
        return True


def ones(plan: Plan) -> dict[str, Array]:
    """An update of ones that the plan takes; dimensions that it leaves open are 1, and strings empty."""
    update: dict[str, Array] = {}
    for spec in plan.manifest.update:
        shape = [1 if size is None else size for size in spec.shape or ()]
        if spec.dtype is DType.STRING:
            update[spec.path] = np.full(shape, b"", object)
        else:
            update[spec.path] = np.ones(shape, spec.dtype.numpy)
    return update
