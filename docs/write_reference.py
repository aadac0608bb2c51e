"""Writes docs/reference/ from the messages, the settings and the command line: `make reference`."""

from __future__ import annotations

import inspect
import json
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from enum import Enum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import typer.main
from pydantic import BaseModel
from typer.core import TyperOption

from muster.cli.app import app, leaf_commands
from muster.client import BudgetRules, ClientPolicy
from muster.wire import manifest, messages
from muster.wire.messages import checkin, operators, policy_parts, populations, tasks
from muster.wire.problems import KINDS, FieldError, Problem
from muster_coordinator.settings import Settings

FOLDER = Path(__file__).resolve().parent / "reference"
WIDTH = 100  # columns of prose
NONE = "–"
_REF = "#/$defs/"
_DOCUMENTED_ELSEWHERE = {
    "TaskPolicy": "policy.md#task-policy",
    "BudgetRules": "#budget",
    "FoldKind": "messages.md#foldkind",
    **{
        name: f"messages.md#{name.lower()}"
        for name in (
            "EligibilityRule",
            "Guards",
            "Operation",
            "Retention",
            "TaskKind",
            "Window",
            "WorseningGuard",
        )
    },
}

Json = Mapping[str, Any]


def pages() -> dict[str, str]:
    """Returns the text of each page, by its file's name."""
    return {
        "policy.md": policy_page(),
        "messages.md": messages_page(),
        "settings.md": settings_page(),
        "cli.md": cli_page(),
        "problems.md": problems_page(),
    }


def policy_page() -> str:
    """Returns the reference of the task's policy and of a data owner's policy."""
    return _page(
        "Policies",
        "A task's policy is set by its operator, such as with the options of `muster task create`. A client's "
        "policy is set by the data owner, in a TOML file on the device.",
        _section("Task policy", _summary(messages.TaskPolicy), _fields(messages.TaskPolicy)),
        _section("Client policy", _summary(ClientPolicy), _fields(ClientPolicy)),
        _section("Budget", _summary(BudgetRules), _fields(BudgetRules)),
    )


def messages_page() -> str:
    """Returns the reference of all JSON messages."""
    sections: list[str] = []
    for title, models in _message_groups().items():
        sections.append(f"## {title}\n")
        sections += [_section(model.__name__, *_model(model), level=3) for model in models]
    return _page(
        "Messages",
        "JSON messages of the protocol. Times are RFC 3339, durations are seconds and sizes are bytes. "
        "[The protocol](protocol.md) describes the requests; [openapi.json](../openapi.json) is the same schema "
        "for programs.",
        *sections,
    )


def _message_groups() -> dict[str, list[type[BaseModel | Enum]]]:
    return {
        "Client protocol": list(_defined_in(checkin)),
        "Tasks and rounds": list(_defined_in(tasks)),
        "Parts of a policy": list(_defined_in(policy_parts)),
        "Populations": list(_defined_in(populations)),
        "Audit log and enrolments": list(_defined_in(operators)),
        "Problems": [Problem, FieldError],
        "Plan manifest": list(_defined_in(manifest)),
    }


def settings_page() -> str:
    """Returns the reference of the coordinator's settings."""
    rows = [(f"`MUSTER_{row[0].strip('`').upper()}`", *row[1:]) for row in _rows(Settings.model_json_schema())]
    return _page(
        "Settings",
        "Environment variables of the coordinator. `muster up` sets them for its processes; a deployment of the "
        "functions sets them itself. ",
        _table(("variable", "type", "default", "meaning"), rows),
    )


def problems_page() -> str:
    """Returns the reference of problem types."""
    rows = [(f"`{kind.value}`", str(item.status), item.meaning, item.action) for kind, item in KINDS.items()]
    strategies = [
        "**retry**: repeat the same request, after `retry_after` or with back-off and jitter.",
        "**check in**: forget the assignment and check in again.",
        "**report**: give the assignment back with a report, since a retry does not help.",
        "**stop**: report the problem to the device's owner.",
    ]
    return _page(
        "Problems",
        "Every error response of a coordinator is a problem document (RFC 9457) of one of these types. Its `type` is "
        "`https://muster.dev/problems/` followed by the name. Treat an unknown type by its HTTP status.",
        _paragraph("A client reacts in one of four ways:") + "\n" + "".join(map(_bullet, strategies)),
        _table(("type", "status", "meaning", "reaction of a client"), rows),
    )


def cli_page() -> str:
    """Returns the reference of the command line."""
    root = typer.main.get_command(app)
    sections = []
    for name, command in leaf_commands():
        usage = " ".join(command.collect_usage_pieces(typer.Context(command)))
        hints = get_type_hints(
            inspect.unwrap(command.callback, stop=lambda function: hasattr(function, "__signature__"))
        )
        sections.append(
            _section(
                f"muster {name}",
                _prose(command.help or ""),
                f"```\nmuster {name} {usage}\n```\n",
                _table(
                    ("option", "type", "default", "meaning"),
                    (_option(parameter, hints) for parameter in command.params),
                ),
            )
        )
    return _page("Command line", f"{root.help} {root.epilog}", *sections)


def _option(parameter: Any, hints: Mapping[str, Any]) -> tuple[str, str, str, str]:
    if isinstance(parameter, TyperOption):
        names = ", ".join(f"`{name}`" for name in parameter.opts)
        kind = f"`{parameter.metavar}`" if parameter.metavar else _cli_type(hints[parameter.name]) + _bounds(parameter)
    else:
        names, kind = f"`{parameter.metavar or parameter.name}`", _cli_type(hints[parameter.name])
    meaning = " ".join((parameter.help or "").split())
    if parameter.envvar:
        meaning += f" Environment variable: `{parameter.envvar}`."
    return names, kind, _cli_default(parameter, is_flag=kind == "flag"), meaning


