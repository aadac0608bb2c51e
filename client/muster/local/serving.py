"""The processes behind `muster up`, one for each role: `python -m muster.local.serving web|committer|pump …`.

Each serves or feeds the very functions that are deployed, by way of functions-framework, and ends when its standard input does:
the supervisor (`muster.local.coordinator`) holds the other end, so no process outlives it, however it ends. Needs `muster-fl[server]`;
runs where gunicorn does, which is not on Windows.
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
_GRACE = 5  # seconds for requests under way when a process is told to end
_IDLE = 120  # seconds that a client's connection is kept open for its next request
# A commit holds a thread of the pump and one of the committer while its plan runs. Endless plans must not take all
# threads.
_COMMITTER_THREADS = 32
_SHARES = {"committer": _COMMITTER_THREADS, "aggregator": 16}  # deliveries at once
_STARTING = 300  # seconds until a worker that does not come up is replaced; a cold TensorFlow takes its time

Wsgi = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


def functions_folder() -> Path:
    """Where the functions' sources are: inside the installed package, or beside it in a checkout.

    Raises:
      FileNotFoundError: in neither place.
    """
    package = Path(muster.__file__).resolve().parent
    for folder in (package / "_functions", package.parent.parent / "functions"):
        if (folder / "client_api").is_dir():
            return folder
    raise FileNotFoundError(
        f"The coordinator's functions are missing beside {package}: install muster-fl[server] again"
    )


def web_app(internal_port: int) -> Wsgi:
    """Three of the functions at one address, as functions-framework makes them.

    Args:
      internal_port: `/internal/` is served at this port alone, which listens on the loopback interface; it is not for clients.
    """
    from muster_coordinator.http import owner

    apps = {name: _function(name) for name in WEB}

    def serve(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        name = owner(environ["REQUEST_METHOD"], path)
        barred = path.startswith("/internal/") and environ["SERVER_PORT"] != str(internal_port)
        # What may not be served here goes to a function that has no such route, and so answers like for any other wrong path.
        return apps["operator_api" if barred or name not in apps else name](environ, start_response)

    return serve


def _function(name: str) -> Wsgi:
    from functions_framework import create_app

    app: Wsgi = create_app(target=name, source=str(functions_folder() / name / "main.py"), signature_type="http")
    return app


def _committer(*, warm: bool) -> Wsgi:
    """The committer; `warm`: with TensorFlow loaded, so that the first commit does not wait for that."""
    if warm:
        import tensorflow as tf  # noqa: F401  loading it is all

    return _function("committer")


def serve(
    make: Callable[[], Wsgi], *, addresses: Sequence[str], workers: int, threads: int, patience: Optional[float] = None
) -> None:
    """Serves an application with gunicorn until SIGTERM.

    Args:
      make: Makes the application, once in each worker process.
      addresses: Where it listens, each as `host:port`.
      workers: How many processes.
      threads: How many requests each serves at once.
      patience: Seconds for which a client may let a thread wait (`muster.local.slow_clients`); None: as that module says.
    """
    from gunicorn.app.base import BaseApplication

    options: dict[str, Any] = {
        "bind": list(addresses),
        "workers": workers,
        "worker_class": "muster.local.slow_clients.DeadlineWorker",
        "threads": threads,
        "timeout": _STARTING,
        "graceful_timeout": _GRACE,
        "keepalive": _IDLE,
        "loglevel": "warning",
        "control_socket_disable": True,
    }
    if Path("/dev/shm").is_dir():  # noqa: S108  gunicorn's own advice: a heartbeat must not wait for a disk
        options["worker_tmp_dir"] = "/dev/shm"  # noqa: S108

    class Application(BaseApplication):  # type: ignore[misc, unused-ignore]  # gunicorn has no types
        def load_config(self) -> None:
            for name, value in options.items():
                if name in self.cfg.settings:  # not every version has every one
                    self.cfg.set(name, value)

        def load(self) -> Wsgi:
            return make()

    if patience is not None:
        from muster.local.slow_clients import DeadlineWorker

        DeadlineWorker.seconds = patience  # the workers are forks of this process
    Application().run()


def pump(queue: Path, targets: Mapping[str, str], *, tick_seconds: float) -> None:
    """Delivers the queue's work, and a tick every `tick_seconds`, until SIGTERM.

    Args:
      queue: The queue's file.
      targets: The base address of each function.
      tick_seconds: From one tick to the next.
    """
    from muster_coordinator import queued_work
    from muster_coordinator.adapters.local_queue import Delivery, HttpDelivery, LocalQueue, Pump
    from muster_coordinator.adapters.system import SystemClock, SystemRandomness

    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stop.set())
    deliver = HttpDelivery(targets)

    def tick() -> None:
        while not stop.wait(tick_seconds):
            # Not by way of the queue: ticks that nobody takes must not pile up.
            deliver(Delivery(queued_work.tick(), "tick", attempt=1, row=0))

    threading.Thread(target=tick, name="tick", daemon=True).start()
    work_queue = LocalQueue(queue, clock=SystemClock())
    Pump(work_queue, deliver, randomness=SystemRandomness(), threads=sum(_SHARES.values()), shares=_SHARES).run(stop)


def end_with_parent() -> None:
    """Has this process get SIGTERM when its standard input ends, which is when the process that started it has."""

    def watch() -> None:
        while os.read(0, 1024):
            pass
        _LOG.warning("The supervisor is gone; ending")
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="parent", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs one role."""
    parser = argparse.ArgumentParser(prog="muster.local.serving", description="One process of `muster up`.")
    roles = parser.add_subparsers(dest="role", required=True)
    web = roles.add_parser("web")
    web.add_argument("--address", required=True)
    web.add_argument("--internal-port", type=int, required=True)
    web.add_argument("--workers", type=int, required=True)
    web.add_argument("--threads", type=int, required=True)
    web.add_argument("--patience", type=float)
    committer = roles.add_parser("committer")
    committer.add_argument("--port", type=int, required=True)
    committer.add_argument("--warm", action="store_true")
    pumping = roles.add_parser("pump")
    pumping.add_argument("--queue", type=Path, required=True)
    pumping.add_argument("--aggregator", required=True)
    pumping.add_argument("--committer", required=True)
    pumping.add_argument("--tick", type=float, required=True)
    given = parser.parse_args(arguments)
    os.umask(0o077)  # updates, states and queue must be readable only by the account that runs the coordinator
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
    end_with_parent()
    if given.role == "web":
        addresses = [given.address, f"127.0.0.1:{given.internal_port}"]
        serve(
            lambda: web_app(given.internal_port),
            addresses=addresses,
            workers=given.workers,
            threads=given.threads,
            patience=given.patience,
        )
    elif given.role == "committer":
        serve(
            lambda: _committer(warm=given.warm),
            addresses=[f"127.0.0.1:{given.port}"],
            workers=1,
            threads=_COMMITTER_THREADS,
        )
    else:
        targets = {"aggregator": given.aggregator, "committer": given.committer}
        pump(given.queue, targets, tick_seconds=given.tick)


if __name__ == "__main__":
    main()
