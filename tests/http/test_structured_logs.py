"""Structured logs of functions that are started as Cloud Functions starts them."""

from __future__ import annotations

import io
import json
import logging
import sys
import threading
import warnings
from contextlib import ExitStack
from pathlib import Path

import pytest
from gunicorn.config import LoggerClass
from support import direct
from support.deployed import Function
from support.harness import SECRET

from muster.local.reserved_port import ReservedPort
from muster_coordinator import events
from muster_coordinator.http import structured_logs
from muster_coordinator.http.structured_logs import MAX_MESSAGE, JsonFormatter, note_request, project_of, start

FUNCTIONS = Path(__file__).resolve().parents[2] / "functions"
PYTHON = Path(sys.executable).parent
TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
FIELD = "logging.googleapis.com/"
CLIENT = "hospital-of-nowhere"


@pytest.fixture
def launch(tmp_path):
    """Returns a function that starts `client_api` in the environment of Cloud Functions."""
    root = tmp_path.as_posix()
    settings = {
        "FUNCTION_TARGET": "client_api",
        "FUNCTION_SIGNATURE_TYPE": "http",
        "K_SERVICE": "muster-client-api",
        "K_REVISION": "muster-client-api-00001-abc",
        "LOG_EXECUTION_ID": "true",
        "CLOUD_RUN_TIMEOUT_SECONDS": "60",
        "GOOGLE_CLOUD_PROJECT": "some-project",
        # Neither exists nor can be made, as in a container with a read-only root.
        "HOME": "/proc/no-home",
        "XDG_RUNTIME_DIR": "",
        "MUSTER_STATE": f"sqlite://{root}/state.db",
        "MUSTER_BLOBS": f"file://{root}/blobs",
        "MUSTER_QUEUE": f"local://{root}/queue.db",
        "MUSTER_ROUND_CACHE_SECONDS": "0",
        "MUSTER_SECRET": SECRET.hex(),
    }
    with ExitStack() as stack:

        def launched(**changes):
            function = stack.enter_context(
                Function(
                    "client_api",
                    folder=FUNCTIONS / "client_api",
                    python=PYTHON,
                    settings={**settings, **changes},
                    port=stack.enter_context(ReservedPort()).number,
                    log=tmp_path / "log",
                )
            )
            function.wait()
            return function

        yield launched


def check_in(function, **headers):
    with direct.session() as session:
        return session.post(
            f"{function.url}/v1/populations/phones:checkin", json={"client": CLIENT}, headers=headers, timeout=60
        )


def lines(function):
    """Returns the parsed lines of the process's output, which is nothing but JSON objects."""
    return [json.loads(line) for line in function.log().splitlines()]


def errors(function):
    return [line for line in lines(function) if line["severity"] not in ("INFO", "WARNING")]


def test_failure_is_one_json_line_with_severity_trace_and_traceback(launch, tmp_path):
    function = launch()
    assert check_in(function).status_code == 200
    assert errors(function) == []  # not of gunicorn's start either
    assert any("MUSTER_CLIENTS is open" in line["message"] for line in lines(function))

    for file in tmp_path.glob("state.db*"):
        file.write_bytes(b"no database" * 1000)
    response = check_in(function, **{"X-Cloud-Trace-Context": f"{TRACE}/{int(SPAN, 16)};o=1"})
    assert response.status_code == 500
    (line,) = errors(function)
    assert line["severity"] == "ERROR"
    assert line["message"].startswith(
        "POST /v1/populations/phones:checkin failed\nTraceback (most recent call last):\n"
    )
    assert line["message"].rstrip().rpartition("\n")[2].startswith("muster_coordinator.ports.StoreError: ")
    assert line[f"{FIELD}trace"] == f"projects/some-project/traces/{TRACE}"
    assert line[f"{FIELD}spanId"] == SPAN
    assert line[f"{FIELD}trace_sampled"] is True
    assert line[f"{FIELD}labels"].keys() == {"execution_id"}
    assert CLIENT not in function.log()
    assert "127.0.0.1" not in function.log()


def test_failure_to_build_the_application_is_one_json_line(launch):
    function = launch(MUSTER_SECRET="")
    assert check_in(function, traceparent=f"00-{TRACE}-{SPAN}-00").status_code == 500
    (line,) = errors(function)
    assert (line["severity"], line["logger"]) == ("ERROR", "client_api")  # Flask's logger
    assert "SettingsError: MUSTER_SECRET is not set" in line["message"]
    assert line[f"{FIELD}trace"] == f"projects/some-project/traces/{TRACE}"


def test_lines_of_googles_libraries_have_a_severity(launch):
    """google-api-core warns of Python versions that it will stop supporting, at its import."""
    function = launch(MUSTER_STATE="firestore://some-project/(default)", FIRESTORE_EMULATOR_HOST="127.0.0.1:9")
    assert function.first_request().seconds > 0
    assert errors(function) == []
    for line in lines(function):
        assert line["severity"] == "WARNING"
        assert line["logger"] in ("py.warnings", "muster_coordinator.http.functions")


def test_logs_of_a_function_elsewhere_are_plain_text(launch):
    function = launch(K_SERVICE="", LOG_EXECUTION_ID="")
    assert check_in(function).status_code == 200
    (line,) = [line for line in function.log().splitlines() if "MUSTER_CLIENTS is open" in line]
    assert line.startswith("MUSTER_CLIENTS")
    assert "rror" not in function.log()  # such as of gunicorn's control socket


