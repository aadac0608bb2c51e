"""Budget file: counts over restarts, processes and clocks, and unusable files."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any, Optional

import pytest

from muster.client import BudgetError, BudgetRules
from muster.client.budget import DAY, HOUR, Budget

START = 1_800_000_000.0
POSIX = pytest.mark.skipif(os.name != "posix", reason="Windows has no modes of files")


class Clock:
    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def budget_of(folder: Path, clock: Any, **rules: Any) -> Budget:
    budget = Budget(BudgetRules(file=str(folder / "budget"), **rules), clock=clock)
    budget.open()
    return budget


def limit(exhausted: Any) -> Optional[str]:
    return None if exhausted is None else str(exhausted.limit)


def test_new_budget_is_empty_and_private(tmp_path: Path, clock: Clock) -> None:
    budget = Budget(BudgetRules(file=str(tmp_path / "state" / "budget"), per_day=1), clock=clock)
    assert budget.open()
    assert not budget.open()
    assert budget.exhausted() is None
    if os.name == "posix":
        assert stat.S_IMODE(budget.path.stat().st_mode) == 0o600
        assert stat.S_IMODE(budget.path.parent.stat().st_mode) == 0o700


def test_per_day_counts_any_24_hours(tmp_path: Path, clock: Clock) -> None:
    budget = budget_of(tmp_path, clock, per_day=2)
    for _ in range(2):
        assert budget.spend(plan="p", broadcast="b") is None
        clock.now += HOUR
    exhausted = budget.spend(plan="q", broadcast="c")
    assert exhausted is not None
    assert (exhausted.limit, exhausted.free_at) == ("per_day", START + DAY)
    clock.now = START + DAY
    assert budget.spend(plan="p", broadcast="b") is None
    exhausted = budget.exhausted()
    assert exhausted is not None
    assert exhausted.free_at == START + HOUR + DAY


def test_separation_holds_over_all_plans(tmp_path: Path, clock: Clock) -> None:
    budget = budget_of(tmp_path, clock, separation_hours=36)
    assert budget.spend(plan="p", broadcast="b") is None
    clock.now += 36 * HOUR - 1
    exhausted = budget.spend(plan="q", broadcast="c")
    assert exhausted is not None
    assert (exhausted.limit, exhausted.free_at) == ("separation_hours", START + 36 * HOUR)
    clock.now += 1
    assert budget.spend(plan="q", broadcast="c") is None


def test_budget_is_free_when_the_later_limit_is(tmp_path: Path, clock: Clock) -> None:
    budget = budget_of(tmp_path, clock, per_day=1, separation_hours=30)
    budget.spend(plan="p", broadcast="b")
    exhausted = budget.exhausted()
    assert exhausted is not None
    assert exhausted.free_at == START + 30 * HOUR


def test_counts_of_plans_and_broadcasts_never_expire(tmp_path: Path, clock: Clock) -> None:
    budget = budget_of(tmp_path, clock, per_plan=3, per_broadcast=1)
    for broadcast in ("b1", "b2"):
        assert budget.spend(plan="p", broadcast=broadcast) is None
        clock.now += 400 * DAY
    assert limit(budget.spend(plan="p", broadcast="b1")) == "per_broadcast"
    assert budget.spend(plan="q", broadcast="b1") is None
    assert budget.spend(plan="p", broadcast="b3") is None
    assert limit(budget.exhausted(plan="p", broadcast="b4")) == "per_plan"


def test_limit_of_zero_stops_all_contributions(tmp_path: Path, clock: Clock) -> None:
    for number, name in enumerate(("per_day", "per_plan", "per_broadcast")):
        folder = tmp_path / str(number)
        exhausted = budget_of(folder, clock, **{name: 0}).exhausted()
        assert exhausted is not None
        assert (exhausted.limit, exhausted.free_at) == (name, None)


def test_clock_set_back_frees_no_budget(tmp_path: Path, clock: Clock) -> None:
    budget = budget_of(tmp_path, clock, per_day=1)
    budget.spend(plan="p", broadcast="b")
    for back in (1.0, DAY, 40 * 365 * DAY):
        clock.now = START - back
        exhausted = budget.spend(plan="p", broadcast="b")
        assert exhausted is not None
        assert exhausted.free_at == START + DAY
        assert "which is before the last contribution" in exhausted.detail
    clock.now = START + DAY
    assert budget.spend(plan="p", broadcast="b") is None
    clock.now = START + 1
    assert limit(budget.exhausted()) == "per_day"


def test_contribution_after_a_clock_set_back_counts_from_the_last_one(tmp_path: Path, clock: Clock) -> None:
    budget = budget_of(tmp_path, clock, per_day=2)
    budget.spend(plan="p", broadcast="b")
    clock.now = START - 30 * DAY
    assert budget.spend(plan="p", broadcast="b") is None
    clock.now = START + DAY - 1
    assert limit(budget.exhausted()) == "per_day"


def rows(budget: Budget, table: str) -> list[Any]:
    with closing(sqlite3.connect(budget.path)) as database:
        return database.execute(f"SELECT * FROM {table}").fetchall()  # noqa: S608  a constant of this test


def test_old_times_are_pruned(tmp_path: Path, clock: Clock) -> None:
    budget = budget_of(tmp_path, clock, per_day=9)
    for _ in range(50):
        budget.spend(plan="p", broadcast="b")
        clock.now += DAY / 4
    assert len(rows(budget, "times")) == 4
    assert rows(budget, "uses") == [("p", "b", 50)]


def test_stricter_policy_counts_earlier_contributions(tmp_path: Path, clock: Clock) -> None:
    loose = budget_of(tmp_path, clock, per_day=5)
    for _ in range(3):
        loose.spend(plan="p", broadcast="b")
    assert limit(budget_of(tmp_path, clock, per_plan=3).exhausted(plan="p")) == "per_plan"


SPENDER = """
import sys
from muster.client import BudgetRules
from muster.client.budget import Budget
budget = Budget(BudgetRules(file=sys.argv[1], per_day=7))
budget.open()
print(sum(budget.spend(plan="p", broadcast=sys.argv[2]) is None for _ in range(5)))
"""


def test_processes_that_share_a_budget_never_exceed_it(tmp_path: Path) -> None:
    """Four processes also race to create the file."""
    processes = [
        subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", SPENDER, str(tmp_path / "budget"), str(number)], stdout=subprocess.PIPE, text=True
        )
        for number in range(4)
    ]
    spent = [int(process.communicate(timeout=120)[0]) for process in processes]
    assert sum(spent) == 7


KILLED = """
import sys, os, signal
from muster.client import BudgetRules
from muster.client.budget import Budget
budget = Budget(BudgetRules(file=sys.argv[1], per_plan=1))
budget.open()
if sys.argv[2] == "before":
    Budget._judge = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
