"""Ports that are held until a process listens on them."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import ExitStack

import pytest

from muster.local.held_port import LOOPBACK, HeldPort

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="ports are held on Linux alone")


@LINUX
def test_a_held_port_is_given_to_nobody_and_a_server_listens_on_it_all_the_same() -> None:
    with HeldPort() as held, socket.socket() as connection:
        with pytest.raises(OSError, match="in use"):
            connection.bind((LOOPBACK, held.number))
        for host in (LOOPBACK, "0.0.0.0"):  # noqa: S104
            with socket.create_server((host, held.number)), socket.create_connection((LOOPBACK, held.number)):
                pass
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # what was accepted above lingers
        connection.bind((LOOPBACK, held.number))


@LINUX
def test_many_at_once_differ() -> None:
    with ExitStack() as stack:
        numbers = [stack.enter_context(HeldPort()).number for _ in range(50)]
    assert len(set(numbers)) == 50


def test_refuses_a_port_that_somebody_listens_on() -> None:
    with socket.create_server((LOOPBACK, 0)) as server, pytest.raises(OSError, match="in use"):
        HeldPort(port=server.getsockname()[1])


def test_waits_for_those_who_listen_to_end() -> None:
    server = socket.create_server((LOOPBACK, 0))
    number = server.getsockname()[1]
    ending = threading.Timer(0.1, server.close)
    ending.start()
    with HeldPort(port=number, patience=30.0) as held:
        assert held.number == number
    ending.join()


def test_closes_more_than_once() -> None:
    with HeldPort() as held:
        held.close()
