"""The demo itself: sets the scene, trains, kills, and sees the training go on."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from muster.demo.client_process import READY, Command
from muster.demo.client_processes import ENDED, ClientMessage, ClientProcesses
from muster.demo.compiling import Compilation
from muster.demo.data import Score, Split, load, score, split
from muster.demo.folder import Folder
from muster.demo.progress import ProgressDisplay, TrainingProgress
from muster.demo.published import SEED, SIGNER, published_plan, tff_is_here
from muster.demo.report import DemoReport, Kill, draw
from muster.local.coordinator import LocalCoordinator
from muster.operator import Operator
from muster.simulation import EndedRounds
from muster.simulation.record import Record, row_of
from muster.wire.messages import Phase, RoundView, TaskPolicy, TaskStatus, TaskView
from muster.wire.plan import Plan
from muster.wire.tensors import Array, decode

TASK, POPULATION = "digits", "demo"
_LOOK = 0.1  # seconds between looks at the task; clients are heard at once
_STANDSTILL = 240.0  # seconds without a committed round after which the demo fails
_SPARE = 2  # clients that a round can do without
_RED = "bold red"


class DemoError(RuntimeError):
    """The demo can't go on; the text says why."""


@dataclass(frozen=True)
class Options:
    """What a user may choose."""

    clients: int
    rounds: int
    out: Path
    seed: int
    published: bool = False  # the plan that travels with Muster, though TFF is here
    emulators: bool = False  # of Firestore and Cloud Storage, in the place of the embedded store


def run_demo(options: Options, screen: ProgressDisplay, *, command: Command) -> DemoReport:
    """Runs the demo. Every process that it started is gone when it returns or raises.

    Args:
      options: What the user chose.
      screen: What the user sees.
      command: What the clients' processes run `muster client run` with.

    Raises:
      DemoError, CompilationError, ForeignFolderError, StartError, EmulatorError: what each of them says.
      ProblemError: the plan that travels with Muster is not what was signed.
    """
    folder = Folder(options.out)
    folder.prepare()
    with ExitStack() as stack:
        compiling = None
        if options.published or not tff_is_here():
            _use_published(options, folder, screen)
        else:
            compiling = Compilation(folder.plan, seed=options.seed, log=folder.log, tell=screen.doing)
            stack.callback(compiling.close)
        parts = split(load(), clients=options.clients, seed=options.seed)
        sizes = sorted(len(part) for part in parts.clients)
        screen.line(
            f"Dealt {sum(sizes)} digits to {options.clients} clients by label, {sizes[0]} to {sizes[-1]} each; "
            f"{len(parts.test)} are held out"
        )
        coordinator = stack.enter_context(LocalCoordinator(folder.coordinator, emulators=options.emulators))
        screen.line(f"The coordinator runs at {coordinator.url}: {_processes(coordinator)}")
        if coordinator.emulated:
            listening = ", ".join(f"{name} at {address}" for name, address in coordinator.emulated.items())
            screen.line(f"Its state and blobs are in Google's services, emulated here: {listening}")
        cast = stack.enter_context(
            ClientProcesses(folder.clients, url=coordinator.url, parts=parts.clients, command=command)
        )
        if compiling is not None:
            compiling.wait()
        plan = Plan.load(folder.plan)
        if compiling is not None:
            screen.line(
                f"Compiled: plan {plan.sha256[:12]}, {folder.plan.stat().st_size / 1000:.0f} kB; TFF's work is done"
            )
        screen.doing(f"starting {options.clients} client processes, each with its own TensorFlow")
        _wait_until_ready(cast, options.clients)
        screen.line(f"{options.clients} client processes are ready")
        screen.doing("")
        operator = stack.enter_context(Operator(coordinator.url))
        operator.create_task(TASK, population=POPULATION, plan=plan, policy=policy(options))
        training = _Training(
            options,
            screen,
            coordinator=coordinator,
            cast=cast,
            operator=operator,
            parts=parts,
            plan=plan,
            record=Record(folder.root, results=False),
        )
        story = training.run()
    folder.save_weights(training.state)
    draw(story.scores, story.kills, to=folder.picture)
    return story


