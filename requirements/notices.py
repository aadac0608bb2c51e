"""Writes the notice of a pinned requirements file: each package with its version, licence, source and copyright lines.

    python requirements/notices.py requirements/functions/api.txt path/to/site-packages

The packages have to be installed in that folder, in the versions of the file. Their own metadata and licence files are the only
source, so the same pins give the same notice on every machine. `make requirements` calls it through make-notices.sh.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path

_PINNED = re.compile(r"([A-Za-z0-9._-]+)==([^\s;\\]+)")
_LICENCE_FILE = re.compile(r"(?i)(licen[cs]e|copying|notice|copyright)")
# Of the licence's own appendix and conditions, such as "Copyright [yyyy] [name of copyright owner]", this takes nothing.
_COPYRIGHT = re.compile(r"(?i)^[\s#*/.]*((copyright|©)\s.*(\d{4}|\(c\)|©).*)$")
_INEXACT = ("bsd", "bsd license", "unknown", "dual license")
_MAX_COPYRIGHT_LINES = 12  # of one package; the rest is in its licence files
# How packages without an SPDX expression name their licence.
_SPDX = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2": "Apache-2.0",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "apache-2.0": "Apache-2.0",
    "bsd 3-clause": "BSD-3-Clause",
    "isc license": "ISC",
    "https://www.apache.org/licenses/license-2.0": "Apache-2.0",
    "https://www.apache.org/licenses/license-2.0.txt": "Apache-2.0",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
}
# What the text of a licence holds, for packages that name none, or not exactly which.
_TEXTS = {
    "Apache-2.0": r"Apache License,?\s+Version 2\.0",
    "MPL-2.0": r"Mozilla Public License",
    "MIT": r"Permission is hereby granted, free of charge",
    "BSD-3-Clause": r"Redistribution and use in source and binary forms[\s\S]*[Nn]either the name",
    "BSD-2-Clause": r"Redistribution and use in source and binary forms",
}
_SOURCE_LABELS = ("source", "source code", "repository", "code", "github", "homepage", "home", "changelog")
_HEAD = """\
Third-party software that runs with this part of Muster
=======================================================

Muster itself is under the Apache License 2.0. It uses the following packages, each under a licence of its own. The full texts
are in the folder *.dist-info of each installed package, where an image has them too. Source code is at the address beside each
package; that of packages under the MPL-2.0 is used unchanged.
"""


class NoticeError(RuntimeError):
    """A package is missing, has another version, or names no licence; the text says which."""


@dataclass(frozen=True)
class Package:
    """An installed package as the notice lists it."""

    name: str
    version: str
    licence: str
    source: str
    copyright: tuple[str, ...]


def pins(requirements: str) -> dict[str, str]:
    """Returns the versions that a requirements file pins, by name."""
    found = (_PINNED.match(line) for line in requirements.splitlines())
    return {match[1]: match[2] for match in found if match}


def notice(requirements: str, site_packages: Path) -> str:
    """Returns the notice of a requirements file.

    Raises:
      NoticeError: a package is not installed there in that version, or names no licence.
    """
    packages = [_package(name, version, site_packages) for name, version in sorted(pins(requirements).items())]
    return "\n".join([_HEAD, *map(_entry, packages)])


def _entry(package: Package) -> str:
    lines = [f"{package.name} {package.version}", f"  Licence: {package.licence}"]
    if package.source:
        lines.append(f"  Source: {package.source}")
    lines += [f"  {line}" for line in package.copyright]
    return "\n".join(lines) + "\n"


def _package(name: str, version: str, site_packages: Path) -> Package:
    found = next(iter(Distribution.discover(name=name, path=[str(site_packages)])), None)
    if found is None or found.version != version:
        raise NoticeError(f"{name} {version} is not installed in {site_packages}: {found and found.version}")
    return Package(name, version, _licence(found), _source(found), tuple(_copyright_lines(found)))


def _licence(package: Distribution) -> str:
    metadata = package.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [
        each.rpartition(" :: ")[2]
        for each in metadata.get_all("Classifier") or []
        if each.startswith("License :: ") and not each.endswith("OSI Approved")
    ]
    text = (metadata.get("License") or "").strip()
    named = [text] if text and "\n" not in text and len(text) < 80 else []  # noqa: PLR2004  else it is the whole text
    # A classifier such as "BSD License" does not say which one: what the package itself writes is more exact.
    candidates = [each for each in (*named, *classifiers) if each.lower() not in _INEXACT]
    if candidates:
        return _SPDX.get(candidates[0].lower(), candidates[0])
    for text in _licence_texts(package):
        for name, pattern in _TEXTS.items():
            if re.search(pattern, text):
                return name
    raise NoticeError(f"{package.name} {package.version} names no licence that this knows: add it to {__file__}")


def _source(package: Distribution) -> str:
    labelled = {
        label.strip().lower(): address.strip()
        for label, _, address in (line.partition(",") for line in package.metadata.get_all("Project-URL") or [])
    }
    home = package.metadata.get("Home-page") or ""
    addresses = [*(labelled.get(label, "") for label in _SOURCE_LABELS), home]
    return next((address for address in addresses if address.startswith("http")), "")


def _copyright_lines(package: Distribution) -> Iterator[str]:
    lines = (_COPYRIGHT.match(line) for text in _licence_texts(package) for line in text.splitlines())
    seen = dict.fromkeys(" ".join(match[1].split()) for match in lines if match)
    if next(_licence_texts(package), None) is None:
        yield "The package holds no licence file."
    yield from list(seen)[:_MAX_COPYRIGHT_LINES]
    if len(seen) > _MAX_COPYRIGHT_LINES:
        yield f"and {len(seen) - _MAX_COPYRIGHT_LINES} more, in its licence files"


def _licence_texts(package: Distribution) -> Iterator[str]:
    for file in sorted(package.files or [], key=str):
        path = Path(str(package.locate_file(file)))
        if file.suffix not in (".py", ".pyc") and _LICENCE_FILE.search(file.name) and path.is_file():
            yield path.read_text(encoding="utf-8", errors="replace")


def main() -> None:
    """Writes the notice to standard output."""
    requirements, site_packages = map(Path, sys.argv[1:])
    try:
        text = notice(requirements.read_text(encoding="utf-8"), site_packages)
    except NoticeError as error:
        sys.exit(str(error))
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    sys.stdout.write(text)


if __name__ == "__main__":
    main()
