"""The check of prose: it finds planted faults, and none in the tree."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "docs" / "check_prose.py"


@pytest.fixture(scope="module")
def prose():
    spec = importlib.util.spec_from_file_location("check_prose", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["check_prose"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["check_prose"]


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ('"""What knows clients; None where each is who it says."""', 'starts with "What"'),
        ('def f():\n    """Whether somebody may operate."""', 'starts with "Whether"'),
        ('def f():\n    """Gives what reads the blobs."""', 'starts with "Gives"'),
        ('class A:\n    """A token that is good no more."""', '"good no more"'),
        ("x = 1  # for whoever has read it", '"whoever"'),
        ('raise ValueError(f"{name} is none, as the operator was told")', '"told"'),
    ],
)
def test_planted_sentence_in_code_is_a_fault(prose, source, fault):
    assert any(fault in found.text for found in prose.check_python("client/muster/x.py", source))


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("Nobody is told what came.", '"Nobody"'),
        ("word " * 21, "wrap prose at 100"),
    ],
)
def test_planted_sentence_on_a_page_is_a_fault(prose, text, fault):
    assert any(fault in found.text for found in prose.check_markdown("docs/x.md", text))


@pytest.mark.parametrize(
    "text",
    [
        "The operator revokes the token.",
        "`nobody` is a name in code.",
        "```\nwhoever " + "x " * 60 + "\n```",
        "| a table may be wide | " + "x " * 60 + "|",
    ],
)
def test_plain_page_passes(prose, text):
    assert list(prose.check_markdown("docs/x.md", text)) == []


def test_value_none_is_not_a_fault(prose):
    assert list(prose.check_python("client/muster/x.py", '"""Returns the name, or None if it is None."""')) == []


def test_command_names_file_and_line_and_exits_with_1(tmp_path):
    (tmp_path / "docs").mkdir()
    script = tmp_path / "docs" / SCRIPT.name
    script.write_bytes(SCRIPT.read_bytes())
    (tmp_path / "docs" / "page.md").write_text("A plain line.\nIt is for whoever reads it.\n")
    command = [sys.executable, str(script), "docs/page.md"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own script
    assert done.returncode == 1
    assert done.stdout.startswith('docs/page.md:2: "whoever"')


@pytest.mark.slow
def test_tree_has_no_faults():
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stdout[-4000:]
