"""Writes, or checks, the tables in the READMEs of the Terraform modules.

    python infra/terraform/readme.py            rewrites the tables
    python infra/terraform/readme.py --check    fails if a table is out of date

The tables are between the markers `<!-- BEGIN tables -->` and `<!-- END tables -->`. The text
around them is written by hand.
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
_MAX_TYPE_LENGTH = 60  # characters; a longer type is abbreviated
_BLOCK = re.compile(r'^(variable|output) "(\w+)" \{\n(.*?)^\}', re.MULTILINE | re.DOTALL)
# An attribute of a block ends at the next line with the same indentation, which `terraform fmt`
# guarantees.
_ATTRIBUTE = re.compile(r"^  (\w+) += (<<-EOT\n.*?^ +EOT$|.*?(?=^  \w|^\n|\Z))", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Declared:
    """Declaration of a variable or an output. `default` is None for a required variable."""

    name: str
    description: str
    type: str = ""
    default: str | None = None


def declared(file: Path, kind: str) -> list[Declared]:
    """Returns the variables or outputs of a file, in order.

    Raises:
      SystemExit: a declaration has no description.
    """
    declarations = []
    for block_kind, name, body in _BLOCK.findall(file.read_text()):
        if block_kind != kind:
            continue
        attributes = {key: value.strip() for key, value in _ATTRIBUTE.findall(body)}
        if "description" not in attributes:
            sys.exit(f"{file}: {kind} {name} has no description")
        declarations.append(
            Declared(name, _text(attributes["description"]), attributes.get("type", ""), attributes.get("default"))
        )
    return declarations


def _text(literal: str) -> str:
    """Returns the text of a string or heredoc, on one line."""
    heredoc = re.fullmatch(r"<<-EOT\n(.*?)\n\s*EOT", literal, re.DOTALL)
    if heredoc:
        return textwrap.dedent(heredoc[1]).strip().replace("\n- ", "<br>• ").replace("\n", " ")
    return literal.strip('"').replace('\\"', '"')


def _code(literal: str) -> str:
    one_line = re.sub(r"\s+", " ", re.sub(r"\n\s*#.*", "", literal)).strip()
    return "`" + one_line.replace("|", "\\|") + "`"


def tables(module: Path) -> str:
    """Returns a module's tables in Markdown."""
    lines = ["### Variables", "", "| name | | type | default |", "|---|---|---|---|"]
    for variable in declared(module / "variables.tf", "variable"):
        type_ = variable.type
        short = type_ if len(type_) <= _MAX_TYPE_LENGTH else type_.partition("(")[0] + "(…)"
        default = "required" if variable.default is None else _code(variable.default)
        lines.append(f"| `{variable.name}` | {_cell(variable.description)} | {_code(short)} | {default} |")
    lines += ["", "### Outputs", "", "| name | |", "|---|---|"]
    outputs = declared(module / "outputs.tf", "output")
    lines += [f"| `{output.name}` | {_cell(output.description)} |" for output in outputs]
    return "\n".join(lines)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def rewritten(readme: Path) -> str:
    """Returns the README with current tables.

    Raises:
      SystemExit: the README has no markers.
    """
    text = readme.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{readme} needs the markers {BEGIN} and {END}")
    return f"{before}{BEGIN}\n{tables(readme.parent)}\n{END}{after}"


def modules(root: Path = HERE) -> list[Path]:
    """Returns the folders of the root module, the modules and the examples that have variables."""
    folders = [root, *sorted((root / "modules").glob("*/")), *sorted((root / "examples").glob("*/"))]
    return [folder for folder in folders if (folder / "variables.tf").exists() and (folder / "outputs.tf").exists()]


def main() -> int:
    """Rewrites or checks the READMEs. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing, and fail if a README is out of date")
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
