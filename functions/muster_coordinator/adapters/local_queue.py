"""Durable work queue on one machine: rows in SQLite, and a pump that delivers them over HTTP.

`enqueue` wakes the pump by a UDP datagram on the loopback interface, so that no work waits for the
next poll; a lost datagram only costs that wait. The pump claims a row by a lease, that is, by
moving its due time. If the pump dies, the lease expires and the row is due again.
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
_NAME_TTL = 3600.0  # seconds for which a used name stays reserved, about as long as Cloud Tasks does
_LEASE = 600.0  # seconds
_MIN_BACKOFF, _MAX_BACKOFF = 0.1, 30.0  # seconds between a failed delivery and the next
_POLL_INTERVAL = 5.0  # seconds; the most that a lost datagram costs
_CLOCK_TOLERANCE = 1.0  # seconds by which the clock may be set back unnoticed

# `due` is in POSIX seconds, and `scheduled` is the time at which it was set. A clock that shows
# less than `scheduled` has been set back, which would delay the row by as much; so such a row is
# due. A row with a `holder` is leased to that pump.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS work (
  id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL, function TEXT NOT NULL, kind TEXT NOT NULL,
  payload TEXT NOT NULL, due REAL NOT NULL, scheduled REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, holder TEXT
);
CREATE INDEX IF NOT EXISTS work_by_due ON work (due, id);
CREATE TABLE IF NOT EXISTS names (name TEXT PRIMARY KEY, used REAL NOT NULL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS names_by_use ON names (used);
CREATE TABLE IF NOT EXISTS pump (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), port INTEGER NOT NULL);
"""


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to deliver a work item. `attempt` counts from 1."""

    work: WorkItem
    name: str
    attempt: int
    row: int


class LocalQueue:
    """`WorkQueue` in an SQLite file, for any number of producer processes and one `Pump`.

    Delivery is at least once, in order of due time. A completed `enqueue` survives the death of the
    process. Errors and retries: see `Database`.
    """

    def __init__(self, path: Path | str | None, *, clock: Clock) -> None:
        """Opens the queue, and creates its file if needed.

        Args:
          path: The file; None for a queue in memory, for `Pump.drain` in the same process.
          clock: Source of the current time.
        """
        self.clock = clock
        self._database = Database(path, schema=_SCHEMA, version=1)

    @classmethod
    def in_memory(cls, *, clock: Clock) -> LocalQueue:
        """Returns a queue that exists as long as the object."""
        return cls(None, clock=clock)

    def close(self) -> None:
        """Closes the file for all threads."""
        self._database.close()

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        """See `WorkQueue.enqueue`. Drops work whose name was used within the last hour."""
        now = self.clock.now()
        with self._database.writing() as connection:
            connection.execute("DELETE FROM names WHERE used < ?", (now - _NAME_TTL,))
            if not connection.execute("INSERT INTO names VALUES (?, ?) ON CONFLICT DO NOTHING", (name, now)).rowcount:
                return
            connection.execute(
                "INSERT INTO work (name, function, kind, payload, due, scheduled) VALUES (?, ?, ?, ?, ?, ?)",
                (name, work.function, work.kind, json.dumps(dict(work.payload)), now + max(delay, 0.0), now),
            )
            row = connection.execute("SELECT port FROM pump").fetchone()
        if row is not None:
            _wake(row[0])

    def next_due(self, *, excluded: Collection[str] = ()) -> float | None:
        """Returns the earliest due time, in POSIX seconds, or None if the queue is empty.

        A leased row is due when its lease expires. Rows for the functions `excluded` are excluded.
        """
        query = f"SELECT min(due) FROM work WHERE TRUE{_not_in(excluded)}"  # noqa: S608  only placeholders  # nosec B608
        with self._database.reading() as connection:
            due: float | None = connection.execute(query, tuple(excluded)).fetchone()[0]
        return due

    def announce(self, port: int) -> None:
        """Registers the UDP port of a new pump for wake-ups, and revokes all earlier leases."""
        with self._database.writing() as connection:
            connection.execute("INSERT INTO pump VALUES (1, ?) ON CONFLICT DO UPDATE SET port = excluded.port", (port,))
            now = self.clock.now()
            connection.execute(
                "UPDATE work SET holder = NULL, due = ?, scheduled = ? WHERE holder IS NOT NULL", (now, now)
            )

    def claim(
        self, holder: str, *, limit: int, lease: float, now: float, excluded: Collection[str] = ()
    ) -> list[Delivery]:
        """Leases rows that are due to a pump, in order of (due, id).

        Args:
          holder: Id of the pump.
          limit: Maximum number of rows.
          lease: Seconds until the lease expires.
          now: Current time, in POSIX seconds.
          excluded: Functions whose rows are excluded.

        Returns:
          One delivery per leased row.
        """
        condition, values = f"{_DUE}{_not_in(excluded)}", (now, now + _CLOCK_TOLERANCE, *excluded)
        with self._database.reading() as connection:
            if connection.execute(f"SELECT 1 {condition} LIMIT 1", values).fetchone() is None:
                return []  # the usual case, without a write
        with self._database.writing() as connection:
            rows = connection.execute(
                f"SELECT id, name, function, kind, payload, attempts {condition} ORDER BY due, id LIMIT ?",
                (*values, limit),
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
        """Deletes the row of completed work. Idempotent."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM work WHERE id = ?", (delivery.row,))

    def release(self, delivery: Delivery, *, holder: str, backoff: float) -> None:
        """Releases the lease of a row, and makes it due after `backoff` seconds.

        Does nothing if another pump holds the lease by now.
        """
        now = self.clock.now()
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE work SET holder = NULL, due = ?, scheduled = ? WHERE id = ? AND holder = ?",
                (now + backoff, now, delivery.row, holder),
            )


