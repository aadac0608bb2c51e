"""Writes the notice of a pinned requirements file.

    python requirements/notices.py requirements/functions/api.txt path/to/site-packages

A notice lists each package with its version, license, source and copyright lines. The packages must
be installed in that folder, in the versions of the file. The notice depends only on their metadata
and license files, so equal pins give equal notices on every machine. `make requirements` runs this
script through make-notices.sh.
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
# Does not match the appendix and the conditions of a license, such as "Copyright [yyyy] [name of
# copyright owner]".
_COPYRIGHT = re.compile(r"(?i)^[\s#*/.]*((copyright|©)\s.*(\d{4}|\(c\)|©).*)$")
_INEXACT = ("bsd", "bsd license", "unknown", "dual license")
_MAX_COPYRIGHT_LINES = 12  # per package; the others are in its license files
_MAX_LICENSE_NAME = 80  # characters; a longer text is the license itself
# SPDX expressions of license names that packages use.
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
# Patterns in license texts, for packages that name no license, or name it inexactly.
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

Muster itself is under the Apache License 2.0. It uses the following packages, \
each under a licence of its own. The full texts
are in the folder *.dist-info of each installed package, where an image has them too. \
Source code is at the address beside each
package; that of packages under the MPL-2.0 is used unchanged.
"""


class NoticeError(RuntimeError):
    """Error raised when a package is missing, has another version, or names no known license."""


@dataclass(frozen=True)
class Package:
    """Entry of the notice for an installed package."""

    name: str
    version: str
    licence: str
    source: str
    copyright: tuple[str, ...]


def pins(requirements: str) -> dict[str, str]:
    """Returns the versions that a requirements file pins, by name."""
    matches = (_PINNED.match(line) for line in requirements.splitlines())
    return {match[1]: match[2] for match in matches if match}


def notice(requirements: str, site_packages: Path) -> str:
    """Returns the notice of a requirements file.

    Raises:
      NoticeError: a package is not installed there in that version, or names no known license.
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
    installed = next(iter(Distribution.discover(name=name, path=[str(site_packages)])), None)
    if installed is None or installed.version != version:
        raise NoticeError(f"{name} {version} is not installed in {site_packages}: {installed and installed.version}")
    return Package(name, version, _licence(installed), _source(installed), tuple(_copyright_lines(installed)))


def _licence(package: Distribution) -> str:
    metadata = package.metadata
    expression = metadata.get("License-Expression")
    if expression:
        return str(expression)
    classifiers = [
        classifier.rpartition(" :: ")[2]
        for classifier in metadata.get_all("Classifier") or []
        if classifier.startswith("License :: ") and not classifier.endswith("OSI Approved")
    ]
    text = (metadata.get("License") or "").strip()
    names = [text] if text and "\n" not in text and len(text) < _MAX_LICENSE_NAME else []
    # The package's own text is more exact than a classifier such as "BSD License".
    candidates = [name for name in (*names, *classifiers) if name.lower() not in _INEXACT]
    if candidates:
        return _SPDX.get(candidates[0].lower(), candidates[0])
    for text in _licence_texts(package):
        for name, pattern in _TEXTS.items():
            if re.search(pattern, text):
                return name
    raise NoticeError(f"{package.name} {package.version} names no known license; add its name to {__file__}")


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
