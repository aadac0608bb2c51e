"""The decoders of untrusted bytes, each with valid inputs and the errors that it may raise.

Not covered: keys and settings, which an operator provides, and documents of the coordinator's
store.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from muster.wire import messages
from muster.wire.base import Message
from muster.wire.dtypes import DType
from muster.wire.enrolment import Enrolment, EnrolmentError, PrivateKey, PublicKeys
from muster.wire.manifest import PlanManifest, TensorSpec
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError
from muster.wire.signatures import Signatures, SigningKey, parse_signers
from muster.wire.tensors import TensorsError, decode, encode, read_header
from muster_coordinator.domain.names import RoundKey
from muster_coordinator.domain.slots import Ticket
from muster_coordinator.domain.updates import UpdateReader, rules_for, validated
from muster_coordinator.http.internal_routes import RoundWork, TaskWork
from muster_coordinator.tokens import AssignmentClaims, CookieClaims, Tokens
from support.mutation import Mutator
from support.plans import every_dtype_plan, every_dtype_update, folded_by_graphs, make_plan, sum_plan, sum_update

_NOW = 1_800_000_000.0
_MAX_SECONDS = 1.0  # processor time of one input, hundreds of times that of the slowest seed
# Runs of a slow input: a busy machine, or garbage collection of the test process, may slow one run
_RERUNS = 3
_MIB = 1 << 20


class UncaughtError(AssertionError):
    """Error raised when an input took too long or raised an undeclared error.

    The message describes how to reproduce it.
    """


@dataclass(frozen=True)
class Decoder:
    """Decoder under test.

    Attributes:
      name: The kind of input.
      seeds: Valid inputs.
      read: Decodes an input.
      errors: The errors that `read` may raise.
      inputs: The number of inputs in `make test`.
      peak: The peak memory of one read in bytes, without the share of the input.
      times: The peak memory per byte of the input.
    """

    name: str
    seeds: tuple[bytes, ...]
    read: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    inputs: int
    peak: int = _MIB
    times: int = 12

    def accepts(self, data: bytes) -> bool:
        """Returns whether `data` is accepted.

        An error must be one of `errors`, with a text that can be encoded.
        """
        try:
            self.read(data)
        except self.errors as error:
            if isinstance(error, ProblemError):
                error.to_problem().model_dump_json()
            else:
                str(error).encode()
            return False
        return True

    def fuzz(self, seed: int, numbers: Sequence[int]) -> int:
        """Decodes the inputs with these numbers.

        Returns how many were accepted. Raises `UncaughtError`.
        """
        mutator, accepted = Mutator(self.seeds, seed=seed), 0
        for number in numbers:
            data = mutator.input(number)
            began = time.thread_time()
            try:
                accepted += self.accepts(data)
            except Exception as error:
                raise UncaughtError(self._describe(seed, number, data, repr(error)[:300])) from error
            spent = time.thread_time() - began
            if spent > _MAX_SECONDS and (least := self._least_seconds(data)) > _MAX_SECONDS:
                raise UncaughtError(self._describe(seed, number, data, f"it took {least:.1f} s of processor time"))
        return accepted

    def _least_seconds(self, data: bytes) -> float:
        """Returns the least processor time of several runs, without the garbage collector's."""
        seconds = []
        gc.disable()
        try:
            for _ in range(_RERUNS):
                began = time.thread_time()
                self.accepts(data)
                seconds.append(time.thread_time() - began)
        finally:
            gc.enable()
        return min(seconds)

    def _describe(self, seed: int, number: int, data: bytes, failure: str) -> str:
        shown = data.hex() if len(data) <= 4000 else f"{data[:4000].hex()}… ({len(data)} bytes)"
        return f"{self.name}, input {number} of MUSTER_FUZZ_SEED={seed}: {failure}\n  in hex: {shown}"


