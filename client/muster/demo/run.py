"""Runs the demo: starts coordinator and clients, trains, and kills a client and the coordinator."""

from __future__ import annotations

import time
from collections import defaultdict
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from muster.demo.client_processes import ENDED, READY, ClientMessage, ClientProcesses, Command
from muster.demo.compiling import Compilation
from muster.demo.data import Score, Split, load, score, split
from muster.demo.folder import Folder
from muster.demo.progress import ProgressDisplay, TrainingProgress
from muster.demo.published import SEED, SIGNER, published_plan, tff_is_here
from muster.demo.report import DemoReport, Kill, draw
from muster.local.coordinator import LocalCoordinator
from muster.operator import EndedRounds, Operator
from muster.simulation.record import Record, row_of
from muster.wire.messages import Phase, RoundView, TaskPolicy, TaskStatus, TaskView
from muster.wire.plan import Plan
from muster.wire.tensors import Array, decode

TASK, POPULATION = "digits", "demo"
_POLL_SECONDS = 0.1  # between polls of the task; messages of clients are handled at once
_MAX_IDLE_SECONDS = 240.0  # without an ended round, after which the demo fails
_SPARE_CLIENTS = 2  # clients that a round does not need
_RED = "bold red"


class DemoError(RuntimeError):
    """Error raised when the demo can't continue; the text states the reason."""


@dataclass(frozen=True)
class Options:
    """Options of `muster demo`.

    Attributes:
      clients: Client processes.
      rounds: Rounds to train.
      out: The output folder.
      seed: The seed of the split, and of the initial weights if the plan is compiled.
      published: Whether to use the published plan even if TFF is installed.
      emulators: Whether to use emulators of Firestore and Cloud Storage.
    """

    clients: int
    rounds: int
    out: Path
    seed: int
    published: bool = False
    emulators: bool = False


def run_demo(options: Options, display: ProgressDisplay, *, command: Command) -> DemoReport:
    """Runs the demo. No process that it started outlives this call.

    Args:
      options: The user's options.
      display: The progress display.
      command: Runs Muster's command line in the client processes.

    Raises:
      DemoError: a client did not start, no round ends, or the task was stopped.
      CompilationError: the computation can't be compiled.
      ForeignFolderError: the output folder holds foreign files.
      StartError: the coordinator can't start.
      EmulatorError: an emulator can't start.
      ProblemError: the signature of the published plan is not valid.
    """
    folder = Folder(options.out)
    folder.prepare()
    with ExitStack() as stack:
        compiling = None
        if options.published or not tff_is_here():
            _use_published_plan(options, folder, display)
        else:
            compiling = Compilation(folder.plan, seed=options.seed, log=folder.log, on_status=display.status)
            stack.callback(compiling.close)
        data_split = split(load(), clients=options.clients, seed=options.seed)
        sizes = sorted(len(part) for part in data_split.clients)
        display.line(
            f"Split {sum(sizes)} digits among {options.clients} clients by label, {sizes[0]} to {sizes[-1]} each; "
            f"{len(data_split.test)} digits are held out for the test"
        )
        coordinator = stack.enter_context(LocalCoordinator(folder.coordinator, emulators=options.emulators))
        display.line(f"The coordinator runs at {coordinator.url}: {_processes(coordinator)}")
        if coordinator.emulated:
            listening = ", ".join(f"{name} at {address}" for name, address in coordinator.emulated.items())
            display.line(f"Its state and blobs are in Google's services, emulated here: {listening}")
        clients = stack.enter_context(
            ClientProcesses(folder.clients, url=coordinator.url, datasets=data_split.clients, command=command)
        )
        if compiling is not None:
            compiling.wait()
        plan = Plan.load(folder.plan)
        if compiling is not None:
            display.line(
                f"Compiled plan {plan.sha256[:12]}, {folder.plan.stat().st_size / 1000:.0f} kB; TFF is no longer needed"
            )
        display.status(f"starting {options.clients} client processes, each with its own TensorFlow")
        _wait_until_ready(clients, options.clients)
        display.line(f"{options.clients} client processes are ready")
        display.status("")
        operator = stack.enter_context(Operator(coordinator.url))
        operator.create_task(TASK, population=POPULATION, plan=plan, policy=policy(options))
        training = _Training(
            options,
            display,
            coordinator=coordinator,
            clients=clients,
            operator=operator,
            data_split=data_split,
            plan=plan,
            record=Record(folder.root, results=False),
        )
        report = training.run()
    folder.save_weights(training.state)
    draw(report.scores, report.kills, to=folder.picture)
    return report