_DUE = "FROM work WHERE (due <= ? OR scheduled > ?)"


def _not_in(functions: Collection[str]) -> str:
    """Returns the condition that excludes rows for `functions`, with a placeholder for each."""
    return f" AND function NOT IN ({', '.join('?' * len(functions))})" if functions else ""


class Pump:
    """Deliverer of due work, one per queue.

    A second pump is harmless, but takes over the first one's wake-ups and leases. A function may be
    limited to a share of the threads, so that its slow deliveries do not delay other functions.
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
          deliver: Delivers one work item and returns whether it was accepted. False or an error
            causes a redelivery after a back-off of 0.1 s that doubles up to 30 s. Called in up to
            `threads` threads at once.
          randomness: Source of jitter, which shortens a back-off by up to half.
          threads: Maximum number of concurrent deliveries.
          lease: Seconds after which work is redelivered if this pump dies and no other starts;
            longer than any delivery.
          shares: Maximum number of concurrent deliveries to a function, by its name. A function
            without a share may use all threads.
        """
        self._queue = queue
        self._deliver = deliver
        self._randomness = randomness
        self._threads = threads
        self._lease = lease
        self._holder = randomness.nonce()
        self._shares = dict(shares or {})
        self._busy: Counter[str] = Counter()  # by function: claimed and not yet completed by the threads of `run`
        self._lock = threading.Lock()

    def run(self, stop: threading.Event) -> None:
        """Delivers until `stop` is set, then waits for the open deliveries.

        Raises:
          StoreError: The queue can't be used.
        """
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as wake_ups,
            ThreadPoolExecutor(self._threads, "pump") as pool,
        ):
            wake_ups.bind((_LOOPBACK, 0))
            wake_ups.setblocking(False)
            port = wake_ups.getsockname()[1]
            self._queue.announce(port)
            threading.Thread(target=_wake_when, args=(stop, port), name="pump-stop", daemon=True).start()
            while not stop.is_set():
                # Drained before the claim, not after it: a datagram in between ends the next wait.
                with suppress(BlockingIOError):
                    while True:
                        wake_ups.recv(1)
                try:
                    wait = self._start(pool, port)
                except UnavailableError:
                    _LOG.warning("The queue can't be read now; retrying", exc_info=True)
                    wait = _POLL_INTERVAL
                select.select([wake_ups], [], [], wait)

    def drain(self, now: float) -> int:
        """Delivers all work that is due at `now`, one item after another in order of (due, id).

        This includes work that is enqueued meanwhile.

        Returns:
          Number of attempted deliveries. An error of `deliver` passes through, and its work is due
          again after a back-off.
        """
        attempted = 0
        while claimed := self._queue.claim(self._holder, limit=1, lease=self._lease, now=now):
            self._attempt(claimed[0])
            attempted += 1
        return attempted

    def _start(self, pool: ThreadPoolExecutor, port: int) -> float:
        """Claims and submits work while there are idle threads and due rows.

        Returns:
          Seconds to wait for the next work.
        """
        while True:
            with self._lock:
                free, full = self._capacity()
            if not free:
                return _POLL_INTERVAL  # a thread that completes ends the wait
            now = self._queue.clock.now()
            claimed = self._queue.claim(self._holder, limit=free, lease=self._lease, now=now, excluded=full)
            with self._lock:
                self._busy.update(delivery.work.function for delivery in claimed)
            for delivery in claimed:
                done = partial(self._completed, delivery.work.function, port)
                pool.submit(self._attempt, delivery).add_done_callback(done)
            if not claimed:
                due = self._queue.next_due(excluded=full)
                return _POLL_INTERVAL if due is None else min(max(due - self._queue.clock.now(), 0.0), _POLL_INTERVAL)

    def _capacity(self) -> tuple[int, list[str]]:
        """Returns the number of rows to claim now, and the functions whose share is used up."""
        free = {function: share - self._busy[function] for function, share in self._shares.items()}
        full = [function for function, count in free.items() if count <= 0]
        # All claimed rows may be for one function, so the smallest free share limits the claim.
        return min([self._threads - self._busy.total(), *(count for count in free.values() if count > 0)]), full

    def _attempt(self, delivery: Delivery) -> None:
        accepted = False
        try:
            accepted = self._deliver(delivery)
        finally:
            if accepted:
                self._queue.finish(delivery)
            else:
                backoff = min(_MAX_BACKOFF, _MIN_BACKOFF * 2 ** min(delivery.attempt - 1, 20))
                self._queue.release(
                    delivery, holder=self._holder, backoff=backoff * (1 - self._randomness.uniform() / 2)
                )

    def _completed(self, function: str, port: int, done: Future[None]) -> None:
        with self._lock:
            self._busy[function] -= 1
        _wake(port)
        if not done.cancelled() and (error := done.exception()) is not None:
            _LOG.error("A delivery failed and will be retried", exc_info=error)


