"""The Containerfile without a container engine: what it says. Its steps are done in tests/e2e/test_containerfile.py."""

from __future__ import annotations

import json

import pytest
from support.containerfile import ROOT, of, stages, variables


def test_a_function_is_the_last_stage_so_that_it_is_built_where_none_is_named():
    assert list(stages())[-1] == "function"


@pytest.mark.parametrize("stage", ["function", "up"])
def test_images_run_as_nobody_without_build_tools_or_the_source(stage):
    instructions = stages()[stage]
    assert of(stage, "USER") == ["65532:65532"]
    words = [word for word, _ in instructions]
    assert words.index("USER") < words.index("CMD")
    assert all(rest.startswith(f"--from={stage}-build ") for rest in of(stage, "COPY"))
    assert not any("pip" in rest or "apt-get" in rest for rest in of(stage, "RUN"))
    assert "pip uninstall" in of(f"{stage}-build", "RUN")[-1]
    assert not any("SECRET" in name for name in variables(stage))
    (check,) = of(stage, "HEALTHCHECK")
    assert "/health'" in check


def test_everything_that_is_copied_is_there_and_not_ignored():
    allowed = {line[1:] for line in (ROOT / ".containerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for name in stages()
        for rest in of(name, "COPY")
        if not rest.startswith("--from=")
        for source in rest.split()[:-1]
    }
    assert copied == {"dist/bundles/${BUNDLE}.zip"} | (allowed - {"dist/bundles/*.zip"})
    assert all((ROOT / name).exists() for name in copied if "$" not in name)


def test_the_image_of_up_starts_a_command_that_there_is():
    from typer.testing import CliRunner

    from muster.cli.app import app

    (command,) = of("up", "CMD")
    program, *arguments = json.loads(command)
    assert program == "muster"
    assert CliRunner().invoke(app, [*arguments, "--help"]).exit_code == 0
