"""Processes of `muster up`: `python -m muster.local.serving web|committer|pump …`.

`web` and `committer` serve the deployed functions with functions-framework and gunicorn; `pump`
delivers queued work to them. Each process ends when its standard input closes: the supervisor
(`muster.local.coordinator`) holds the other end, so that no process outlives it. Needs
`muster-fl[server]`, and a system on which gunicorn runs, that is, not Windows.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Callable, Optional

import muster

WEB = ("client_api", "operator_api", "aggregator")
_LOG = logging.getLogger(__name__)
_GRACE_SECONDS = 5  # for requests in progress after SIGTERM
_IDLE_SECONDS = 120  # until an idle connection is closed
# A commit holds a thread of the pump and one of the committer while its plan runs. Endless plans
# must not take all threads.
_COMMITTER_THREADS = 32
_MAX_DELIVERIES = {"committer": _COMMITTER_THREADS, "aggregator": 16}  # concurrent deliveries
_WORKER_START_SECONDS = 300  # until a worker that does not start is replaced; TensorFlow loads slowly

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def functions_folder() -> Path:
    """Returns the folder of the functions' entry points, in the installed package or in a checkout.

    Raises:
      FileNotFoundError: neither has them.
    """
    package = Path(muster.__file__).resolve().parent
    for folder in (package / "_functions", package.parent.parent / "functions"):
        if (folder / "client_api").is_dir():
            return folder
    raise FileNotFoundError(f"The coordinator's functions are missing beside {package}: reinstall muster-fl[server]")


def web_app(internal_port: int) -> Wsgi:
    """Returns client_api, operator_api and aggregator as one application.

    Args:
      internal_port: The only port that serves `/internal/`, on the loopback interface.
    """
    from muster_coordinator.http import function_for

    apps = {name: _function(name) for name in WEB}

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        name = function_for(environ["REQUEST_METHOD"], path)
        barred = path.startswith("/internal/") and environ["SERVER_PORT"] != str(internal_port)
        # A barred path goes to a function without that route, which answers 404 as for any unknown
        # path.
        return apps["operator_api" if barred or name not in apps else name](environ, start_response)

    return serve


def _function(name: str) -> Wsgi:
    from functions_framework import create_app

    app: Wsgi = create_app(target=name, source=str(functions_folder() / name / "main.py"), signature_type="http")
    return app


def _committer(*, warm: bool) -> Wsgi:
    """Returns the committer; `warm` loads TensorFlow first, so that no commit waits for it."""
    if warm:
        import tensorflow as tf  # noqa: F401  loaded before the first commit

    return _function("committer")


def serve(
    make: Callable[[], Wsgi], *, addresses: Sequence[str], workers: int, threads: int, patience: Optional[float] = None
) -> None:
    """Serves an application with gunicorn until SIGTERM.

    Args:
      make: Returns the application; called once in each worker process.
      addresses: The addresses to listen on: `host:port`, or `fd://N` for an inherited socket.
      workers: Worker processes.
      threads: Concurrent requests of each worker.
      patience: Seconds that a thread may wait for a client's bytes; None: the default of
        `muster.local.slow_clients`.
    """
    from gunicorn.app.base import BaseApplication

    options: dict[str, Any] = {
        "bind": list(addresses),
        "workers": workers,
        "worker_class": "muster.local.slow_clients.DeadlineWorker",
        "threads": threads,
        "timeout": _WORKER_START_SECONDS,
        "graceful_timeout": _GRACE_SECONDS,
        "keepalive": _IDLE_SECONDS,
        "loglevel": "warning",
        "control_socket_disable": True,
    }
    if Path("/dev/shm").is_dir():  # noqa: S108  gunicorn's own advice: a heartbeat must not wait for a disk
        options["worker_tmp_dir"] = "/dev/shm"  # noqa: S108

    class Application(BaseApplication):  # type: ignore[misc, unused-ignore]  # gunicorn has no types
        def load_config(self) -> None:
            for name, value in options.items():
                if name in self.cfg.settings:  # older versions lack some settings
                    self.cfg.set(name, value)

        def load(self) -> Wsgi:
            return make()

    if patience is not None:
        from muster.local.slow_clients import DeadlineWorker

        DeadlineWorker.seconds = patience  # the workers are forks of this process
    Application().run()


def pump(queue: Path, targets: Mapping[str, str], *, tick_seconds: float) -> None:
    """Delivers the queue's work and periodic ticks until SIGTERM.

    Args:
      queue: The queue's file.
      targets: The base address of each function.
      tick_seconds: Seconds between two ticks.
    """
    from muster_coordinator import queued_work
    from muster_coordinator.adapters.local_queue import Delivery, HttpDelivery, LocalQueue, Pump
    from muster_coordinator.adapters.system import SystemClock, SystemRandomness

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    deliver = HttpDelivery(targets)

    def tick() -> None:
        while not stop.wait(tick_seconds):
            # Delivered without the queue, where undelivered ticks would pile up.
            deliver(Delivery(queued_work.tick(), "tick", attempt=1, row=0))

    threading.Thread(target=tick, name="tick", daemon=True).start()
    work_queue = LocalQueue(queue, clock=SystemClock())
    Pump(
        work_queue,
        deliver,
        randomness=SystemRandomness(),
        threads=sum(_MAX_DELIVERIES.values()),
        shares=_MAX_DELIVERIES,
    ).run(stop)


def end_with_parent() -> None:
    """Sends this process SIGTERM when stdin closes, that is, when its parent exits."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        _LOG.warning("The supervisor has ended; this process ends too")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the role that the command line names."""
    parser = argparse.ArgumentParser(prog="muster.local.serving", description="One process of `muster up`.")
    roles = parser.add_subparsers(dest="role", required=True)
    web = roles.add_parser("web")
    web.add_argument("--address", required=True)
    web.add_argument("--internal-port", type=int, required=True)
    web.add_argument("--internal-address", help="an inherited socket, fd://N; by default listens on loopback")
    web.add_argument("--workers", type=int, required=True)
    web.add_argument("--threads", type=int, required=True)
    web.add_argument("--patience", type=float)
    committer = roles.add_parser("committer")
    committer.add_argument("--address", required=True)
    committer.add_argument("--warm", action="store_true")
    pump_role = roles.add_parser("pump")
    pump_role.add_argument("--queue", type=Path, required=True)
    pump_role.add_argument("--aggregator", required=True)
    pump_role.add_argument("--committer", required=True)
    pump_role.add_argument("--tick", type=float, required=True)
    options = parser.parse_args(arguments)
    os.umask(0o077)  # updates, states and queue must be readable by their owner only
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    end_with_parent()
    if options.role == "web":
        addresses = [options.address, options.internal_address or f"127.0.0.1:{options.internal_port}"]
        serve(
            lambda: web_app(options.internal_port),
            addresses=addresses,
            workers=options.workers,
            threads=options.threads,
            patience=options.patience,
        )
    elif options.role == "committer":
        serve(
            lambda: _committer(warm=options.warm),
            addresses=[options.address],
            workers=1,
            threads=_COMMITTER_THREADS,
        )
    else:
        targets = {"aggregator": options.aggregator, "committer": options.committer}
        pump(options.queue, targets, tick_seconds=options.tick)


if __name__ == "__main__":
    main()
