"""Fetches plans and broadcasts by hash, and caches them in memory and in an optional folder."""

from __future__ import annotations

import contextlib
import hashlib
import threading
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Optional, Protocol, TypeVar

from muster.client.cache import BROADCAST, PLAN, DownloadCache
from muster.client.limits import LimitError
from muster.runtime.data import DataMeter
from muster.transport.http import Transport
from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment, Download
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import SIGNATURES_LIMIT
from muster.wire.tensors import Array, TensorsError, decode

_MAX_LOADED_PLANS = 2  # plans whose graphs stay loaded

T = TypeVar("T")


class Worker(Protocol):
    """Runner of a plan's `work`, such as `muster.runtime.Runtime`."""

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

        A worker may omit `seconds`, `stop` and `meter` from its signature: it is called with the
        arguments that it accepts. The client abandons a worker that ignores `seconds` and `stop`,
        and starts no other work until it has ended.

        Args:
          data: The return value of the data callback.
          broadcast: The round's broadcast.
          seconds: Time limit of the work, from the assignment and `Limits.max_seconds`; None: no
            limit.
          stop: Ends the work when set.
          meter: Counts the bytes of the data, if a policy bounds the update by them. Such a policy
            refuses the update of a worker that does not count.
        """


RuntimeFactory = Callable[[Plan], Worker]


class PlanStore:
    """Store of plans' runtimes and of broadcasts, which verifies every hash.

    Reads from memory, then from the folder, then from the coordinator.

    Args:
      transport: The transport to fetch them with.
      folder: The folder that caches their files; None: no cache.
      runtime_factory: Creates the runtime of a plan.
      trusted_signers: Public keys, one of which must have signed a plan; empty: no signature is
        needed.
      check_signatures: Applies the policy's rule about signatures; may raise `LimitError`.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        folder: Optional[Path],
        runtime_factory: RuntimeFactory,
        trusted_signers: tuple[str, ...] = (),
        check_signatures: Callable[[Plan], None] = lambda _: None,
    ) -> None:
        self._transport = transport
        self._cache = DownloadCache(folder)
        self._new_runtime = runtime_factory
        self._trusted = trusted_signers
        self._policy_check = check_signatures
        self._loaded: OrderedDict[str, tuple[Plan, Worker]] = OrderedDict()

    def get(self, download: Download, *, check: Callable[[PlanManifest], None] = lambda _: None) -> tuple[Plan, Worker]:
        """Returns a plan and its worker. The last few plans stay loaded.

        Args:
          download: The plan, as an assignment announces it.
          check: Called with the manifest before the runtime is created; may raise.

        Raises:
          ProblemError: `plan_invalid`, if the plan's hash or signature is not valid; otherwise the
            coordinator's refusal.
          UnreachableError: the coordinator did not answer.
          ImportError: TensorFlow is not installed.
        """
        loaded = self._loaded.get(download.sha256)
        if loaded is None:
            plan = self._read(download.sha256) or _retry_corrupt(lambda: self._fetch(download))
            check(plan.manifest)
            loaded = self._loaded[download.sha256] = (plan, self._new_runtime(plan))
            if len(self._loaded) > _MAX_LOADED_PLANS:
                self._loaded.popitem(last=False)
        self._loaded.move_to_end(download.sha256)
        return loaded

    def broadcast(self, assignment: Assignment) -> dict[str, Array]:
        """Returns the round's broadcast, by tensor name.

        Raises:
          ProblemError: `plan_invalid`, if its hash is wrong or it is not a tensor file; otherwise
            the coordinator's refusal.
          UnreachableError: the coordinator did not answer.
        """
        announced = assignment.broadcast
        subject = f"The broadcast of round {assignment.round} of task {assignment.task}"
        data = self._cache.get(announced.sha256, BROADCAST)
        if data is None or not _matches(data, announced):
            data = _retry_corrupt(lambda: self._download(announced, subject))
            self._cache.put(announced.sha256, BROADCAST, data)
        try:
            return decode(data)
        except TensorsError as error:
            raise ProblemError(ProblemType.PLAN_INVALID, f"{subject} can't be read: {error}") from error

    def _download(self, announced: Download, subject: str) -> bytes:
        data = self._transport.download(announced.url, limit=announced.size)
        if not _matches(data, announced):
            raise ProblemError(ProblemType.PLAN_INVALID, f"{subject} does not have the hash that the assignment names")
        return data

    def _fetch(self, download: Download) -> Plan:
        # The hash does not cover signatures: one may have been added since the size was announced.
        data = self._transport.download(download.url, limit=download.size + SIGNATURES_LIMIT)
        plan = Plan.decode(data, expected=download.sha256)
        self._check_signatures(plan)
        self._cache.put(download.sha256, PLAN, data)
        return plan

    def _read(self, sha256: str) -> Optional[Plan]:
        data = self._cache.get(sha256, PLAN)
        # A missing, truncated, changed or untrusted file is fetched again and replaced.
        with contextlib.suppress(ProblemError, LimitError):
            if data is not None:
                plan = Plan.decode(data, expected=sha256)
                self._check_signatures(plan)
                return plan
        return None

    def _check_signatures(self, plan: Plan) -> None:
        plan.check_signed(self._trusted)
        self._policy_check(plan)


def _retry_corrupt(fetch: Callable[[], T]) -> T:
    """Returns the result of `fetch`; retries once if the file does not match the announced hash.

    A proxy between client and coordinator may have answered from a stale cache.
    """
    try:
        return fetch()
    except ProblemError as problem:
        if problem.type not in (ProblemType.PLAN_INVALID, ProblemType.TOO_LARGE):
            raise
    return fetch()


def _matches(data: bytes, announced: Download) -> bool:
    return hashlib.sha256(data).hexdigest() == announced.sha256


def tensorflow_runtime(plan: Plan) -> Worker:
    """Returns the TensorFlow runtime of `plan`. Imports TensorFlow when called.

    Raises:
      ImportError: TensorFlow is not installed.
    """
    from muster.runtime import Runtime

    return Runtime(plan)
