"""The invariants of the design under a random life: check-ins, uploads, failures, clocks that jump, deliveries in disorder."""

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
from support.harness import Harness
from support.plans import SumRuntime, sum_update

from muster.wire.messages import Assignment, TaskStatus
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
class Out:
    """An assignment that was given out."""

    client: int
    token: str
    key: RoundKey
    ticket: Ticket
    expires: float
    used: bool = False


class Life(RuleBasedStateMachine):
    """A task's life. Assignments of all rounds stay known, so that old tokens come back."""

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
        self.outs: list[Out] = []
        self.sent: dict[RoundKey, set[int]] = defaultdict(set)  # whose update was ever sent
        self.must: dict[RoundKey, set[int]] = defaultdict(set)  # whose was accepted while the round collected
        self.seen: dict[RoundKey, Committed] = {}
        self.states: dict[int, bytes] = {}

    def teardown(self):
        if not hasattr(self, "h"):
            return
        try:
            if sys.exc_info()[0] is None:  # else the failure that is there already is the one to see
                self.end()
        finally:
            self.folder.cleanup()

    def end(self):
        h = self.h
        h.clock.advance(max(0.0, self.latest - h.clock.now()))
        if h.task().status is TaskStatus.PAUSED:
            h.operate("resume")
        h.settle(minutes=5)
        self.look()
        assert h.leftovers() == []
        # The task goes on: a full round of fresh clients commits.
        before = len(h.committed())
        for client in range(16, 16 + h.round().terms.cap):
            answer = h.checkin(client)
            if isinstance(answer, Assignment):
                self.send(self.note(client, answer), [])
        h.deliver_all()
        self.look()
        assert len(h.committed()) == before + 1
        h.operate("cancel")
        h.settle()
        assert h.leftovers() == []
        assert h.blobs("updates/") == h.blobs("partials/") == h.blobs("broadcasts/") == []
        assert not [round_ for round_ in h.rounds() if isinstance(round_, Collecting)]
        for version, state in self.states.items():
            assert h.checkpoint(version) == state

    # Clients.

    def note(self, client, assignment):
        claims = self.h.app.tokens.read_assignment(assignment.token, now=self.h.clock.now())
        for out in self.outs:
            if out.token == assignment.token:  # a repeated check-in: the same slot
                assert (out.client, out.ticket, out.expires) == (client, claims.ticket, claims.expires_at)
                return out
        out = Out(client, assignment.token, claims.key, claims.ticket, claims.expires_at)
        self.outs.append(out)
        return out

    @rule(client=CLIENTS)
    def checkin(self, client):
        answer = self.h.checkin(client)
        if isinstance(answer, Assignment):
            out = self.note(client, answer)
            assert self.h.record().current == out.key or self.h._cache_seconds

    def send(self, out, problems):
        self.sent[out.key].add(out.client)
        try:
            receipt = self.h.upload(out.token, sum_update(out.client))
        except ProblemError as problem:
            assert problem.type in REFUSALS, problem  # noqa: PT017
            problems.append(problem)
            return
        assert receipt.status == "accepted"
        out.used = True
        if isinstance(self.h.round(out.key), Collecting):
            self.must[out.key].add(out.client)

    @precondition(lambda self: self.outs)
    @rule(pick=PICK)
    def upload_lately_assigned(self, pick):
        self.send(self.outs[-1 - pick % min(3, len(self.outs))], [])

    @precondition(lambda self: self.outs)
    @rule(pick=PICK)
    def upload_any(self, pick):
        self.send(self.outs[pick % len(self.outs)], [])

    @precondition(lambda self: self.outs)
    @rule(pick=PICK)
    def give_back(self, pick):
        out = self.outs[-1 - pick % min(4, len(self.outs))]
        try:
            self.h.report(out.token)
            out.used = True
        except ProblemError as problem:
            assert problem.type in REFUSALS, problem  # noqa: PT017

    @precondition(lambda self: self.outs)
    @rule(pick=PICK)
    def upload_nan(self, pick):
        out = self.outs[-1 - pick % min(3, len(self.outs))]
        try:
            self.h.upload(out.token, sum_update(out.client, value=np.nan))
        except ProblemError as problem:
            assert problem.type in {ProblemType.UPDATE_NOT_FINITE, *REFUSALS}, problem  # noqa: PT017
        else:
            raise AssertionError("NaN was accepted")

    # The queue, the clock, processes.

    @precondition(lambda self: self.h.queue.held)
    @rule(pick=PICK, keep=st.booleans())
    def deliver(self, pick, keep):
        self.h.deliver(self.h.queue.held[pick % len(self.h.queue.held)], keep=keep)

    @rule()
    def deliver_all(self):
        self.h.deliver_all()

    @precondition(lambda self: self.h.queue.held)
    @rule(pick=PICK)
    def drop(self, pick):
        self.h.queue.held.pop(pick % len(self.h.queue.held))

    @rule()
    def tick(self):
        self.h.tick()

    @rule(seconds=st.sampled_from([0.4, 5.0, 15.0, 41.0, 101.0, -5.0, -300.0]))
    def jump(self, seconds):
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
    def look(self):
        if not hasattr(self, "h"):
            return
        self.outstanding()
        self.partials()
        assert all(count >= self.minimum for count in self.runtime.reported)
        found = {round_.key: round_ for round_ in self.h.committed()}
        assert self.seen.items() <= found.items()
        for key in found.keys() - self.seen.keys():
            self.committed(found[key])
        self.seen = found

    def partials(self):
        """No shard has a partial of one update alone."""
        for name in self.h.blobs("partials/"):
            if "/rest-" not in name:
                assert int(decode(self.h.inner.blobs.read(name))["count"]) >= 2

    def outstanding(self):
        # Whatever had run out at the latest time known is out, even where the clock has been set back since.
        now = max(self.latest, self.h.clock.now())
        rounds = {out.key for out in self.outs}
        for key in rounds:
            waiting = [out for out in self.outs if out.key == key and not out.used and out.expires > now]
            assert len(waiting) <= self.h.round(key).terms.cap

    def committed(self, round_: Committed):
        key = round_.key
        result = decode(self.h.inner.blobs.read(round_.result.name))
        mask, count = int(result["ids"]), int(result["count"])
        inside = {client for client in range(62) if mask >> client & 1}
        assert len(inside) == count, "somebody was counted twice"
        assert self.must[key] <= inside <= self.sent[key]
        ledger = RoundLedger(replace(self.h.inner, blobs=self.archive.blobs), key)
        frozen = ledger.frozen()
        assert frozen is not None
        counted = [name for rest in frozen.closing.rest for name in rest]
        for shard, number in enumerate(frozen.closing.shards):
            counted += [name for manifest in ledger.manifests(shard)[:number] for name in manifest.updates]
        assert len(counted) == len(set(counted)) == count == frozen.closing.updates == round_.tally.folded
        secret, salt = self.h.app.checkin.pseudonyms.ring.newest.secret, self.archive.salts[key]
        pseudonyms = {names.pseudonym(secret, key, str(client), salt=salt) for client in inside}
        assert {name.rpartition("/")[2] for name in counted} == pseudonyms
        base = decode(self.h.inner.blobs.read(round_.terms.base.blob.name))
        state = self.h.checkpoint(key.number)
        assert int(decode(state)["total"]) == int(base["total"]) + mask
        assert key.number not in self.states, "two commits have one version"
        self.states[key.number] = state


TestLife = Life.TestCase
TestLife.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=list(HealthCheck)
)
