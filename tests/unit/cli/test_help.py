"""Help of all commands: descriptions, defaults and line wrapping."""

from __future__ import annotations

import re
import textwrap

import pytest
from pydantic import BaseModel
from typer import rich_utils
from typer.testing import CliRunner

from muster.cli.app import app, leaf_commands
from muster.client import ClientPolicy
from muster.wire.manifest import Release
from muster.wire.messages import TaskPolicy

COMMANDS = dict(leaf_commands())
WRAPPED = ("plan check", "client run", "simulate", "task create", "up")


def help_of(command: str) -> str:
    result = CliRunner().invoke(app, [*command.split(), "--help"])
    assert result.exit_code == 0
    return result.output


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_and_option_is_described(command: str) -> None:
    assert COMMANDS[command].help
    for parameter in COMMANDS[command].params:
        assert parameter.help, f"muster {command}: {parameter.name} has no help"


@pytest.mark.parametrize("command", [name for name in COMMANDS if name not in ("load", "simulate")])
def test_every_option_states_its_default(command: str) -> None:
    for parameter in COMMANDS[command].params:
        is_stated = (
            parameter.required
            or parameter.default is not None
            or isinstance(parameter.show_default, str)
            or "default" in parameter.help
        )
        assert is_stated, f"muster {command}: {parameter.name} does not state its default"


@pytest.mark.parametrize("columns", [80, 110])
@pytest.mark.parametrize("command", WRAPPED)
def test_description_wraps_at_the_width_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, command: str, columns: int
) -> None:
    monkeypatch.setattr(rich_utils, "MAX_WIDTH", columns)
    description = help_of(command).partition("╭─")[0]
    paragraphs = [" ".join(block.split()) for block in re.split(r"\n\s*\n", COMMANDS[command].help.replace("`", ""))]
    for paragraph in paragraphs:
        expected = textwrap.wrap(paragraph, columns - 2, break_long_words=False, break_on_hyphens=False)
        lines = [line.strip() for line in description.splitlines()]
        at = lines.index(expected[0])
        assert lines[at : at + len(expected)] == expected


@pytest.mark.parametrize(
    ("command", "model"), [("task create", TaskPolicy), ("plan build", Release), ("client run", ClientPolicy)]
)
def test_options_of_a_model_have_its_descriptions(command: str, model: type[BaseModel]) -> None:
    options = {parameter.name: parameter for parameter in COMMANDS[command].params}
    for name, field in model.model_fields.items():
        if name in options:
            words = re.sub(r"`[^`]+`", "", field.description)
            assert re.sub(r"`[^`]+`", "", options[name].help).startswith(words), name
