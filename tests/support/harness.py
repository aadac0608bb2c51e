"""The coordinator in one process behind its HTTP router.

The test controls time, randomness and deliveries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from werkzeug.test import Client, TestResponse
from werkzeug.wrappers import Request

from muster.wire.messages import (
    Assignment,
    CheckinRequest,
    CheckinResponse,
    Receipt,
    Report,
    Rollback,
    RunRequest,
    RunView,
    StateRef,
    TaskPolicy,
    TaskSpec,
    TaskView,
    Wait,
)
from muster.wire.plan import Plan
from muster.wire.problems import CONTENT_TYPE, Problem, ProblemError, ProblemType
from muster.wire.tensors import Array, decode, encode
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.adapters.sqlite import SqliteDocuments
from muster_coordinator.adapters.system import ManualClock, SeededRandomness
from muster_coordinator.application import Application, CoordinatorConfig, assemble
from muster_coordinator.domain import names
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Abandoned, Aggregating, Collecting, Committed, Round
from muster_coordinator.domain.tasks import Task
from muster_coordinator.http import router
from muster_coordinator.ports import BlobInfo, Blobs, Buffer, CreateResult, Documents, WorkItem
from muster_coordinator.state.platform import Platform
from support.plans import SumRuntime, sum_plan

START = 1_800_000_000.0  # POSIX seconds
SECRET = b"a secret of the tests, long enough"
POPULATION = "phones"
TASK = "sum"
_MINUTE = 61.0  # seconds; past the minute for which a tick names its work
_MAX_DELIVERIES = 2000  # more deliveries mean an endless loop


@dataclass
class QueuedWork:
    """Queued work, which the test delivers."""

    work: WorkItem
    name: str
    due: float  # POSIX seconds


class ManualQueue:
    """`WorkQueue` whose work the test delivers.

    Work under a used name is dropped, as the port allows.
    """

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._used: set[str] = set()
        self.held: list[QueuedWork] = []

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        if name not in self._used:
            self._used.add(name)
            self.held.append(QueuedWork(work, name, self._clock.now() + delay))


class TimedBlobs:
    """`Blobs` adapter that stamps new blobs with the test's clock."""

    def __init__(self, inner: Blobs, clock: ManualClock) -> None:
        self._inner = inner
        self._clock = clock
        self._created: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        creation = self._inner.create(name, chunks)
        if creation.created:
            self._created[name] = self._clock.now()
        return replace(creation, blob=self._timed(creation.blob))

    def stat(self, name: str) -> BlobInfo | None:
        blob = self._inner.stat(name)
        return None if blob is None else self._timed(blob)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        return map(self._timed, self._inner.list(prefix))

    def _timed(self, blob: BlobInfo) -> BlobInfo:
        return replace(blob, created=self._created.get(blob.name, blob.created))


