"""Runs Terraform on copies of infra/terraform, so that nothing is ever written into the tree.

Providers come from where the caller's environment says (`TF_CLI_ARGS_init`, `TF_CLI_CONFIG_FILE`), or else from the registry. Where neither
can be had, tests are skipped by name; with `MUSTER_REQUIRE_TERRAFORM` set they fail instead.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TREE = ROOT / "infra/terraform"
_TIMEOUT = 500  # seconds on a loaded machine; it takes five on a quiet one
_UNREACHABLE = re.compile(
    r"could not connect to registry|Failed to query available provider packages|no such host", re.IGNORECASE
)


@dataclass(frozen=True)
class Finished:
    """What a command came to: its exit code, and its two outputs."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class Verdict:
    """What `terraform test` came to: how many runs passed, and the messages of the assertions that failed, other errors apart."""

    passed: int
    assertions: frozenset[str]
    errors: tuple[str, ...]


def directories() -> list[str]:
    """Every folder with a configuration, relative to infra/terraform; the root is `.`."""
    found = {file.parent.relative_to(TREE) for file in TREE.rglob("versions.tf")}
    return [folder.as_posix() for folder in sorted(found) if ".terraform" not in folder.parts]


def require() -> None:
    """Skips the test where there is no terraform."""
    if shutil.which("terraform") is None:
        missing("terraform is not on the PATH")


def missing(why: str) -> None:
    """Skips the test, or fails it where Terraform is required."""
    if os.environ.get("MUSTER_REQUIRE_TERRAFORM"):
        pytest.fail(f"MUSTER_REQUIRE_TERRAFORM is set, but {why}")
    pytest.skip(why)


def run(*command: str, cwd: Path, timeout: float = _TIMEOUT, **environment: str) -> Finished:
    """Runs a command with neither input nor colours. What it leaves in its temporary folder goes: providers end without tidying up."""
    settings = {"CHECKPOINT_DISABLE": "1", "TF_IN_AUTOMATION": "1", "TF_INPUT": "0", "NO_COLOR": "1", **environment}
    with tempfile.TemporaryDirectory(prefix="muster-", ignore_cleanup_errors=True) as folder:
        done = subprocess.run(  # noqa: S603
            command,
            cwd=cwd,
            env={**os.environ, "TMPDIR": folder, **settings},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
    return Finished(done.returncode, done.stdout, done.stderr)


class Copy:
    """A copy of infra/terraform, whose folders are initialised when they are first used."""

    def __init__(self, place: Path) -> None:
        # The tree lies as deep as in the project, since the root's defaults name other folders of it.
        self.tree = place / "infra/terraform"
        shutil.copytree(TREE, self.tree, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
        self._initialised: set[str] = set()

    def init(self, directory: str) -> Path:
        """The folder, with its providers; skips the test where they can't be had."""
        folder = self.tree / directory
        if directory not in self._initialised:
            done = run("terraform", "init", "-backend=false", "-no-color", cwd=folder)
            if done.code and "TF_CLI_ARGS_init" not in os.environ and _UNREACHABLE.search(done.errors + done.output):
                missing("no Terraform registry is reached, and TF_CLI_ARGS_init names no mirror (-plugin-dir=…)")
            assert done.code == 0, done.errors
            self._initialised.add(directory)
        return folder

    def validate(self, directory: str) -> str:
        """What `terraform validate` has against the folder; empty if nothing, warnings included."""
        done = run("terraform", "validate", "-json", cwd=self.init(directory))
        found = json.loads(done.output)["diagnostics"]
        return "\n".join(f"{each['severity']}: {each['summary']}: {each.get('detail', '')}" for each in found)

    def test(self, directory: str) -> Verdict:
        """Runs the folder's tests."""
        done = run("terraform", "test", "-json", cwd=self.init(directory))
        lines = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
        passed = sum(1 for line in lines if line["type"] == "test_run" and line["test_run"].get("status") == "pass")
        bad = [line["diagnostic"] for line in lines if line["type"] == "diagnostic"]
        bad = [each for each in bad if each["severity"] == "error"]
        return Verdict(
            passed,
            frozenset(each["detail"] for each in bad if each["summary"] == "Test assertion failed"),
            tuple(f"{each['summary']}: {each['detail']}" for each in bad if each["summary"] != "Test assertion failed"),
        )

    def change(self, file: str, pattern: str, replacement: str) -> None:
        """Breaks one place of one file; a pattern that is not there, or there twice, is an error of the test."""
        path = self.tree / file
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
        assert count == 1, f"{pattern!r} is {count} times in {file}"
        path.write_text(text)