def _messages(*kinds: type[Message]) -> Callable[[bytes], Any]:
    """Returns a reader that decodes as each kind.

    A decoded message must survive encoding and decoding unchanged.
    """

    def read(data: bytes) -> list[Message]:
        decoded, last = [], None
        for kind in kinds:
            try:
                message = kind.decode(data)
                assert kind.decode(message.encode()).encode() == message.encode()
                decoded.append(message)
            except ProblemError as problem:
                last = problem
        if not decoded and last is not None:
            raise last
        return decoded

    return read


def _both_ways(rules: Any, good: bytes) -> Callable[[bytes], bytes]:
    """Returns a reader of an update as a stream, as a blob, and after a valid update.

    Either all of them accept the update, or none does.
    """

    def stored(data: bytes) -> None:
        UpdateReader(rules).read(memoryview(data))

    def after_another(data: bytes) -> None:
        reader = UpdateReader(rules)
        reader.read(memoryview(good))
        reader.read(memoryview(data))

    def read(data: bytes) -> bytes:
        try:
            passed = b"".join(validated(BytesIO(data).read, rules, length=None))
        except ProblemError:
            for other in (stored, after_another):
                with suppress(ProblemError):
                    other(data)
                    raise AssertionError(f"refused as a stream, and accepted {other.__name__}") from None
            raise
        assert passed == data
        stored(data)
        after_another(data)
        return passed

    return read


def _tensors(data: bytes) -> Any:
    header = read_header(data)
    tensors = decode(data)
    assert list(tensors) == list(header.order)
    return tensors


def decoders() -> tuple[Decoder, ...]:
    """Returns all decoders."""
    tokens, key = Tokens(b"k" * 32), RoundKey("task", 3, 1)
    other = CookieClaims(RoundKey("other", 1, 0), _NOW, expires_at=_NOW + 60)
    assignment = AssignmentClaims(key, 2, "0" * 32, Ticket(1, 2), "f" * 64, _NOW + 60, _NOW, 1000, 5.0)
    assignments = tuple(tokens.assignment(replace(assignment, earlier=earlier)).encode() for earlier in ((), (other,)))
    cookies = tuple(
        tokens.cookie(CookieClaims(key, _NOW, expires_at=end), *earlier).encode()
        for end, earlier in ((None, ()), (_NOW + 60, ()), (_NOW + 60, (other,)))
    )
    fixed = Ed25519PrivateKey.from_private_bytes(b"k" * 32)  # makes inputs reproducible
    private, signer = PrivateKey(fixed), SigningKey(fixed)
    enrolment = private.issue(Enrolment("phones", "a@b", _NOW, _NOW + 60, id="0" * 32)).encode()
    public = PublicKeys(private.public)

    every, sums = every_dtype_plan(), sum_plan().signed(signer)
    open_shapes = folded_by_graphs(
        make_plan(
            "open",
            state={"total": 0},
            update=tuple(
                TensorSpec(path=path, dtype=dtype, shape=None)
                for path, dtype in (("a", DType.FLOAT32), ("s", DType.STRING))
            ),
            zero={"a": 0},
        )
    )
    opened = encode(_open_update())
    updates = (encode(every_dtype_update()), encode(sum_update(3)))
    signatures = Signatures(signatures=sums.signatures).encode()
    plan_files = (sums.encode(), sums.for_client().encode(), sum_plan().encode())
    problem = (ProblemError,)

    def plan(data: bytes) -> Plan:
        decoded = Plan.decode(data)
        assert decoded.encode() == data
        decoded.check_signed([signer.signer])
        decoded.check_complete()
        return decoded

    def signed(data: bytes) -> Any:
        decoded = Signatures.decode(data)
        Plan(sums.manifest, sums.parts, decoded.signatures).check_signed([signer.signer])
        return decoded

    return (
        Decoder(
            "assignment token",
            assignments,
            lambda d: tokens.read_assignment(d.decode("latin-1"), now=_NOW),
            problem,
            12_000,
        ),
        Decoder("cookie", cookies, lambda d: tokens.read_cookie(d.decode("utf-8", "replace"), now=_NOW), (), 12_000),
        Decoder("enrolment token", (enrolment,), lambda d: public.read(d.decode("latin-1")), (EnrolmentError,), 12_000),
        Decoder("safetensors", (*updates, opened), _tensors, (TensorsError,), 14_000),
        Decoder(
            "update",
            updates,
            _both_ways(rules_for(every.manifest, allow_non_finite=False), updates[0]),
            problem,
            10_000,
        ),
        Decoder(
            "update of open shapes",
            (opened,),
            _both_ways(rules_for(open_shapes.manifest, allow_non_finite=True), opened),
            problem,
            8_000,
        ),
        Decoder("plan", plan_files, plan, problem, 6_000, peak=2 * _MIB),
        Decoder(
            "manifest", (sums.manifest.encode(), every.manifest.encode()), PlanManifest.decode, problem, 8_000, times=40
        ),
        Decoder("signatures", (signatures,), signed, problem, 8_000, times=40),
        Decoder(
            "signers", (signer.signer.encode(),), lambda d: parse_signers(d.decode("latin-1")), (ValueError,), 2_000
        ),
        Decoder("requests", _REQUESTS, _messages(*_REQUEST_KINDS), problem, 8_000, times=80),
        Decoder("answers", _ANSWERS, _messages(*_ANSWER_KINDS), problem, 4_000, times=80),
    )


