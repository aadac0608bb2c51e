"""A plan as one file: the manifest and the parts that it names, each by its SHA-256.

The file is a zip without compression, dates or order of its own: equal plans are equal bytes. The manifest's SHA-256 is the
plan's address, and the manifest names every part's, so one hash vouches for all. A device gets the same file with the
parts that a device needs: the manifest and the graph of `work`.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Union

from .manifest import Part, PlanManifest
from .problems import ProblemError, ProblemType
from .tensors import Array, TensorsError, decode

CONTENT_TYPE = "application/vnd.muster.plan"
PLAN_LIMIT = 2 << 30  # bytes
_MANIFEST = "manifest.json"
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold


def part_of(data: bytes) -> Part:
    """The address of `data`."""
    return Part(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


@dataclass(frozen=True)
class Plan:
    """A compiled computation. `parts` maps SHA-256 to bytes; a client's copy holds fewer parts than the manifest names."""

    manifest: PlanManifest
    parts: Mapping[str, bytes]

    @cached_property
    def sha256(self) -> str:
        """The plan's address: the SHA-256 of its manifest, in hex."""
        return hashlib.sha256(self.manifest.encode()).hexdigest()

    def part(self, part: Part) -> bytes:
        """The bytes of a part.

        Raises:
          ProblemError: `plan_invalid`, if this copy of the plan was made without it.
        """
        try:
            return self.parts[part.sha256]
        except KeyError:
            raise ProblemError(
                ProblemType.PLAN_INVALID, f"This copy of plan {self.sha256[:12]} lacks part {part.sha256[:12]}"
            ) from None

    def initial_state(self) -> dict[str, Array]:
        """The server state before the first round, by tensor name."""
        return decode(self.part(self.manifest.initial_state))

    def zero(self) -> dict[str, Array]:
        """The empty accumulator, by tensor name."""
        return decode(self.part(self.manifest.zero))

    def for_client(self) -> Plan:
        """The copy that a device gets: just the graph of `work`."""
        graph = self.manifest.stages.work.graph
        return Plan(self.manifest, {graph.sha256: self.part(graph)})

    def encode(self) -> bytes:
        """The plan's file."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(zipfile.ZipInfo(_MANIFEST, _EPOCH), self.manifest.encode())
            for sha256 in sorted(self.parts):
                archive.writestr(zipfile.ZipInfo(f"parts/{sha256}", _EPOCH), self.parts[sha256])
        return buffer.getvalue()

    @classmethod
    def decode(cls, data: bytes, *, expected: str | None = None) -> Plan:
        """Reads a plan's file and checks every hash in it.

        Args:
          data: The file.
          expected: The plan's address, where it is known.

        Raises:
          ProblemError: `plan_invalid`, with what is wrong.
        """
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                if sum(item.file_size for item in archive.infolist()) > PLAN_LIMIT:
                    raise ProblemError(ProblemType.PLAN_INVALID, f"The plan unpacks to more than {PLAN_LIMIT} bytes")
                if any(item.compress_type != zipfile.ZIP_STORED for item in archive.infolist()):
                    raise ProblemError(
                        ProblemType.PLAN_INVALID, "The file is no plan: a plan's files are not compressed"
                    )
                raw = archive.read(_MANIFEST)
                parts = {
                    name.removeprefix("parts/"): archive.read(name) for name in archive.namelist() if name != _MANIFEST
                }
        except (
            zipfile.BadZipFile,
            KeyError,
            NotImplementedError,
            RuntimeError,
            OSError,
            EOFError,
            ValueError,
        ) as error:
            raise ProblemError(ProblemType.PLAN_INVALID, f"The file is no plan: {error}") from error
        found = hashlib.sha256(raw).hexdigest()
        if expected is not None and found != expected:
            raise ProblemError(ProblemType.PLAN_INVALID, f"The plan's address is {found[:12]}…, not {expected[:12]}…")
        try:
            manifest = PlanManifest.decode(raw)
        except ProblemError as problem:
            raise ProblemError(ProblemType.PLAN_INVALID, problem.detail, fields=problem.fields) from problem
        if manifest.encode() != raw:
            raise ProblemError(
                ProblemType.PLAN_INVALID, "The plan's manifest is not in the form that this version writes"
            )
        for sha256, content in parts.items():
            if hashlib.sha256(content).hexdigest() != sha256:
                raise ProblemError(
                    ProblemType.PLAN_INVALID, f"Part {sha256[:12]} of the plan is not what its name says"
                )
        return cls(manifest, parts)

    def check_complete(self) -> None:
        """Checks that every part is there and that the initial state and the zero hold what the manifest declares.

        Raises:
          ProblemError: `plan_invalid`.
        """
        stages = self.manifest.stages
        for name in type(stages).model_fields:
            self.part(getattr(stages, name).graph)
        for what, part, specs in (
            ("initial state", self.manifest.initial_state, self.manifest.state),
            ("zero", self.manifest.zero, self.manifest.accumulator),
        ):
            try:
                found = list(decode(self.part(part)))
            except TensorsError as error:
                raise ProblemError(ProblemType.PLAN_INVALID, f"The plan's {what} can't be read: {error}") from error
            if found != [spec.path for spec in specs]:
                raise ProblemError(
                    ProblemType.PLAN_INVALID, f"The plan's {what} does not hold the tensors that its manifest names"
                )

    def save(self, path: Union[str, Path]) -> None:
        """Writes the plan's file."""
        Path(path).write_bytes(self.encode())

    @classmethod
    def load(cls, path: Union[str, Path]) -> Plan:
        """Reads the plan's file.

        Raises:
          ProblemError: `plan_invalid`.
          OSError: the file can't be read.
        """
        return cls.decode(Path(path).read_bytes())
