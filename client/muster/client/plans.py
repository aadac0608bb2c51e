"""Fetches plans and broadcasts by their hashes, and keeps them in a folder where one is given; loaded plans in memory."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, TypeVar

from muster.client.cache import BROADCAST, PLAN, Cache
from muster.client.limits import LimitError
from muster.runtime.data import DataMeter
from muster.transport.http import Transport
from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment, Download
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import SIGNATURES_LIMIT
from muster.wire.tensors import Array, TensorsError, decode

_KEPT = 2  # plans whose graphs stay loaded

T = TypeVar("T")


class Worker(Protocol):
    """What runs a plan's `work`: `muster.runtime.Runtime`, or what a test or a load generator puts in its place."""

    def work(
        self,
        data: Any,
        broadcast: dict[str, Array],
        *,
        seconds: Optional[float] = None,
        stop: Optional[threading.Event] = None,
        meter: Optional[DataMeter] = None,
    ) -> dict[str, Array]:
        """Computes the update, `(D, B) -> U`, as the plan's manifest declares it.

        A worker may omit `seconds`, `stop` and `meter` from its signature; it is called with the arguments that it
        accepts. The client abandons a worker that ignores `seconds` and `stop`, and starts no other work until it has
        ended.

        Args:
          data: The return value of the data callback.
          broadcast: The round's broadcast.
          seconds: Time left of the assignment and of `Limits.max_seconds`; the work ends after that. None: no limit.
          stop: Ends the work when set.
          meter: Counts the bytes of the data, if a policy bounds the update by them. The policy refuses the update of a
            worker that does not count.
        """


RuntimeFactory = Callable[[Plan], Worker]


class PlanStore:
    """Store of plans' runtimes and broadcasts, from memory, a folder or the coordinator. Verifies every hash.

    Args:
      transport: The transport to fetch them with.
      folder: The folder that caches their files; None: no cache.
      runtime_factory: Creates the runtime of a plan.
      trusted_signers: Public keys, one of which must have signed a plan before it is used; empty: any plan is run.
      vouch: Checks a plan's signatures further; may raise `LimitError`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        folder: Optional[Path],
        runtime_factory: RuntimeFactory,
        trusted_signers: tuple[str, ...] = (),
        vouch: Callable[[Plan], None] = lambda _: None,
    ) -> None:
        self._transport = transport
        self._cache = Cache(folder)
        self._make = runtime_factory
        self._trusted = trusted_signers
        self._also = vouch
        self._kept: OrderedDict[str, tuple[Plan, Worker]] = OrderedDict()

    def get(self, download: Download, *, check: Callable[[PlanManifest], None] = lambda _: None) -> tuple[Plan, Worker]:
        """The plan and what runs it; the same one for the same hash, as long as no other plans came between.

        Args:
          download: The plan, as an assignment announces it.
          check: Sees the manifest of a plan before its runtime is made, and may raise.

        Raises:
          ProblemError: `plan_invalid`, if the plan is not the one that was announced, or not signed by anybody trusted; what the
            coordinator answered.
          UnreachableError: it did not answer.
          ImportError: the runtime's TensorFlow is not installed.
        """
        found = self._kept.get(download.sha256)
        if found is None:
            plan = self._read(download.sha256) or _fetched(lambda: self._fetch(download))
            check(plan.manifest)
            found = self._kept[download.sha256] = (plan, self._make(plan))
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(download.sha256)
        return found

    def broadcast(self, assignment: Assignment) -> dict[str, Array]:
        """The round's broadcast, by tensor name.

        Raises:
          ProblemError: `plan_invalid`, if it is not what was announced; what the coordinator answered.
          UnreachableError: it did not answer.
        """
        announced = assignment.broadcast
        what = f"The broadcast of round {assignment.round} of task {assignment.task}"
        data = self._cache.get(announced.sha256, BROADCAST)
        if data is None or not _is(data, announced):
            data = _fetched(lambda: self._download(announced, what))
            self._cache.put(announced.sha256, BROADCAST, data)
        try:
            return decode(data)
        except TensorsError as error:
            raise ProblemError(ProblemType.PLAN_INVALID, f"{what} can't be read: {error}") from error

    def _download(self, announced: Download, what: str) -> bytes:
        data = self._transport.download(announced.url, limit=announced.size)
        if not _is(data, announced):
            raise ProblemError(ProblemType.PLAN_INVALID, f"{what} does not have the hash that the assignment names")
        return data

    def _fetch(self, download: Download) -> Plan:
        # A signature may have been added since the size was read; it is no part of what the hash vouches for.
        data = self._transport.download(download.url, limit=download.size + SIGNATURES_LIMIT)
        plan = Plan.decode(data, expected=download.sha256)
        self._vouch(plan)
        self._cache.put(download.sha256, PLAN, data)
        return plan

    def _read(self, sha256: str) -> Optional[Plan]:
        data = self._cache.get(sha256, PLAN)
        # A file that is missing, cut off, tampered with or signed by nobody trusted is fetched again and replaced.
        with contextlib.suppress(ProblemError, LimitError):
            if data is not None:
                plan = Plan.decode(data, expected=sha256)
                self._vouch(plan)
                return plan
        return None

    def _vouch(self, plan: Plan) -> None:
        plan.check_signed(self._trusted)
        self._also(plan)


def _fetched(fetch: Callable[[], T]) -> T:
    """Returns the result of `fetch`; retries once if the file does not have the announced hash.

    A proxy between client and coordinator may have answered from its cache.
    """
    try:
        return fetch()
    except ProblemError as problem:
        if problem.type not in (ProblemType.PLAN_INVALID, ProblemType.TOO_LARGE):
            raise
    return fetch()


def _is(data: bytes, announced: Download) -> bool:
    return hashlib.sha256(data).hexdigest() == announced.sha256


def tensorflow_runtime(plan: Plan) -> Worker:
    """Runs plans with TensorFlow, which is imported here and not before.

    Raises:
      ImportError: TensorFlow is not installed.
    """
    from muster.runtime import Runtime

    return Runtime(plan)
