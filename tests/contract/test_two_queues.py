"""The committer's own queue in Cloud Tasks: routing, names, and independence from other work."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc
import pytest
from google.cloud import tasks_v2
from google.cloud.tasks_v2.services.cloud_tasks.transports import CloudTasksGrpcTransport
from support.cloud import ACCOUNT
from support.cloud_tasks_double import CloudTasksDouble
from support.served import Loopback

from muster_coordinator import queued_work
from muster_coordinator.adapters.cloud_tasks import CloudTasksQueue
from muster_coordinator.adapters.system import ManualClock
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.ports import QueueNotFoundError

PREFIX = "projects/muster-test/locations/europe-west1/queues/"
WORK, COMMITS = f"{PREFIX}work", f"{PREFIX}commits"
ROUND = RoundKey("t1", 1, 1)
FOR_AGGREGATOR = [
    queued_work.fold_shard(ROUND, 0),
    queued_work.fold_part(ROUND, "0-1"),
    queued_work.close(ROUND),
    queued_work.sweep(ROUND),
    queued_work.tick(),
]
FOR_COMMITTER = [queued_work.commit(ROUND), queued_work.open_task("t1")]


class SlowedDouble(CloudTasksDouble):
    """Queue that pauses as a whole after a refused delivery.

    Cloud Tasks reduces the rate of a queue whose worker answers 429 or 503; the double exaggerates.
    """

    PAUSE = 60.0  # seconds
    _resume = 0.0

    def _deliver(self, held):
        arrived = super()._deliver(held)
        if not arrived:
            self._resume = self._clock.now() + self.PAUSE
        return arrived

    def _take(self):
        return None if self._clock.now() < self._resume else super()._take()


class Service:
    """Endpoint of Cloud Tasks with several queues, each of which is a double."""

    def __init__(self, doubles):
        self._clients = {
            double.queue: tasks_v2.CloudTasksClient(
                transport=CloudTasksGrpcTransport(channel=grpc.insecure_channel(double.address))
            )
            for double in doubles
        }
        self._server = grpc.server(ThreadPoolExecutor(4))
        method = grpc.unary_unary_rpc_method_handler(
            self._create,
            request_deserializer=tasks_v2.CreateTaskRequest.deserialize,
            response_serializer=tasks_v2.Task.serialize,
        )
        service = grpc.method_handlers_generic_handler("google.cloud.tasks.v2.CloudTasks", {"CreateTask": method})
        self._server.add_generic_rpc_handlers((service,))
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"

    def _create(self, request, context):
        if request.parent not in self._clients:
            context.abort(grpc.StatusCode.NOT_FOUND, "Requested entity was not found.")
        try:
            return self._clients[request.parent].create_task(request=request, retry=None, timeout=20)
        except Exception as error:  # noqa: BLE001  any error of the double's
            context.abort(error.grpc_status_code, error.message)

    def __enter__(self):
        self._server.start()
        return self

    def __exit__(self, *_):
        self._server.stop(None).wait()
        for client in self._clients.values():
            client.transport.close()


class Functions(Loopback):
    """Server of the functions: `statuses` by function, and the paths that it has `accepted`."""

    def __init__(self):
        self.statuses, self.accepted = {}, []
        functions = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                self.rfile.read(int(self.headers["Content-Length"]))
                status = functions.statuses.get(self.path.split("/")[1], 204)
                if status < 300:
                    functions.accepted.append(self.path)
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        super().__init__(ThreadingHTTPServer(("127.0.0.1", 0), Handler))


@contextmanager
def cloud_tasks(issuer, *existing, commits="commits", double=CloudTasksDouble):
    """Yields a queue, its doubles by name, its functions and its clock."""
    clock = ManualClock(1e6)
    with ExitStack() as stack:
        functions = stack.enter_context(Functions())
        doubles = [stack.enter_context(double(name, clock=clock, issuer=issuer)) for name in existing]
        service = stack.enter_context(Service(doubles))
        queue = CloudTasksQueue(
            "muster-test",
            "europe-west1",
            "work",
            targets={name: f"{functions.url}/{name}" for name in ("aggregator", "committer")},
            account=ACCOUNT,
            clock=clock,
            queues={"committer": commits} if commits else None,
            endpoint=service.address,
        )
        stack.callback(queue.close)
        yield queue, {double.queue: double for double in doubles}, functions, clock


def held(double):
    return [json.loads(entry.task.http_request.body) for entry in double._held]


def test_work_of_the_committer_goes_to_its_queue(issuer):
    with cloud_tasks(issuer, WORK, COMMITS) as (queue, doubles, _, _):
        for number, work in enumerate([*FOR_AGGREGATOR, *FOR_COMMITTER]):
            queue.enqueue(work, name=str(number))
        assert held(doubles[WORK]) == [dict(work.payload) for work in FOR_AGGREGATOR]
        assert held(doubles[COMMITS]) == [dict(work.payload) for work in FOR_COMMITTER]


def test_all_work_goes_to_one_queue_without_a_second(issuer):
    with cloud_tasks(issuer, WORK, commits=None) as (queue, doubles, functions, _):
        for number, work in enumerate([*FOR_AGGREGATOR, *FOR_COMMITTER]):
            queue.enqueue(work, name=str(number))
        assert doubles[WORK].drain() == len(FOR_AGGREGATOR) + len(FOR_COMMITTER)
        assert "/committer/internal/commit" in functions.accepted


def test_ids_of_tasks_do_not_depend_on_the_queue(issuer):
    ids = []
    for commits in (None, "commits"):
        with cloud_tasks(issuer, WORK, COMMITS, commits=commits) as (queue, doubles, _, _):
            queue.enqueue(queued_work.commit(ROUND), name="commit-t1-1")
            (task,) = (entry.task for double in doubles.values() for entry in double._held)
            ids.append(task.name.rpartition("/")[2])
    # The id that earlier versions give it, so that a repeat during an upgrade is recognized.
    assert ids == ["3260c72931524b3c-commit-t1-1"] * 2


def test_repeat_is_dropped_in_each_queue(issuer):
    with cloud_tasks(issuer, WORK, COMMITS) as (queue, doubles, functions, _):
        for _ in range(2):
            queue.enqueue(queued_work.commit(ROUND), name="commit")
            queue.enqueue(queued_work.close(ROUND), name="close")
        assert [double.drain() for double in doubles.values()] == [1, 1]
        assert sorted(functions.accepted) == ["/aggregator/internal/close", "/committer/internal/commit"]


def test_work_enqueued_before_the_second_queue_is_still_delivered(issuer):
    with cloud_tasks(issuer, WORK, COMMITS, commits=None) as (before, doubles, functions, _):
        before.enqueue(queued_work.commit(ROUND), name="commit")
        assert doubles[WORK].drain() == 1
        assert functions.accepted == ["/committer/internal/commit"]


@pytest.mark.parametrize("status", [429, 503])
@pytest.mark.parametrize(("commits", "delayed"), [(None, True), ("commits", False)])
def test_full_committer_delays_folds_only_in_a_shared_queue(issuer, status, commits, delayed):
    with cloud_tasks(issuer, WORK, COMMITS, commits=commits, double=SlowedDouble) as (queue, doubles, functions, clock):
        functions.statuses["committer"] = status
        queue.enqueue(queued_work.commit(ROUND), name="commit")
        for double in doubles.values():
            double.drain()
        queue.enqueue(queued_work.fold_shard(ROUND, 0), name="fold")
        for double in doubles.values():
            double.drain()
        assert (functions.accepted == []) == delayed
        functions.statuses.clear()
        clock.advance(SlowedDouble.PAUSE)
        for double in doubles.values():
            double.drain()
        assert sorted(functions.accepted) == ["/aggregator/internal/fold", "/committer/internal/commit"]


def test_missing_second_queue_is_reported_by_its_name(issuer):
    with cloud_tasks(issuer, WORK) as (queue, doubles, _, _):
        queue.enqueue(queued_work.close(ROUND), name="close")
        with pytest.raises(QueueNotFoundError, match=r"queues/commits: commit: 404 .* 30 days without use"):
            queue.enqueue(queued_work.commit(ROUND), name="commit")
        assert len(doubles[WORK]) == 1
