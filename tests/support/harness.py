"""The coordinator in one process, behind its HTTP router, with time, chance and deliveries in the test's hands."""

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
_MINUTE = 61.0  # seconds: past the minute in which a tick names its work
_MANY = 2000  # deliveries after which something goes round in circles


@dataclass
class Held:
    """Work that waits for the test to deliver it, from `due` (POSIX seconds) on."""

    work: WorkItem
    name: str
    due: float


class HeldQueue:
    """A `WorkQueue` that delivers when the test says so. A used name is dropped, as the port allows."""

    def __init__(self, clock: ManualClock) -> None:
        self._clock = clock
        self._used: set[str] = set()
        self.held: list[Held] = []

    def enqueue(self, work: WorkItem, *, name: str, delay: float = 0.0) -> None:
        if name not in self._used:
            self._used.add(name)
            self.held.append(Held(work, name, self._clock.now() + delay))


class TimedBlobs:
    """`Blobs` adapter that stamps new blobs with the test's clock."""

    def __init__(self, inner: Blobs, clock: ManualClock) -> None:
        self._inner = inner
        self._clock = clock
        self._created: dict[str, float] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def create(self, name: str, chunks: Iterable[Buffer]) -> CreateResult:
        made = self._inner.create(name, chunks)
        if made.created:
            self._created[name] = self._clock.now()
        return replace(made, blob=self._timed(made.blob))

    def stat(self, name: str) -> BlobInfo | None:
        found = self._inner.stat(name)
        return None if found is None else self._timed(found)

    def list(self, prefix: str) -> Iterator[BlobInfo]:
        return map(self._timed, self._inner.list(prefix))

    def _timed(self, blob: BlobInfo) -> BlobInfo:
        return replace(blob, created=self._created.get(blob.name, blob.created))


