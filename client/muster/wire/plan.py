"""Plan file: the manifest of a plan, its parts by their SHA-256, and signatures.

The file is a zip without compression and dates, in a fixed order: equal plans are equal bytes. The
SHA-256 of the manifest is the plan's address. The manifest lists the SHA-256 of every part, so that
one hash covers all. A device downloads a smaller copy: the manifest, the signatures and the graph
of `work`.
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
from muster.wire.signatures import MAX_SIGNATURES, SIGNATURES_LIMIT, Signature, Signatures, SigningKey, verifies
from muster.wire.tensors import Array, TensorsError, decode

CONTENT_TYPE = "application/vnd.muster.plan"
PLAN_LIMIT = 2 << 30  # bytes
MANIFEST_LIMIT = 32 << 20  # bytes
_MANIFEST, _SIGNATURES, _PARTS = "manifest.json", "signatures.json", "parts/"
_MAX_ENTRIES = 2 + 7 + 2  # manifest and signatures; seven graphs; the initial state and the zero
_EPOCH = (1980, 1, 1, 0, 0, 0)  # earliest date of a zip
_END = struct.Struct("<4s4H2LH")  # end record of a zip without a comment (APPNOTE.TXT 4.3.16)
_MAX_ENTRY_BYTES = 256  # of an entry in the zip's directory; a plan's have about 120
_MAX_BUFFERED_WRITE = 64 << 10  # bytes


def part_of(data: bytes) -> Part:
    """Returns the address of a part with these bytes."""
    return Part(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


@dataclass(frozen=True)
class Plan:
    """Compiled computation, content-addressed and optionally signed.

    Attributes:
      manifest: Manifest of the plan.
      parts: Parts by their SHA-256 in hex. A device's copy lacks those that it does not need.
      signatures: Signatures, sorted by signer. They are unverified; see `check_signed`.
    """

    manifest: PlanManifest
    parts: Mapping[str, bytes]
    signatures: tuple[Signature, ...] = ()

    @cached_property
    def sha256(self) -> str:
        """Address of the plan: the SHA-256 of its manifest, in hex."""
        return hashlib.sha256(self.manifest.encode()).hexdigest()

    def part(self, part: Part) -> bytes:
        """Returns the bytes of a part.

        Raises:
          ProblemError: `plan_invalid`, if this copy of the plan lacks it.
        """
        try:
            return self.parts[part.sha256]
        except KeyError:
            raise ProblemError(
                ProblemType.PLAN_INVALID, f"This copy of plan {self.sha256[:12]} lacks part {part.sha256[:12]}"
            ) from None

    def initial_state(self) -> dict[str, Array]:
        """Returns the server state before the first round, by tensor name."""
        return decode(self.part(self.manifest.initial_state))

    def zero(self) -> dict[str, Array]:
        """Returns the empty accumulator, by tensor name."""
        return decode(self.part(self.manifest.zero))

    def for_client(self) -> Plan:
        """Returns the copy for a device, with the graph of `work` as its only part."""
        graph = self.manifest.stages.work.graph
        return Plan(self.manifest, {graph.sha256: self.part(graph)}, self.signatures)

    def encode(self) -> bytes:
        """Returns the bytes of the plan's file."""
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
        """Reads a plan's file, and refuses any byte that `encode` would not write.

        All hashes are checked. Signatures are not verified; see `check_signed`. The parts are
        copied, so that memory is twice the file's size.

        Args:
          data: Bytes of the file.
          expected: Address of the plan, if it is known.

        Raises:
          ProblemError: `plan_invalid`, with the reason.
        """
        entries = _unpack(data)
        raw = entries.pop(_MANIFEST, None)
        if raw is None:
            raise _invalid("The file is not a plan: it has no manifest")
        address = hashlib.sha256(raw).hexdigest()
        if expected is not None and address != expected:
            raise _invalid(f"The plan's address is {address[:12]}…, not {expected[:12]}…")
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
                raise _invalid(f"Part {sha256[:12]} of the plan does not match its address")
        plan = cls(manifest, parts, signatures)
        if not plan._is_file(data):
            raise _invalid("The plan's file is not in the form that this version writes")
        return plan

    def _is_file(self, data: bytes) -> bool:
        """Returns whether `encode` returns exactly these bytes, without a second copy of them."""
        comparison = _Comparison(data)
        self._write(comparison)
        return comparison.equal

    def signed(self, key: SigningKey) -> Plan:
        """Returns the plan with the signature of `key` added or renewed.

        Raises:
          ProblemError: `plan_invalid`, if it has `MAX_SIGNATURES` already.
        """
        return self.with_signatures((key.sign(self.sha256),))

    def with_signatures(self, more: Iterable[Signature]) -> Plan:
        """Returns the plan with more signatures; a new one replaces the same signer's old one.

        Raises:
          ProblemError: `plan_invalid`, if these are more than `MAX_SIGNATURES`.
        """
        by_signer = {item.signer: item for item in (*self.signatures, *more)}
        if len(by_signer) > MAX_SIGNATURES:
            raise _invalid(f"Plan {self.sha256[:12]} has {MAX_SIGNATURES} signatures already, the maximum")
        return replace(self, signatures=tuple(by_signer[signer] for signer in sorted(by_signer)))

    def check_signed(self, trusted: Iterable[str], *, required: int = 1) -> Optional[str]:
        """Checks that enough of the trusted signers have signed the plan.

        Args:
          trusted: Public keys, as `muster.wire.signatures.parse_signers` returns them. If empty,
            any plan passes.
          required: Number of different trusted signers that must have signed.

        Returns:
          The first trusted signer with a valid signature; None if `trusted` is empty.

        Raises:
          ProblemError: `plan_invalid`, with the actual signers.
          ImportError: `cryptography` is not installed.
        """
        trusted_keys = frozenset(trusted)
        if not trusted_keys:
            return None
        candidates = [item for item in self.signatures if item.signer in trusted_keys]
        valid = list(dict.fromkeys(item.signer for item in candidates if verifies(item, self.sha256)))
        if len(valid) >= required:
            return valid[0]
        if valid:
            reason = f"is signed by {', '.join(valid)} alone, and {required} trusted signers must have signed"
        elif candidates:
            reason = f"bears a signature of {candidates[0].signer} that is not of this plan"
        elif self.signatures:
            reason = f"is signed by {', '.join(item.signer for item in self.signatures)}, none of whom is trusted here"
        else:
            reason = "is not signed, and only signed plans are trusted here"
        raise _invalid(
            f"Plan {self.manifest.name} ({self.sha256[:12]}) {reason}. Have a trusted signer sign it (`muster plan "
            "sign`), or trust its signer (MUSTER_TRUSTED_SIGNERS, --signer)"
        )

    def check_complete(self) -> None:
        """Checks that the plan has all its parts and that they match the manifest.

        Raises:
          ProblemError: `plan_invalid`.
        """
        check_manifest(self.manifest)
        stages = self.manifest.stages
        for name in type(stages).model_fields:
            self.part(getattr(stages, name).graph)
        for name, part, specs in (
            ("initial state", self.manifest.initial_state, self.manifest.state),
            ("zero", self.manifest.zero, self.manifest.accumulator),
        ):
            try:
                tensors = decode(self.part(part))
            except TensorsError as error:
                raise ProblemError(ProblemType.PLAN_INVALID, f"The plan's {name} can't be read: {error}") from error
            if list(tensors) != [spec.path for spec in specs]:
                raise _invalid(f"The plan's {name} has other tensors than its manifest declares")
            if not all(_matches(tensors[spec.path], spec) for spec in specs):
                raise _invalid(f"The plan's {name} has tensors of another dtype or shape than its manifest declares")

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


