"""A durable work queue on one machine: rows in SQLite, and a pump that delivers them over HTTP.

Whoever enqueues wakes the pump with a datagram on the loopback interface, so that nothing waits for a poll; a lost datagram
only costs time. Each row is claimed by moving its due time behind a lease: a pump that dies just lets the lease run out.
"""

from __future__ import annotations

import json
import logging
import select
import socket
import threading
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import requests

from muster_coordinator.adapters.sqlite import Database
from muster_coordinator.ports import Clock, Randomness, UnavailableError, WorkItem

_LOG = logging.getLogger(__name__)
_LOOPBACK = "127.0.0.1"
_REMEMBERED = 3600.0  # seconds that a used name stays blocked, about as Cloud Tasks does
_LEASE = 600.0  # seconds
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # seconds between a failed delivery and the next
_LONGEST_WAIT = 5.0  # seconds; what a lost datagram costs at most
_STEP_BACK = 1.0  # seconds that the clock may be set back without being noticed

# `due` is in POSIX seconds; `scheduled` is when it was set. A clock that reads less than that has been set back, and would hold
# the row back by as much; so such a row counts as due. A row with a `holder` is leased to that pump.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS work (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, function TEXT NOT NULL, kind TEXT NOT NULL, payload TEXT NOT NULL,
  due REAL NOT NULL, scheduled REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, holder TEXT
);
CREATE INDEX IF NOT EXISTS work_by_due ON work (due, id);
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS names_by_use ON names (used);
CREATE TABLE IF NOT EXISTS pump (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), port INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to deliver a piece of work. `attempt` counts from 1."""

    work: WorkItem
    name: str
    attempt: int
    row: int


class LocalQueue:
    """`WorkQueue` in an SQLite file, for any number of processes that enqueue and one `Pump`. Errors: see `Database`."""

    def __init__(self, path: Path | str | None, *, clock: Clock) -> None:
        """Opens the queue in the file at `path` and makes it where missing; None: in memory, for a `Pump.drain` beside it."""
        self.clock = clock
        self._database = Database(path, schema=_SCHEMA, version=1)

    @classmethod
    def in_memory(cls, *, clock: Clock) -> LocalQueue:
        """A queue that dies with the object."""
        return cls(None, clock=clock)

    def close(self) -> None:
        """Closes the file for all threads."""
        self._database.close()

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        """See `WorkQueue.enqueue`. A name that was used within the last hour is dropped."""
        now = self.clock.now()
        with self._database.writing() as connection:
            connection.execute("DELETE FROM names WHERE used < ?", (now - _REMEMBERED,))
            if not connection.execute("INSERT INTO names VALUES (?, ?) ON CONFLICT DO NOTHING", (name, now)).rowcount:
                return
            connection.execute(
                "INSERT INTO work (name, function, kind, payload, due, scheduled) VALUES (?, ?, ?, ?, ?, ?)",
                (name, work.function, work.kind, json.dumps(dict(work.payload)), now + max(delay, 0.0), now),
            )
            row = connection.execute("SELECT port FROM pump").fetchone()
        if row is not None:
            _wake(row[0])

    def next_due(self, *, but: Collection[str] = ()) -> float | None:
        """Returns when the next row is due, in POSIX seconds, expiring leases included; None if there is none.

        Rows for the functions `but` are excluded.
        """
        query = f"SELECT min(due) FROM work WHERE TRUE{_but(but)}"  # noqa: S608  only placeholders  # nosec B608
        with self._database.reading() as connection:
            due: float | None = connection.execute(query, tuple(but)).fetchone()[0]
        return due

    def announce(self, port: int) -> None:
        """Has later `enqueue`s wake a pump on this UDP port, and takes back what a pump that is gone had claimed."""
        with self._database.writing() as connection:
            connection.execute("INSERT INTO pump VALUES (1, ?) ON CONFLICT DO UPDATE SET port = excluded.port", (port,))
            now = self.clock.now()
            connection.execute(
                "UPDATE work SET holder = NULL, due = ?, scheduled = ? WHERE holder IS NOT NULL", (now, now)
            )

    def claim(self, holder: str, *, limit: int, lease: float, now: float, but: Collection[str] = ()) -> list[Delivery]:
        """Leases up to `limit` rows that are due at `now` to `holder` for `lease` seconds, in order of (due, id).

        Rows for the functions `but` are excluded.
        """
        due, values = f"{_DUE}{_but(but)}", (now, now + _STEP_BACK, *but)
        with self._database.reading() as connection:
            if connection.execute(f"SELECT 1 {due} LIMIT 1", values).fetchone() is None:
                return []  # most often; without a write
        with self._database.writing() as connection:
            rows = connection.execute(
                f"SELECT id, name, function, kind, payload, attempts {due} ORDER BY due, id LIMIT ?", (*values, limit)
            ).fetchall()
            connection.executemany(
                "UPDATE work SET due = ?, scheduled = ?, attempts = attempts + 1, holder = ? WHERE id = ?",
                [(now + lease, now, holder, row[0]) for row in rows],
            )
        return [
            Delivery(WorkItem(function, kind, json.loads(payload)), name, attempts + 1, key)
            for key, name, function, kind, payload, attempts in rows
        ]

    def finish(self, delivery: Delivery) -> None:
        """Forgets work that has been delivered."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM work WHERE id = ?", (delivery.row,))

    def put_back(self, delivery: Delivery, *, holder: str, pause: float) -> None:
        """Gives a claimed row back, due in `pause` seconds; one whose lease another pump has taken over stays as it is."""
        now = self.clock.now()
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE work SET holder = NULL, due = ?, scheduled = ? WHERE id = ? AND holder = ?",
                (now + pause, now, delivery.row, holder),
            )


