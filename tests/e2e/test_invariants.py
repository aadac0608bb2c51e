"""A simulation of one task under random events, which checks the invariants after each.

Hypothesis draws a policy and a sequence of events: check-ins, uploads, replayed tokens, reports,
invalid updates, ticks, clock jumps, restarts, pauses and rollbacks. Deliveries arrive twice, late,
out of order or not at all. The coordinator is the real one over real embedded stores. Only time,
randomness and deliveries are simulated, and `SumRuntime` replaces TensorFlow. Updates are powers of
two, so each result shows which clients it contains.

The following is a failure:

* A checkpoint's chain of parents does not reach version 0, or has another length than its line.
* A committed round counts a client twice, counts an update that was never sent, or lacks an update
that was accepted
  while the round collected updates.
* The result, the manifests, the tally and the new state of a round disagree, or a committed round
or a stored
  checkpoint changes later.
* More assignments are outstanding than the cap. * `report` runs on fewer than `minimum` updates, or
a partial holds one update alone. * A request fails with a 500, or with a problem that its sender
can't have caused. * At the end, some ticks and deliveries do not suffice to commit one more round,
or obsolete data remains.

The following is not a failure:

* A check-in waits, or an upload is refused, although the round has room. A lost slot is free again
after its
  assignment has expired.
* An update is accepted after its round has closed, and is not counted.
* A round is abandoned and repeated, or takes longer because work was lost.
* A cached round is out of date for up to its TTL.

Out of scope here, and tested elsewhere: crashes between two writes (`test_invariants_crash`),
chosen interleavings of two steps (`test_invariants_moments`), threads that race
(`test_invariants_races`), TensorFlow (`test_invariants_real`), processes that are killed
(`test_kill`), and failing stores (`test_chaos_cloud`). Nondeterminism of the operating system, of
SQLite and of the file system is not controlled.
"""

from __future__ import annotations

import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support.archive import Archive
from support.harness import TASK, Harness
from support.plans import SumRuntime, sum_update

from muster.wire.messages import Assignment, CheckpointList, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.rounds import Collecting, Committed
from muster_coordinator.domain.slots import Ticket
from muster_coordinator.state.round_ledger import RoundLedger

CLIENTS = st.integers(0, 15)
REFUSALS = {ProblemType.ROUND_CLOSED, ProblemType.ASSIGNMENT_EXPIRED, ProblemType.ASSIGNMENT_INVALID}
PICK = st.integers(0, 1000)


@dataclass
class Issued:
    """Issued assignment."""

    client: int
    token: str
    key: RoundKey
    ticket: Ticket
    expires: float
    used: bool = False