def _matches(array: Array, spec: TensorSpec) -> bool:
    """Returns whether a tensor has the declared dtype and a shape that the declaration permits."""
    if DType.of(array) is not spec.dtype:
        return False
    if spec.shape is None:
        return True
    return len(array.shape) == len(spec.shape) and all(
        declared is None or declared == actual for actual, declared in zip(array.shape, spec.shape)
    )


def _invalid(detail: str) -> ProblemError:
    return ProblemError(ProblemType.PLAN_INVALID, detail)


def _entry(name: str) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo(name, _EPOCH)
    entry.create_system = 3  # Unix, on every system, so that equal plans are equal bytes
    return entry


def _unpack(data: bytes) -> dict[str, bytes]:
    """Returns the entries of a plan's archive by name, after a check of its directory."""
    # The end record is checked first, so that a directory of millions of entries is not listed.
    if len(data) < _END.size or len(data) > PLAN_LIMIT:
        raise _invalid(f"The file is not a plan: it has {len(data)} bytes")
    signature, _, _, _, entries, directory, _, comment = _END.unpack(data[-_END.size :])
    if signature != b"PK\5\6" or comment or entries > _MAX_ENTRIES or directory > _MAX_ENTRIES * _MAX_ENTRY_BYTES:
        raise _invalid("The file is not a plan: it is cut off, or has other entries than one")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_directory(archive.infolist(), size=len(data))
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
        raise _invalid(f"The file is not a plan: {error}") from error


def _check_directory(items: list[zipfile.ZipInfo], *, size: int) -> None:
    limits = {_MANIFEST: MANIFEST_LIMIT, _SIGNATURES: SIGNATURES_LIMIT}
    if len({item.filename for item in items}) != len(items):
        raise _invalid("The file is not a plan: it has two entries of one name")
    # Entries that overlap could unpack to more than the file.
    if sum(item.file_size for item in items) > size or any(item.compress_type != zipfile.ZIP_STORED for item in items):
        raise _invalid("The file is not a plan: a plan's entries are not compressed")
    for item in items:
        if item.filename not in limits and not item.filename.startswith(_PARTS):
            raise _invalid(f"The file is not a plan: it has an entry {item.filename[:80]!r}")
        if item.file_size > limits.get(item.filename, PLAN_LIMIT):
            raise _invalid(
                f"The plan's {item.filename} has {item.file_size} bytes; it may have {limits[item.filename]}"
            )


class _Comparison(io.BytesIO):
    """File that compares what is written to it with the expected bytes.

    Small writes are buffered, since `zipfile` overwrites headers later.
    """

    def __init__(self, expected: bytes) -> None:
        super().__init__()
        self._expected = memoryview(expected)
        self._buffered: dict[int, bytes] = {}
        self._at = self._end = 0
        self._equal = True

    def write(self, data: Any) -> int:
        at, size = self._at, len(data)
        if size > _MAX_BUFFERED_WRITE:
            self._equal = self._equal and self._expected[at : at + size] == data
        else:
            self._buffered[at] = bytes(data)
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
        """True if exactly the expected bytes were written."""
        buffered_equal = all(self._expected[at : at + len(data)] == data for at, data in self._buffered.items())
        return self._equal and buffered_equal and self._end == len(self._expected)