def _use_published(options: Options, folder: Folder, screen: ProgressDisplay) -> None:
    plan = published_plan()
    plan.save(folder.plan)
    why = (
        "as was asked for"
        if tff_is_here()
        else "since TensorFlow Federated, which compiles plans, is not installed here"
    )
    weights = (
        ""
        if options.seed == SEED
        else f" Its initial weights are those of seed {SEED}; --seed {options.seed} deals the digits."
    )
    screen.line(
        f"The plan is {plan.sha256[:12]}, which travels with Muster, {why}. It is signed by {SIGNER}, the demo's key.{weights}"
    )


def policy(options: Options) -> TaskPolicy:
    """Rounds that go on without the clients that vanish: a few more slots than the goal, and short deadlines."""
    goal = max(1, options.clients - _SPARE)
    return TaskPolicy(
        rounds=options.rounds,
        goal=goal,
        minimum=(goal + 1) // 2,
        over_selection=min(options.clients / goal, 10.0),
        round_seconds=20.0,
        assignment_seconds=6.0,
    )


def _processes(coordinator: LocalCoordinator) -> str:
    return ", ".join(f"{name} {pid}" for name, pid in coordinator.pids.items())


def _wait_until_ready(cast: ClientProcesses, clients: int) -> None:
    ready: set[str] = set()
    while len(ready) < clients:
        told = cast.next_told(seconds=_STANDSTILL)
        if told is None:
            raise DemoError(f"Only {len(ready)} of {clients} clients were ready after {_STANDSTILL:.0f} s without news")
        if told.event == ENDED:
            raise DemoError(f"{told.client} could not start; its log is {cast.log(told.client)}")
        if told.event == READY:
            ready.add(told.client)


