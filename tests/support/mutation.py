"""Makes inputs for fuzzing: a seeded generator mutates valid inputs, as bytes or by their format.

Known formats are JSON, tokens, and files with length fields.
"""

from __future__ import annotations

import base64
import json
import random
from collections.abc import Sequence
from typing import Any

_BYTES = (0, 1, 0x20, 0x22, 0x2C, 0x2E, 0x5B, 0x5C, 0x7B, 0x7D, 0x7F, 0x80, 0xC3, 0xED, 0xFF)
_EDGES = (
    0,
    1,
    7,
    8,
    0x7F,
    0xFF,
    0xFFFF,
    1 << 20,
    (1 << 31) - 1,
    1 << 31,
    (1 << 32) - 1,
    1 << 48,
    (1 << 63) - 1,
    (1 << 64) - 1,
)
# JSON values with surprising meanings, and texts that are not quite JSON.
_TEXTS = (
    *(
        b"null",
        b"true",
        b"-0",
        b"1e999",
        b"-1e999",
        b"NaN",
        b"Infinity",
        b"1.5",
        b"[]",
        b"{}",
        b'""',
        b'"\\u0000"',
        b'"\\ud800"',
    ),
    *(
        b"9" * 19,
        b"9" * 400,
        b"9" * 5000,
        b"-" + b"9" * 30,
        b"1" + b"0" * 4000,
        b'"' + "\u202e\u00e9\U0001f600".encode() + b'"',
    ),
    *(
        b'"' + b"a" * 5000 + b'"',
        b'"../../etc/passwd"',
        b'"2026-01-01T00:00:00+23:59"',
        b'"9999-12-31T23:59:59-12:00"',
        b"[[]]",
    ),
)
_VALUES: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        0,
        -1,
        1,
        1 << 31,
        1 << 63,
        -(1 << 63),
        10**40,
        10**400,
        0.5,
        1e308,
        float("nan"),
        float("inf"),
    ),
    *(
        "",
        "a",
        "\x00",
        "\u202e",
        "\U0001f600",
        "a" * 300,
        "../..",
        "none",
        "HS256",
        "EdDSA",
        "2026-01-01T00:00:00Z",
        "0" * 64,
    ),
    *([], {}, [0], [[]], {"": 0}, [1 << 70, 0], [0] * 70, [1 << 62, 1 << 62, 0], {"dtype": "string", "shape": [0]}),
)
_DEPTHS = (3, 50, 190, 260, 800, 940, 960, 980, 990, 995, 1000, 3000)


class Mutator:
    """Generator of inputs from `seeds` of one format.

    Equal seeds and numbers reproduce an input.
    """

    def __init__(self, seeds: Sequence[bytes], *, seed: int) -> None:
        self._seeds = tuple(seeds)
        self._seed = seed

    def input(self, number: int) -> bytes:
        """Returns the input with that number. The first ones are the seeds themselves."""
        if number < len(self._seeds):
            return self._seeds[number]
        randomness = random.Random(self._seed * 1_000_003 + number)  # noqa: S311
        data = randomness.choice(self._seeds)
        for _ in range(randomness.choice((1, 1, 1, 2, 4))):
            data = (
                randomness.choice(_BY_FORMAT)(data, randomness)
                if randomness.random() < 0.6
                else self._mutate_bytes(data, randomness)
            )
        return data

    def _mutate_bytes(self, data: bytes, randomness: random.Random) -> bytes:
        at = randomness.randrange(len(data) + 1)
        match randomness.randrange(7):
            case 0:  # flip a bit
                return (
                    data[:at]
                    + bytes(byte ^ (1 << randomness.randrange(8)) for byte in data[at : at + 1])
                    + data[at + 1 :]
                )
            case 1:  # replace a byte
                return data[:at] + bytes([randomness.choice(_BYTES)]) + data[at + 1 :]
            case 2:  # truncate
                return data[:at]
            case 3:  # repeat a piece
                piece = data[at : at + randomness.randrange(1, 40)]
                return data[:at] + piece * randomness.choice((2, 2, 3, 50)) + data[at + len(piece) :]
            case 4:  # remove a piece
                return data[:at] + data[at + randomness.randrange(1, 40) :]
            case 5:  # splice with another seed
                other = randomness.choice(self._seeds)
                return data[:at] + other[randomness.randrange(len(other) + 1) :]
            case _:  # write a number of 2, 4 or 8 bytes
                width = randomness.choice((2, 4, 8))
                number = (randomness.choice(_EDGES) + randomness.choice((-1, 0, 0, 1))) % (1 << (8 * width))
                return data[:at] + number.to_bytes(width, "little") + data[at + width :]