class Harness:
    """Coordinator under test. Its stores survive `restart`; process state does not.

    Args:
      root: A folder for the blobs, and the documents if they are `durable`.
      plan: The plan of the tasks.
      runtime: The plan's runtime; by default a `SumRuntime`. For several plans, a dictionary by address.
      cache_seconds: Seconds for which the coordinator may serve a cached round.
      durable: Stores documents in a file, so that several threads can write at once.
      wrap: Wraps the platform, with faults for example.
      direct_above: Larger updates are uploaded directly to the store, if the wrapped platform supports that.
      tensorflow_folds: Whether the coordinator assumes TensorFlow in the aggregator.
      documents: Overrides the documents' store. Likewise `blobs`.
      start: Initial time of the clock, in POSIX seconds.
      secret: The coordinator's keys; the attribute may be set before a `restart`.
      guards: Returns further fields of `CoordinatorConfig` for a platform: client authentication and rate limits.
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
        self.queue = HeldQueue(self.clock)
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
        """Another process over the same stores."""
        config = CoordinatorConfig(
            secret=self.secret if secret == "" else secret,
            runtime=lambda plan: (
                runtime or (self.runtime[plan.sha256] if isinstance(self.runtime, dict) else self.runtime)
            ),
            round_cache_seconds=self._cache_seconds,
            retry_floor=1.0,
            direct_above=self._direct_above,
            tensorflow_folds=self._tensorflow_folds,
            **self._guards,
        )
        return assemble(platform or self.platform, config)

    def restart(self) -> None:
        """Puts a fresh process in the place of the one that served so far."""
        self.app = self.application()
        self.http = Client(Request.application(router(self.app)))

    # What goes over HTTP.

    def call(self, method: str, path: str, *, body: bytes = b"", token: str | None = None, **more: Any) -> TestResponse:
        """One request; the response as it is, after a look at its form: a failure is a problem document and never a 500."""
        headers = dict(more.pop("headers", {}))
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        if "json" not in more and "input_stream" not in more:
            more["data"] = body
        response = self.http.open(path, method=method, headers=headers, **more)
        if response.status_code >= 400:
            problem = problem_of(response)
            assert problem.type is not ProblemType.INTERNAL, (method, path, problem)
        return response

    def ask(self, method: str, path: str, *, body: bytes = b"", token: str | None = None, **more: Any) -> bytes:
        """One request's answer; a problem is raised."""
        response = self.call(method, path, body=body, token=token, **more)
        if response.status_code >= 400:
            raise problem_of(response)
        return response.data

    def put_plan(self) -> None:
        self.ask("PUT", f"/v1/plans/{self.plan.sha256}", body=self.plan.encode())

    def create_task(self, name: str = TASK, **policy: Any) -> TaskView:
        """Creates a task of the plan; `policy` are the fields of `TaskPolicy`. Its minimum is 1 by default."""
        policy = {"minimum": 1, **policy}
        spec = TaskSpec(name=name, population=POPULATION, plan=self.plan.sha256, policy=TaskPolicy(**policy))
        return TaskView.decode(self.ask("POST", "/v1/tasks", body=spec.encode()))

    def begin(self, **policy: Any) -> None:
        """Stores the plan, makes the task and opens its first round."""
        self.put_plan()
        self.create_task(**policy)
        self.deliver_all()

    def operate(self, verb: str, *, version: int | None = None) -> TaskView:
        """`pause`, `resume`, `cancel` or, with a `version`, `rollback`."""
        body = b"" if version is None else Rollback(version=version).encode()
        return TaskView.decode(self.ask("POST", f"/v1/tasks/{TASK}:{verb}", body=body))

    def checkin(self, client: object = None, *, cookie: str | None = None) -> Assignment | Wait:
        request = CheckinRequest(client=None if client is None else str(client), cookie=cookie)
        answer = self.ask("POST", f"/v1/populations/{POPULATION}:checkin", body=request.encode())
        return CheckinResponse.decode(answer).answer

    def assigned(self, client: object = None) -> Assignment:
        """A check-in that must bring work."""
        answer = self.checkin(client)
        assert isinstance(answer, Assignment), answer
        return answer

    def upload(self, token: str, update: Mapping[str, Any] | bytes, **more: Any) -> Receipt:
        body = update if isinstance(update, bytes) else encode(update)
        return Receipt.decode(self.ask("PUT", "/v1/updates", body=body, token=token, **more))

    def report(self, token: str, reason: str = "other") -> Receipt:
        body = Report.from_dict({"reason": reason}).encode()
        return Receipt.decode(self.ask("POST", "/v1/updates:report", body=body, token=token))

    def task(self) -> TaskView:
        return TaskView.decode(self.ask("GET", f"/v1/tasks/{TASK}"))

    def checkpoint(self, version: int) -> bytes:
        return self.ask("GET", f"/v1/tasks/{TASK}/checkpoints/{version}")

    def result(self, number: int) -> dict[str, Array]:
        return decode(self.ask("GET", f"/v1/tasks/{TASK}/rounds/{number}/result"))

    # Deliveries and time.

    def deliver(self, held: Held, *, keep: bool = False) -> int:
        """Delivers a piece of work, due or not; it stays queued if it fails or `keep` says so (a duplicate to come)."""
        response = self.call("POST", f"/internal/{held.work.kind}", json=dict(held.work.payload))
        if response.status_code < 400 and not keep and held in self.queue.held:
            self.queue.held.remove(held)
        return response.status_code

    def deliver_all(self) -> list[Held]:
        """Delivers all that is due, in order, what comes in meanwhile included; each must arrive. Gives what it delivered."""
        delivered = []
        while due := [held for held in self.queue.held if held.due <= self.clock.now()]:
            first = min(due, key=lambda held: held.due)
            assert self.deliver(first) == 204, first
            delivered.append(first)
            assert len(delivered) < _MANY, first
        return delivered

    def tick(self) -> None:
        self.ask("POST", "/internal/tick")

    def settle(self, *, minutes: int = 3) -> None:
        """Lets some minutes pass, with a tick in each and every delivery that is due."""
        for _ in range(minutes):
            self.deliver_all()
            self.tick()
            self.clock.advance(_MINUTE)
        self.deliver_all()

    # What a test may look at behind the scenes.

    def record(self) -> Task:
        return self.inner.task(TASK).value

    def rounds(self) -> list[Round]:
        return [found.value for found in self.inner.rounds.list(names.rounds_path(TASK))]

    def committed(self) -> list[Committed]:
        return [round_ for round_ in self.rounds() if isinstance(round_, Committed)]

    def abandoned(self) -> list[Abandoned]:
        return [round_ for round_ in self.rounds() if isinstance(round_, Abandoned)]

    def key(self) -> RoundKey:
        """The current round's key."""
        key = self.record().current
        assert key is not None
        return key

    def round(self, key: RoundKey | None = None) -> Round:
        found = self.inner.round(key or self.key())
        assert found is not None
        return found.value

    def blobs(self, prefix: str = "") -> list[str]:
        return [blob.name for blob in self.inner.blobs.list(prefix)]

    def leftovers(self) -> list[str]:
        """Blobs and counters that nobody needs any more, and that nothing would ever remove."""
        rounds, task = self.rounds(), self.record()
        # What a rollback put out of use goes with the commit that the task is at.
        still = () if task.ended else tuple(names.output_prefix("broadcasts", TASK, task.number - n) for n in (0, 1))
        open_ = {round_.key for round_ in rounds if isinstance(round_, Collecting | Aggregating)}
        kept = set(_outputs(rounds, task))
        found = []
        for name in self.blobs():
            kind = name.partition("/")[0]
            if kind in ("updates", "partials", "manifests"):
                unneeded = names.round_of(name) not in open_
            else:
                unneeded = kind in ("checkpoints", "results", "broadcasts") and name not in kept
                unneeded = unneeded and not name.startswith(still)
            found += [name] if unneeded else []
        for round_ in rounds:
            for counters in ("tickets", "shards", "keys", "holders"):
                listed = self.inner.documents.list(f"{names.round_path(round_.key)}/{counters}")
                found += [document.path for document in listed if round_.key not in open_]
        return found


def _outputs(rounds: list[Round], task: Task) -> Iterator[str]:
    for round_ in rounds:
        yield round_.terms.base.blob.name
        if isinstance(round_, Committed):
            yield from (round_.checkpoint.blob.name, round_.result.name)
        # An abandoned attempt's broadcast is the next attempt's.
        if not task.ended and round_.key == task.current:
            last = round_.broadcast if isinstance(round_, Committed) else round_.terms.broadcast
            yield from () if last is None else (last.name,)
        elif isinstance(round_, Collecting | Aggregating):
            yield round_.terms.broadcast.name


def problem_of(response: TestResponse) -> ProblemError:
    """The problem that a response holds, with its form checked."""
    assert response.content_type == CONTENT_TYPE, (response.status, response.data)
    problem = Problem.model_validate_json(response.data)
    assert problem.status == response.status_code
    assert problem.title
    assert problem.detail
    return ProblemError.from_problem(problem)
