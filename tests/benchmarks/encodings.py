"""What encoding saves and costs, on what Muster sends: `python tests/benchmarks/encodings.py` prints docs/decisions/0022's table.

The size as a part of the original's, and megabytes of the original in a second, median of five, by one core.
"""

from __future__ import annotations

import statistics
import time
import zlib
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import zstandard

from muster.wire.plan import Plan
from muster.wire.tensors import encode

ENCODERS: dict[str, Callable[[bytes], bytes]] = {
    "zstd 1": zstandard.ZstdCompressor(level=1).compress,
    "zstd 3": zstandard.ZstdCompressor(level=3).compress,
    "zstd 9": zstandard.ZstdCompressor(level=9).compress,
    "gzip 1": lambda data: zlib.compress(data, 1),
    "gzip 6": lambda data: zlib.compress(data, 6),
}
RUNS = 5


def trained() -> bytes:
    """The weights of a network trained on the digits, as float32."""
    from sklearn.datasets import load_digits
    from sklearn.neural_network import MLPClassifier

    digits = load_digits()
    model = MLPClassifier((512, 512), max_iter=15, random_state=0).fit(digits.data / 16, digits.target)
    return encode({f"layer/{index}": each.astype(np.float32) for index, each in enumerate(model.coefs_)})


def bodies() -> dict[str, bytes]:
    """What is encoded, by what it is."""
    chance = np.random.default_rng(0)
    normal = chance.normal(scale=1e-3, size=1_000_000).astype(np.float32)
    sparse = np.where(chance.random(normal.size) < 0.05, normal, np.float32(0))
    device = Plan.decode(files("muster.demo").joinpath("digits.plan").read_bytes()).for_client()
    return {
        "weights trained on digits, float32": trained(),
        "dense normal update, float32": encode({"delta": normal}),
        "sparse update (5 %), float32": encode({"delta": sparse}),
        "histogram, int64": encode({"counts": chance.poisson(3, 500_000)}),
        "quantised update, int32": encode({"delta": np.round(normal * 20_000).astype(np.int32)}),
        "a device's copy of the demo's plan": device.encode(),
    }


def main() -> None:
    """Prints the table."""
    print("| body | bytes |", " | ".join(ENCODERS), "|")  # noqa: T201
    print("|---" * (len(ENCODERS) + 2) + "|")  # noqa: T201
    for name, body in bodies().items():
        cells = []
        for encoder in ENCODERS.values():
            seconds = []
            for _ in range(RUNS):
                start = time.perf_counter()
                size = len(encoder(body))
                seconds.append(time.perf_counter() - start)
            cells.append(f"{size / len(body):.1%}, {len(body) / 1e6 / statistics.median(seconds):.0f} MB/s")
        print(f"| {name} | {len(body):,} |", " | ".join(cells), "|")  # noqa: T201


if __name__ == "__main__":
    main()
