"""Listening sockets of `muster up`."""

from __future__ import annotations

import socket
import threading

import pytest

from muster.local.listening import LOOPBACK, listen, port_of


def test_socket_accepts_connections_into_its_backlog() -> None:
    with listen() as listener, socket.create_connection((LOOPBACK, port_of(listener))) as connection:
        assert connection.getpeername() == (LOOPBACK, port_of(listener))


def test_taken_port_is_refused() -> None:
    with listen() as first, pytest.raises(OSError, match="in use"):
        listen(port=port_of(first))


def test_waits_for_a_taken_port() -> None:
    first = listen()
    port = port_of(first)
    ending = threading.Timer(0.1, first.close)
    ending.start()
    with listen(port=port, wait_seconds=30.0) as second:
        assert port_of(second) == port
    ending.join()


def test_unusable_address_fails_without_a_wait() -> None:
    with pytest.raises(OSError, match="assign requested address"):
        listen("192.0.2.1", wait_seconds=600.0)