def _use_published_plan(options: Options, folder: Folder, display: ProgressDisplay) -> None:
    plan = published_plan()
    plan.save(folder.plan)
    reason = (
        "by request" if tff_is_here() else "since TensorFlow Federated, which compiles plans, is not installed here"
    )
    display.line(f"The plan is {plan.sha256[:12]}, which travels with Muster, {reason}")
    display.line(f"It is signed by the demo's key, {SIGNER}")
    if options.seed != SEED:
        display.line(f"Its initial weights are those of seed {SEED}; --seed {options.seed} only splits the digits")


def policy(options: Options) -> TaskPolicy:
    """Returns a policy whose rounds survive lost clients: spare slots and short deadlines."""
    goal = max(1, options.clients - _SPARE_CLIENTS)
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


def _wait_until_ready(clients: ClientProcesses, count: int) -> None:
    ready: set[str] = set()
    while len(ready) < count:
        message = clients.next_message(seconds=_MAX_IDLE_SECONDS)
        if message is None:
            raise DemoError(f"Only {len(ready)} of {count} clients were ready after {_MAX_IDLE_SECONDS:.0f} s")
        if message.event == ENDED:
            raise DemoError(f"{message.client} could not start; its log is {clients.log(message.client)}")
        if message.event == READY:
            ready.add(message.client)


