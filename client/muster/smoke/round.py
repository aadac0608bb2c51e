"""Steps of the smoke test, from the first connection to the exact result."""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from importlib.resources import files
from typing import Callable, Optional

import numpy as np

from muster.client import Assigned, ClientEvent, Computed, Contributed, Failed, Transport, UnreachableError, Unreached
from muster.operator import Operator
from muster.smoke import advice
from muster.smoke.clients import SmokeClient
from muster.smoke.steps import Checklist, SmokeResult, Step, StepFailedError, StoppedError
from muster.wire.enrolment import Enrolment, PrivateKey
from muster.wire.messages import Phase, TaskPolicy, TaskStatus, TaskView
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import SigningKey

NUMBERS = ((1, 1, 2, 3, 5), (0, 2, 4, 6, 7, 7, 7))  # data of the two clients, from 0 to 7
_ENROLMENT_SECONDS = 3600.0


def smoke_plan() -> Plan:
    """Returns the plan: histogram and sum of all clients' numbers (0 to 7), and their count."""
    return Plan.decode(files(__package__).joinpath("smoke.plan").read_bytes())


def run(
    url: str,
    *,
    operator_url: Optional[str] = None,
    token: Optional[str] = None,
    signing_key: Optional[SigningKey] = None,
    enrolment_key: Optional[PrivateKey] = None,
    patience: float = 120.0,
    on_step: Callable[[Step], None] = lambda _: None,
    on_wait: Callable[[str, str], None] = lambda *_: None,
) -> SmokeResult:
    """Runs one round of two clients through a deployment and returns the result of each step.

    Its task and population have a unique name, so that other tasks are not affected. The task is
    cancelled at the end unless it is completed, also after Ctrl-C.

    Args:
      url: The client API's address.
      operator_url: The operator API's address; None: the same.
      token: Bearer token for the operator API.
      signing_key: Signs the plan, for a deployment that requires signatures.
      enrolment_key: Enrols the two clients for an hour, for a deployment that requires enrolment.
      patience: Longest wait of one step, in seconds. A cold committer needs some to load
        TensorFlow.
      on_step: Called with the result of each step.
      on_wait: Called with a step's name when it starts, and then every few seconds with its status.

    Raises:
      ProblemError: `invalid_request`, if an address is not valid.
    """
    name = time.strftime("smoke-%Y%m%d-%H%M%S-", time.gmtime()) + secrets.token_hex(2)
    checklist = Checklist(patience, on_step, on_wait)
    with Operator(operator_url or url, token=token) as operator, Transport(url) as transport:
        smoke = _SmokeTest(checklist, operator, transport, name, signing_key=signing_key, enrolment_key=enrolment_key)
        with contextlib.suppress(StoppedError):
            smoke.run()
    return SmokeResult(name, tuple(checklist.steps))


