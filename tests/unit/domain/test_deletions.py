"""Reservation of a deleted task's name."""

from __future__ import annotations

from muster_coordinator.domain.deletions import (
    CLOCK_SKEW,
    LATE_WRITES_TIME,
    MAX_LATE_ROUNDS,
    SESSION_TIME,
    Deletion,
    LateWrites,
    reservation_seconds,
)

NOW = 1_000_000.0


def late(*rounds: str, at: float = NOW) -> LateWrites:
    return LateWrites("t", "p", rounds, at)


def test_reservation_outlasts_assignments_requests_and_sessions():
    assert reservation_seconds(300.0, sessions=False) == 300.0 + LATE_WRITES_TIME + CLOCK_SKEW
    assert reservation_seconds(300.0, sessions=True) == SESSION_TIME + LATE_WRITES_TIME + CLOCK_SKEW


def test_a_name_is_reserved_until_its_time_and_its_second_purge():
    deletion = Deletion(NOW, late())
    assert deletion.reserves(NOW - 1)
    assert deletion.reserves(NOW + 1)
    purged = deletion.purged()
    assert purged.reserves(NOW - 1)
    assert not purged.reserves(NOW)


def test_extension_merges_attempts_and_makes_no_time_earlier():
    deletion = Deletion(NOW, late("2", "3", at=NOW + 5), documents=1, blobs=2)
    extended = deletion.extended(late("1", "3"), until=NOW - 7, documents=10, blobs=20)
    assert extended == Deletion(NOW, late("1", "2", "3", at=NOW + 5), documents=11, blobs=22)
    assert extended.extended(late(at=NOW + 9), until=NOW + 9).late.purge_at == NOW + 9


def test_the_newest_attempts_are_noted():
    many = [f"{number:06d}-0000" for number in range(MAX_LATE_ROUNDS + 3)]
    assert Deletion(NOW, None).extended(late(*many), until=NOW).late.rounds == tuple(many[3:])
