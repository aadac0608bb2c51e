"""Describes a policy file's faults: the key, the value, the reason and a valid example."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

_MAX_SHOWN = 60  # characters of a value in a message

_REASONS = {
    "bool_type": "is neither true nor false",
    "enum": "is not one of {expected}",
    "finite_number": "is not a finite number",
    "float_type": "is not a number",
    "greater_than": "is not above {gt}",
    "greater_than_equal": "is below {ge}",
    "int_from_float": "is not a whole number",
    "int_type": "is not a whole number",
    "less_than_equal": "is above {le}",
    "model_type": "is not a section",
    "string_too_short": "is empty",
    "string_type": "is not a text in quotes",
    "too_short": "is empty; leave the rule out to allow everything",
    "tuple_type": "is not a list in brackets",
    "value_error": "{error}",
}


class PolicyFileError(ValueError):
    """Error raised when a policy can't be used; the text lists each fault with its fix."""


def faults_of(error: ValidationError, model: type[BaseModel], document: Mapping[str, Any]) -> list[str]:
    """Returns a line for each fault of `document`, which is not a valid `model`."""
    items = error.errors(include_url=False)
    # A list whose entries are all wrong is reported as empty too.
    inner = {item["loc"][:-1] for item in items if isinstance(item["loc"][-1], int)}
    return [
        _unknown(item["loc"], model) if item["type"] == "extra_forbidden" else _wrong(item, model, document)
        for item in items
        if item["type"] != "too_short" or item["loc"] not in inner
    ]


def _wrong(item: Any, model: type[BaseModel], document: Mapping[str, Any]) -> str:
    loc = item["loc"]
    keys = [str(part) for part in loc if isinstance(part, str) and _is_key(part, model)]
    context = {name: str(value) for name, value in item.get("ctx", {}).items()}
    known = _REASONS.get(item["type"])
    reason = item["msg"] if known is None else known.format_map(context)
    return f"{'.'.join(keys)} = {_shown(document, loc)} {reason}. Write, for example: {_example(keys, model)}"


def _unknown(loc: tuple[Any, ...], model: type[BaseModel]) -> str:
    names = list(_fields(loc[:-1], model))
    close = difflib.get_close_matches(str(loc[-1]), names, n=1)
    hint = f"Do you mean {close[0]}?" if close else f"The rules are {', '.join(names)}."
    place = f"[{loc[0]}]" if len(loc) > 1 else "a policy"
    return f"{'.'.join(map(str, loc))} is not a rule of {place}. {hint}"


def _fields(keys: Iterable[Any], model: type[BaseModel]) -> Mapping[str, Any]:
    """Returns the fields of the section that `keys` lead to."""
    for key in keys:
        model = _sections(model)[str(key)]
    return model.model_fields


def _is_key(part: str, model: type[BaseModel]) -> bool:
    return part in model.model_fields or any(part in _fields([name], model) for name in _sections(model))


def _sections(model: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """Returns the fields that are nested models."""
    return {
        name: kind
        for name, field in model.model_fields.items()
        for kind in get_args(field.annotation)
        if isinstance(kind, type) and issubclass(kind, BaseModel)
    }


def _example(keys: list[str], model: type[BaseModel]) -> str:
    field = _fields(keys[:-1], model)[keys[-1]]
    return str((field.examples or ["(see docs/how-to/set-a-client-policy.md)"])[0])


def _shown(document: Any, loc: tuple[Any, ...]) -> str:
    """Returns the value at `loc`, as TOML writes it, shortened."""
    value = document
    for part in loc:
        if not isinstance(value, (Mapping, list)):
            break
        value = value[part]
    if isinstance(value, Mapping):
        text = "{" + ", ".join(map(str, value)) + "}"
    elif isinstance(value, bool):
        text = str(value).lower()
    else:
        text = f'"{value}"' if isinstance(value, str) else str(value)
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
