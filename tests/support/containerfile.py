"""The Containerfile, read: the instructions of its stages."""

from __future__ import annotations

import shlex
from pathlib import Path

ROOT = Path(__file__).parents[2]


def stages() -> dict[str, list[tuple[str, str]]]:
    """The instructions of each stage, with those before the first under ''."""
    lines = [line for line in (ROOT / "Containerfile").read_text().splitlines() if not line.startswith("#")]
    found: dict[str, list[tuple[str, str]]] = {"": []}
    stage = ""
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        word, _, rest = line.partition(" ")
        if word == "FROM":
            stage = rest.partition(" AS ")[2]
            found[stage] = []
        if word:
            found[stage].append((word, rest))
    return found


def of(stage: str, word: str) -> list[str]:
    """What stands behind a word, for each time that a stage has it."""
    return [rest for found, rest in stages()[stage] if found == word]


def variables(stage: str) -> dict[str, str]:
    """The environment that a stage sets."""
    return dict(pair.split("=", 1) for rest in of(stage, "ENV") for pair in shlex.split(rest))
