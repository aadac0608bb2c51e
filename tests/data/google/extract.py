"""Rewrites schemas.json, the parts of Google's API descriptions that the mapping names.

Google publishes a discovery document for each API, and google-api-python-client ships all of them.
Use version 2.202.0, or write the newer one here:

    pip install --no-deps --target FOLDER google-api-python-client==2.202.0
    python tests/data/google/extract.py FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
DOCUMENTS = "googleapiclient/discovery_cache/documents"
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


def main(folder: str) -> None:
    """Writes schemas.json, one schema a line."""
    mapping = json.loads((FOLDER / "mapping.json").read_text())
    names = {entry["schema"] for entry in [*mapping["types"].values(), mapping["bindings"]]}
    schemas = extract(Path(folder) / DOCUMENTS, names)
    lines = ",\n".join(f'"{name}": {json.dumps(schema, separators=(",", ":"))}' for name, schema in sorted(schemas.items()))
    (FOLDER / "schemas.json").write_text(f"{{\n{lines}\n}}\n")
    print(f"{len(schemas)} schemas, {(FOLDER / 'schemas.json').stat().st_size} bytes")


if __name__ == "__main__":
    main(sys.argv[1])
