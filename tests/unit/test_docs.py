"""The pages agree with the code: links, commands, make targets, routes, policies, decisions."""

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
DOCS = ROOT / "docs"
DECISIONS = sorted((DOCS / "decisions").glob("0*.md"))
GENERATED = [DOCS / "reference" / f"{name}.md" for name in ("cli", "messages", "policy", "problems", "settings")]


def blocks(page, language):
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)


def first_cells(page):
    return re.findall(r"^\| `([^`]+)` \|", page.read_text(), re.MULTILINE)


def anchors(page):
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_have_a_target(page):
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


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: str(page.relative_to(ROOT)))
def test_lists_render_on_the_site_as_on_github(page):
    """Python-Markdown needs four spaces for nested blocks, and a blank line before a list."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    nested = re.findall(r"^( +)(?:[-*] |\d+\. |```)", text, re.MULTILINE)
    assert all(len(indent) % 4 == 0 for indent in nested), page
    marker = r"(?:[-*] |\d+\. )"
    assert not re.search(rf"^(?!{marker}|[ |#<])\S.*\n{marker}", text, re.MULTILINE), page


def commands():
    for page in PAGES:
        for block in [*blocks(page, ""), *blocks(page, "console")]:
            for line in block.splitlines():
                command = re.match(r"(?:\$ )?(?:[A-Z]+=\S+ )?muster (.+)", line)
                if command:
                    yield pytest.param(command[1], id=f"{page.name}: muster {command[1]}"[:70])


@pytest.mark.parametrize("line", commands())
def test_commands_have_these_options(line):
    words = shlex.split(line, comments=True)
    if words[0] in {"--help", "--version"}:
        return
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    assert not hasattr(command, "commands"), f"muster {line} names no command"
    known = {name for parameter in command.params for name in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


def test_guides_name_every_command():
    guides = [README, *DOCS.glob("tutorial/*.md"), *DOCS.glob("how-to/*.md"), *DOCS.glob("reference/functions.md")]
    text = "\n".join(page.read_text() for page in guides)
    root = typer.main.get_command(app)
    for name, command in root.commands.items():
        for path in [f"{name} {inner}" for inner in getattr(command, "commands", {})] or [name]:
            assert re.search(rf"muster {path}\b", text), f"no guide names muster {path}"


def test_tutorial_shows_the_example_unchanged():
    assert (ROOT / "examples/own_model.py").read_text() in blocks(DOCS / "tutorial/own-model.md", "python")


@pytest.mark.parametrize("page", sorted(DOCS.glob("how-to/*.md")), ids=lambda page: page.name)
def test_python_of_guides_is_valid(page):
    for block in blocks(page, "python"):
        compile(block, page.name, "exec")


def test_every_page_links_to_the_glossary():
    pages = {page for page in DOCS.glob("**/*.md") if "benchmarks" not in page.name}
    for page in pages.difference(DECISIONS, GENERATED, [DOCS / "glossary.md"]):
        assert "glossary.md)" in page.read_text(), page


def test_index_and_site_list_every_page():
    index = (DOCS / "README.md").read_text()
    site = (ROOT / "mkdocs.yml").read_text()
    for page in {*DOCS.glob("**/*.md"), *GENERATED}.difference(DECISIONS, [DOCS / "README.md"]):
        path = page.relative_to(DOCS).as_posix()
        assert f"({path})" in index, f"docs/README.md does not list {path}"
        assert f" {path}\n" in site, f"mkdocs.yml does not list {path}"
    for page in DECISIONS:
        assert f" decisions/{page.name}\n" in site, f"mkdocs.yml does not list {page.name}"


def test_glossary_is_sorted():
    words = re.findall(r"^## (.+)$", (DOCS / "glossary.md").read_text(), re.MULTILINE)
    assert words == sorted(words, key=str.lower)


@pytest.mark.parametrize("page", DECISIONS, ids=lambda page: page.name)
def test_decision_has_status_and_date(page):
    text = page.read_text()
    assert re.match(
        rf"# {page.name[:4]}: .+\n\n- Status: (accepted|superseded by )[^\n]*\n- Date: 20\d\d-\d\d-\d\d\n", text
    )
    assert f"| [{page.name[:4]}]({page.name}) |" in (DOCS / "decisions/README.md").read_text()


def test_plan_show_lists_what_leaves_a_device():
    result = CliRunner().invoke(app, ["plan", "show", str(ROOT / "tests/data/mean.plan")])
    assert result.exit_code == 0
    assert "What leaves a device" in result.output


def test_reference_pages_are_up_to_date():
    pages = runpy.run_path(str(ROOT / "docs/write_reference.py"))["pages"]()
    committed = {page.name: page.read_text() for page in (ROOT / "docs/reference").glob("*.md")}
    stale = [name for name, text in pages.items() if committed.get(name) != text]
    assert stale == [], f"docs/reference is out of date ({', '.join(stale)}): run docs/write_reference.py"


def test_reference_lists_every_setting():
    rows = first_cells(DOCS / "reference/settings.md")
    assert rows == [f"MUSTER_{name.upper()}" for name in Settings.model_fields]


def test_reference_lists_every_field_of_the_policy():
    assert set(first_cells(DOCS / "reference/policy.md")) >= set(TaskPolicy.model_fields)


def test_guide_lists_every_rule_of_a_client_policy():
    text = (DOCS / "how-to/set-a-client-policy.md").read_text()
    for heading, model in (("Rules of a policy", ClientPolicy), ("Rules of a budget", BudgetRules)):
        section = text.partition(f"\n### {heading}\n")[2].partition("\n#")[0]
        assert re.findall(r"^\| `([^`]+)` \|", section, re.MULTILINE) == list(model.model_fields)


def test_policies_in_the_docs_are_valid(tmp_path):
    for block in blocks(DOCS / "how-to/set-a-client-policy.md", "toml"):
        file = tmp_path / "ward.toml"
        file.write_text(block.replace("…64 hex digits…", "0" * 64))
        assert ClientPolicy.load(file).budget


def test_reference_lists_every_problem_with_its_status():
    text = (DOCS / "reference/problems.md").read_text()
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
    rows = re.findall(r"^\| `([A-Z]+)` \| `(/[^`]+)` \|", (DOCS / "reference/protocol.md").read_text(), re.MULTILINE)
    assert set(rows) == described


def test_every_dependency_has_a_reason():
    names = re.findall(r"^([A-Za-z][\w-]*)", (ROOT / "requirements/all.in").read_text(), re.MULTILINE)
    reasons = (DOCS / "explanation/dependencies.md").read_text().lower()
    missing = [name for name in names if name.lower().removeprefix("pytest-").removeprefix("types-") not in reasons]
    assert missing in ([], ["protobuf"], ["types-protobuf"])


def test_protocol_shows_an_update_byte_by_byte():
    (block,) = blocks(DOCS / "reference/protocol.md", "text")
    shown = bytes.fromhex("".join(line[:47] for line in block.splitlines()))
    assert decode(shown)["0/counts"].tolist() == [3, 260]
