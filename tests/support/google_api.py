"""Checks planned resources against the descriptions that Google publishes of its APIs.

`tests/data/google/mapping.json` names the API's schema of each resource type of the provider, and
the fields whose names differ. `schemas.json` beside it holds these schemas; `extract.py` rewrites
it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parents[1] / "data/google"
MAPPING: dict[str, Any] = json.loads((FOLDER / "mapping.json").read_text())
SCHEMAS: dict[str, dict[str, Any]] = json.loads((FOLDER / "schemas.json").read_text())

_INTEGER = re.compile(r"-?[0-9]+")
_FORMATS = {
    "int32": _INTEGER,
    "int64": _INTEGER,
    "uint32": re.compile(r"[0-9]+"),
    "uint64": re.compile(r"[0-9]+"),
    "google-duration": re.compile(r"-?[0-9]+(\.[0-9]{1,9})?s"),
    "google-datetime": re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)"),
}
_PYTHON_TYPES: dict[str, tuple[type, ...]] = {"integer": (int, str), "number": (int, float), "object": (dict,)}
_LIMITS = {"int32": (-(2**31), 2**31 - 1), "uint32": (0, 2**32 - 1)}


@dataclass
class Report:
    """Result of a check.

    Attributes:
      types: The provider's resource types that were checked.
      resources: The number of checked resources.
      values: The number of values that have a field in the API.
      enums: The number of these that the API restricts to a list.
      findings: The mistakes, one line each.
    """

    types: set[str] = field(default_factory=set)
    resources: int = 0
    values: int = 0
    enums: int = 0
    findings: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return f"{self.resources} resources, {len(self.types)} types, {self.values} values ({self.enums} of an enum)"


@dataclass(frozen=True)
class _Place:
    """Position in a resource: its path in Terraform, and the API's schema of its value.

    Attributes:
      kind: The resource type.
      address: The resource's address.
      path: The attributes from the resource to the value.
      schema: The API's schema of the value.
      api: The API and version of the schema, which its references belong to.
      converted: True if names are the provider's; False in JSON that is sent as it is.
    """

    kind: str
    address: str
    path: tuple[str, ...]
    schema: dict[str, Any]
    api: str
    converted: bool = True

    @property
    def name(self) -> str:
        return f"{self.address}: {'.'.join(self.path)}"


def entry(kind: str) -> dict[str, Any] | None:
    """Returns the mapping of a resource type, or None if it has none."""
    types: dict[str, dict[str, Any]] = MAPPING["types"]
    bindings: dict[str, Any] = MAPPING["bindings"]
    return types.get(kind, bindings if kind.endswith(tuple(bindings["suffixes"])) else None)


def check(changes: list[dict[str, Any]]) -> Report:
    """Checks the `resource_changes` of a plan in JSON; other providers' resources are left out."""
    report = Report()
    for change in changes:
        kind, after = change["type"], change["change"]["after"]
        is_google = change["mode"] == "managed" and kind.startswith("google_")
        if not is_google or after is None or kind in MAPPING["not_sent"]:
            continue
        mapped = entry(kind)
        if mapped is None:
            report.findings.append(f"{change['address']}: tests/data/google/mapping.json has no schema for {kind}")
            continue
        report.resources += 1
        report.types.add(kind)
        api = mapped["schema"].rpartition(".")[0]
        _check_object(_Place(kind, change["address"], (), SCHEMAS[mapped["schema"]], api), after, report)
        report.findings += documented(change["address"], kind, after)
    return report


def check_json(name: str, schema: str, document: Any) -> Report:
    """Checks a document that is sent to the API as it is."""
    report = Report(resources=1)
    api = schema.rpartition(".")[0]
    _check_value(_Place("", name, (), SCHEMAS[schema], api, converted=False), document, report)
    return report


def documented(address: str, kind: str, after: dict[str, Any]) -> list[str]:
    """Returns the values that are not among those of the provider's documentation."""
    allowed = MAPPING["values"].get(kind, {})
    return [
        f"{address}: {path} is {value!r}, not one of {', '.join(allowed[path])}"
        for path, value in _leaves(after)
        if path in allowed and value not in allowed[path]
    ]


def _leaves(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _leaves(inner, (*path, key))
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner, path)
    elif value not in (None, ""):
        yield ".".join(path), value


def resolve(schema: dict[str, Any], api: str) -> dict[str, Any]:
    """Returns the schema that a reference names, or the schema itself."""
    return SCHEMAS[f"{api}.{schema['$ref']}"] if "$ref" in schema else schema


def camel(name: str) -> str:
    """Converts a name of Terraform to one of the API: `max_backoff` to `maxBackoff`."""
    return re.sub(r"_+([a-z0-9])", lambda match: match[1].upper(), name)