class _Training:
    """Training of the demo, which kills a client and the coordinator on the way."""

    def __init__(
        self,
        options: Options,
        display: ProgressDisplay,
        *,
        coordinator: LocalCoordinator,
        clients: ClientProcesses,
        operator: Operator,
        data_split: Split,
        plan: Plan,
        record: Record,
    ) -> None:
        self.state: dict[str, Array] = {}
        self._options = options
        self._display = display
        self._coordinator = coordinator
        self._clients = clients
        self._operator = operator
        self._test = data_split.test
        self._record = record
        # The rounds of the kills: after a third and two thirds of the training.
        self._client_round = max(1, options.rounds // 3)
        self._coordinator_round = max(2, 2 * options.rounds // 3)
        self._kills: list[Kill] = []
        self._scores: list[Score] = []
        self._rounds: list[RoundView] = []
        # Clients by round, from their messages: a small round has no published live count.
        self._contributed: defaultdict[int, set[str]] = defaultdict(set)
        self._killed_groups, self._back_seconds = 0, 0.0
        self._plan_bytes = len(plan.for_client().encode())
        self._kill_at_once = False
        self._ended, self._last_progress = EndedRounds(operator, TASK, page=1), 0.0
        self._started = time.monotonic()

    def run(self) -> DemoReport:
        """Follows the task to its end and returns the figures."""
        self._last_progress = time.monotonic()
        next_poll = 0.0
        while True:
            message = self._clients.next_message(seconds=max(0.0, next_poll - time.monotonic()))
            if message is not None:
                self._handle(message)
            if time.monotonic() < next_poll and not self._kill_at_once:
                continue
            task = self._operator.task(TASK)
            if task.current is not None and not self._scores:
                self._save_checkpoint(0)
            self._process_ended_rounds()
            if task.status is TaskStatus.COMPLETED and self._committed() == self._options.rounds:
                return self._report()
            if task.status not in (TaskStatus.OPENING, TaskStatus.ACTIVE, TaskStatus.COMPLETED):
                raise DemoError(f"The task is {task.status.value}: {task.note}")
            if time.monotonic() - self._last_progress > _MAX_IDLE_SECONDS:
                where = f"the logs are in {self._coordinator.logs} and {self._clients.folder}"
                raise DemoError(f"No round has ended for {_MAX_IDLE_SECONDS:.0f} s; {where}")
            self._show(task)
            if self._may_kill_coordinator(task):
                self._kill_coordinator(task)
            self._kill_at_once = False
            next_poll = time.monotonic() + _POLL_SECONDS

    def _process_ended_rounds(self) -> None:
        for view in self._ended.poll():
            if not self._scores:
                self._save_checkpoint(0)
            self._last_progress = time.monotonic()
            self._finish_round(view)

    def _handle(self, message: ClientMessage) -> None:
        killed = [kill.target for kill in self._kills]
        if message.event == ENDED and message.client not in killed:
            self._display.line(
                f"{message.client} has ended by itself; its log is {self._clients.log(message.client)}", style=_RED
            )
            if not self._clients.alive():
                raise DemoError(f"No client is left; their logs are in {self._clients.folder}")
        if message.event == "Contributed":
            self._contributed[message.round].add(message.client)
        # The first client with an assignment of that round is killed, and its slot is lost.
        if message.event == "Assigned" and message.round >= self._client_round and not killed:
            pid = self._clients.kill(message.client)
            self._kills.append(Kill(message.client, message.round))
            self._process_ended_rounds()  # reports the previous round first
            self._display.line(
                f"Round {message.round}: SIGKILL to {message.client} (process {pid}), which was working. "
                "The round continues without it",
                style=_RED,
            )
        # The last round, or a round with a goal of one update, may end before the next poll.
        if message.event == "Assigned" and not self._killed_groups and message.round >= self._coordinator_round:
            self._kill_at_once = message.round == self._options.rounds or policy(self._options).goal == 1

    def _may_kill_coordinator(self, task: TaskView) -> bool:
        now = task.current
        if (
            now is None
            or self._killed_groups
            or now.phase is not Phase.COLLECTING
            or now.round < self._coordinator_round
        ):
            return False
        clients_in = len(self._contributed[now.round])
        return clients_in < now.goal and (clients_in > 0 or self._kill_at_once)

    def _kill_coordinator(self, task: TaskView) -> None:
        now = task.current
        if now is None:
            return
        processes = _processes(self._coordinator)
        self._killed_groups = len(self._coordinator.pids)
        started = time.monotonic()
        self._coordinator.kill()
        self._kills.append(Kill("the coordinator", now.round))
        self._display.line(
            f"Round {now.round}: SIGKILL to the whole coordinator ({processes}), "
            f"with {len(self._contributed[now.round])} of {now.goal} updates in",
            style=_RED,
        )
        self._display.status("the coordinator is down; clients retry while it restarts")
        self._coordinator.start()
        self._back_seconds = time.monotonic() - started
        self._display.status("")
        self._display.line(
            f"Round {now.round}: the coordinator is back after {self._back_seconds:.1f} s, with its state from "
            f"{'the emulators' if self._options.emulators else 'disk'}. The round continues",
            style="bold green",
        )

    def _finish_round(self, view: RoundView) -> None:
        self._rounds.append(view)
        if view.phase is Phase.ABANDONED:
            self._contributed.pop(view.round, None)
            self._display.line(f"Round {view.round} was abandoned ({view.reason}) and is retried", style=_RED)
            return
        self._save_checkpoint(view.round)
        last = self._scores[-1]
        self._record.row(
            {
                **row_of(view),
                "test_loss": round(last.loss, 6),
                "test_accuracy": round(last.accuracy, 6),
                "elapsed_seconds": round(time.monotonic() - self._started, 3),
            }
        )
        self._display.round_done(self._progress(view.round, clients_in=view.folded, goal=view.goal))

    def _save_checkpoint(self, version: int) -> None:
        data = self._operator.checkpoint_bytes(TASK, version)
        self._record.checkpoint(version, data)
        self.state = decode(data)
        self._scores.append(score(self.state, self._test))

    def _show(self, task: TaskView) -> None:
        now = task.current
        if now is not None:
            clients_in = len(self._contributed[now.round])
            self._display.update(self._progress(now.round, clients_in=clients_in, goal=now.goal))

    def _progress(self, number: int, *, clients_in: int, goal: int) -> TrainingProgress:
        last = self._scores[-1]
        return TrainingProgress(
            round=number,
            rounds=self._options.rounds,
            clients_in=clients_in,
            goal=goal,
            alive=self._clients.alive(),
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

    def _report(self) -> DemoReport:
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
            killed_groups=self._killed_groups,
            back_seconds=self._back_seconds,
            training_seconds=time.monotonic() - self._started,
        )
