"""Tests of the recycler, which replaces a process with abandoned graphs after its last request."""

from __future__ import annotations

import threading

from muster_coordinator.http.recycling import WorkerRecycler


class Process:
    """A process that records its end."""

    def __init__(self, *, latest: float = 60.0) -> None:
        self.abandoned = 0
        self.ended = threading.Event()
        self.recycler = WorkerRecycler(
            abandoned=lambda: self.abandoned, end=self.ended.set, latest=latest, answered=0.0
        )


def test_process_without_abandoned_graphs_continues() -> None:
    process = Process()
    with process.recycler.request():
        pass
    assert not [thread for thread in threading.enumerate() if thread.name == "recycle"]
    assert not process.ended.is_set()


def test_process_ends_after_the_last_request_is_answered() -> None:
    process = Process()
    with process.recycler.request():
        with process.recycler.request():
            process.abandoned = 1
        assert not process.ended.is_set()
    assert process.ended.wait(60)


def test_process_ends_although_requests_continue() -> None:
    process = Process(latest=0.01)
    with process.recycler.request():
        with process.recycler.request():
            process.abandoned = 1
        assert process.ended.wait(60)


def test_process_continues_if_the_graph_ends_after_all() -> None:
    process = Process()
    with process.recycler.request():
        with process.recycler.request():
            process.abandoned = 1
        process.abandoned = 0
    for thread in threading.enumerate():
        if thread.name == "recycle":
            thread.join(60)
    assert not process.ended.is_set()
    with process.recycler.request():
        process.abandoned = 1
    assert process.ended.wait(60)
