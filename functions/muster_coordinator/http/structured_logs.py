"""Logs of a deployed function: one JSON object per line, as Cloud Logging parses it.

Cloud Run and Cloud Functions forward each line on standard output or error to Cloud Logging. A line
of text has no severity, and a traceback becomes as many entries as it has lines. A JSON object with
`severity` and `message` becomes one entry, which the Logs Explorer can filter by severity, Error
Reporting groups by the traceback in `message`, and `logging.googleapis.com/trace` joins to the
entries of the same request. See https://cloud.google.com/logging/docs/structured-logging.

`start` replaces the handlers that functions-framework sets up, which write no severity. It also
covers warnings, uncaught exceptions of threads, loggers without a handler, and gunicorn. It has no
effect outside Cloud Run and Cloud Functions, where logs are plain text.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import threading
from collections.abc import Mapping
from contextlib import suppress
from contextvars import ContextVar
from types import MappingProxyType
from typing import Any, TextIO
from urllib.parse import urlsplit

from werkzeug.datastructures import Headers

from muster_coordinator import events
from muster_coordinator.http import gunicorn_defaults

MAX_MESSAGE = 40_000  # characters; Cloud Logging refuses entries above 256 KB
_PLATFORM = "K_SERVICE"  # variable that Cloud Run and Cloud Functions set
_PROJECT_VARIABLES = ("GOOGLE_CLOUD_PROJECT", "GCP_PROJECT")
_PROJECT_URLS = ("MUSTER_QUEUE", "MUSTER_STATE")  # settings whose URL starts with the project
_Headers = Mapping[str, str] | Headers
_FIELD = "logging.googleapis.com/"
_NO_FIELDS: Mapping[str, Any] = MappingProxyType({})
_REQUEST: ContextVar[Mapping[str, Any]] = ContextVar("fields_of_the_request", default=_NO_FIELDS)
# Clients can send these headers, so only values of the documented form are logged.
_CLOUD_TRACE = re.compile(r"(?P<trace>[0-9a-f]{32})(?:/(?P<span>[0-9]{1,20}))?(?:;o=(?P<sampled>[0-9]+))?")
_TRACEPARENT = re.compile(r"00-(?P<trace>[0-9a-f]{32})-(?P<span>[0-9a-f]{16})-(?P<flags>[0-9a-f]{2})")
_EXECUTION_ID = re.compile(r"[0-9A-Za-z_-]{1,64}")
_MAX_SPAN = 1 << 64


class JsonFormatter(logging.Formatter):
    """Formatter of records as JSON objects, with the fields of the request that is served.

    The message includes the traceback of an exception. An event's fields stand beside the message.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Returns the record's line, without a line break."""
        event: events.Event | None = getattr(record, events.RECORD_ATTRIBUTE, None)
        message = super().format(record) if event is None else event.message
        line = {"severity": _severity(record.levelno), "message": _shortened(message), "logger": record.name}
        return json.dumps({**line, **({} if event is None else event.fields), **_REQUEST.get()}, default=str)


def start(environment: Mapping[str, str], *, stream: TextIO | None = None) -> bool:
    """Starts structured logs if this process is a deployed function.

    Args:
      environment: The environment variables.
      stream: The stream to write to; standard output if None.

    Returns:
      Whether this process is a deployed function.
    """
    if not environment.get(_PLATFORM):
        return False
    # Standard output as it is now: functions-framework replaces `sys.stdout` during a request, with
    # a stream that is not thread-safe.
    handler = logging.StreamHandler(sys.stdout if stream is None else stream)
    formatter = JsonFormatter()
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
    events.propagate()
    logging.lastResort = handler  # Google's loggers have no handler, and do not propagate
    logging.captureWarnings(True)  # among them google-api-core's FutureWarning about old Pythons
    threading.excepthook = _log_thread_exception
    gunicorn_defaults.set_log_format(formatter)
    return True


def note_request(headers: _Headers, environment: Mapping[str, str]) -> None:
    """Adds a request's trace and execution id to the lines that this thread logs from now on.

    The next request of the thread replaces them. A failure that is logged after the request's
    handler has returned, by Flask or gunicorn, therefore has them too.
    """
    if not environment.get(_PLATFORM):
        return
    fields: dict[str, Any] = _trace_fields(headers, project_of(environment))
    execution = headers.get("Function-Execution-Id", "")
    if _EXECUTION_ID.fullmatch(execution):
        fields[f"{_FIELD}labels"] = {"execution_id": execution}
    _REQUEST.set(fields)


def project_of(environment: Mapping[str, str]) -> str | None:
    """Returns the Google Cloud project of this deployment, or None if no variable names it.

    Cloud Functions of the second generation set no variable, so the settings' URLs are used too.
    """
    for variable in _PROJECT_VARIABLES:
        if environment.get(variable):
            return environment[variable]
    for variable in _PROJECT_URLS:
        with suppress(ValueError):
            url = urlsplit(environment.get(variable, ""))
            if url.scheme in ("cloudtasks", "firestore") and url.netloc:
                return url.netloc
    return None


def _trace_fields(headers: _Headers, project: str | None) -> dict[str, Any]:
    """Returns the fields of the trace in `X-Cloud-Trace-Context` or `traceparent`, if any."""
    if project is None:
        return {}
    span: str | None
    if match := _CLOUD_TRACE.fullmatch(headers.get("X-Cloud-Trace-Context", "")):
        number = int(match["span"] or 0)
        span = f"{number:016x}" if 0 < number < _MAX_SPAN else None
        sampled = bool(int(match["sampled"] or 0) & 1)
    elif match := _TRACEPARENT.fullmatch(headers.get("traceparent", "")):
        span, sampled = match["span"], bool(int(match["flags"], 16) & 1)
    else:
        return {}
    fields: dict[str, Any] = {f"{_FIELD}trace": f"projects/{project}/traces/{match['trace']}"}
    if span is not None:
        fields[f"{_FIELD}spanId"] = span
    return {**fields, f"{_FIELD}trace_sampled": sampled}


def _severity(level: int) -> str:
    """Returns the severity of Cloud Logging that a level of `logging` stands for."""
    for least in (logging.CRITICAL, logging.ERROR, logging.WARNING, logging.INFO):
        if level >= least:
            return logging.getLevelName(least)
    return "DEBUG"


def _shortened(message: str) -> str:
    """Returns a message without its middle if it is too long; a traceback's ends matter most."""
    if len(message) <= MAX_MESSAGE:
        return message
    half = MAX_MESSAGE // 2
    return f"{message[:half]}\n… {len(message) - MAX_MESSAGE} characters …\n{message[-half:]}"


def _log_thread_exception(args: threading.ExceptHookArgs) -> None:
    if args.exc_type is SystemExit or args.exc_value is None:
        return
    name = args.thread.name if args.thread is not None else "unknown"
    logging.getLogger(__name__).error(
        "Thread %s failed", name, exc_info=(args.exc_type, args.exc_value, args.exc_traceback)
    )