def _open_update() -> dict[str, Any]:
    return {"a": np.ones((2, 2), np.float32), "s": np.array([b"x", b""], object)}


_REQUEST_KINDS: tuple[type[Message], ...] = (
    messages.CheckinRequest,
    messages.UploadStart,
    messages.Report,
    messages.TaskSpec,
    messages.Rollback,
    messages.Revocation,
    RoundWork,
    TaskWork,
)
_REQUESTS = (
    b'{"client":"me","cookie":"c"}',
    b'{"size":10,"crc32c":"AAAAAA=="}',
    b'{"outcome":"failed","reason":"data","detail":"why"}',
    b'{"name":"t","population":"p","plan":"'
    + b"a" * 64
    + b'","policy":{"rounds":3,"goal":4,"minimum":2,"over_selection":1.5,'
    b'"starts_at":"2026-01-01T00:00:00Z","max_update_norm":1.0,"clip":true,"shards":2}}',
    b'{"version":3}',
    b'{"id":"' + b"0" * 32 + b'","expires_at":"2026-01-01T00:00:00Z"}',
    b'{"task":"t","round":1,"epoch":0,"shard":1,"part":"0001-000001"}',
    b'{"task":"t"}',
)
_ANSWER_KINDS: tuple[type[Message], ...] = (
    messages.CheckinResponse,
    messages.Receipt,
    messages.DirectUpload,
    messages.TaskView,
    messages.AuditList,
)
_ANSWERS = (
    b'{"answer":{"status":"wait","reason":"no_task","retry_after":1.5,"cookie":"c"}}',
    b'{"answer":{"status":"assigned","task":"t","round":1,"token":"x","expires_at":"2026-01-01T00:00:00Z","plan":{"url":"/u","sha256":"'
    + b"a" * 64
    + b'","size":3},"broadcast":{"url":"/b","sha256":"'
    + b"b" * 64
    + b'","size":3},"max_update_bytes":9}}',
    b'{"status":"accepted","task":"t","round":1,"retry_after":2.0}',
    b'{"url":"https://x","headers":{"a":"b"},"resumable":true,"expires_at":"2026-01-01T00:00:00Z"}',
    (
        b'{"entries":[{"id":"1","at":"2026-01-01T00:00:00Z","who":"a","role":"viewer","action":"x","subject":"s","result":"done",'
        b'"before":{"a":[1,{"b":null}]}}],"next":"1"}'
    ),
)