class _SmokeTest:
    """Steps of one smoke test, in the order of `run`."""

    def __init__(
        self,
        checklist: Checklist,
        operator: Operator,
        transport: Transport,
        name: str,
        *,
        signing_key: Optional[SigningKey],
        enrolment_key: Optional[PrivateKey],
    ) -> None:
        self._list = checklist
        self._operator = operator
        self._transport = transport
        self._name = name
        self._signing_key = signing_key
        self._task_may_exist = False
        self._clients = tuple(
            SmokeClient(
                transport.url,
                population=name,
                name=f"{name}-{at}",
                numbers=numbers,
                direct=at == 1,
                token=None if enrolment_key is None else _enrolled(enrolment_key, name, at),
            )
            for at, numbers in enumerate(NUMBERS)
        )

    def run(self) -> None:
        try:
            self._reach()
            self._open()
            self._contribute()
            self._aggregate()
            self._compare()
        finally:
            for client in self._clients:
                client.stop()
                client.close()
            if self._task_may_exist:
                self._clean_up()

    def _reach(self) -> None:
        with self._list.step("client API answers", hints=advice.CLIENT_API) as notes:
            # Not /healthz: Google's front end reserves that path.
            notes.append(_version(self._transport))
        with self._list.step("operator API answers and lets you in", hints=advice.OPERATOR_API) as notes:
            count = len(self._operator.tasks().tasks)
            notes.append(f"{count} task{'s' * (count != 1)}")

    def _open(self) -> None:
        plan = smoke_plan() if self._signing_key is None else smoke_plan().signed(self._signing_key)
        with self._list.step("plan stored", hints=advice.OPERATOR_API) as notes:
            self._operator.put_plan(plan)
            notes.append(plan.sha256[:12])
        with self._list.step("task made", hints=advice.OPERATOR_API) as notes:
            patience = self._list.patience
            policy = TaskPolicy(
                rounds=1, goal=2, minimum=2, chunk=2, round_seconds=4 * patience, assignment_seconds=2 * patience
            )
            self._task_may_exist = True  # even if the request gets no answer
            self._operator.create_task(self._name, population=self._name, plan=plan.sha256, policy=policy)
            notes.append(self._name)
        with self._list.step("task opened: queue and committer work", hints=advice.OPERATOR_API):
            reason = "The task stays `opening`, without its first broadcast: the committer was not reached or failed"
            self._list.wait("opening", self._opening, reason=reason, look_at=advice.OPENING)

    def _opening(self) -> Optional[str]:
        view = self._task()
        return None if view.status is TaskStatus.ACTIVE and view.current else f"status {view.status.value}"

    def _task(self) -> TaskView:
        """Returns the task. Raises `StepFailedError` if it was paused or cancelled."""
        view = self._operator.task(self._name)
        if view.status is TaskStatus.PAUSED:
            if view.note:
                raise StepFailedError(f"The task was paused, with the note: {view.note}", advice.COMPUTATION)
            raise StepFailedError("The task was paused by an operator", advice.PAUSED)
        if view.status is TaskStatus.CANCELLED:
            raise StepFailedError("The task was cancelled by an operator", advice.PAUSED)
        return view

    def _contribute(self) -> None:
        with self._list.step("TensorFlow loads here"):
            try:
                import muster.runtime.stages  # noqa: F401  once, before two threads need it
            except ImportError as error:
                raise StepFailedError(f"The clients can't work on this machine: {error}", advice.TENSORFLOW) from error
        for client in self._clients:
            client.start()
        for name, kind, look_at in (
            ("2 check-ins: each client got work", Assigned, advice.SLOTS),
            (
                "2 computations: plan and broadcast fetched, work done",
                Computed,
                advice.CLIENT_API[ProblemType.INTERNAL],
            ),
            ("2 updates accepted", Contributed, advice.UPLOADING),
        ):
            with self._list.step(name, hints=advice.CLIENT_API) as notes:
                self._await(name, kind, look_at)
                if kind is Contributed:
                    notes.extend(_bytes(client) for client in self._clients)
        if self._clients[1].transport.direct:
            self._direct(self._clients[1])

    def _await(self, name: str, kind: type[ClientEvent], look_at: tuple[str, ...]) -> None:
        def status() -> Optional[str]:
            self._check_clients()
            done = sum(kind in client.seen for client in self._clients)
            waits = [advice.of_wait(client.waited.reason) for client in self._clients if client.waited is not None]
            lost = [event.detail for event in map(_unreached, self._clients) if event is not None]
            return None if done == len(self._clients) else ", ".join([f"{done} of 2", *waits[:1], *lost[:1]])

        self._list.wait(name, status, reason="Not all clients got there", look_at=look_at)

    def _check_clients(self) -> None:
        for client in self._clients:
            failed = client.seen.get(Failed)
            if isinstance(failed, Failed):
                look_at = advice.DIRECT if client.transport.direct else advice.UPLOADING
                raise StepFailedError(f"A client failed ({failed.reason.value}): {failed.detail}", look_at)
            if isinstance(client.error, (ProblemError, UnreachableError)):
                raise client.error
            if client.error is not None:
                raise StepFailedError(str(client.error), advice.TENSORFLOW)

    def _direct(self, client: SmokeClient) -> None:
        with self._list.step("1 of them straight to the bucket, by signed URL", fatal=False):
            if client.transport.through:
                store = client.transport.store
                reason = f"answered {store.status} {store.reason}" if store else "could not be reached from here"
                raise StepFailedError(f"The update went through the function: the bucket {reason}", advice.DIRECT)

    def _aggregate(self) -> None:
        with self._list.step("round closed: queue and aggregator work", hints=advice.OPERATOR_API):
            reason = "Both updates are in, but the round is not closed: the aggregator was not reached or failed"
            self._list.wait("closing", self._collecting, reason=reason, look_at=advice.CLOSING)
        with self._list.step("round folded and committed", hints=advice.OPERATOR_API) as notes:
            reason = "The round is closed but not committed: its fold or its commit failed"
            self._list.wait("committing", self._aggregating, reason=reason, look_at=advice.COMMITTING)
            current = self._task().current
            if current is None or (current.folded, current.dropped) != (2, {}):
                counts = "no round" if current is None else f"folded {current.folded}, dropped {current.dropped}"
                raise StepFailedError(f"Not both of the 2 updates were counted: {counts}", advice.COMMITTING)
            notes.append("2 updates, none dropped")

    def _collecting(self) -> Optional[str]:
        current = self._task().current
        if current is None:
            return "no round"
        if current.phase is Phase.ABANDONED:
            raise StepFailedError(f"The round was abandoned: {current.reason}", advice.CLOSING)
        if current.phase is not Phase.COLLECTING:
            return None
        # Counted from the clients' events: a small round has no published live count.
        reported = sum(Contributed in client.seen for client in self._clients)
        return f"phase {current.phase.value}, {reported} of {current.goal} updates reported"

    def _aggregating(self) -> Optional[str]:
        view = self._task()
        if view.current is not None and view.current.phase is Phase.ABANDONED:
            raise StepFailedError(f"The round was abandoned: {view.current.reason}", advice.COMMITTING)
        if view.status is TaskStatus.COMPLETED:
            return None
        return "no round" if view.current is None else f"phase {view.current.phase.value}"

    def _compare(self) -> None:
        numbers = np.concatenate(NUMBERS)
        with self._list.step("result exactly right", hints=advice.OPERATOR_API) as notes:
            expected = {
                "histogram": np.bincount(numbers, minlength=8).tolist(),
                "total": int(numbers.sum()),
                "clients": len(NUMBERS),
            }
            result = {name: array.tolist() for name, array in self._operator.result(self._name, 1).items()}
            if result != expected:
                raise StepFailedError(f"The result is {result}, not {expected}", advice.WRONG)
            (state,) = self._operator.download_checkpoint(self._name, 1).values()
            if int(state) != len(numbers):
                raise StepFailedError(f"Checkpoint 1 is {int(state)}, not {len(numbers)}", advice.WRONG)
            notes.append(f"{len(numbers)} numbers, sum {numbers.sum()}")
        with self._list.step("a late update is refused", hints=advice.CLIENT_API) as notes:
            reason = "The client API still accepts updates to the committed round"
            self._list.wait("the round's end", self._late, reason=reason, look_at=advice.WRONG)
            notes.append(ProblemType.ROUND_CLOSED.value)

    def _late(self) -> Optional[str]:
        refusal = self._clients[0].send_late()
        if refusal is None:
            raise StepFailedError("An update to the committed round was accepted", advice.WRONG)
        if refusal.type is ProblemType.ROUND_CLOSED:
            return None
        if refusal.type is not ProblemType.UPDATE_INVALID:
            raise refusal
        return "the round still counts as open"  # for MUSTER_ROUND_CACHE_SECONDS, about one second

    def _clean_up(self) -> None:
        """Cancels the task if the round did not complete it. Reports an error as a failed step."""
        try:
            self._operator.cancel(self._name)
        except ProblemError as error:
            # The task is completed, or was never created.
            if error.type not in (ProblemType.CONFLICT, ProblemType.NOT_FOUND):
                self._report_left_task(error)
        except UnreachableError as error:
            self._report_left_task(error)

    def _report_left_task(self, error: Exception) -> None:
        with self._list.step("task ended", fatal=False):
            reason = f"Task {self._name} could not be cancelled: {error}"
            raise StepFailedError(reason, (f"`muster task cancel {self._name}`, once the operator API answers",))


def _enrolled(key: PrivateKey, population: str, number: int) -> str:
    now = time.time()
    return key.issue(
        Enrolment(population, f"{population}-{number}", issued_at=now, expires_at=now + _ENROLMENT_SECONDS)
    )


def _version(transport: Transport) -> str:
    """Returns the version of the coordinator's API, from its OpenAPI document."""
    try:
        document = json.loads(transport.download("/openapi.json"))
        paths, version = document["paths"], document["info"]["version"]
    except (ValueError, KeyError, TypeError) as error:
        raise StepFailedError(f"{transport.url} answers, but not as a coordinator", advice.UNREACHABLE[:1]) from error
    if not any(path.endswith(":checkin") for path in paths):
        raise StepFailedError(f"{transport.url} serves an API, but not a coordinator's", advice.UNREACHABLE[:1])
    return f"version {version} of the API"


def _unreached(client: SmokeClient) -> Optional[Unreached]:
    event = client.seen.get(Unreached)
    return event if isinstance(event, Unreached) else None


def _bytes(client: SmokeClient) -> str:
    event = client.seen.get(Contributed)
    return f"{event.update_bytes} bytes" if isinstance(event, Contributed) else ""
