"""A socket that waits so long and no longer, for a request to come and for an answer to be taken."""

from __future__ import annotations

import socket

import pytest

from muster.local.slow_clients import DeadlineSocket, SlowClientError


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


def test_waits_are_added_up_and_bytes_buy_time(pair):
    ours, theirs = pair
    now = [0.0]
    # Each call to the clock moves it on by two seconds: a wait of two seconds for each piece.
    patient = DeadlineSocket(ours, seconds=5, pace=100, clock=lambda: now.__setitem__(0, now[0] + 2) or now[0])
    for size in (1, 400, 1, 1, 1):  # 3.01 left; 5.01; 3.02; 1.03; -0.96
        theirs.sendall(b"x" * size)
        assert len(patient.recv(1000)) == size
    theirs.sendall(b"x")
    with pytest.raises(SlowClientError):
        patient.recv(1)
    patient.begin()
    assert patient.recv(1) == b"x"


def test_silence_is_not_waited_for_longer(pair):
    with pytest.raises(SlowClientError):
        DeadlineSocket(pair[0], seconds=0.05).recv(1)
    assert pair[0].gettimeout() is None  # as it was


def test_an_answer_that_nobody_takes_is_given_up(pair):
    with pytest.raises(SlowClientError):
        DeadlineSocket(pair[0], answer_seconds=0.05).sendall(b"x" * (8 << 20))


def test_a_shorter_time_of_somebody_elses_keeps_its_own_error(pair):
    patient = DeadlineSocket(pair[0], seconds=5)
    patient.settimeout(0.05)
    with pytest.raises(TimeoutError):
        patient.recv(1)
    patient.setblocking(False)
    with pytest.raises(BlockingIOError):
        patient.recv(1)
