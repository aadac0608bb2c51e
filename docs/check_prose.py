"""Checks the prose of the tree: docstrings, comments, texts for users, and Markdown.

    python docs/check_prose.py [PATH …]

Reports one line for each fault, `file:line: fault`, and exits with 1 if there are any. Without
arguments it checks every tracked file. `make check` and pre-commit run it.

It holds what a program can hold: docstrings that start with a verb or a noun, words that have a
plainer standard term, and lines of Markdown of at most 100 columns. ruff holds the width of
docstrings and comments (W505).
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
MAX_COLUMNS = 100
# Written by tests/benchmarks, or quoted from elsewhere.
GENERATED = ("docs/benchmarks.md", "docs/reference/", "LICENSE")
# Where string literals are texts for users: help, errors and logs.
TEXTS = ("client/", "functions/")
THIS = ("docs/check_prose.py", "tests/unit/test_prose.py")

# The first word of a docstring, and the reason.
BANNED_OPENINGS = {
    "What": "start with a noun or a verb",
    "Whether": 'write "Returns whether …"',
    "How": "start with a noun or a verb",
    "Who": "name the role",
    "Gives": 'write "Returns …" or "Yields …"',
    "Has": "start with what it does",
    "Lets": "start with what it does",
    "Says": 'write "Returns …" or "Reports …"',
    "Tells": 'write "Returns …" or "Reports …"',
    "Knows": "start with what it does",
}
# Patterns of words that have a plainer standard term, and that term.
BANNED_WORDS = {
    r"whoever|nobody|somebody|anybody": "client, caller, operator, no caller",
    r"told|tells": "return, log, report",
    r"came|comes in|has come|have come": "arrive",
    r"looks? at|looks? for|looked at|looked for": "check, poll, read, search",
    r"good no more|no longer good": "expired, revoked",
    r"goes on|go on": "continue, resume",
    r"of ours|of theirs|of its own|of their own": "own, separate",
    r"by way of": "through",
    r"at hand": "available",
    r"(?-i:(?<!there )(?:is|are) none(?! of))": "is not a valid …, or None",
    r"which is what": "a sentence of its own",
    r"so that nobody": "so that no client …",
}
# A line with this comment keeps its words, such as names that are stored or part of JSON output.
EXEMPT = "# prose:"
_WORDS = re.compile("|".join(rf"\b(?:{words})\b" for words in BANNED_WORDS), re.IGNORECASE)
_CODE = re.compile(r"`[^`]*`")


class Fault(NamedTuple):
    """One fault. `line` counts from 1."""

    path: str
    line: int
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line}: {self.text}"


def check_python(path: str, source: str) -> Iterator[Fault]:
    """Yields the faults in the docstrings and comments of a module, and in its texts for users."""
    lines = source.splitlines()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
            docstring = ast.get_docstring(node, clean=False)
            if docstring:
                first = node.body[0].lineno
                yield from _opening(path, first, docstring)
                yield from _words(path, first, docstring)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and path.startswith(TEXTS):
            yield from _words(path, node.lineno, "" if EXEMPT in lines[node.lineno - 1] else node.value)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield from _words(path, token.start[0], token.string)


def check_markdown(path: str, text: str) -> Iterator[Fault]:
    """Yields the faults of a page. Code blocks, tables, headings and bare links may be wider."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("```"):
            fenced = not fenced
        elif not fenced:
            yield from _words(path, number, line)
            if len(line) > MAX_COLUMNS and not _may_be_wide(line):
                yield Fault(path, number, f"{len(line)} columns; wrap prose at {MAX_COLUMNS}")


def _may_be_wide(line: str) -> bool:
    return line.lstrip().startswith(("|", "#", "[", "!", "<")) or " " not in line.strip().lstrip("-* ")


def _opening(path: str, line: int, docstring: str) -> Iterator[Fault]:
    word = docstring.split(maxsplit=1)[0].rstrip(",:;") if docstring.strip() else ""
    if word in BANNED_OPENINGS:
        yield Fault(path, line, f'a docstring starts with "{word}": {BANNED_OPENINGS[word]}')


def _words(path: str, line: int, text: str) -> Iterator[Fault]:
    for offset, row in enumerate(text.splitlines()):
        if EXEMPT in row:
            continue
        for match in _WORDS.finditer(_CODE.sub("", row)):
            yield Fault(path, line + offset, f'"{match[0]}": write {_instead_of(match[0])}')


def _instead_of(word: str) -> str:
    return next(
        term
        for words, term in BANNED_WORDS.items()
        if re.fullmatch(re.sub(r"\(\?<!there \)|\(\?! of\)", "", words), word, re.IGNORECASE)
    )


def check(paths: list[str]) -> list[Fault]:
    """Returns the faults of files, whose paths are relative to the root of the tree."""
    faults: set[Fault] = set()  # a docstring is a string too
    for path in paths:
        if path.startswith(GENERATED) or path in THIS or path.startswith("tests/data/"):
            continue
        if path.endswith(".py"):
            faults.update(check_python(path, (ROOT / path).read_text("utf-8")))
        elif path.endswith(".md"):
            faults.update(check_markdown(path, (ROOT / path).read_text("utf-8")))
    return sorted(faults)


def main(arguments: list[str]) -> int:
    """Prints the faults of the named files, or of all tracked ones. Returns the exit code."""
    if not arguments:
        command = ["/usr/bin/env", "git", "ls-files"]
        listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S603  fixed
        arguments = [path for path in listing.stdout.splitlines() if (ROOT / path).is_file()]
    faults = check([Path(path).as_posix() for path in arguments])
    for fault in faults:
        print(fault)  # noqa: T201
    if faults:
        print(f"{len(faults)} faults. CONTRIBUTING.md says how Muster's prose is written.")  # noqa: T201
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
