"""Runs Terraform on copies of infra/terraform, so the tree itself stays unchanged.

The environment chooses the source of providers (`TF_CLI_ARGS_init`, `TF_CLI_CONFIG_FILE`); the
default is the registry. Without providers, tests are skipped, or fail if `MUSTER_REQUIRE_TERRAFORM`
is set.

`STUB_ENUMS` names a file with the allowed values of attributes, by resource type. The offline
mirror's provider reads it and reports other values, as the real provider does from its own lists.
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
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
TREE = ROOT / "infra/terraform"
ENUMS = ROOT / "tests/data/google/enums.json"
_TIMEOUT = 500  # seconds, for a loaded machine; an idle one takes five
_ASSERTION = "Test assertion failed"
_UNREACHABLE = re.compile(
    r"could not connect to registry|Failed to query available provider packages|no such host", re.IGNORECASE
)

# Values that only Google knows, and that the configuration takes apart.
_COMPUTED = """
  mock_data "google_project" {
    defaults = { number = "123456789012" }
  }
  mock_data "google_iam_policy" {
    defaults = { policy_data = "{}" }
  }
  mock_resource "google_certificate_manager_dns_authorization" {
    defaults = { dns_resource_record = [{ name = "_acme-challenge.example.org.", type = "CNAME", data = "a.goog." }] }
  }
"""


@dataclass(frozen=True)
class Finished:
    """Result of a command: its exit code, standard output and standard error."""

    code: int
    output: str
    errors: str


@dataclass(frozen=True)
class Verdict:
    """Result of `terraform test`.

    Attributes:
      passed: The number of runs that passed.
      assertions: The messages of failed assertions.
      errors: All other errors.
    """

    passed: int
    assertions: frozenset[str]
    errors: tuple[str, ...]


def directories() -> list[str]:
    """Returns every folder with a configuration, relative to infra/terraform. The root is `.`."""
    folders = {file.parent.relative_to(TREE) for file in TREE.rglob("versions.tf")}
    return [folder.as_posix() for folder in sorted(folders) if ".terraform" not in folder.parts]


def require() -> None:
    """Skips the test if Terraform is not installed."""
    if shutil.which("terraform") is None:
        missing("terraform is not on the PATH")


def missing(why: str) -> None:
    """Skips the test, or fails it if Terraform is required."""
    if os.environ.get("MUSTER_REQUIRE_TERRAFORM"):
        pytest.fail(f"MUSTER_REQUIRE_TERRAFORM is set, but {why}")
    pytest.skip(why)


def run(*command: str, cwd: Path, timeout: float = _TIMEOUT, **environment: str) -> Finished:
    """Runs a command without input and colors, and deletes its temporary files."""
    settings = {
        "CHECKPOINT_DISABLE": "1",
        "TF_IN_AUTOMATION": "1",
        "TF_INPUT": "0",
        "NO_COLOR": "1",
        "STUB_ENUMS": str(ENUMS),
    }
    settings |= environment
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


def _mock(provider: str) -> str:
    """Returns a mock of a provider."""
    return f'mock_provider "{provider}" {{\n{_COMPUTED if provider == "google" else ""}}}'


class Copy:
    """Copy of infra/terraform, whose folders are initialized at their first use."""

    def __init__(self, place: Path) -> None:
        # The copy has the same depth as in the project, since defaults of the root name other
        # folders by relative path.
        self.tree = place / "infra/terraform"
        shutil.copytree(TREE, self.tree, ignore=shutil.ignore_patterns(".terraform*", "*.tfstate*"))
        self._initialized: set[str] = set()

    def init(self, directory: str) -> Path:
        """Returns the folder, initialized. Skips the test if its providers are unavailable."""
        folder = self.tree / directory
        if directory not in self._initialized:
            done = run("terraform", "init", "-backend=false", "-no-color", cwd=folder)
            if done.code and "TF_CLI_ARGS_init" not in os.environ and _UNREACHABLE.search(done.errors + done.output):
                missing("no Terraform registry can be reached, and TF_CLI_ARGS_init names no mirror (-plugin-dir=…)")
            assert done.code == 0, done.errors
            self._initialized.add(directory)
        return folder

    def validate(self, directory: str) -> str:
        """Returns the errors and warnings of `terraform validate`, or an empty text."""
        done = run("terraform", "validate", "-json", cwd=self.init(directory))
        diagnostics = json.loads(done.output)["diagnostics"]
        return "\n".join(
            f"{item['severity']}: {item.get('address', '')}: {item['summary']}: {item.get('detail', '')}"
            for item in diagnostics
        )

    def test(self, directory: str, file: str | None = None) -> Verdict:
        """Runs the folder's tests, or those of one file in its folder `tests`."""
        options = () if file is None else (f"-filter=tests/{file}",)
        done = run("terraform", "test", "-json", *options, cwd=self.init(directory))
        lines = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
        passed = sum(1 for line in lines if line["type"] == "test_run" and line["test_run"].get("status") == "pass")
        diagnostics = [line["diagnostic"] for line in lines if line["type"] == "diagnostic"]
        errors = [item for item in diagnostics if item["severity"] == "error"]
        return Verdict(
            passed,
            frozenset(error["detail"] for error in errors if error["summary"] == _ASSERTION),
            tuple(f"{error['summary']}: {error['detail']}" for error in errors if error["summary"] != _ASSERTION),
        )

    def plans(self, directory: str, test: str, **variables: object) -> dict[str, dict[str, Any]]:
        """Returns the plans that the runs of a test make, in JSON, by the run's name.

        Args:
          directory: The folder, relative to infra/terraform.
          test: The text of a test file, without the mocks of providers.
          variables: Values of the folder's variables.
        """
        # Defaults of the root name the bundles that `make bundle` writes.
        shutil.copytree(TREE / "tests/bundles", self.tree.parents[1] / "dist/bundles", dirs_exist_ok=True)
        folder = self.tree / directory
        file = folder / "tests/plans.tftest.hcl"
        file.parent.mkdir(exist_ok=True)
        file.write_text(test)
        (folder / "plans.json").write_text(json.dumps(variables))
        # The file may name modules.
        self._initialized.discard(directory)
        self.init(directory)
        providers = sorted(path.name for path in folder.glob(".terraform/providers/*/hashicorp/*"))
        file.write_text("\n".join([*map(_mock, providers), test]))
        options = ("-json", "-verbose", "-var-file=plans.json", f"-filter=tests/{file.name}")
        done = run("terraform", "test", *options, cwd=folder)
        file.unlink()
        lines = [json.loads(line) for line in done.output.splitlines() if line.startswith("{")]
        mistakes = [line["diagnostic"] for line in lines if line["type"] == "diagnostic"]
        errors = [f"{item['summary']}: {item['detail']}" for item in mistakes if item["severity"] == "error"]
        assert not errors, "\n".join(errors)
        return {line["@testrun"]: line["test_plan"] for line in lines if line["type"] == "test_plan"}

    def change(self, file: str, pattern: str, replacement: str) -> None:
        """Replaces the only match of a pattern in a file. Asserts that there is exactly one."""
        path = self.tree / file
        text, count = re.subn(pattern, replacement, path.read_text(), flags=re.MULTILINE)
        assert count == 1, f"{pattern!r} is {count} times in {file}"
        path.write_text(text)
