"""Pinned requirements: hashes, known vulnerabilities, notices, and the audit."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "requirements"
NOT_PINS = {"overrides.txt", "audit-exceptions.txt"}
PINNED = sorted(path.relative_to(FOLDER).as_posix() for path in FOLDER.rglob("*.txt") if path.name not in NOT_PINS)
# The files of bundles and images.
SHIPPED = [name for name in PINNED if name.startswith("functions/") or name == "up.txt"]
PIN = re.compile(r"([a-z0-9.-]+)==(\S+)( \\)?")
HASH = re.compile(r"    --hash=sha256:[0-9a-f]{64}( \\)?")

# The newest version of each library with a known vulnerability that may matter here.
KNOWN_BAD = {
    "cryptography": ("44.0.0", "CVE-2024-12797, CVE-2024-26130"),
    "gunicorn": ("22.0.0", "CVE-2024-6827"),
    "protobuf": ("4.25.7", "CVE-2025-4565"),
    "pyjwt": ("2.11.0", "CVE-2026-32597, CVE-2024-53861"),
    "requests": ("2.32.3", "CVE-2024-47081, CVE-2024-35195"),
    "scikit-learn": ("1.4.2", "CVE-2024-5206"),
}
# Not vulnerable, but unusable: TFF's program API can't save a value with it.
TOO_OLD = {"wrapt": "1.17.3"}


def pins(name: str) -> dict[str, str]:
    """Returns the pinned versions of a file, by library."""
    matches = (PIN.fullmatch(line) for line in (FOLDER / name).read_text().splitlines())
    return {match[1]: match[2] for match in matches if match}


def floors() -> list[tuple[str, Requirement]]:
    """Returns every requirement of the package, with its extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    return [(extra, Requirement(text)) for extra, texts in extras.items() for text in texts]


def test_no_requirement_admits_a_version_with_a_known_vulnerability():
    required = {requirement.name.lower() for _, requirement in floors()}
    assert set(KNOWN_BAD) <= required
    admitted = [
        (extra, str(requirement), KNOWN_BAD[name])
        for extra, requirement in floors()
        if (name := requirement.name.lower()) in KNOWN_BAD and requirement.specifier.contains(KNOWN_BAD[name][0])
    ]
    assert admitted == []


@pytest.mark.parametrize("name", PINNED)
def test_no_pin_is_a_version_with_a_known_vulnerability(name):
    bad = {library: version for library, (version, _) in KNOWN_BAD.items()} | TOO_OLD
    pinned = pins(name)
    assert {
        library: pinned[library]
        for library in bad
        if library in pinned and Version(pinned[library]) <= Version(bad[library])
    } == {}


@pytest.mark.parametrize("name", PINNED)
def test_every_pin_has_a_hash(name):
    lines = (FOLDER / name).read_text().splitlines()
    without_hash, last = [], ""
    for line in [*lines, ""]:
        if PIN.fullmatch(line) or not line:
            if PIN.fullmatch(last):
                without_hash.append(last)
        else:
            assert HASH.fullmatch(line), line
        last = line
    assert without_hash == []
    assert pins(name)


@pytest.mark.parametrize("name", PINNED)
def test_requirements_by_name_are_pinned(name):
    pinned = set(pins(name))
    for line in (FOLDER / name).with_suffix(".in").read_text().splitlines():
        if line and not line.startswith(("#", "-r ")):
            assert canonicalize_name(Requirement(line).name) in {canonicalize_name(pin) for pin in pinned}


def test_installations_from_pinned_files_check_hashes():
    files = [*FOLDER.glob("*.sh"), ROOT / "Containerfile", ROOT / "tests/support/environments.py"]
    text = "\n".join(path.read_text() for path in files).replace("\\\n", " ")
    installs = [line for line in text.splitlines() if "install" in line and re.search(r"(^|\s|\")-r[\s\"]", line)]
    assert len(installs) >= 6
    assert [line for line in installs if "--require-hashes" not in line and "*install" not in line] == []


@pytest.mark.parametrize("name", SHIPPED)
def test_notice_lists_every_package_with_its_license(name):
    entries = re.findall(
        r"^(\S+) (\S+)\n  Licence: (.+)$", (FOLDER / name).with_suffix(".notice").read_text(), re.MULTILINE
    )
    assert {library: version for library, version, _ in entries} == pins(name), "run make requirements"
    assert all(re.fullmatch(r"[A-Za-z0-9.() -]+", name) and name != "UNKNOWN" for *_, name in entries)
    assert {library for library, _, name in entries if "MPL" in name} == {"certifi"}
    assert not any("GPL" in name for *_, name in entries)


def test_notice_is_reproducible(tmp_path):
    # Packages of the test environment. tests/e2e/test_bundles.py compares those of the bundles.
    import click
    import packaging

    site_packages = Path(packaging.__file__).parents[1]
    assert Path(click.__file__).parents[1] == site_packages
    version = {name: pins("all.txt")[name] for name in ("click", "packaging", "certifi")}
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("".join(f"{name}=={value}\n" for name, value in version.items()))
    runs = [write_notice(requirements, site_packages) for _ in range(2)]
    assert runs[0].returncode == 0, runs[0].stderr
    assert runs[0].stdout == runs[1].stdout
    assert f"certifi {version['certifi']}\n  Licence: MPL-2.0\n  Source: https://" in runs[0].stdout
    requirements.write_text("click==0.1\n")
    assert "click 0.1 is not installed" in write_notice(requirements, site_packages).stderr


def write_notice(requirements: Path, site_packages: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FOLDER / "notices.py"), str(requirements), str(site_packages)]
    return subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603


NO_NETWORK = "requests.exceptions.ConnectionError: HTTPSConnectionPool: Max retries exceeded"
FOUND = "Found 1 known vulnerability in 1 package"


def audit(folder: Path, *, says: str, code: int, **variables: str) -> subprocess.CompletedProcess[str]:
    """Runs the audit in a checkout whose pip-audit prints `says` and exits with `code`."""
    shutil.copytree(FOLDER, folder / "requirements")
    tool = folder / ".venv/tools/bin/python"
    tool.parent.mkdir(parents=True)
    tool.write_text(f'#!/bin/sh\necho "{says}"\nexit {code}\n')
    tool.chmod(0o755)
    environment = {name: value for name, value in os.environ.items() if name != "MUSTER_AUDIT"} | variables
    command = ["bash", str(folder / "requirements/audit.sh")]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


@pytest.mark.parametrize(
    ("says", "code", "variables", "wanted"),
    [
        (NO_NETWORK, 1, {}, 0),
        (NO_NETWORK, 1, {"MUSTER_AUDIT": "required"}, 1),
        ("No known vulnerabilities found", 0, {}, 0),
        ("No known vulnerabilities found", 0, {"MUSTER_AUDIT": "required"}, 0),
        (FOUND, 1, {}, 1),
        (FOUND, 1, {"MUSTER_AUDIT": "required"}, 1),
        (NO_NETWORK, 1, {"MUSTER_AUDIT": "yes"}, 2),
    ],
)
def test_audit_without_a_database_fails_only_if_required(tmp_path, says, code, variables, wanted):
    done = audit(tmp_path / "a checkout", says=says, code=code, **variables)
    assert done.returncode == wanted, done.stdout + done.stderr
    assert ("NOT CHECKED" in done.stdout) == (says == NO_NETWORK and wanted != 2)
