"""Reserved ports of `HeldPort`."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import ExitStack

import pytest

from muster.local.reserved_port import LOOPBACK, ReservedPort

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="ports can be reserved only on Linux")


@LINUX
def test_only_a_server_with_reuse_addr_gets_a_held_port() -> None:
    with ReservedPort() as held, socket.socket() as connection:
        with pytest.raises(OSError, match="in use"):
            connection.bind((LOOPBACK, held.number))
        for host in (LOOPBACK, "0.0.0.0"):  # noqa: S104
            with socket.create_server((host, held.number)), socket.create_connection((LOOPBACK, held.number)):
                pass
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the closed connections are in TIME_WAIT
        connection.bind((LOOPBACK, held.number))


@LINUX
def test_held_ports_are_distinct() -> None:
    with ExitStack() as stack:
        numbers = [stack.enter_context(ReservedPort()).number for _ in range(50)]
    assert len(set(numbers)) == 50


def test_port_of_a_listening_server_is_refused() -> None:
    with socket.create_server((LOOPBACK, 0)) as server, pytest.raises(OSError, match="in use"):
        ReservedPort(port=server.getsockname()[1])


def test_patience_waits_for_the_listening_server_to_end() -> None:
    server = socket.create_server((LOOPBACK, 0))
    number = server.getsockname()[1]
    ending = threading.Timer(0.1, server.close)
    ending.start()
    with ReservedPort(port=number, patience=30.0) as held:
        assert held.number == number
    ending.join()


def test_close_is_idempotent() -> None:
    with ReservedPort() as held:
        held.close()
