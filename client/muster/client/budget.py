"""Counts a device's contributions in a file.

The limits hold over restarts, processes and coordinators.

The file is a SQLite database, from Python's standard library on every system. One transaction
checks the limits and records the contribution, is durable when it returns (`synchronous = EXTRA`),
and excludes every other process. It holds only hashes, times and counts:

    uses   (plan, broadcast) -> number of contributions; never pruned
    times  times of the contributions of the last 24 hours, and of the last one

Time is monotonic here: it is the later of the device's clock and the last contribution.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Callable, Optional

from muster.client.policy import BudgetRules

if TYPE_CHECKING:
    import sqlite3

DAY, HOUR = 86400.0, 3600.0  # seconds
_WAIT = 30.0  # seconds for another process's transaction
_LAST_DATE = 253402300799.0  # POSIX seconds: the end of the year 9999, where `datetime` ends
_FORMAT = 1  # the database's user_version
_APPLICATION = 0x4D425544  # the database's application_id: "MBUD"


class BudgetError(RuntimeError):
    """Error raised when the budget's file can't be used; the text states the fix."""


@dataclass(frozen=True)
class Exhausted:
    """Limit that allows no further contribution now.

    Attributes:
      limit: The limit's name, such as `per_day`.
      detail: The spent budget and the policy's limit.
      free_at: When the limit allows the next contribution, in POSIX seconds; None: never.
    """

    limit: str
    detail: str
    free_at: Optional[float] = None


@dataclass(frozen=True)
class _Spent:
    """Counts that one decision needs. `times` are sorted; `now` is not before the last of them."""

    now: float
    times: tuple[float, ...]
    of_plan: int = 0
    of_broadcast: int = 0


class Budget:
    """Budget of one policy. Each call opens the file, so that processes and threads may share it.

    Args:
      rules: The limits.
      clock: The device's clock, in POSIX seconds.

    Raises:
      PolicyFileError: the file has no path.
    """

    def __init__(self, rules: BudgetRules, *, clock: Callable[[], float] = time.time) -> None:
        self._rules = rules
        self._clock = clock
        self.path = rules.path

    def open(self) -> bool:
        """Checks the file, and creates an empty one if it is missing.

        Returns:
          Whether the file was created.

        Raises:
          BudgetError: the file can't be used.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        except FileExistsError:
            pass
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        with self._transaction() as database:
            return self._lay_out(database)

    def exhausted(self, *, plan: Optional[str] = None, broadcast: Optional[str] = None) -> Optional[Exhausted]:
        """Returns the limit that forbids a contribution now, or None.

        Args:
          plan: The plan's address; None: only the limits that hold for every plan are checked.
          broadcast: The broadcast's hash.

        Raises:
          BudgetError: the file can't be used.
        """
        with self._transaction() as database:
            return self._judge(self._read(database, plan, broadcast))

    def spend(self, *, plan: str, broadcast: str) -> Optional[Exhausted]:
        """Records one contribution durably, or returns the limit that forbids it.

        Raises:
          BudgetError: the file can't be used; it may or may not hold the contribution.
        """
        with self._transaction() as database:
            spent = self._read(database, plan, broadcast)
            refusal = self._judge(spent)
            if refusal is None:
                database.execute("INSERT OR IGNORE INTO uses VALUES (?, ?, 0)", (plan, broadcast))
                database.execute(
                    "UPDATE uses SET count = count + 1 WHERE plan = ? AND broadcast = ?", (plan, broadcast)
                )
                database.execute("DELETE FROM times WHERE at <= ?", (spent.now - DAY,))
                database.execute("INSERT INTO times VALUES (?)", (spent.now,))
            return refusal

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Opens a transaction that is durable when it has ended, and that any error rolls back."""
        import sqlite3  # here, since some builds of Python lack it

        self._check_file()
        try:
            # `mode=rw`: a file that has vanished is an error and not an empty budget.
            with closing(
                sqlite3.connect(f"{self.path.as_uri()}?mode=rw", uri=True, timeout=_WAIT, isolation_level=None)
            ) as database:
                database.execute("PRAGMA synchronous = EXTRA")
                database.execute("BEGIN IMMEDIATE")
                yield database
                database.execute("COMMIT")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise BudgetError(
                    f"Another process has held the budget {self.path} for {_WAIT:.0f} s: end it"
                ) from error
            raise self._unusable(str(error)) from error
        except sqlite3.Error as error:
            raise self._unusable(str(error)) from error

    def _check_file(self) -> None:
        try:
            status = self.path.stat()
        except FileNotFoundError as error:
            raise BudgetError(
                f"The budget {self.path} existed when this client started and is missing now. Restore it, "
                "or start the client again to begin an empty one"
            ) from error
        except OSError as error:
            raise self._unusable(error.strerror or str(error)) from error
        if not stat.S_ISREG(status.st_mode):
            raise self._unusable("it is not a file")
        if os.name == "posix" and stat.S_IMODE(status.st_mode) & 0o077:
            raise BudgetError(
                f"The budget {self.path} is open to other users of this machine "
                f"(mode {stat.S_IMODE(status.st_mode):04o}): chmod 600 {self.path}"
            )

    def _lay_out(self, database: sqlite3.Connection) -> bool:
        """Creates the tables if they are missing. Returns whether it did."""
        application = database.execute("PRAGMA application_id").fetchone()[0]
        version = database.execute("PRAGMA user_version").fetchone()[0]
        tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if (application, version, tables) == (0, 0, 0):
            database.execute(
                "CREATE TABLE uses (plan TEXT, broadcast TEXT, count INTEGER NOT NULL, PRIMARY KEY (plan, broadcast))"
            )
            database.execute("CREATE TABLE times (at REAL NOT NULL)")
            database.execute(f"PRAGMA application_id = {_APPLICATION}")
            database.execute(f"PRAGMA user_version = {_FORMAT}")
            return True
        if application != _APPLICATION:
            raise self._unusable("it is another program's database")
        if version != _FORMAT:
            raise self._unusable(f"it has format {version}, and this version of Muster knows {_FORMAT}")
        return False

    def _read(self, database: sqlite3.Connection, plan: Optional[str], broadcast: Optional[str]) -> _Spent:
        times = tuple(row[0] for row in database.execute("SELECT at FROM times ORDER BY at"))
        uses = "SELECT coalesce(sum(count), 0) FROM uses WHERE plan = ?"
        of_plan = database.execute(uses, (plan,)).fetchone()[0]
        of_broadcast = database.execute(f"{uses} AND broadcast = ?", (plan, broadcast)).fetchone()[0]
        return _Spent(max((self._clock(), *times[-1:])), times, of_plan, of_broadcast)

    def _judge(self, spent: _Spent) -> Optional[Exhausted]:
        day = self._of_the_day(spent)
        separation = self._too_soon(spent)
        if day is not None and separation is not None and day.free_at is not None:
            return max(day, separation, key=lambda item: item.free_at or 0.0)
        return day or separation or self._used_up(spent)

    def _of_the_day(self, spent: _Spent) -> Optional[Exhausted]:
        limit = self._rules.per_day
        recent = [at for at in spent.times if at > spent.now - DAY]
        if limit is None or len(recent) < limit:
            return None
        detail = f"{len(recent)} contributions in the last 24 hours; per_day = {limit}{self._behind(spent)}"
        return Exhausted("per_day", detail, recent[-limit] + DAY if limit else None)

    def _too_soon(self, spent: _Spent) -> Optional[Exhausted]:
        hours = self._rules.separation_hours
        if hours is None or not spent.times or spent.now >= spent.times[-1] + hours * HOUR:
            return None
        since = (spent.now - spent.times[-1]) / HOUR
        detail = f"the last contribution was {since:.1f} hours ago; separation_hours = {hours:g}{self._behind(spent)}"
        return Exhausted("separation_hours", detail, spent.times[-1] + hours * HOUR)

    def _used_up(self, spent: _Spent) -> Optional[Exhausted]:
        rules = self._rules
        if rules.per_plan is not None and spent.of_plan >= rules.per_plan:
            return Exhausted("per_plan", f"{spent.of_plan} contributions to this plan; per_plan = {rules.per_plan}")
        if rules.per_broadcast is not None and spent.of_broadcast >= rules.per_broadcast:
            detail = (
                f"{spent.of_broadcast} contributions to this plan and broadcast; per_broadcast = {rules.per_broadcast}"
            )
            return Exhausted("per_broadcast", detail)
        return None

    def _behind(self, spent: _Spent) -> str:
        """Returns a note if the device's clock was set back, else an empty text."""
        clock = self._clock()
        if clock >= spent.now:
            return ""
        return (
            f" (the device's clock shows {_date(clock)}, which is before the last contribution at {_date(spent.now)})"
        )

    def _unusable(self, reason: str) -> BudgetError:
        return BudgetError(
            f"The budget {self.path} can't be used: {reason}. Give the client's user a local folder to write to "
            "and restore the file, or remove it to begin an empty budget, which forgets what was spent"
        )


def _date(at: float) -> str:
    return (
        datetime.fromtimestamp(min(at, _LAST_DATE), timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    )
