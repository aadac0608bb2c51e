"""Checks of the Containerfile's text. tests/e2e/test_containerfile.py runs its steps."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from support.containerfile import ROOT, of, stages, variables

from muster.bundles import KINDS


def test_function_is_the_default_stage():
    assert list(stages())[-1] == "function"


@pytest.mark.parametrize("stage", ["function", "up"])
def test_image_runs_unprivileged_without_build_tools_and_sources(stage):
    instructions = stages()[stage]
    assert of(stage, "USER") == ["65532:65532"]
    keywords = [keyword for keyword, _ in instructions]
    assert keywords.index("USER") < keywords.index("CMD")
    assert all(arguments.startswith(f"--from={stage}-build ") for arguments in of(stage, "COPY"))
    assert not any("pip" in arguments or "apt-get" in arguments for arguments in of(stage, "RUN"))
    assert "pip uninstall" in of(f"{stage}-build", "RUN")[-1]
    assert not any("SECRET" in name for name in variables(stage))
    (check,) = of(stage, "HEALTHCHECK")
    assert "/health'" in check


def test_copied_files_exist_and_are_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for name in stages()
        for arguments in of(name, "COPY")
        if not arguments.startswith("--from=")
        for source in arguments.split()[:-1]
    }
    assert copied == {"dist/bundles/${BUNDLE}.zip"} | (allowed - {"dist/bundles/*.zip"})
    assert all((ROOT / name).exists() for name in copied if "$" not in name)


def test_image_of_up_runs_an_existing_command():
    from typer.testing import CliRunner

    from muster.cli.app import app

    (command,) = of("up", "CMD")
    program, *arguments = json.loads(command)
    assert program == "muster"
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0


def test_libraries_are_installed_only_from_pinned_files_with_hashes():
    steps = [step for stage in stages() for arguments in of(stage, "RUN") for step in arguments.split("&&")]
    installs = [step for step in steps if " pip install " in step]
    assert len(installs) == 4
    (own,) = (step for step in installs if "--require-hashes" not in step)
    assert own.split()[-3:] == ["--no-build-isolation", "--no-deps", "/build"]  # only Muster itself


def test_base_image_has_no_default_tag():
    assert of("", "ARG") == ["PYTHON"]
    assert {arguments.partition(" AS ")[0] for stage in stages() for arguments in of(stage, "FROM")} == {"${PYTHON}"}


DIGEST = "docker.io/library/python@sha256:" + "5a" * 32


def build_images(folder, base):
    """Runs the release script with an engine that prints its arguments."""
    engine = folder / "podman"
    engine.write_text('#!/bin/sh\nprintf "%s " "$@"\necho\n')
    engine.chmod(0o755)
    script = ROOT / "infra/images/build.sh"
    environment = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"}
    command = ["bash", str(script), *base]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)  # noqa: S603


@pytest.mark.parametrize(
    "base",
    [
        (),
        ("",),
        ("docker.io/library/python:3.11-slim-bookworm",),
        ("docker.io/library/python",),
        ("python@sha256:5a5a",),
        ("python@sha256:" + "5A" * 32,),
        (DIGEST + " python:3.11",),
    ],
)
def test_release_refuses_a_base_image_without_a_digest(tmp_path, base):
    done = build_images(tmp_path, base)
    assert done.returncode == 2
    assert "infra/images/base.sh" in done.stderr
    assert done.stdout == ""


def test_release_builds_every_image_on_the_digest(tmp_path):
    done = build_images(tmp_path, (DIGEST,))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert all(f"--build-arg PYTHON={DIGEST} " in line for line in lines)
    bundles = {
        line.partition("--tag muster-")[2].partition(" ")[0].replace("client-api", "client_api") for line in lines
    }
    assert {name.replace("operator-api", "operator_api") for name in bundles} == {*KINDS, "up"}


def test_image_of_up_contains_the_notice_of_its_libraries():
    assert "--from=up-build /build/requirements/up.notice /NOTICE" in of("up", "COPY")
