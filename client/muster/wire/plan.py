"""A plan as one file: the manifest and the parts that it names, each by its SHA-256.

The file is a zip without compression, dates or order of its own: equal plans are equal bytes. The manifest's SHA-256 is the
plan's address, and the manifest names every part's, so one hash vouches for all. Signatures of that address may stand
beside it. A device gets the same file with the parts that a device needs: the manifest, the signatures and the graph of
`work`.
"""

from __future__ import annotations

import hashlib
import io
import struct
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import IO, Any, Optional, Union

from muster.wire.dtypes import DType
from muster.wire.manifest import Part, PlanManifest, TensorSpec
from muster.wire.manifest_checks import check_manifest
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import MOST_SIGNATURES, SIGNATURES_LIMIT, Signature, Signatures, SigningKey, verifies
from muster.wire.tensors import Array, TensorsError, decode

CONTENT_TYPE = "application/vnd.muster.plan"
PLAN_LIMIT = 2 << 30  # bytes
MANIFEST_LIMIT = 32 << 20  # bytes
_MANIFEST, _SIGNATURES, _PARTS = "manifest.json", "signatures.json", "parts/"
_MOST_ENTRIES = 2 + 7 + 2  # manifest and signatures; seven graphs; the initial state and the zero
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the earliest date that a zip can hold