_DUE = "FROM work WHERE (due <= ? OR scheduled > ?)"


def _but(functions: Collection[str]) -> str:
    """Returns the condition that excludes rows for `functions`, with a placeholder for each."""
    return f" AND function NOT IN ({', '.join('?' * len(functions))})" if functions else ""


class Pump:
    """Deliverer of due work. One per queue: a second one is harmless, but takes the first one's wake-ups and claims.

    A function may have a share of the threads, so that its slow deliveries do not delay those to another function.
    """

    def __init__(
        self,
        queue: LocalQueue,
        deliver: Callable[[Delivery], bool],
        *,
        randomness: Randomness,
        threads: int = 8,
        lease: float = _LEASE,
        shares: Mapping[str, int] | None = None,
    ) -> None:
        """Creates a pump that is idle until `run` or `drain`.

        Args:
          queue: The queue of work.
          deliver: Delivers one piece of work and returns whether it arrived. False or an error causes a redelivery
            after a back-off of 0.1 s that doubles up to 30 s. Called in up to `threads` threads at once.
          randomness: Source of jitter, which shortens a back-off by up to half.
          threads: Most concurrent deliveries.
          lease: Seconds after which work is redelivered if this pump dies and none starts; longer than any delivery.
          shares: Most concurrent deliveries to a function, by its name; an unnamed function may use all threads.
        """
        self._queue = queue
        self._deliver = deliver
        self._chance = randomness
        self._threads = threads
        self._lease = lease
        self._holder = randomness.nonce()
        self._shares = dict(shares or {})
        self._busy: Counter[str] = Counter()  # by function: claimed and not yet completed by the threads of `run`
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Delivers until `stop` is set, then waits for the deliveries under way. Raises `StoreError` if the queue can't be used."""
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as alarm,
            ThreadPoolExecutor(self._threads, "pump") as pool,
        ):
            alarm.bind((_LOOPBACK, 0))
            alarm.setblocking(False)
            port = alarm.getsockname()[1]
            self._queue.announce(port)
            threading.Thread(target=_wake_when, args=(stop, port), name="pump-stop", daemon=True).start()
            while not stop.is_set():
                # Emptied before the look, never after it: a datagram that comes in between is kept for the next wait.
                with suppress(BlockingIOError):
                    while True:
                        alarm.recv(1)
                try:
                    rest = self._start(pool, port)
                except UnavailableError:
                    _LOG.warning("The queue can't be read now; trying again", exc_info=True)
                    rest = _LONGEST_WAIT
                select.select([alarm], [], [], rest)

    def drain(self, now: float) -> int:
        """Delivers all that is due at `now`, one after another in order of (due, id), what comes in meanwhile included.

        Returns:
          How many deliveries were tried. An error of `deliver` passes through, and its work is due again after a pause.
        """
        tried = 0
        while claimed := self._queue.claim(self._holder, limit=1, lease=self._lease, now=now):
            self._settle(claimed[0])
            tried += 1
        return tried

    def _start(self, pool: ThreadPoolExecutor, port: int) -> float:
        """Claims and submits while there are idle threads and due work. Returns how many seconds there is nothing to do."""
        while True:
            with self._lock:
                free, full = self._room()
            if not free:
                return _LONGEST_WAIT  # the next thread that completes wakes this one
            now = self._queue.clock.now()
            claimed = self._queue.claim(self._holder, limit=free, lease=self._lease, now=now, but=full)
            with self._lock:
                self._busy.update(delivery.work.function for delivery in claimed)
            for delivery in claimed:
                done = partial(self._settled, delivery.work.function, port)
                pool.submit(self._settle, delivery).add_done_callback(done)
            if not claimed:
                due = self._queue.next_due(but=full)
                return _LONGEST_WAIT if due is None else min(max(due - self._queue.clock.now(), 0.0), _LONGEST_WAIT)

    def _room(self) -> tuple[int, list[str]]:
        """Returns the number of deliveries that may be claimed now, and the functions whose share is used up."""
        left = {function: most - self._busy[function] for function, most in self._shares.items()}
        full = [function for function, count in left.items() if count <= 0]
        # All claimed deliveries may be to one function.
        return min([self._threads - self._busy.total(), *(count for count in left.values() if count > 0)]), full

    def _settle(self, delivery: Delivery) -> None:
        arrived = False
        try:
            arrived = self._deliver(delivery)
        finally:
            if arrived:
                self._queue.finish(delivery)
            else:
                pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** min(delivery.attempt - 1, 20))
                self._queue.put_back(delivery, holder=self._holder, pause=pause * (1 - self._chance.uniform() / 2))

    def _settled(self, function: str, port: int, done: Future[None]) -> None:
        with self._lock:
            self._busy[function] -= 1
        _wake(port)
        if not done.cancelled() and (error := done.exception()) is not None:
            _LOG.error("A delivery failed and will be tried again", exc_info=error)


