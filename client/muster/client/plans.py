"""Fetches plans and broadcasts by their hashes, and keeps plans: in memory, and in a folder where one is given."""

from __future__ import annotations

import contextlib
import hashlib
import os
import tempfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Callable, Optional, Protocol

from muster.wire.manifest import PlanManifest
from muster.wire.messages import Assignment, Download
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import SIGNATURES_LIMIT, check_signed
from muster.wire.tensors import Array, TensorsError, decode

from .transport import Transport

_KEPT = 2  # plans whose graphs stay loaded


class Worker(Protocol):
    """What runs a plan's `work`: `muster.runtime.Runtime`, or what a test or a load generator puts in its place."""

    def work(self, data: Any, broadcast: dict[str, Array], *, seconds: Optional[float] = None) -> dict[str, Array]:
        """`(D, B) -> U`: the update, as the plan's manifest declares it; given up after `seconds`, where they are given.

        A client without `Limits.max_seconds` gives none, so that a worker need not take them.
        """


RuntimeFactory = Callable[[Plan], Worker]


class PlanStore:
    """Gives a plan's runtime, from memory, the folder or the coordinator, and believes none of them without the hash.

    Args:
      transport: Where plans are fetched.
      folder: Where their files are kept; None: nowhere.
      runtime_factory: Makes what runs a plan.
      trusted_signers: Of whom one must have signed a plan before anything else looks at it; empty: any plan is run.
    """

    def __init__(
        self,
        transport: Transport,
        *,
        folder: Optional[Path],
        runtime_factory: RuntimeFactory,
        trusted_signers: tuple[str, ...] = (),
    ) -> None:
        self._transport = transport
        self._folder = folder
        self._make = runtime_factory
        self._trusted = trusted_signers
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
            plan = self._read(download.sha256) or self._fetch(download)
            check(plan.manifest)
            found = self._kept[download.sha256] = (plan, self._make(plan))
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(download.sha256)
        return found

    def _fetch(self, download: Download) -> Plan:
        # A signature may have been added since the size was read; it is no part of what the hash vouches for.
        data = self._transport.download(download.url, limit=download.size + SIGNATURES_LIMIT)
        plan = Plan.decode(data, expected=download.sha256)
        check_signed(plan, self._trusted)
        if self._folder is not None:
            self._write(self._folder, download.sha256, data)
        return plan

    def _read(self, sha256: str) -> Optional[Plan]:
        if self._folder is None:
            return None
        # A file that is missing, cut off, tampered with or signed by nobody trusted is fetched again and replaced.
        with contextlib.suppress(OSError, ProblemError):
            plan = Plan.decode((self._folder / f"{sha256}.plan").read_bytes(), expected=sha256)
            check_signed(plan, self._trusted)
            return plan
        return None

    @staticmethod
    def _write(folder: Path, sha256: str, data: bytes) -> None:
        # Several clients of one machine may share the folder. One that can't be written costs a download, no more.
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(name).replace(folder / f"{sha256}.plan")


def fetch_broadcast(transport: Transport, assignment: Assignment) -> dict[str, Array]:
    """The round's broadcast, by tensor name.

    Raises:
      ProblemError: `plan_invalid`, if it is not what was announced; what the coordinator answered.
      UnreachableError: it did not answer.
    """
    announced = assignment.broadcast
    data = transport.download(announced.url, limit=announced.size)
    what = f"The broadcast of round {assignment.round} of task {assignment.task}"
    if hashlib.sha256(data).hexdigest() != announced.sha256:
        raise ProblemError(ProblemType.PLAN_INVALID, f"{what} does not have the hash that the assignment names")
    try:
        return decode(data)
    except TensorsError as error:
        raise ProblemError(ProblemType.PLAN_INVALID, f"{what} can't be read: {error}") from error


def tensorflow_runtime(plan: Plan) -> Worker:
    """Runs plans with TensorFlow, which is imported here and not before.

    Raises:
      ImportError: TensorFlow is not installed.
    """
    from muster.runtime import Runtime

    return Runtime(plan)
