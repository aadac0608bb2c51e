"""Parses the Containerfile into the instructions of its stages, and the logs of its images."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]
# Of gunicorn, Python's logging, JSON with a level or severity, and Google's C++ libraries.
_ERROR = re.compile(
    r"\[(ERROR|CRITICAL)\]|^(ERROR|CRITICAL)\b|\"(level|severity)\": *\"(error|critical|alert|emergency)\"|^[EF]\d{4} |"
    r"\bTraceback\b",
    re.IGNORECASE,
)


def stages() -> dict[str, list[tuple[str, str]]]:
    """Returns the instructions of each stage. Those before the first stage have the key ''."""
    lines = [line for line in (ROOT / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    by_stage: dict[str, list[tuple[str, str]]] = {"": []}
    stage = ""
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        keyword, _, arguments = line.partition(" ")
        if keyword == "FROM":
            stage = arguments.partition(" AS ")[2]
            by_stage[stage] = []
        if keyword:
            by_stage[stage].append((keyword, arguments))
    return by_stage


def of(stage: str, keyword: str) -> list[str]:
    """Returns the arguments of each instruction of a stage with this keyword."""
    return [arguments for other, arguments in stages()[stage] if other == keyword]


def variables(stage: str) -> dict[str, str]:
    """Returns the environment variables that a stage sets."""
    return dict(pair.split("=", 1) for rest in of(stage, "ENV") for pair in shlex.split(rest))


def errors(log: str) -> list[str]:
    """Returns the lines of a log at the level error or above, and tracebacks."""
    return [line for line in log.splitlines() if _ERROR.search(line)]
