"""Rewrites schemas.json, the parts of Google's APIs that mapping.json names, and enums.json.

Google publishes a discovery document for each API, and google-api-python-client ships all of them.
Use version 2.202.0, or write the newer one here:

    pip install --no-deps --target FOLDER google-api-python-client==2.202.0
    python tests/data/google/extract.py FOLDER

Without a folder, it rewrites enums.json alone, which follows from schemas.json and mapping.json:
the values of the provider's attributes, by resource type and the attribute's last name.
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
DOCUMENTS = "googleapiclient/discovery_cache/documents"
# Its attribute is one text of JSON.
DASHBOARD = "google_monitoring_dashboard"
# Everything else is prose.
RETAINED = ("type", "format", "enum", "$ref", "items", "additionalProperties", "properties", "readOnly")


def reduce(schema: dict[str, Any]) -> dict[str, Any]:
    """Returns a schema without its prose."""
    reduced: dict[str, Any] = {}
    for key in RETAINED:
        value = schema.get(key)
        if key == "properties" and value is not None:
            reduced[key] = {name: reduce(field) for name, field in sorted(value.items())}
        elif isinstance(value, dict):
            reduced[key] = reduce(value)
        elif value is not None:
            reduced[key] = value
    return reduced


def references(schema: Any) -> set[str]:
    """Returns the names of all schemas that a schema refers to."""
    if isinstance(schema, list):
        return set().union(*map(references, schema))
    if not isinstance(schema, dict):
        return set()
    direct = {schema["$ref"]} if isinstance(schema.get("$ref"), str) else set()
    return direct.union(*map(references, schema.values()))


def extract(documents: Path, names: set[str]) -> dict[str, dict[str, Any]]:
    """Returns the named schemas, `api.version.Name`, with all that they refer to."""
    extracted: dict[str, dict[str, Any]] = {}
    waiting = set(names)
    apis: dict[str, Any] = {}
    while waiting:
        full = waiting.pop()
        api, _, name = full.rpartition(".")
        if api not in apis:
            apis[api] = json.loads((documents / f"{api}.json").read_text())["schemas"]
        extracted[full] = reduce(apis[api][name])
        waiting |= {f"{api}.{other}" for other in references(extracted[full])} - extracted.keys()
    return extracted


def snake(name: str) -> str:
    """Converts a name of the API to one of Terraform: `maxBackoff` to `max_backoff`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match[1], name).lower()


class EnumWalker:
    """Walk through the schema of a resource type, to the values of each attribute.

    Args:
      schemas: The extracted schemas.
      entry: The mapping of the resource type.
    """

    def __init__(self, schemas: dict[str, dict[str, Any]], entry: dict[str, Any]) -> None:
        self._schemas = schemas
        self._root = entry["schema"]
        self._api = self._root.rpartition(".")[0]
        self._renamed: dict[str, dict[str, str]] = defaultdict(dict)
        for dotted, name in entry.get("fields", {}).items():
            parent, _, attribute = dotted.rpartition(".")
            self._renamed[parent][attribute] = name or ""

    def attributes(self) -> Iterator[tuple[str, list[str] | None]]:
        """Yields the dotted path of each attribute and its values, or None if it may have any."""
        yield from self._walk(self._schemas[self._root], "", frozenset())

    def _walk(self, schema: dict[str, Any], path: str, above: frozenset[str]) -> Iterator[tuple[str, list[str] | None]]:
        reference = schema.get("$ref")
        if reference in above:
            return
        if reference:
            above, schema = above | {reference}, self._schemas[f"{self._api}.{reference}"]
        inner = schema.get("items") or schema.get("additionalProperties")
        if isinstance(inner, dict):
            yield from self._walk(inner, path, above)
        elif "properties" in schema:
            for name, field in self._fields(schema, path):
                yield from self._walk(field, f"{path}.{name}" if path else name, above)
        elif path:
            yield path, schema.get("enum")

    def _fields(self, schema: dict[str, Any], path: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yields the fields that can be set, by the provider's names."""
        renamed = {name: attribute for attribute, name in self._renamed[path].items()}
        for name, field in schema["properties"].items():
            # The stub provider knows attributes by name, so label keys must not look like one.
            is_unsent = self._renamed[path].get(snake(name)) == ""
            if not field.get("readOnly") and not is_unsent:
                yield renamed.get(name, snake(name)), field


def provider_enums(mapping: dict[str, Any], schemas: dict[str, dict[str, Any]]) -> dict[str, dict[str, list[str]]]:
    """Returns the values of attributes, by resource type and the attribute's last name.

    An attribute is left out if another one of the resource type has its name and any value.
    """
    enums: dict[str, dict[str, list[str]]] = {}
    for kind, entry in sorted(mapping["types"].items()):
        documented = mapping["values"].get(kind, {})
        attributes: dict[str, list[str] | None] = dict(EnumWalker(schemas, entry).attributes())
        # An attribute of the resource itself stands for all of its name.
        attributes = {path: values for path, values in attributes.items() if path.rpartition(".")[2] not in documented}
        attributes |= documented
        by_name: dict[str, list[Any]] = defaultdict(list)
        for path, values in attributes.items():
            by_name[path.rpartition(".")[2]].append(values)
        restricted = {name: [*chain.from_iterable(lists)] for name, lists in by_name.items() if None not in lists}
        # The unspecified value is what the API has for a field that is not set.
        enums[kind] = {
            name: sorted({value for value in values if not value.endswith("UNSPECIFIED")})
            for name, values in sorted(restricted.items())
        }
    return {kind: attributes for kind, attributes in enums.items() if attributes and kind != DASHBOARD}


def write(name: str, table: dict[str, Any]) -> None:
    """Writes a file of this folder, one entry a line."""
    lines = ",\n".join(f'"{key}": {json.dumps(table[key], separators=(",", ":"))}' for key in sorted(table))
    (FOLDER / name).write_text(f"{{\n{lines}\n}}\n")


def main(*folders: str) -> None:
    """Writes schemas.json, if given google-api-python-client's folder, and enums.json."""
    mapping = json.loads((FOLDER / "mapping.json").read_text())
    for folder in folders:
        names = {entry["schema"] for entry in [*mapping["types"].values(), mapping["bindings"]]}
        write("schemas.json", extract(Path(folder) / DOCUMENTS, names))
    schemas = json.loads((FOLDER / "schemas.json").read_text())
    enums = provider_enums(mapping, schemas)
    write("enums.json", enums)
    print(f"{len(schemas)} schemas, {sum(map(len, enums.values()))} enums of {len(enums)} resource types")  # noqa: T201


if __name__ == "__main__":
    main(*sys.argv[1:])
