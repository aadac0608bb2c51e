"""Plans whose fold needs TensorFlow, on deployments whose aggregator has none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support.harness import Harness
from support.plans import folded_by_graphs, sum_plan

from muster.wire.problems import ProblemError, ProblemType


def test_task_is_refused_if_aggregator_lacks_tensorflow(tmp_path):
    h = Harness(tmp_path, plan=folded_by_graphs(sum_plan()), tensorflow_folds=False)
    h.put_plan()
    with pytest.raises(ProblemError) as refused:
        h.create_task()
    assert refused.value.type is ProblemType.NOT_SUPPORTED
    for part in ("'client_ids_by_graphs'", "ids, count, value", "MUSTER_TENSORFLOW_FOLDS", "aggregator-tensorflow"):
        assert part in refused.value.detail
    assert h.inner.tasks.list("tasks") == []
    assert h.queue.held == []


@pytest.mark.parametrize(("by_graphs", "tensorflow_folds"), [(True, True), (False, False)])
def test_task_is_created_if_its_fold_can_run(tmp_path, by_graphs, tensorflow_folds):
    plan = folded_by_graphs(sum_plan()) if by_graphs else sum_plan()
    h = Harness(tmp_path, plan=plan, tensorflow_folds=tensorflow_folds)
    h.put_plan()
    assert h.create_task().plan_name == plan.manifest.name


def test_function_without_tensorflow_names_what_to_deploy():
    script = (
        "import sys\n"
        "sys.modules['tensorflow'] = None  # as where it is not installed\n"
        "from muster_coordinator.bootstrap import runtimes\n"
        "from support.plans import sum_plan\n"
        "from muster.wire.problems import ProblemError\n"
        "try:\n"
        "    runtimes()(sum_plan())\n"
        "except ProblemError as problem:\n"
        "    print(problem.type.value, problem.detail)\n"
    )
    done = subprocess.run(  # noqa: S603  our own code
        [sys.executable, "-c", script],
        cwd=Path(__file__).parents[1],  # `-c` finds the package `support` there
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.stdout.startswith("not_supported"), done.stderr[-2000:]
    assert "aggregator-tensorflow" in done.stdout