class TaskMachine(RuleBasedStateMachine):
    """State machine of one task.

    It remembers the assignments of all rounds, and replays old tokens.
    """

    @initialize(
        goal=st.integers(1, 5),
        minimum=st.integers(1, 5),
        chunk=st.integers(2, 3),
        shards=st.integers(1, 3),
        over=st.sampled_from([1.0, 1.5, 2.0]),
        cache=st.sampled_from([0.0, 1.0]),
        age=st.sampled_from([2.0, 10.0, 1000.0]),
    )
    def begin(self, *, goal, minimum, chunk, shards, over, cache, age):
        self.folder = tempfile.TemporaryDirectory()
        self.minimum = min(goal, minimum)
        self.runtime = SumRuntime()
        self.archive = Archive(Path(self.folder.name) / "archive")
        self.h = Harness(Path(self.folder.name), runtime=self.runtime, cache_seconds=cache, wrap=self.archive.wrap)
        self.h.begin(
            rounds=100_000,
            goal=goal,
            minimum=self.minimum,
            over_selection=over,
            chunk=chunk,
            shards=shards,
            round_seconds=100,
            assignment_seconds=40,
            max_update_age=age,
        )
        self.latest = self.h.clock.now()
        self.assignments: list[Issued] = []
        self.sent: dict[RoundKey, set[int]] = defaultdict(set)  # clients whose update was ever sent
        # Clients accepted while the round collected
        self.accepted: dict[RoundKey, set[int]] = defaultdict(set)
        self.seen: dict[RoundKey, Committed] = {}
        self.states: dict[int, bytes] = {}

    def teardown(self):
        if not hasattr(self, "h"):
            return
        try:
            if sys.exc_info()[0] is None:  # otherwise the earlier failure is the one to report
                self.finish()
        finally:
            self.folder.cleanup()

    def finish(self):
        h = self.h
        h.clock.advance(max(0.0, self.latest - h.clock.now()))
        # A paused task that was rolled back is paused again once it has opened.
        for _ in range(2):
            if h.task().status is TaskStatus.PAUSED:
                h.operate("resume")
            h.settle(minutes=5)
        self.check_all()
        assert h.leftovers() == []
        # The task still works: a full round of new clients commits.
        before = len(h.committed())
        for client in range(16, 16 + h.round().terms.cap):
            answer = h.checkin(client)
            if isinstance(answer, Assignment):
                self.send(self.track(client, answer), [])
        h.deliver_all()
        self.check_all()
        assert len(h.committed()) == before + 1
        h.operate("cancel")
        h.settle()
        assert h.leftovers() == []
        assert h.blobs("updates/") == h.blobs("partials/") == h.blobs("broadcasts/") == []
        assert not [round_ for round_ in h.rounds() if isinstance(round_, Collecting)]
        for version, state in self.states.items():
            assert h.checkpoint(version) == state
        self.check_parents()

    def check_parents(self):
        """The parents of every checkpoint reach version 0, in as many steps as its line has."""
        answer = self.h.ask("GET", f"/v1/tasks/{TASK}/checkpoints")
        views = {view.version: view for view in CheckpointList.decode(answer).checkpoints}
        assert views.keys() == {0, *self.states}
        for view in views.values():
            steps, at = 0, view
            while at.version:
                steps, at = steps + 1, views[at.parent.version]
            assert steps == view.line

    # Clients.

    def track(self, client, assignment):
        claims = self.h.app.tokens.read_assignment(assignment.token, now=self.h.clock.now())
        for issued in self.assignments:
            if issued.token == assignment.token:  # a repeated check-in gets the same slot
                assert (issued.client, issued.ticket, issued.expires) == (client, claims.ticket, claims.expires_at)
                return issued
        issued = Issued(client, assignment.token, claims.key, claims.ticket, claims.expires_at)
        self.assignments.append(issued)
        return issued

    @rule(client=CLIENTS)
    def checkin(self, client):
        answer = self.h.checkin(client)
        if isinstance(answer, Assignment):
            issued = self.track(client, answer)
            assert self.h.record().current == issued.key or self.h._cache_seconds

    def send(self, issued, problems):
        self.sent[issued.key].add(issued.client)
        try:
            receipt = self.h.upload(issued.token, sum_update(issued.client))
        except ProblemError as problem:
            assert problem.type in REFUSALS, problem  # noqa: PT017
            problems.append(problem)
            return
        assert receipt.status == "accepted"
        issued.used = True
        if isinstance(self.h.round(issued.key), Collecting):
            self.accepted[issued.key].add(issued.client)

    @precondition(lambda self: self.assignments)
    @rule(pick=PICK)
    def upload_recent(self, pick):
        self.send(self.assignments[-1 - pick % min(3, len(self.assignments))], [])

    @precondition(lambda self: self.assignments)
    @rule(pick=PICK)
    def upload_any(self, pick):
        self.send(self.assignments[pick % len(self.assignments)], [])

    @precondition(lambda self: self.assignments)
    @rule(pick=PICK)
    def give_back(self, pick):
        issued = self.assignments[-1 - pick % min(4, len(self.assignments))]
        try:
            self.h.report(issued.token)
            issued.used = True
        except ProblemError as problem:
            assert problem.type in REFUSALS, problem  # noqa: PT017

    @precondition(lambda self: self.assignments)
    @rule(pick=PICK)
    def upload_nan(self, pick):
        issued = self.assignments[-1 - pick % min(3, len(self.assignments))]
        try:
            self.h.upload(issued.token, sum_update(issued.client, value=np.nan))
        except ProblemError as problem:
            assert problem.type in {ProblemType.UPDATE_NOT_FINITE, *REFUSALS}, problem  # noqa: PT017
        else:
            raise AssertionError("NaN was accepted")

    # The queue, the clock and the process.

    @precondition(lambda self: self.h.queue.held)
    @rule(pick=PICK, keep=st.booleans())
    def deliver(self, pick, keep):
        self.h.deliver(self.h.queue.held[pick % len(self.h.queue.held)], keep=keep)

    @rule()
    def deliver_all(self):
        self.h.deliver_all()

    @precondition(lambda self: self.h.queue.held)
    @rule(pick=PICK)
    def lose_work(self, pick):
        self.h.queue.held.pop(pick % len(self.h.queue.held))

    @rule()
    def tick(self):
        self.h.tick()

    @rule(seconds=st.sampled_from([0.4, 5.0, 15.0, 41.0, 101.0, -5.0, -300.0]))
    def move_clock(self, seconds):
        self.latest = max(self.latest, self.h.clock.advance(seconds))

    @rule()
    def restart(self):
        self.h.restart()

    # Operators.

    @rule(verb=st.sampled_from(["pause", "resume", "resume"]))
    def operate(self, verb):
        try:
            self.h.operate(verb)
        except ProblemError as problem:
            assert problem.type is ProblemType.CONFLICT  # noqa: PT017

    @rule(pick=PICK)
    def roll_back(self, pick):
        versions = [0, *self.states]
        version = versions[pick % len(versions)]
        self.h.operate("rollback", version=version)
        assert self.h.record().status is TaskStatus.OPENING

    @invariant()
    def check_all(self):
        if not hasattr(self, "h"):
            return
        self.check_outstanding()
        self.check_partials()
        assert all(count >= self.minimum for count in self.runtime.reported)
        committed = {round_.key: round_ for round_ in self.h.committed()}
        assert self.seen.items() <= committed.items()
        for key in committed.keys() - self.seen.keys():
            self.check_committed(committed[key])
        self.seen = committed

    def check_partials(self):
        """No shard has a partial of one update alone."""
        for name in self.h.blobs("partials/"):
            if "/rest-" not in name:
                assert int(decode(self.h.inner.blobs.read(name))["count"]) >= 2

    def check_outstanding(self):
        # An assignment that has expired stays expired, even if the clock has been set back since.
        now = max(self.latest, self.h.clock.now())
        rounds = {issued.key for issued in self.assignments}
        for key in rounds:
            waiting = [
                issued for issued in self.assignments if issued.key == key and not issued.used and issued.expires > now
            ]
            assert len(waiting) <= self.h.round(key).terms.cap

    def check_committed(self, round_: Committed):
        key = round_.key
        result = decode(self.h.inner.blobs.read(round_.result.name))
        mask, count = int(result["ids"]), int(result["count"])
        inside = {client for client in range(62) if mask >> client & 1}
        assert len(inside) == count, "a client was counted twice"
        assert self.accepted[key] <= inside <= self.sent[key]
        ledger = RoundLedger(replace(self.h.inner, blobs=self.archive.blobs), key)
        frozen = ledger.frozen()
        assert frozen is not None
        counted = [name for rest in frozen.closing.rest for name in rest]
        for shard, number in enumerate(frozen.closing.shards):
            counted += [name for manifest in ledger.manifests(shard)[:number] for name in manifest.updates]
        assert len(counted) == len(set(counted)) == count == frozen.closing.updates == round_.tally.folded
        secret, salt = self.h.app.assignment_issuer.pseudonyms.ring.newest.secret, self.archive.salts[key]
        pseudonyms = {names.pseudonym(secret, key, str(client), salt=salt) for client in inside}
        assert {name.rpartition("/")[2] for name in counted} == pseudonyms
        base = decode(self.h.inner.blobs.read(round_.terms.base.blob.name))
        state = self.h.checkpoint(key.number)
        assert int(decode(state)["total"]) == int(base["total"]) + mask
        # The runtime counts the rounds of a state, so the state shows the length of its line.
        assert int(decode(state)["rounds"]) == round_.checkpoint.rounds_on_line
        assert key.number not in self.states, "two commits have one version"
        self.states[key.number] = state


TestTask = TaskMachine.TestCase
TestTask.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
