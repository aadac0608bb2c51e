"""Fuzz tests: decoders raise only typed errors, in bounded memory and time."""

from __future__ import annotations

import json
import os
import tracemalloc

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.decoders import Decoder, decoders
from support.mutation import Mutator

SEED = int(os.environ.get("MUSTER_FUZZ_SEED", "20261124"))
MIN_INPUTS = 100_000  # of all decoders together
TRACED_INPUTS = 400  # inputs of each decoder with traced memory, which is slow
DECODERS = {decoder.name: decoder for decoder in decoders()}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)
_HUGE = [
    b"[" * 2_000_000,
    b'{"a":' * 500_000,
    b'"' + b"a" * 2_000_000 + b'"',
    b"9" * 2_000_000,
    (4 << 20).to_bytes(8, "little"),  # announces a header of 4 MiB, which is missing
    (1 << 63).to_bytes(8, "little") + b"{}",
    b"." * 2_000_000,
    b"PK\5\6" + b"\xff" * 18,
    b"PK\5\6" + bytes(4) + b"\x02\0\x02\0" + b"\xff\0\0\0" + b"\xff\xff\xff\x7f" + b"\0\0",
]


def _file(header: bytes) -> bytes:
    return len(header).to_bytes(8, "little") + header


# Files of tensors with shapes that are too large for an array, or slow to multiply.
_SHAPES = [
    _file(b'{"a":{"dtype":"F32","shape":%s,"data_offsets":[0,0]}}' % shape)
    for shape in (
        b"[" + b",".join([b"0"] * 300) + b"]",
        b"[0," + b"9" * 30 + b"]",
        b"[0,4611686018427387904,4611686018427387904]",
        b"[" + b",".join([b"9" * 4000] * 900) + b"]",
    )
]


@pytest.fixture(params=DECODERS.values(), ids=lambda decoder: decoder.name.replace(" ", "_"))
def decoder(request) -> Decoder:
    return request.param


def test_number_of_inputs_is_sufficient():
    assert sum(decoder.inputs for decoder in DECODERS.values()) >= MIN_INPUTS


def test_valid_input_is_accepted(decoder):
    assert [decoder.accepts(seed) for seed in decoder.seeds] == [
        not _other_plans(decoder, seed) for seed in decoder.seeds
    ]


def _other_plans(decoder: Decoder, seed: bytes) -> bool:
    """Returns whether a seed is well-formed and refused for its content."""
    return (decoder.name, decoder.seeds.index(seed)) in {("update", 1), ("plan", 1), ("plan", 2)}


def test_mutated_input_raises_only_typed_errors(decoder, measured):
    accepted = decoder.fuzz(SEED, range(decoder.inputs))
    measured(f"fuzz: {decoder.name}: {decoder.inputs} inputs, {accepted} of them accepted, no undeclared error")


def test_memory_is_bounded_by_the_input_and_not_by_announced_sizes(decoder, measured):
    mutator = Mutator(decoder.seeds, seed=SEED + 1)
    inputs = [*_HUGE, *_SHAPES, *(mutator.input(number) for number in range(TRACED_INPUTS))]
    largest = 0
    decoder.accepts(decoder.seeds[0])  # imports that happen at the first use
    tracemalloc.start()
    try:
        for data in inputs:
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            decoder.accepts(data)
            spent = tracemalloc.get_traced_memory()[1] - before
            assert spent <= decoder.peak + decoder.times * len(data), (spent, len(data), data[:200].hex())
            largest = max(largest, spent)
    finally:
        tracemalloc.stop()
    measured(f"fuzz: {decoder.name}: at most {largest / 1e6:.1f} MB at once, for inputs of up to 4 MB")


@settings(max_examples=150, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(JSON.map(lambda value: json.dumps(value).encode()) | st.binary())
def test_any_json_or_bytes_raise_only_typed_errors(decoder, data):
    decoder.accepts(data)
    decoder.accepts(_file(data))
