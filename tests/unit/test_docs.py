"""The documentation keeps up with the code: links, commands, targets, routes, settings, problems, policies."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from muster.cli.app import app
from muster.client import BudgetRules, ClientPolicy
from muster.wire.messages import TaskPolicy
from muster.wire.problems import STATUS
from muster.wire.tensors import decode
from muster_coordinator.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = sorted(
    [*ROOT.glob("*.md"), *(page for top in ("docs", "examples", "infra") for page in ROOT.glob(f"{top}/**/*.md"))]
)
README = ROOT / "README.md"


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def first_cells(page, heading):
    section = page.read_text().partition(f"\n## {heading}\n")[2].partition("\n## ")[0]
    return re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE)


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = page.parent / path if path else page
        assert file.exists(), f"{page.name} links to {target}"
        assert not anchor or anchor in anchors(file), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_make_targets_exist(page):
    named = set(re.findall(r"(?:^|`)make ([\w-]+)", page.read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert named <= targets


def commands():
    for page in PAGES:
        for block in blocks(page, ""):
            for line in block.splitlines():
                found = re.match(r"(?:\$ )?(?:[A-Z]+=\S+ )?muster (.+)", line)
                if found:
                    yield pytest.param(found[1], id=f"{page.name}: muster {found[1]}"[:70])


@pytest.mark.parametrize("line", commands())
def test_commands_have_these_options(line):
    words = shlex.split(line, comments=True)
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"muster {line} names no command"
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


def test_readme_names_every_command():
    text = README.read_text()
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        assert f"`muster {name}" in text
        for inner in getattr(command, "commands", {}):
            assert re.search(rf"`muster {name}.*\b{inner}\b", text), f"muster {name} {inner}"


def test_readme_shows_the_example_as_it_is():
    assert (ROOT / "examples/own_model.py").read_text() in blocks(README, "python")


def test_python_in_the_readme_is_valid():
    for block in blocks(README, "python"):
        compile(block, "README.md", "exec")


def test_plan_show_says_what_leaves_a_device():
    result = CliRunner().invoke(app, ["plan", "show", str(ROOT / "tests/data/mean.plan")])
    assert result.exit_code == 0
    assert "What leaves a device" in result.output


def test_reference_pages_are_up_to_date():
    pages = runpy.run_path(str(ROOT / "docs/write_reference.py"))["pages"]()
    committed = {page.name: page.read_text() for page in (ROOT / "docs/reference").glob("*.md")}
    stale = [name for name, text in pages.items() if committed.get(name) != text]
    assert stale == [], f"docs/reference is out of date ({', '.join(stale)}): run docs/write_reference.py"


def test_operations_lists_every_setting():
    page = ROOT / "docs/operations.md"
    assert first_cells(page, "Settings") == [f"MUSTER_{name.upper()}" for name in Settings.model_fields]


def test_operations_lists_every_field_of_the_policy():
    assert first_cells(ROOT / "docs/operations.md", "A task's policy") == list(TaskPolicy.model_fields)


def test_data_owners_lists_every_rule_of_a_policy():
    text = (ROOT / "docs/data-owners.md").read_text()
    for heading, model in (("Rules of a policy", ClientPolicy), ("Rules of a budget", BudgetRules)):
        section = text.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
        assert re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) == list(model.model_fields)


def test_policies_in_the_docs_are_valid(tmp_path):
    for block in blocks(ROOT / "docs/data-owners.md", "toml"):
        file = tmp_path / "ward.toml"
        file.write_text(block.replace("…64 hex digits…", "0" * 64))
        assert ClientPolicy.load(file).budget


def test_protocol_lists_every_problem_with_its_status():
    text = (ROOT / "docs/protocol.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| (\d{3}) \|", text, re.MULTILINE))
    assert listed == {kind.value: str(status) for kind, status in STATUS.items()}


def test_protocol_lists_every_route_for_clients_and_operators():
    paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
    described = {
        (method.upper(), path)
        for path, operations in paths.items()
        for method, operation in operations.items()
        if operation["tags"] in (["client_api"], ["operator_api"])
    }
    rows = re.findall(r"^\| `([A-Z]+)` \| `(/[^`]+)` \|", (ROOT / "docs/protocol.md").read_text(), re.MULTILINE)
    assert set(rows) == described


def test_dependencies_each_have_their_reason():
    names = re.findall(r"^([A-Za-z][\w-]*)", (ROOT / "requirements/all.in").read_text(), re.MULTILINE)
    reasons = (ROOT / "docs/decisions/0001-dependencies.md").read_text().lower()
    missing = [name for name in names if name.lower().removeprefix("pytest-").removeprefix("types-") not in reasons]
    assert missing in ([], ["protobuf"], ["types-protobuf"])


def test_protocol_shows_an_update_byte_by_byte():
    (block,) = blocks(ROOT / "docs/protocol.md", "text")
    shown = bytes.fromhex("".join(line[:47] for line in block.splitlines()))
    assert decode(shown)["0/counts"].tolist() == [3, 260]