budget.spend(plan="p", broadcast="b")
os.kill(os.getpid(), signal.SIGKILL)
"""


@POSIX
@pytest.mark.parametrize(("moment", "left"), [("before", None), ("after", "per_plan")])
def test_contribution_is_atomic_under_a_kill(tmp_path: Path, moment: str, left: Optional[str]) -> None:
    done = subprocess.run(  # noqa: S603
        [sys.executable, "-c", KILLED, str(tmp_path / "budget"), moment], check=False, timeout=60
    )
    assert done.returncode == -9
    assert limit(budget_of(tmp_path, lambda: START, per_plan=1).exhausted(plan="p")) == left


@POSIX
@pytest.mark.parametrize("mode", [0o644, 0o640, 0o604, 0o620])
def test_budget_open_to_others_is_refused_with_the_fix(tmp_path: Path, clock: Clock, mode: int) -> None:
    budget = budget_of(tmp_path, clock, per_day=1)
    budget.path.chmod(mode)
    for use in (budget.open, budget.exhausted, lambda: budget.spend(plan="p", broadcast="b")):
        with pytest.raises(BudgetError, match=f"chmod 600 {budget.path}"):
            use()
    budget.path.chmod(0o600)
    assert budget.exhausted() is None


def test_missing_budget_is_not_recreated(tmp_path: Path, clock: Clock) -> None:
    budget = budget_of(tmp_path, clock, per_day=1)
    budget.path.unlink()
    with pytest.raises(BudgetError, match="is missing now"):
        budget.spend(plan="p", broadcast="b")
    assert not budget.path.exists()


def _damaged(path: Path) -> None:
    path.write_bytes(b"no database at all" * 100)


def _of_another_program(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE notes (text)")


def _of_a_newer_version(path: Path) -> None:
    Budget(BudgetRules(file=str(path), per_day=1)).open()
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version = 9")


def _folder(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("spoil", [_damaged, _of_another_program, _of_a_newer_version, _folder])
def test_foreign_file_is_refused_and_unchanged(tmp_path: Path, clock: Clock, spoil: Any) -> None:
    path = tmp_path / "budget"
    spoil(path)
    if path.is_file():
        path.chmod(0o600)
    before = path.read_bytes() if path.is_file() else None
    with pytest.raises(BudgetError) as caught:
        budget_of(tmp_path, clock, per_day=1)
    assert str(path) in str(caught.value)
    assert before is None or path.read_bytes() == before


def test_unwritable_path_is_named(tmp_path: Path, clock: Clock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BudgetError, match="can't be used"):
        budget_of(tmp_path / "file", clock, per_day=1)
