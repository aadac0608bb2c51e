"""Savings and cost of encodings on what Muster sends: `python -m benchmarks.encoding_speeds`.

Printed are the encoded size as a fraction of the original, and megabytes of the original that one
core encodes and decodes per second.
"""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
from rich.console import Console
from rich.table import Table
from support.zstd import zstd

from benchmarks.figures import MEGABYTE
from muster.wire.plan import Plan
from muster.wire.tensors import encode


@dataclass(frozen=True)
class Encoding:
    """An encoder and its decoder."""

    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes], bytes]


@dataclass(frozen=True)
class Encoded:
    """A body in an encoding. `part`: encoded size over the body's; speeds in MB/s of the body."""

    body: str
    size: int
    encoding: str
    part: float
    encode: list[float]
    decode: list[float]


def _zstd(level: int) -> Encoding:
    return Encoding(lambda data: zstd.compress(data, level), zstd.decompress)


def _gzip(level: int) -> Encoding:
    return Encoding(lambda data: zlib.compress(data, level), zlib.decompress)


ENCODINGS = {"zstd 1": _zstd(1), "zstd 3": _zstd(3), "zstd 9": _zstd(9), "gzip 1": _gzip(1), "gzip 6": _gzip(6)}


def trained() -> bytes:
    """Returns the weights of a network trained on the digits, as float32."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    model = MLPClassifier((512, 512), max_iter=15, random_state=0).fit(digits.data / 16, digits.target)
    return encode({f"layer/{index}": each.astype(np.float32) for index, each in enumerate(model.coefs_)})


def bodies() -> dict[str, bytes]:
    """Returns the bodies to encode, by name."""
    randomness = np.random.default_rng(0)
    normal = randomness.normal(scale=1e-3, size=1_000_000).astype(np.float32)
    sparse = np.where(randomness.random(normal.size) < 0.05, normal, np.float32(0))
    device = Plan.decode(files("muster.demo").joinpath("digits.plan").read_bytes()).for_client()
    return {
        "weights trained on digits, float32": trained(),
        "dense normal update, float32": encode({"delta": normal}),
        "sparse update (5 %), float32": encode({"delta": sparse}),
        "histogram, int64": encode({"counts": randomness.poisson(3, 500_000)}),
        "quantised update, int32": encode({"delta": np.round(normal * 20_000).astype(np.int32)}),
        "a device's copy of the demo's plan": device.encode(),
    }


def measure(*, repeats: int) -> Iterator[Encoded]:
    """Returns each body in each encoding."""
    for name, body in bodies().items():
        for label, encoding in ENCODINGS.items():
            small = encoding.encode(body)
            assert encoding.decode(small) == body
            yield Encoded(
                name,
                len(body),
                label,
                len(small) / len(body),
                [_speed(lambda: encoding.encode(body), len(body)) for _ in range(repeats)],  # noqa: B023  called at once
                [_speed(lambda: encoding.decode(small), len(body)) for _ in range(repeats)],  # noqa: B023
            )


def _speed(step: Callable[[], object], size: int) -> float:
    start = time.perf_counter()
    step()
    return size / MEGABYTE / (time.perf_counter() - start)


def main() -> None:
    """Prints the table."""
    table = Table("body", "bytes", "encoding", "left", "encodes, MB/s", "decodes, MB/s")
    for each in measure(repeats=5):
        speeds = (f"{statistics.median(samples):,.0f}" for samples in (each.encode, each.decode))
        table.add_row(each.body, f"{each.size:,}", each.encoding, f"{each.part:.1%}", *speeds)
    Console(width=110).print(table)


if __name__ == "__main__":
    main()
