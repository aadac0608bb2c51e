"""Every code block of the README and the tutorial runs, or the page gives the reason."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.code_blocks import PageRunner, code_blocks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs/tutorial").glob("*.md"))]
OUTPUT_AND_DIAGRAMS = {"text", "mermaid"}


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_code_blocks_run(page, tmp_path):
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    with PageRunner(tmp_path) as runner:
        for block in code_blocks(page):
            if not block.reason_not_run:
                runner.run(block)


def test_blocks_that_are_not_run_give_a_reason(measured):
    blocks = [block for page in PAGES for block in code_blocks(page)]
    for block in blocks:
        assert block.language in {"console", "python", *OUTPUT_AND_DIAGRAMS}, f"{block.page.name}:{block.line}"
        assert block.note in {"", "in the background"} or block.reason_not_run, f"{block.page.name}:{block.line}"
    reasons = [
        f"  {block.page.relative_to(ROOT)}:{block.line}: {block.reason_not_run}"
        for block in blocks
        if block.reason_not_run
    ]
    measured("\n".join(["Code blocks that are not run:", *reasons]))
    runnable = [block for block in blocks if block.language not in OUTPUT_AND_DIAGRAMS]
    assert len(runnable) > 2 * len(reasons)


def test_every_block_of_these_pages_is_parsed():
    for page in PAGES:
        fences = sum(line.lstrip().startswith("```") for line in page.read_text("utf-8").splitlines())
        assert 2 * len(code_blocks(page)) == fences, f"{page.name} has a block that does not start at the first column"