class Harness:
    """Coordinator under test. Its stores survive `restart`; process state does not.

    Args:
      root: A folder for the blobs, and the documents if they are `durable`.
      plan: The plan of the tasks.
      runtime: The plan's runtime; by default a `SumRuntime`. For several plans, a dictionary by
        address.
      cache_seconds: Seconds for which the coordinator may serve a cached round.
      durable: Stores documents in a file, so that several threads can write at once.
      wrap: Wraps the platform, with faults for example.
      direct_above: Larger updates are uploaded directly to the store, if the wrapped platform
        supports that.
      tensorflow_folds: Whether the coordinator assumes TensorFlow in the aggregator.
      documents: Overrides the documents' store. Likewise `blobs`.
      start: Initial time of the clock, in POSIX seconds.
      secret: The coordinator's keys; the attribute may be set before a `restart`.
      guards: Returns further fields of `CoordinatorConfig` for a platform: client authentication
        and rate limits.
    """

    def __init__(
        self,
        root: Path,
        *,
        plan: Plan | None = None,
        runtime: Any = None,
        cache_seconds: float = 0.0,
        durable: bool = False,
        wrap: Callable[[Platform], Platform] = lambda platform: platform,
        direct_above: int | None = None,
        tensorflow_folds: bool = True,
        documents: Documents | None = None,
        blobs: Blobs | None = None,
        start: float = START,
        secret: KeyRing | bytes = SECRET,
        guards: Callable[[Platform], Mapping[str, Any]] = lambda _: {},
    ) -> None:
        self.plan = plan or sum_plan()
        self.runtime = runtime or SumRuntime()
        self.clock = ManualClock(start)
        self.queue = ManualQueue(self.clock)
        self.inner = Platform(
            documents=documents or (SqliteDocuments(root / "state.db") if durable else SqliteDocuments.in_memory()),
            blobs=cast("Blobs", TimedBlobs(blobs or DirectoryBlobs(root / "blobs"), self.clock)),
            queue=self.queue,
            clock=self.clock,
            randomness=SeededRandomness(0),
        )
        self.platform = wrap(self.inner)
        self.secret = secret
        self._cache_seconds = cache_seconds
        self._direct_above = direct_above
        self._tensorflow_folds = tensorflow_folds
        self._guards = guards(self.inner)
        self.restart()

    def application(self, *, runtime: Any = None, platform: Platform | None = None, secret: Any = "") -> Application:
        """Returns another application over the same stores, like another process."""
        config = CoordinatorConfig(
            secret=self.secret if secret == "" else secret,
            runtime=lambda plan: runtime or self._runtime_of(plan),
            round_cache_seconds=self._cache_seconds,
            retry_floor=1.0,
            direct_above=self._direct_above,
            tensorflow_folds=self._tensorflow_folds,
            **self._guards,
        )
        return assemble(platform or self.platform, config)

    def _runtime_of(self, plan: Plan) -> Any:
        return self.runtime[plan.sha256] if isinstance(self.runtime, dict) else self.runtime

    def restart(self) -> None:
        """Replaces the serving application, like a new process."""
        self.app = self.application()
        self.http = Client(Request.application(router(self.app)))

    # Requests over HTTP.

    def call(
        self, method: str, path: str, *, body: bytes = b"", token: str | None = None, **options: Any
    ) -> TestResponse:
        """Sends a request and returns the response.

        Asserts that an error is a problem document and not a 500.
        """
        headers = dict(options.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if "json" not in options and "input_stream" not in options:
            options["data"] = body
        response = self.http.open(path, method=method, headers=headers, **options)
        if response.status_code >= 400:
            problem = problem_of(response)
            assert problem.type is not ProblemType.INTERNAL, (method, path, problem)
        return response

    def ask(self, method: str, path: str, *, body: bytes = b"", token: str | None = None, **options: Any) -> bytes:
        """Sends a request and returns the response's body. Raises `ProblemError` for a problem."""
        response = self.call(method, path, body=body, token=token, **options)
        if response.status_code >= 400:
            raise problem_of(response)
        return bytes(response.data)

    def put_plan(self) -> None:
        """Stores the plan."""
        self.ask("PUT", f"/v1/plans/{self.plan.sha256}", body=self.plan.encode())

    def create_task(
        self, name: str = TASK, *, start: StateRef | None = None, driven: bool = False, **policy: Any
    ) -> TaskView:
        """Creates a task of the plan.

        `policy` holds fields of `TaskPolicy`; the minimum is 1 by default.
        """
        spec = TaskSpec(
            name=name,
            population=POPULATION,
            plan=self.plan.sha256,
            policy=TaskPolicy(**{"minimum": 1, **policy}),
            start=start,
            driven=driven,
        )
        return TaskView.decode(self.ask("POST", "/v1/tasks", body=spec.encode()))

    def begin(self, **policy: Any) -> None:
        """Stores the plan, creates the task and opens its first round."""
        self.put_plan()
        self.create_task(**policy)
        self.deliver_all()

    def run(self, request: str, **options: Any) -> RunView:
        """Runs rounds of the task, which is driven. `options` holds fields of `RunRequest`."""
        body = RunRequest.from_dict({"request": request, **options}).encode()
        return RunView.decode(self.ask("POST", f"/v1/tasks/{TASK}:run", body=body))

    def get_run(self, request: str) -> RunView:
        """Returns the run of a request."""
        return RunView.decode(self.ask("GET", f"/v1/tasks/{TASK}/runs/{request}"))

    def operate(self, verb: str, *, version: int | None = None) -> TaskView:
        """Runs `pause`, `resume`, `cancel`, `complete` or, with a `version`, `rollback`."""
        body = b"" if version is None else Rollback(version=version).encode()
        return TaskView.decode(self.ask("POST", f"/v1/tasks/{TASK}:{verb}", body=body))

    def checkin(self, client: object = None, *, cookie: str | None = None) -> Assignment | Wait:
        """Checks a client in, and returns the assignment or the wait."""
        request = CheckinRequest(client=None if client is None else str(client), cookie=cookie)
        answer = self.ask("POST", f"/v1/populations/{POPULATION}:checkin", body=request.encode())
        return CheckinResponse.decode(answer).answer

    def assigned(self, client: object = None) -> Assignment:
        """Checks a client in, and asserts that it gets an assignment."""
        answer = self.checkin(client)
        assert isinstance(answer, Assignment), answer
        return answer

    def upload(self, token: str, update: Mapping[str, Any] | bytes, **options: Any) -> Receipt:
        """Uploads an update."""
        body = update if isinstance(update, bytes) else encode(update)
        return Receipt.decode(self.ask("PUT", "/v1/updates", body=body, token=token, **options))

    def report(self, token: str, reason: str = "other", *, code: str | None = None) -> Receipt:
        """Reports a failure, which gives the assignment back."""
        body = Report.from_dict({"reason": reason, "code": code}).encode()
        return Receipt.decode(self.ask("POST", "/v1/updates:report", body=body, token=token))

    def task(self) -> TaskView:
        """Returns the task's view."""
        return TaskView.decode(self.ask("GET", f"/v1/tasks/{TASK}"))

    def checkpoint(self, version: int) -> bytes:
        """Returns a version of the task's state."""
        return self.ask("GET", f"/v1/tasks/{TASK}/checkpoints/{version}")

    def result(self, number: int) -> dict[str, Array]:
        """Returns the result of a committed round."""
        return decode(self.ask("GET", f"/v1/tasks/{TASK}/rounds/{number}/result"))

    # Deliveries and time.

    def deliver(self, held: QueuedWork, *, keep: bool = False) -> int:
        """Delivers work, due or not, and returns the status.

        The work stays queued if the delivery fails, or with `keep`, which causes a duplicate later.
        """
        response = self.call("POST", f"/internal/{held.work.kind}", json=dict(held.work.payload))
        if response.status_code < 400 and not keep and held in self.queue.held:
            self.queue.held.remove(held)
        return response.status_code

    def deliver_all(self) -> list[QueuedWork]:
        """Delivers all due work in order, new work included, and returns it.

        Asserts that each delivery succeeds.
        """
        delivered: list[QueuedWork] = []
        while due := [held for held in self.queue.held if held.due <= self.clock.now()]:
            first = min(due, key=lambda held: held.due)
            assert self.deliver(first) == 204, first
            delivered.append(first)
            assert len(delivered) < _MAX_DELIVERIES, first
        return delivered

    def tick(self) -> None:
        """Runs a tick."""
        self.ask("POST", "/internal/tick")

    def settle(self, *, minutes: int = 3) -> None:
        """Advances the clock by some minutes, with a tick in each, and delivers all due work."""
        for _ in range(minutes):
            self.deliver_all()
            self.tick()
            self.clock.advance(_MINUTE)
        self.deliver_all()

    # The stored state.

    def record(self) -> Task:
        """Returns the task's record."""
        return self.inner.task(TASK).value

    def rounds(self) -> list[Round]:
        """Returns all attempts at rounds, oldest first."""
        return [record.value for record in self.inner.rounds.list(names.rounds_path(TASK))]

    def committed(self) -> list[Committed]:
        """Returns the committed rounds, oldest first."""
        return [round_ for round_ in self.rounds() if isinstance(round_, Committed)]

    def abandoned(self) -> list[Abandoned]:
        """Returns the abandoned attempts, oldest first."""
        return [round_ for round_ in self.rounds() if isinstance(round_, Abandoned)]

    def key(self) -> RoundKey:
        """Returns the current round's key."""
        key = self.record().current
        assert key is not None
        return key

    def round(self, key: RoundKey | None = None) -> Round:
        """Returns a round, by default the current one."""
        record = self.inner.round(key or self.key())
        assert record is not None
        return record.value

    def blobs(self, prefix: str = "") -> list[str]:
        """Returns the names of the stored blobs."""
        return [blob.name for blob in self.inner.blobs.list(prefix)]

    def leftovers(self) -> list[str]:
        """Returns the obsolete blobs and documents that the coordinator should have deleted."""
        rounds, task = self.rounds(), self.record()
        # Broadcasts that a rollback made obsolete are deleted after the commit that follows.
        pending = () if task.ended else tuple(names.output_prefix("broadcasts", TASK, task.number - n) for n in (0, 1))
        open_ = {round_.key for round_ in rounds if isinstance(round_, Collecting | Aggregating)}
        used = set(_outputs(rounds, task))
        leftovers = []
        for name in self.blobs():
            kind = name.partition("/")[0]
            if kind in ("updates", "partials", "manifests"):
                obsolete = names.round_of(name) not in open_
            else:
                obsolete = kind in ("checkpoints", "results", "broadcasts", "bases") and name not in used
                obsolete = obsolete and not name.startswith(pending)
            leftovers += [name] if obsolete else []
        for round_ in rounds:
            for collection in ("tickets", "shards", "keys", "holders"):
                documents = self.inner.documents.list(f"{names.round_path(round_.key)}/{collection}")
                leftovers += [document.path for document in documents if round_.key not in open_]
        return leftovers


def _outputs(rounds: list[Round], task: Task) -> Iterator[str]:
    """Yields the outputs that the task and its rounds use."""
    yield names.output_prefix("checkpoints", task.name, 0) + "initial"
    if task.initial is not None:
        yield task.initial.blob.name
    for round_ in rounds:
        yield round_.terms.base.blob.name
        if isinstance(round_, Committed):
            yield from (round_.checkpoint.blob.name, round_.result.name)
        # The next attempt reuses the broadcast of an abandoned one.
        if not task.ended and round_.key == task.current:
            last = round_.broadcast if isinstance(round_, Committed) else round_.terms.broadcast
            yield from () if last is None else (last.name,)
        elif isinstance(round_, Collecting | Aggregating):
            yield round_.terms.broadcast.name


def problem_of(response: TestResponse) -> ProblemError:
    """Returns the problem of a response, and asserts that it is well-formed."""
    assert response.content_type == CONTENT_TYPE, (response.status, response.data)
    problem = Problem.model_validate_json(response.data)
    assert problem.status == response.status_code
    assert problem.title
    assert problem.detail
    return ProblemError.from_problem(problem)