def _cli_type(hint: Any) -> str:
    (kind,) = [item for item in get_args(hint) or (hint,) if item is not type(None)]
    if isinstance(kind, type) and issubclass(kind, Enum):
        return ", ".join(f"`{choice.value}`" for choice in kind)
    names = {bool: "flag", int: "integer", float: "number", str: "text", Path: "path", datetime: "time"}
    return names[kind]


def _bounds(parameter: Any) -> str:
    signs = {"≥": getattr(parameter, "min", None), "≤": getattr(parameter, "max", None)}
    bounds = [f"{sign} {value:g}" for sign, value in signs.items() if value is not None]
    return f", {' and '.join(bounds)}" if bounds else ""


def _cli_default(parameter: Any, *, is_flag: bool) -> str:
    if parameter.required:
        return "required"
    shown = getattr(parameter, "show_default", None)
    if isinstance(shown, str):
        return shown
    default = parameter.default
    if is_flag:
        return "on" if default is True else "off"
    if default is None or callable(default) or default == ():
        return NONE
    return f"`{getattr(default, 'value', default)}`"


def _defined_in(module: Any) -> Iterator[type[BaseModel | Enum]]:
    for kind in vars(module).values():
        if isinstance(kind, type) and kind.__module__ == module.__name__:
            yield kind


def _model(kind: type[BaseModel | Enum]) -> tuple[str, ...]:
    return (_summary(kind), *([_fields(kind)] if issubclass(kind, BaseModel) else []))


def _summary(kind: type) -> str:
    return _prose(inspect.getdoc(kind) or "")


def _fields(model: type[BaseModel]) -> str:
    return _table(("field", "type", "default", "meaning"), _rows(model.model_json_schema()))


def _rows(schema: Json) -> list[tuple[str, str, str, str]]:
    required = set(schema.get("required", ()))
    # A model that refers to itself has its fields in a definition.
    if "$ref" in schema:
        name = schema["$ref"].removeprefix(_REF)
        schema = {**schema["$defs"][name], "$defs": schema["$defs"]}
        required = set(schema.get("required", ()))
    rows = []
    for name, item in schema["properties"].items():
        meaning = item["description"]
        default = "required" if name in required else _default(item)
        rows.append((f"`{name}`", _type(item), default, " ".join(meaning.split())))
    return rows


def _default(item: Json) -> str:
    """Returns the default to show; the description states one that is computed."""
    default = item.get("default")
    is_computed = "By default" in item.get("description", "") and not isinstance(default, bool)
    if is_computed or default in (None, "", [], {}) or isinstance(default, dict):
        return NONE
    return f"`{default if isinstance(default, str) else json.dumps(default, ensure_ascii=False)}`"


def _type(item: Json) -> str:
    if "$ref" in item:
        name = item["$ref"].removeprefix(_REF)
        return f"[{name}]({_DOCUMENTED_ELSEWHERE.get(name, f'#{name.lower()}')})" if name in _documented() else name
    if "anyOf" in item or "oneOf" in item:
        options = [_type(option) for option in item.get("anyOf", item.get("oneOf", ())) if option.get("type") != "null"]
        return " or ".join(dict.fromkeys(options))
    if "const" in item:
        return f"`{item['const']}`"
    if "enum" in item:
        return ", ".join(f"`{value}`" for value in item["enum"])
    kind = item.get("type", "any")
    if kind == "array":
        return f"list of {_type(item.get('items', {}))}"
    if kind == "object":
        values = item.get("additionalProperties")
        return f"map of text to {_type(values)}" if isinstance(values, dict) and values else "object"
    if item.get("format") == "date-time":
        return "time"
    return {"string": "text"}.get(kind, kind) + _range(item)


@cache
def _documented() -> frozenset[str]:
    """Returns the names of the types that have a section."""
    return frozenset(
        {model.__name__ for models in _message_groups().values() for model in models} | {"TaskPolicy", "BudgetRules"}
    )


def _range(item: Json) -> str:
    bounds = [
        f"{sign} {item[key]:,}"
        for key, sign in (
            ("minimum", "≥"),
            ("exclusiveMinimum", ">"),
            ("maximum", "≤"),
            ("exclusiveMaximum", "<"),
        )
        if key in item
    ]
    return f", {' and '.join(bounds)}" if bounds else ""


def _page(title: str, introduction: str, *sections: str) -> str:
    note = "<!-- Written by docs/write_reference.py. Do not edit. -->"
    return "\n".join([note, f"# {title}\n", _paragraph(introduction), *sections]).rstrip() + "\n"


def _section(title: str, *contents: str, level: int = 2) -> str:
    return f"{'#' * level} {title}\n\n" + "\n".join(filter(None, contents))


def _prose(text: str) -> str:
    """Wraps the paragraphs and lists of a docstring."""
    blocks = []
    for block in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        items = re.split(r"^- ", block, flags=re.MULTILINE)
        blocks.append((_paragraph(items[0]) if items[0].strip() else "") + "".join(map(_bullet, items[1:])))
    return "\n".join(filter(str.strip, blocks))


def _paragraph(text: str) -> str:
    return textwrap.fill(" ".join(text.split()), WIDTH, break_long_words=False, break_on_hyphens=False) + "\n"


def _bullet(text: str) -> str:
    words = " ".join(text.split())
    return (
        textwrap.fill(f"- {words}", WIDTH, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)
        + "\n"
    )


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [list(columns), ["---"] * len(columns), *([cell.replace("|", "\\|") for cell in row] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    """Writes the pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text)


if __name__ == "__main__":
    main()
