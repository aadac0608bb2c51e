"""Checks that clients work with any Python and any TensorFlow: `make test-matrix`.

In each environment the wheel of this checkout is installed, the client's tests run, and clients
take part in real rounds of a coordinator that runs in the current environment. Their updates and
the committed states are compared with TFF's own.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # before the imports that load TensorFlow

import environments
from cases import CASES, CLIENTS, ROUNDS, key
from environments import ALL, KEPT, ROOT, CommandError, Environment, Wanted

from muster.author.check import difference
from muster.local.coordinator import LocalCoordinator
from muster.operator import Operator
from muster.wire.messages import Phase, TaskPolicy
from muster.wire.plan import Plan
from muster.wire.tensors import Array, decode

HERE = Path(__file__).parent
TOLERANCE = 1e-5  # relative, to each tensor's largest magnitude
_MAX_SUITE_SECONDS, _MAX_ROUNDS_SECONDS = 600, 300
# Tests that need nothing of the coordinator.
SUITE = (
    *("tests/unit/wire", "tests/unit/runtime", "tests/unit/cli/test_loading.py", "tests/unit/cli/test_plan_signing.py"),
    *("tests/unit/simulation/test_clients.py", "tests/unit/simulation/test_record.py"),
    *(
        f"tests/client/test_{name}.py"
        for name in ("machine", "muster_client", "transport", "transfers", "limits", "policy", "policy_guard", "budget")
    ),
)
CORE_SUITE = (
    *(f"tests/unit/wire/test_{name}.py" for name in ("messages", "tensors")),
    *("tests/unit/cli/test_loading.py", "tests/client/test_machine.py", "tests/client/test_transport.py"),
    "tests/client/test_muster_client.py",
)


@dataclass
class Row:
    """Result of one environment.

    Differences are relative; `trouble` is the reason of a failure.
    """

    name: str
    versions: Mapping[str, str] = field(default_factory=dict)
    suite: str = "–"
    rounds: str = "–"
    update: float = float("nan")
    state: float = float("nan")
    seconds: float = 0.0
    skipped: str = ""
    trouble: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.trouble)


def main() -> int:
    """Runs the matrix. Returns 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", action="append", help="a Python's version or a row's name; repeatable", default=[])
    parser.add_argument("--fresh", action="store_true", help="resolve and install everything again")
    given = parser.parse_args()
    started = time.monotonic()
    KEPT.mkdir(exist_ok=True)
    wheel = environments.build_wheel()
    expected = decode((HERE / "expected.safetensors").read_bytes())
    rows = []
    with tempfile.TemporaryDirectory() as folder, LocalCoordinator(Path(folder) / "coordinator") as coordinator:
        for number, wanted in enumerate(ALL):
            if given.only and not {wanted.python, wanted.name} & set(given.only):
                continue
            begun = time.monotonic()
            row = Row(wanted.name)
            _try(row, wanted, wheel, fresh=given.fresh, url=coordinator.url, prefix=f"m{number}", expected=expected)
            row.seconds = time.monotonic() - begun
            rows.append(row)
            say(f"{wanted.name}: {row.skipped or ('FAILED' if row.failed else 'passed')} in {row.seconds:.0f} s")
    say("", *table(rows), f"All of it took {time.monotonic() - started:.0f} s.")
    for row in rows:
        for text in row.trouble:
            say("", f"{row.name}: {text}")
    return int(any(row.failed for row in rows))


def _try(
    row: Row, wanted: Wanted, wheel: Path, *, fresh: bool, url: str, prefix: str, expected: Mapping[str, Array]
) -> None:
    base = environments.interpreter(wanted.python)
    if base is None:
        row.skipped = f"skipped: no Python {wanted.python} here"
        return
    try:
        made = environments.make(wanted, base, wheel, fresh=fresh)
    except CommandError as error:
        row.trouble.append(f"can't be installed: {error}")
        return
    row.versions = made.versions
    if wanted.demo:
        steps = [lambda: _demo(row, made)]
    else:
        steps = [lambda: _run_suite(row, made, SUITE if wanted.with_tensorflow else CORE_SUITE)]
    if wanted.with_tensorflow and not wanted.demo:
        steps.append(lambda: _play(row, made, url=url, prefix=prefix, expected=expected))
    elif not wanted.demo:
        steps.append(lambda: _go_without(row, made, url=url, prefix=prefix))
    for step in steps:
        try:
            step()
        except CommandError as error:
            row.trouble.append(str(error))