class HttpDelivery:
    """Delivers by `POST {function's base url}/internal/{kind}` with the payload as JSON; any 2xx says that it arrived."""

    def __init__(self, targets: Mapping[str, str], *, timeout: float = 540.0) -> None:
        """Takes the base URL of each function.

        Args:
          targets: Function name to base URL, such as `{"committer": "http://127.0.0.1:8083"}`.
          timeout: Seconds that a function may take; less than the pump's lease.
        """
        self._targets = {function: url.rstrip("/") for function, url in targets.items()}
        self._timeout = timeout
        self._local = threading.local()

    def __call__(self, delivery: Delivery) -> bool:
        """True if the function took the work; False, with a line in the log, if not."""
        work = delivery.work
        if work.function not in self._targets:
            _LOG.error("%s is for %r, which has no address here", delivery.name, work.function)
            return False
        url = f"{self._targets[work.function]}/internal/{work.kind}"
        headers = {"X-Muster-Delivery": str(delivery.attempt)}
        try:
            answer = self._session().post(url, json=dict(work.payload), headers=headers, timeout=(5.0, self._timeout))
        except requests.RequestException as error:
            _LOG.warning(
                "%s could not be delivered to %s (attempt %d): %s", delivery.name, url, delivery.attempt, error
            )
            return False
        if not answer.ok:
            _LOG.warning("%s answered %d to %s (attempt %d)", url, answer.status_code, delivery.name, delivery.attempt)
        return answer.ok

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # a proxy for the Internet has no business between two processes of one machine
        return session


def _wake(port: int) -> None:
    # Best effort: the pump looks by itself after a while.
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(b"!", (_LOOPBACK, port))


def _wake_when(stop: threading.Event, port: int) -> None:
    stop.wait()
    _wake(port)