class _Training:
    """The rounds, and what is done to their clients and their coordinator meanwhile."""

    def __init__(
        self,
        options: Options,
        screen: ProgressDisplay,
        *,
        coordinator: LocalCoordinator,
        cast: ClientProcesses,
        operator: Operator,
        parts: Split,
        plan: Plan,
        record: Record,
    ) -> None:
        self.state: dict[str, Array] = {}
        self._options = options
        self._screen = screen
        self._coordinator = coordinator
        self._cast = cast
        self._operator = operator
        self._test = parts.test
        self._record = record
        # A third and two thirds of the way.
        self._client_round = max(1, options.rounds // 3)
        self._coordinator_round = max(2, 2 * options.rounds // 3)
        self._kills: list[Kill] = []
        self._scores: list[Score] = []
        self._rounds: list[RoundView] = []
        # By round, as the clients report it: the coordinator publishes no live count of a small round.
        self._contributed: defaultdict[int, set[str]] = defaultdict(set)
        self._groups, self._back_seconds = 0, 0.0
        self._plan_bytes = len(plan.for_client().encode())
        self._now_or_never = False
        self._ended, self._heard = EndedRounds(operator, TASK), 0.0
        self._started = time.monotonic()

    def run(self) -> DemoReport:
        """Follows the task to its end."""
        self._heard = time.monotonic()
        look = 0.0
        while True:
            told = self._cast.next_told(seconds=max(0.0, look - time.monotonic()))
            if told is not None:
                self._hear(told)
            if time.monotonic() < look and not self._now_or_never:
                continue
            task = self._operator.task(TASK)
            if task.current is not None and not self._scores:
                self._keep(0)
            self._tell_of_ended()
            if task.status is TaskStatus.COMPLETED and self._committed() == self._options.rounds:
                return self._story()
            if task.status not in (TaskStatus.OPENING, TaskStatus.ACTIVE, TaskStatus.COMPLETED):
                raise DemoError(f"The task is {task.status.value}: {task.note}")
            if time.monotonic() - self._heard > _STANDSTILL:
                where = f"the logs are in {self._coordinator.logs} and {self._cast.folder}"
                raise DemoError(f"No round has ended for {_STANDSTILL:.0f} s; {where}")
            self._show(task)
            if self._may_kill_coordinator(task):
                self._kill_coordinator(task)
            self._now_or_never = False
            look = time.monotonic() + _LOOK

    def _tell_of_ended(self) -> None:
        for view in self._ended.fresh():
            if not self._scores:
                self._keep(0)
            self._heard = time.monotonic()
            self._round_over(view)

    def _hear(self, told: ClientMessage) -> None:
        killed = [kill.whom for kill in self._kills]
        if told.event == ENDED and told.client not in killed:
            self._screen.line(
                f"{told.client} has ended by itself; its log is {self._cast.log(told.client)}", style=_RED
            )
            if not self._cast.alive():
                raise DemoError(f"No client is left; their logs are in {self._cast.folder}")
        if told.event == "Contributed":
            self._contributed[told.round].add(told.client)
        # Whoever is the first to be given work of that round holds a slot of it, and dies with it.
        if told.event == "Assigned" and told.round >= self._client_round and not killed:
            pid = self._cast.kill(told.client)
            self._kills.append(Kill(told.client, told.round))
            self._tell_of_ended()  # the round before comes first
            self._screen.line(
                f"Round {told.round}: SIGKILL to {told.client} (process {pid}), which was just at work. Its slot is lost; "
                "the round goes on, and nobody starts it again",
                style=_RED,
            )
        # The last round, or one of a single update, is over before a look at the right moment is certain.
        if told.event == "Assigned" and not self._groups and told.round >= self._coordinator_round:
            self._now_or_never = told.round == self._options.rounds or policy(self._options).goal == 1

    def _may_kill_coordinator(self, task: TaskView) -> bool:
        now = task.current
        if now is None or self._groups or now.phase is not Phase.COLLECTING or now.round < self._coordinator_round:
            return False
        clients_in = len(self._contributed[now.round])
        return clients_in < now.goal and (clients_in > 0 or self._now_or_never)

    def _kill_coordinator(self, task: TaskView) -> None:
        now = task.current
        if now is None:
            return
        processes = _processes(self._coordinator)
        self._groups = len(self._coordinator.pids)
        started = time.monotonic()
        self._coordinator.kill()
        self._kills.append(Kill("the coordinator", now.round))
        self._screen.line(
            f"Round {now.round}: SIGKILL to the whole coordinator ({processes}), "
            f"with {len(self._contributed[now.round])} of {now.goal} updates in",
            style=_RED,
        )
        self._screen.doing("the coordinator is down; clients keep knocking while it starts again")
        self._coordinator.start()
        self._back_seconds = time.monotonic() - started
        self._screen.doing("")
        self._screen.line(
            f"Round {now.round}: the coordinator is back after {self._back_seconds:.1f} s, from its "
            f"{'stores' if self._options.emulators else 'files'} alone, and the round goes on",
            style="bold green",
        )

    def _round_over(self, view: RoundView) -> None:
        self._rounds.append(view)
        if view.phase is Phase.ABANDONED:
            self._contributed.pop(view.round, None)
            self._screen.line(f"Round {view.round} was abandoned ({view.reason}) and is tried again", style=_RED)
            return
        self._keep(view.round)
        last = self._scores[-1]
        self._record.row(
            {
                **row_of(view),
                "test_loss": round(last.loss, 6),
                "test_accuracy": round(last.accuracy, 6),
                "elapsed_seconds": round(time.monotonic() - self._started, 3),
            }
        )
        self._screen.round_done(self._standing(view.round, clients_in=view.folded, goal=view.goal))

    def _keep(self, version: int) -> None:
        data = self._operator.checkpoint_bytes(TASK, version)
        self._record.checkpoint(version, data)
        self.state = decode(data)
        self._scores.append(score(self.state, self._test))

    def _show(self, task: TaskView) -> None:
        now = task.current
        if now is not None:
            clients_in = len(self._contributed[now.round])
            self._screen.standing(self._standing(now.round, clients_in=clients_in, goal=now.goal))

    def _standing(self, number: int, *, clients_in: int, goal: int) -> TrainingProgress:
        last = self._scores[-1]
        return TrainingProgress(
            round=number,
            rounds=self._options.rounds,
            clients_in=clients_in,
            goal=goal,
            alive=self._cast.alive(),
            loss=last.loss,
            accuracy=last.accuracy,
            up=self._up(),
            down=self._down(),
        )

    def _up(self) -> int:
        return sum(view.update_bytes for view in self._rounds)

    def _down(self) -> int:
        broadcasts = sum(view.broadcast_bytes * view.assigned for view in self._rounds)
        return broadcasts + self._plan_bytes * self._options.clients

    def _committed(self) -> int:
        return sum(view.phase is Phase.COMMITTED for view in self._rounds)

    def _story(self) -> DemoReport:
        return DemoReport(
            clients=self._options.clients,
            rounds=self._options.rounds,
            scores=tuple(self._scores),
            held_out=len(self._test),
            kills=tuple(self._kills),
            attempts=len(self._rounds),
            folded=sum(view.folded for view in self._rounds),
            up=self._up(),
            down=self._down(),
            killed_groups=self._groups,
            back_seconds=self._back_seconds,
            training_seconds=time.monotonic() - self._started,
        )
