"""Ports that are reserved until a process listens on them."""

from __future__ import annotations

import socket
import sys
import threading
from contextlib import ExitStack

import pytest

from muster.local.held_port import LOOPBACK, HeldPort

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="ports are reserved on Linux only")


@LINUX
def test_server_listens_on_a_reserved_port_that_others_do_not_get() -> None:
    with HeldPort() as held, socket.socket() as connection:
        with pytest.raises(OSError, match="in use"):
            connection.bind((LOOPBACK, held.number))
        for host in (LOOPBACK, "0.0.0.0"):  # noqa: S104
            with socket.create_server((host, held.number)), socket.create_connection((LOOPBACK, held.number)):
                pass
    with socket.socket() as connection:
        # The accepted connections linger
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind((LOOPBACK, held.number))


@LINUX
def test_concurrent_reservations_differ() -> None:
    with ExitStack() as stack:
        numbers = [stack.enter_context(HeldPort()).number for _ in range(50)]
    assert len(set(numbers)) == 50


def test_reserving_a_port_in_use_fails() -> None:
    with socket.create_server((LOOPBACK, 0)) as server, pytest.raises(OSError, match="in use"):
        HeldPort(port=server.getsockname()[1])


def test_reservation_waits_for_the_port_to_be_released() -> None:
    server = socket.create_server((LOOPBACK, 0))
    number = server.getsockname()[1]
    ending = threading.Timer(0.1, server.close)
    ending.start()
    with HeldPort(port=number, patience=30.0) as held:
        assert held.number == number
    ending.join()


def test_close_is_idempotent() -> None:
    with HeldPort() as held:
        held.close()