def api_name(kind: str, path: tuple[str, ...]) -> str | None:
    """Returns the API's name of a field, relative to its parent, or None if it is not sent."""
    mapped = entry(kind) or {}
    own: dict[str, str | None] = mapped.get("fields", {})
    sent = mapped.get("sent")
    dotted = ".".join(path)
    if sent is not None and path[0] not in sent:
        return None
    if dotted in own:
        return own[dotted]
    if len(path) == 1 and dotted in MAPPING["everywhere"]:
        return None
    return camel(path[-1])


def descend(schema: dict[str, Any], name: str, api: str) -> dict[str, Any] | None:
    """Returns the schema of a field or of a dotted path, or None if there is no such field."""
    for part in name.split("."):
        schema = resolve(schema, api)
        if part not in schema.get("properties", {}):
            return None
        schema = schema["properties"][part]
    return schema


def _check_object(place: _Place, value: dict[str, Any], report: Report) -> None:
    for key, inner in value.items():
        path = (*place.path, key)
        name = api_name(place.kind, path) if place.converted else key
        if _is_empty(inner) or name is None:
            continue
        if name == "json":
            document = check_json(f"{place.address}: {key}", entry(place.kind)["schema"], json.loads(inner))  # type: ignore[index]
            report.values += document.values
            report.enums += document.enums
            report.findings += document.findings
            continue
        schema = descend(place.schema, name, place.api)
        target = _Place(place.kind, place.address, path, schema or {}, place.api, place.converted)
        if schema is None:
            report.findings.append(f"{target.name}: the API has no field {name}")
        elif schema.get("readOnly"):
            report.findings.append(f"{target.name}: the API sets {name} itself")
        else:
            _check_value(target, inner, report)


def _is_empty(value: Any) -> bool:
    """Returns True for values that are not sent: null, empty texts, and blocks without values."""
    return value is None or value in ("", [])


def _check_value(place: _Place, value: Any, report: Report) -> None:
    schema = resolve(place.schema, place.api)
    if isinstance(value, list) or schema.get("type") == "array":
        _check_list(replace(place, schema=schema), value if isinstance(value, list) else [value], report)
    elif value is None:
        return
    elif "properties" in schema and isinstance(value, dict):
        _check_object(replace(place, schema=schema), value, report)
    elif "additionalProperties" in schema and isinstance(value, dict):
        for key, inner in value.items():
            item = replace(place, kind="", path=(*place.path, key), schema=schema["additionalProperties"])
            _check_value(item, inner, report)
    else:
        _check_scalar(place, schema, value, report)


def _check_list(place: _Place, values: list[Any], report: Report) -> None:
    if place.schema.get("type") == "array":
        item = place.schema["items"]
    elif "additionalProperties" in place.schema:
        # A map, whose keys are attributes of the provider's blocks.
        item = place.schema["additionalProperties"]
    else:
        # A block that may occur once.
        item = place.schema
        if len(values) > 1 or not place.converted:
            report.findings.append(f"{place.name}: {len(values)} values for a field with one")
    for value in values:
        if value is not None:
            _check_value(replace(place, schema=item), value, report)


def _check_scalar(place: _Place, schema: dict[str, Any], value: Any, report: Report) -> None:
    report.values += 1
    if "enum" in schema:
        report.enums += 1
        if value not in schema["enum"]:
            report.findings.append(f"{place.name} is {value!r}, not one of {', '.join(schema['enum'])}")
        return
    mistake = type_mistake(schema, value) or format_mistake(schema.get("format"), value)
    if mistake:
        report.findings.append(f"{place.name} is {value!r}, {mistake}")


def type_mistake(schema: dict[str, Any], value: Any) -> str | None:
    """Returns why a value does not have the schema's type, or None if it has."""
    expected = schema.get("type")
    is_boolean = isinstance(value, bool)
    if expected == "boolean":
        return None if is_boolean else "not a boolean"
    if expected in _PYTHON_TYPES:
        return f"not of type {expected}" if is_boolean or not isinstance(value, _PYTHON_TYPES[expected]) else None
    # JSON has 64-bit integers as text, and Terraform as numbers.
    is_number = isinstance(value, (int, float)) and not is_boolean and "int" in schema.get("format", "")
    return None if expected == "any" or isinstance(value, str) or is_number else "not a text"


def format_mistake(name: str | None, value: Any) -> str | None:
    """Returns why a value does not have a format, or None if it has."""
    if name not in _FORMATS:
        return None
    if not _FORMATS[name].fullmatch(str(value)):
        return f"not in the format {name}"
    low, high = _LIMITS.get(name, (-(2**63), 2**64))
    return None if not _INTEGER.fullmatch(str(value)) or low <= int(value) <= high else f"out of {name}"
