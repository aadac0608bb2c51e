"""The table of threats in docs/explanation/security.md and the attack tests agree."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "explanation" / "security.md").read_text()
NAMED = re.compile(r"`(\w+(?:/\w+)*\.py)::(test_\w+)`")


def rows():
    table = TEXT.partition("\n## Threats and defenses\n")[2].partition("\n## ")[0]
    return [line.strip("|").split(" | ") for line in table.splitlines() if line.startswith("| ") and "::" in line]


def attacks_of(file):
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }


def test_every_row_has_threat_defense_limit_and_test():
    assert len(rows()) > 40
    for row in rows():
        assert len(row) == 4, row
        assert all(cell.strip() for cell in row), row
        assert NAMED.search(row[3]), row


@pytest.mark.parametrize(("file", "name"), sorted(set(NAMED.findall(TEXT))), ids=lambda text: text)
def test_every_named_test_exists(file, name):
    assert name in attacks_of(ROOT / "tests" / file)


def test_every_attack_has_a_row():
    listed = {f"{file}::{name}" for row in rows() for file, name in NAMED.findall(row[3])}
    attacks = {
        f"attacks/{file.name}::{name}"
        for file in Path(__file__).parent.glob("test_*.py")
        if file != Path(__file__)
        for name in attacks_of(file)
    }
    assert attacks - listed == set()
