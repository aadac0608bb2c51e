"""Estimate of the number of distinct clients, from a sketch that names none of them.

Probabilistic counting with stochastic averaging (Flajolet and Martin, 1985). A keyed hash of an
identity chooses one of 64 registers, and a rank that is r with probability 2^-(r+1); the sketch is
the set of (register, rank) pairs that occurred. So a repeated client adds nothing, sketches are
merged by union, and each pair stands for many possible clients.

Each pair is a field of a document, which counts how often an instance reported it. Several
instances may report the same pair: only increments are needed, and no value matters but 0.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

REGISTERS = 64  # a standard error of 0.78 / √64, about 10 %
RANKS = 32
_BIAS = 0.77351  # φ of Flajolet and Martin
_SMALL = 2.5 * REGISTERS  # below, the number of empty registers is the better estimate
_PREFIX = "s"


def pair_of(digest: bytes) -> int:
    """Returns the number of the pair that a digest (8 bytes or more) chooses."""
    value = int.from_bytes(digest[:8], "big")
    register, rest = value % REGISTERS, value // REGISTERS
    rank = RANKS - 1 if not rest else min((rest & -rest).bit_length() - 1, RANKS - 1)
    return register * RANKS + rank


def field_of(pair: int) -> str:
    """Returns the document's field of a pair."""
    return f"{_PREFIX}{pair:04d}"


def is_field(name: str) -> bool:
    """Returns whether a field of a document belongs to the sketch."""
    return name.startswith(_PREFIX) and name.removeprefix(_PREFIX).isdigit()


def pairs_in(fields: Iterable[str]) -> set[int]:
    """Returns the pairs of a document, by the names of its fields."""
    return {int(name.removeprefix(_PREFIX)) for name in fields if is_field(name)}


def estimate(pairs: Iterable[int]) -> int:
    """Returns the estimated number of distinct clients in a sketch."""
    ranks: dict[int, set[int]] = {}
    for pair in pairs:
        register, rank = divmod(pair, RANKS)
        ranks.setdefault(register, set()).add(rank)
    empty = REGISTERS - len(ranks)
    if empty:
        linear = REGISTERS * math.log(REGISTERS / empty)
        if linear <= _SMALL:
            return round(linear)
    total = sum(next(rank for rank in range(RANKS + 1) if rank not in found) for found in ranks.values())
    return round(REGISTERS / _BIAS * 2 ** (total / REGISTERS))