def _run_suite(row: Row, made: Environment, suite: Iterable[str]) -> None:
    row.suite = "failed"
    paths = [str(ROOT / path) for path in suite]
    config = ("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT), "-p", "no:cacheprovider", "-q")
    output = environments.run(str(made.python), "-m", "pytest", *config, *paths, timeout=_MAX_SUITE_SECONDS)
    counted = re.search(r"^(\d+ passed.*) in ", output, re.MULTILINE)
    row.suite = counted[1] if counted else output[-200:]


def _play(row: Row, made: Environment, *, url: str, prefix: str, expected: Mapping[str, Array]) -> None:
    row.rounds = "failed"
    policy = TaskPolicy(rounds=ROUNDS, goal=CLIENTS, minimum=CLIENTS, over_selection=1.0, round_seconds=120.0)
    with Operator(url) as operator, tempfile.TemporaryDirectory() as updates:
        for case in CASES:
            name = f"{prefix}-{case.name}"
            operator.create_task(name, population=name, plan=Plan.load(ROOT / case.plan), policy=policy)
        environments.run(str(made.python), str(HERE / "member.py"), url, prefix, updates, timeout=_MAX_ROUNDS_SECONDS)
        committed = 0
        row.update = row.state = 0.0
        for case in CASES:
            name = f"{prefix}-{case.name}"
            committed += _committed(operator, name)
            for number in range(1, ROUNDS + 1):
                for client in range(CLIENTS):
                    file = Path(updates) / f"{case.name}-update-{client}-{number}.safetensors"
                    wanted = _part(expected, case.name, f"update-{client}-{number}")
                    row.update = max(row.update, difference(wanted, decode(file.read_bytes())).relative)
                for what, tensors in (
                    (f"state-{number}", operator.download_checkpoint(name, number)),
                    (f"result-{number}", operator.result(name, number)),
                ):
                    row.state = max(row.state, difference(_part(expected, case.name, what), tensors).relative)
    row.rounds = f"{committed} of {len(CASES) * ROUNDS}"
    if committed != len(CASES) * ROUNDS:
        row.trouble.append(f"{row.rounds} rounds were committed")
    if max(row.update, row.state) > TOLERANCE:
        row.trouble.append(f"differs from TFF by more than {TOLERANCE}: updates {row.update}, states {row.state}")


def _committed(operator: Operator, task: str) -> int:
    """Returns the committed rounds.

    Waits for the last one, which is committed shortly after its last update.
    """
    deadline = time.monotonic() + 60.0
    while True:
        count = sum(view.phase is Phase.COMMITTED for view in operator.rounds(task))
        if count == ROUNDS or time.monotonic() > deadline:
            return count
        time.sleep(0.1)


def _part(expected: Mapping[str, Array], case: str, what: str) -> dict[str, Array]:
    start = key(case, what, "")
    return {name.removeprefix(start): value for name, value in expected.items() if name.startswith(start)}


def _go_without(row: Row, made: Environment, *, url: str, prefix: str) -> None:
    """Checks that without TensorFlow all modules import and the command runs.

    Work is refused with what to install.
    """
    python = str(made.python)
    row.rounds = "failed"
    environments.run(
        python, "-c", "import muster.client, muster.operator, muster.wire.plan, muster.runtime, muster.cli.app"
    )
    environments.run(python, "-m", "muster.cli", "--help")
    name = f"{prefix}-mean"
    with Operator(url) as operator:
        policy = TaskPolicy(rounds=1, goal=1, minimum=1, over_selection=1.0, round_seconds=60.0)
        operator.create_task(name, population=name, plan=Plan.load(ROOT / "tests/data/mean.plan"), policy=policy)
        code = (
            "from muster.client import MusterClient, SetupError\n"
            f"client = MusterClient({url!r}, {name!r}, lambda: 1.0)\n"
            "try:\n    client.run(rounds=1)\n"
            "except SetupError as error:\n    assert 'muster-fl[tensorflow]' in str(error), error\n"
            "else:\n    raise AssertionError('it worked')\n"
        )
        environments.run(python, "-c", code, timeout=60)
        operator.cancel(name)
    row.rounds = "refused, with what to install"


def _demo(row: Row, made: Environment) -> None:
    """Checks that a wheel without TFF trains the demo, using the plan in the wheel."""
    row.rounds = "failed"
    with tempfile.TemporaryDirectory() as folder:
        out = str(Path(folder) / "demo")
        command = (str(made.python), "-m", "muster.cli", "demo", "--clients", "4", "--rounds", "3", "--out", out)
        output = environments.run(*command, timeout=_MAX_ROUNDS_SECONDS)
    if "travels with Muster, since TensorFlow Federated" not in output:
        raise CommandError(f"the demo does not say which plan it takes:\n{output}")
    row.rounds = "the demo, 3 of 3"


def table(rows: Iterable[Row]) -> list[str]:
    """Returns the rows as a Markdown table."""
    lines = [
        (
            "| Python | TensorFlow | numpy | protobuf | pydantic | client suite | rounds committed "
            "| updates against TFF | states and results | seconds |"
        ),
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        versions = [row.versions.get(name, "none") for name in ("tensorflow", "numpy", "protobuf", "pydantic")]
        cells = [row.name, *versions, row.suite, row.rounds]
        cells += ["–" if value != value else f"{value:.1e}" for value in (row.update, row.state)]  # noqa: PLR0124  NaN
        cells = [row.name, row.skipped, *[""] * 7] if row.skipped else cells
        lines.append(f"| {' | '.join([*cells, f'{row.seconds:.0f}'])} |")
    return lines


def say(*lines: str) -> None:
    """Prints lines and flushes them."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
