"""Writes the tables of variables and outputs in the READMEs of the Terraform modules, or says which are out of date.

    python infra/terraform/readme.py            rewrites them
    python infra/terraform/readme.py --check    fails if one differs

The tables stand between the markers `<!-- BEGIN tables -->` and `<!-- END tables -->`; what is around them is written by hand.
"""

from __future__ import annotations

import argparse
import re
import sys
import textwrap
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
BEGIN, END = "<!-- BEGIN tables -->", "<!-- END tables -->"
_BLOCK = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)
# An attribute of a block: up to the next line that is indented as far and starts something. `terraform fmt` sees to that.
_ATTRIBUTE = re.compile(r"^  (\w+) += (<<-EOT\n.*?^ +EOT$|.*?(?=^  \w|^\n|\Z))", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Declared:
    """A variable or an output, as its file declares it; `default` is None where there is none."""

    name: str
    description: str
    type: str = ""
    default: str | None = None


def declared(file: Path, kind: str) -> list[Declared]:
    """The variables or outputs of a file, in order.

    Raises:
      SystemExit: one has no description.
    """
    found = []
    for block_kind, name, body in _BLOCK.findall(file.read_text()):
        if block_kind != kind:
            continue
        attributes = {key: value.strip() for key, value in _ATTRIBUTE.findall(body)}
        if "description" not in attributes:
            sys.exit(f"{file}: {kind} {name} has no description")
        found.append(
            Declared(name, _text(attributes["description"]), attributes.get("type", ""), attributes.get("default"))
        )
    return found


def _text(literal: str) -> str:
    heredoc = re.fullmatch(r"<<-EOT\n(.*?)\n\s*EOT", literal, re.DOTALL)
    if heredoc:
        return textwrap.dedent(heredoc[1]).strip().replace("\n- ", "<br>• ").replace("\n", " ")
    return literal.strip('"').replace('\\"', '"')


def _code(literal: str) -> str:
    one_line = re.sub(r"\s+", " ", re.sub(r"\n\s*#.*", "", literal)).strip()
    return "`" + one_line.replace("|", "\\|") + "`"


def tables(module: Path) -> str:
    """A module's tables, in Markdown."""
    lines = ["### Variables", "", "| name | | type | default |", "|---|---|---|---|"]
    for each in declared(module / "variables.tf", "variable"):
        shape = each.type if len(each.type) <= 60 else each.type.partition("(")[0] + "(…)"  # noqa: PLR2004
        default = "required" if each.default is None else _code(each.default)
        lines.append(f"| `{each.name}` | {_cell(each.description)} | {_code(shape)} | {default} |")
    lines += ["", "### Outputs", "", "| name | |", "|---|---|"]
    lines += [f"| `{each.name}` | {_cell(each.description)} |" for each in declared(module / "outputs.tf", "output")]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def rewritten(readme: Path) -> str:
    """The README with its tables as they should be.

    Raises:
      SystemExit: it has no markers.
    """
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{readme} needs the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{tables(readme.parent)}\n{END}{after}"


def modules(root: Path = HERE) -> list[Path]:
    """The root module, the modules and the examples that have variables."""
    folders = [root, *sorted((root / "modules").glob("*/")), *sorted((root / "examples").glob("*/"))]
    return [folder for folder in folders if (folder / "variables.tf").exists() and (folder / "outputs.tf").exists()]


def main() -> int:
    """Rewrites, or checks. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; fail if a README differs")
    check = parser.parse_args().check
    stale = [folder / "README.md" for folder in modules() if _differs(folder / "README.md")]
    for readme in stale:
        if not check:
            readme.write_text(rewritten(readme))
        print(f"{readme.relative_to(HERE)} {'is out of date: run make terraform-readme' if check else 'rewritten'}")  # noqa: T201
    return 1 if check and stale else 0


def _differs(readme: Path) -> bool:
    return rewritten(readme) != readme.read_text()


if __name__ == "__main__":
    sys.exit(main())