def part_of(data: bytes) -> Part:
    """The address of `data`."""
    return Part(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


@dataclass(frozen=True)
class Plan:
    """A compiled computation. `parts` maps SHA-256 to bytes; a client's copy holds fewer parts than the manifest names.

    `signatures` are in order of their signers. They may be anybody's: see `check_signed`.
    """

    manifest: PlanManifest
    parts: Mapping[str, bytes]
    signatures: tuple[Signature, ...] = ()

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
        """The copy that a device gets: just the graph of `work`, and the signatures."""
        graph = self.manifest.stages.work.graph
        return Plan(self.manifest, {graph.sha256: self.part(graph)}, self.signatures)

    def encode(self) -> bytes:
        """The plan's file."""
        buffer = io.BytesIO()
        self._write(buffer)
        return buffer.getvalue()

    def _write(self, file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
            archive.writestr(_entry(_MANIFEST), self.manifest.encode())
            if self.signatures:
                archive.writestr(_entry(_SIGNATURES), Signatures(signatures=self.signatures).encode())
            for sha256 in sorted(self.parts):
                archive.writestr(_entry(f"{_PARTS}{sha256}"), self.parts[sha256])

    @classmethod
    def decode(cls, data: bytes, *, expected: str | None = None) -> Plan:
        """Reads a plan's file, and takes no byte of it that `encode` would not write.

        Every hash is checked, and that the archive has just the entries, dates and order of a plan; a signature's own truth
        is for `check_signed`. Memory: the parts, beside `data`.

        Args:
          data: The file.
          expected: The plan's address, where it is known.

        Raises:
          ProblemError: `plan_invalid`, with what is wrong.
        """
        entries = _unpack(data)
        raw = entries.pop(_MANIFEST, None)
        if raw is None:
            raise _invalid("The file is no plan: it has no manifest")
        found = hashlib.sha256(raw).hexdigest()
        if expected is not None and found != expected:
            raise _invalid(f"The plan's address is {found[:12]}…, not {expected[:12]}…")
        try:
            manifest = PlanManifest.decode(raw)
            signed = entries.pop(_SIGNATURES, None)
            signatures = () if signed is None else Signatures.decode(signed).signatures
        except ProblemError as problem:
            raise ProblemError(ProblemType.PLAN_INVALID, problem.detail, fields=problem.fields) from problem
        if manifest.encode() != raw:
            raise _invalid("The plan's manifest is not in the form that this version writes")
        check_manifest(manifest)
        named = {part.sha256: part.size for part in manifest.parts}
        parts = {name[len(_PARTS) :]: content for name, content in entries.items()}
        for sha256, content in parts.items():
            if named.get(sha256) != len(content) or hashlib.sha256(content).hexdigest() != sha256:
                raise _invalid(f"Part {sha256[:12]} of the plan is not what its name says")
        plan = cls(manifest, parts, signatures)
        if not plan._is_file(data):
            raise _invalid("The plan's file is not in the form that this version writes")
        return plan

    def _is_file(self, data: bytes) -> bool:
        """Whether `encode` gives just these bytes, found out without a second copy of them."""
        comparison = _Comparison(data)
        self._write(comparison)
        return comparison.equal

    def signed(self, key: SigningKey) -> Plan:
        """The plan with the signature of `key` added, or renewed.

        Raises:
          ProblemError: `plan_invalid`, if it has as many signatures as a plan can have.
        """
        return self.with_signatures((key.sign(self.sha256),))

    def with_signatures(self, more: Iterable[Signature]) -> Plan:
        """The plan with more signatures; of two by one signer the one in `more` stays.

        Raises:
          ProblemError: `plan_invalid`, if that is more than a plan can have.
        """
        by_signer = {item.signer: item for item in (*self.signatures, *more)}
        if len(by_signer) > MOST_SIGNATURES:
            raise _invalid(f"Plan {self.sha256[:12]} has {MOST_SIGNATURES} signatures already, which is the most")
        return replace(self, signatures=tuple(by_signer[signer] for signer in sorted(by_signer)))

    def check_signed(self, trusted: Iterable[str], *, required: int = 1) -> Optional[str]:
        """Checks that enough of the trusted signers have signed the plan, whose hashes are checked already.

        Args:
          trusted: Public keys, as `muster.wire.signatures.parse_signers` returns them; empty: any plan passes.
          required: Number of different ones of them that must have signed.

        Returns:
          The first of the trusted signers; None if `trusted` is empty.

        Raises:
          ProblemError: `plan_invalid`, with the actual signers.
          ImportError: `cryptography` is not installed.
        """
        wanted = frozenset(trusted)
        if not wanted:
            return None
        theirs = [item for item in self.signatures if item.signer in wanted]
        valid = list(dict.fromkeys(item.signer for item in theirs if verifies(item, self.sha256)))
        if len(valid) >= required:
            return valid[0]
        if valid:
            found = f"is signed by {', '.join(valid)} alone, and {required} trusted signers must have signed"
        elif theirs:
            found = f"bears a signature of {theirs[0].signer} that is not of this plan"
        elif self.signatures:
            found = f"is signed by {', '.join(item.signer for item in self.signatures)}, none of whom is trusted here"
        else:
            found = "is not signed, and only signed plans are trusted here"
        raise _invalid(
            f"Plan {self.manifest.name} ({self.sha256[:12]}) {found}. Have a trusted signer sign it (`muster plan sign`), or trust its "
            "signer (MUSTER_TRUSTED_SIGNERS, --signer)"
        )

    def check_complete(self) -> None:
        """Checks that the manifest is consistent, all parts exist, and initial state and zero match the manifest.

        Raises:
          ProblemError: `plan_invalid`.
        """
        check_manifest(self.manifest)
        stages = self.manifest.stages
        for name in type(stages).model_fields:
            self.part(getattr(stages, name).graph)
        for what, part, specs in (
            ("initial state", self.manifest.initial_state, self.manifest.state),
            ("zero", self.manifest.zero, self.manifest.accumulator),
        ):
            try:
                found = decode(self.part(part))
            except TensorsError as error:
                raise ProblemError(ProblemType.PLAN_INVALID, f"The plan's {what} can't be read: {error}") from error
            if list(found) != [spec.path for spec in specs]:
                raise _invalid(f"The plan's {what} does not hold the tensors that its manifest names")
            if not all(_is(found[spec.path], spec) for spec in specs):
                raise _invalid(f"The plan's {what} holds tensors of another dtype or shape than its manifest declares")

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


def _is(array: Array, spec: TensorSpec) -> bool:
    """Returns whether a tensor has the declared dtype and a shape that the declared one allows."""
    if DType.of(array) is not spec.dtype:
        return False
    if spec.shape is None:
        return True
    return len(array.shape) == len(spec.shape) and all(
        want is None or want == have for have, want in zip(array.shape, spec.shape)
    )


def _invalid(detail: str) -> ProblemError:
    return ProblemError(ProblemType.PLAN_INVALID, detail)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # Unix, on every system: equal plans are equal bytes
    return entry


def _unpack(data: bytes) -> dict[str, bytes]:
    """The entries of a plan's archive by name, each within its limit. Reads nothing before the directory is looked over."""
    # The end record of an archive without a comment (APPNOTE.TXT 4.3.16): an absurd number of entries is not even listed.
    if len(data) < _END.size or len(data) > PLAN_LIMIT:
        raise _invalid(f"The file is no plan: it has {len(data)} bytes")
    signature, _, _, _, entries, directory, _, comment = _END.unpack(data[-_END.size :])
    if signature != b"PK\5\6" or comment or entries > _MOST_ENTRIES or directory > _MOST_ENTRIES * _LONGEST_ENTRY:
        raise _invalid("The file is no plan: it is cut off, or has not the entries of one")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _look_over(archive.infolist(), size=len(data))
            return {item.filename: archive.read(item) for item in archive.infolist()}
    except (
        zipfile.BadZipFile,
        KeyError,
        NotImplementedError,
        RuntimeError,
        OSError,
        EOFError,
        ValueError,
    ) as error:
        raise _invalid(f"The file is no plan: {error}") from error


def _look_over(items: list[zipfile.ZipInfo], *, size: int) -> None:
    limits = {_MANIFEST: MANIFEST_LIMIT, _SIGNATURES: SIGNATURES_LIMIT}
    if len({item.filename for item in items}) != len(items):
        raise _invalid("The file is no plan: it has two entries of one name")
    # Entries that overlap could unpack to more than the file.
    if sum(item.file_size for item in items) > size or any(item.compress_type != zipfile.ZIP_STORED for item in items):
        raise _invalid("The file is no plan: a plan's entries are not compressed")
    for item in items:
        if item.filename not in limits and not item.filename.startswith(_PARTS):
            raise _invalid(f"The file is no plan: it has an entry {item.filename[:80]!r}")
        if item.file_size > limits.get(item.filename, PLAN_LIMIT):
            raise _invalid(
                f"The plan's {item.filename} has {item.file_size} bytes; it may have {limits[item.filename]}"
            )


_END = struct.Struct("<4s4H2LH")
_LONGEST_ENTRY = 256  # bytes of an entry in the directory; a plan's have about 120
_SMALL = 64 << 10  # bytes


class _Comparison(io.BytesIO):
    """A file that only compares what is written with what should be. Small writes are kept, since headers are mended later."""

    def __init__(self, wanted: bytes) -> None:
        super().__init__()
        self._wanted = memoryview(wanted)
        self._kept: dict[int, bytes] = {}
        self._at = self._end = 0
        self._same = True

    def write(self, data: Any) -> int:
        at, size = self._at, len(data)
        if size > _SMALL:
            self._same = self._same and self._wanted[at : at + size] == data
        else:
            self._kept[at] = bytes(data)
        self._at += size
        self._end = max(self._end, self._at)
        return size

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._end}[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    @property
    def equal(self) -> bool:
        """Whether all that was written is all that was wanted."""
        kept = all(self._wanted[at : at + len(data)] == data for at, data in self._kept.items())
        return self._same and kept and self._end == len(self._wanted)