class HttpDelivery:
    """Deliverer by `POST {function's base URL}/internal/{kind}` with the payload as JSON.

    A 2xx status means that the function accepted the work.
    """

    def __init__(self, targets: Mapping[str, str], *, timeout: float = 540.0) -> None:
        """Creates a deliverer.

        Args:
          targets: Base URL of each function, such as `{"committer": "http://127.0.0.1:8083"}`.
          timeout: Seconds that a function may take; less than the pump's lease.
        """
        self._targets = {function: url.rstrip("/") for function, url in targets.items()}
        self._timeout = timeout
        self._local = threading.local()

    def __call__(self, delivery: Delivery) -> bool:
        """Returns whether the function accepted the work; logs a failure."""
        work = delivery.work
        if work.function not in self._targets:
            _LOG.error("%s is for %r, which has no address here", delivery.name, work.function)
            return False
        url = f"{self._targets[work.function]}/internal/{work.kind}"
        headers = {"X-Muster-Delivery": str(delivery.attempt)}
        try:
            response = self._session().post(url, json=dict(work.payload), headers=headers, timeout=(5.0, self._timeout))
        except requests.RequestException as error:
            _LOG.warning(
                "%s could not be delivered to %s (attempt %d): %s", delivery.name, url, delivery.attempt, error
            )
            return False
        if not response.ok:
            _LOG.warning(
                "%s answered %d to %s (attempt %d)", url, response.status_code, delivery.name, delivery.attempt
            )
        return response.ok

    def _session(self) -> requests.Session:
        session: requests.Session | None = getattr(self._local, "session", None)
        if session is None:
            session = self._local.session = requests.Session()
            session.trust_env = False  # no proxy between processes of one machine
        return session


def _wake(port: int) -> None:
    # Best effort: the pump polls too.
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        sender.sendto(b"!", (_LOOPBACK, port))


def _wake_when(stop: threading.Event, port: int) -> None:
    stop.wait()
    _wake(port)