def _text(data: bytes, randomness: random.Random) -> bytes:
    """Replaces a JSON value of the text, without parsing it."""
    starts = [at for at, byte in enumerate(data[:4096]) if byte in b":,[{"]
    if not starts:
        return data + randomness.choice(_TEXTS)
    at = randomness.choice(starts) + 1
    end = at
    while end < len(data) and data[end] not in b",]}":
        end += 1
    return data[:at] + randomness.choice(_TEXTS) + data[end:]


def _nested(data: bytes, randomness: random.Random) -> bytes:
    """Replaces a JSON value with a deeply nested one."""
    depth, (opening, closing) = randomness.choice(_DEPTHS), randomness.choice(((b"[", b"]"), (b'{"a":', b"}")))
    nested = opening * depth + b"0" + (closing * depth if randomness.random() < 0.8 else b"")
    at = data.find(b":", randomness.randrange(len(data) + 1)) + 1
    end = at
    while end < len(data) and data[end] not in b",]}":
        end += 1
    return data[:at] + nested + data[end:] if at else nested


def _json(data: bytes, randomness: random.Random) -> bytes:
    """Changes a value of a JSON document, or of the header of a file of tensors."""
    size = int.from_bytes(data[:8], "little")
    framed = 8 < size + 8 <= len(data)
    text = data[8 : 8 + size] if framed else data
    try:
        document = json.loads(text)
        changed = json.dumps(_changed(document, randomness), separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        return _text(data, randomness)
    if randomness.random() < 0.1 and changed.startswith(b"{") and len(changed) > 2:
        changed = changed[:-1] + b"," + changed[1:]  # repeats every name
    return len(changed).to_bytes(8, "little") + changed + data[8 + size :] if framed else changed


def _changed(value: Any, randomness: random.Random) -> Any:
    """Returns a JSON value with one change."""
    if isinstance(value, str) and value.startswith("{") and randomness.random() < 0.8:
        # JSON in JSON: a file's own metadata
        return json.dumps(_changed(json.loads(value), randomness))
    if isinstance(value, dict) and value and randomness.random() < 0.9:
        name = randomness.choice(list(value))
        rest = {key: item for key, item in value.items() if key != name}
        action = randomness.randrange(8)
        if action == 0:
            return rest
        if action == 1:
            return {**rest, randomness.choice(("", "a", "__proto__", name + " ")): value[name]}
        return {**value, name: _changed(value[name], randomness)}
    if isinstance(value, list) and value and randomness.random() < 0.8:
        at = randomness.randrange(len(value))
        return [
            *value[:at],
            *([_changed(value[at], randomness)] * randomness.choice((0, 1, 1, 1, 2))),
            *value[at + 1 :],
        ]
    return randomness.choice(_VALUES)


def _token(data: bytes, randomness: random.Random) -> bytes:
    """Changes one part of a JSON Web Token."""
    parts = data.split(b".")
    at = randomness.randrange(len(parts))
    try:
        raw = base64.urlsafe_b64decode(parts[at] + b"=" * (-len(parts[at]) % 4))
    except ValueError:
        return b".".join([*parts, parts[at]])
    parts[at] = base64.urlsafe_b64encode(randomness.choice((_json, _text, _nested))(raw, randomness)).rstrip(b"=")
    return b".".join(parts)


_BY_FORMAT = (_json, _json, _text, _nested, _token)