@pytest.fixture
def written(monkeypatch):
    """Starts structured logs in this process; returns a function that returns the lines so far."""
    root, stream = logging.getLogger(), io.StringIO()
    levels = {logger: logger.level for logger in (root, events.LOG)}
    for target, name in ((logging, "lastResort"), (threading, "excepthook"), (events.LOG, "propagate")):
        monkeypatch.setattr(target, name, getattr(target, name))
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(LoggerClass, "default", LoggerClass.default)
    assert start({"K_SERVICE": "client-api"}, stream=stream)
    yield lambda: [json.loads(line) for line in stream.getvalue().splitlines()]
    logging.captureWarnings(False)
    structured_logs._REQUEST.set({})
    for logger, level in levels.items():
        logger.setLevel(level)


def test_logs_stay_plain_outside_cloud_run():
    handlers = logging.getLogger().handlers[:]
    assert not start({"LOG_EXECUTION_ID": "true"})
    assert logging.getLogger().handlers == handlers


@pytest.mark.parametrize(
    ("level", "severity"),
    [("info", "INFO"), ("warning", "WARNING"), ("error", "ERROR"), ("critical", "CRITICAL")],
)
def test_level_becomes_severity(written, level, severity):
    getattr(logging.getLogger("somewhere"), level)("two\nlines: %s", "ü")
    assert written() == [{"severity": severity, "message": "two\nlines: ü", "logger": "somewhere"}]


def test_text_that_is_not_unicode_is_one_line_of_ascii():
    # Formatted here: pytest-xdist can't send a captured log with a surrogate.
    record = logging.LogRecord("somewhere", logging.ERROR, "", 0, "a\nname: %s", ("\ud800",), None)
    line = JsonFormatter().format(record)
    assert line.isascii()
    assert json.loads(line)["message"] == "a\nname: \ud800"


def test_event_is_one_entry_with_its_fields_and_trace(written):
    headers = {"traceparent": f"00-{TRACE}-{SPAN}-01"}
    note_request(headers, {"K_SERVICE": "x", "MUSTER_QUEUE": "cloudtasks://some-project/europe-west1/work"})
    events.update_refused("update_invalid", at="fold")
    assert written() == [
        {
            "severity": "WARNING",
            "message": "An update was refused at the fold: update_invalid",
            "logger": "muster_coordinator.events",
            "event": "update_refused",
            "problem": "update_invalid",
            "at": "fold",
            f"{FIELD}trace": f"projects/some-project/traces/{TRACE}",
            f"{FIELD}spanId": SPAN,
            f"{FIELD}trace_sampled": True,
        }
    ]


def test_warnings_threads_and_loggers_without_handlers_have_a_severity(written):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(False)
        logging.captureWarnings(True)
        warnings.warn("Python 3.11 ends", FutureWarning, stacklevel=1)

    def fail():
        raise LookupError("planted")

    thread = threading.Thread(target=fail, name="worker-1")
    thread.start()
    thread.join()
    google = logging.getLogger("google_like_library")
    google.propagate = False
    google.warning("retrying")
    warning, failure, library = written()
    assert (warning["severity"], "FutureWarning: Python 3.11 ends" in warning["message"]) == ("WARNING", True)
    assert (failure["severity"], library["severity"]) == ("ERROR", "WARNING")
    assert failure["message"].startswith("Thread worker-1 failed\nTraceback")
    assert failure["message"].endswith("LookupError: planted")


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"X-Cloud-Trace-Context": "hospital-1/1;o=1"},
        {"X-Cloud-Trace-Context": f"{TRACE}/x"},
        {"traceparent": f"00-{TRACE}-{SPAN}"},
        {"traceparent": "forged"},
        {"Function-Execution-Id": "a" * 65},
        {"Function-Execution-Id": "name of a client"},
    ],
)
def test_header_of_another_form_is_not_logged(written, headers):
    note_request(headers, {"K_SERVICE": "x", "GOOGLE_CLOUD_PROJECT": "some-project"})
    logging.getLogger("somewhere").error("failed")
    assert written() == [{"severity": "ERROR", "message": "failed", "logger": "somewhere"}]


def test_span_of_a_cloud_trace_is_optional(written):
    note_request({"X-Cloud-Trace-Context": TRACE}, {"K_SERVICE": "x", "GOOGLE_CLOUD_PROJECT": "some-project"})
    logging.getLogger("somewhere").error("failed")
    (line,) = written()
    assert line[f"{FIELD}trace"] == f"projects/some-project/traces/{TRACE}"
    assert f"{FIELD}spanId" not in line


def test_long_message_fits_one_entry():
    record = logging.LogRecord("x", logging.ERROR, "", 0, "a" + "\0" * 1_000_000 + "z", (), None)
    line = JsonFormatter().format(record)
    assert len(line) < 256_000
    message = json.loads(line)["message"]
    assert (message[0], message[-1]) == ("a", "z")
    assert f"{1_000_002 - MAX_MESSAGE} characters" in message


@pytest.mark.parametrize(
    ("environment", "project"),
    [
        ({"GOOGLE_CLOUD_PROJECT": "a", "MUSTER_QUEUE": "cloudtasks://b/l/q"}, "a"),
        ({"MUSTER_QUEUE": "cloudtasks://b/l/q", "MUSTER_STATE": "firestore://c/d"}, "b"),
        ({"MUSTER_QUEUE": "local:///q.db", "MUSTER_STATE": "firestore://c/d"}, "c"),
        ({"MUSTER_QUEUE": "local:///q.db", "MUSTER_STATE": "sqlite:///x"}, None),
        ({"MUSTER_QUEUE": "cloudtasks://[b"}, None),
    ],
)
def test_project_is_read_from_the_environment(environment, project):
    assert project_of(environment) == project
