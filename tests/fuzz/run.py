"""Fuzzes every decoder for as long as one likes, with other inputs in every run: `make fuzz ARGS="--seconds 600 --only plan"`."""

from __future__ import annotations

import argparse
import random
import sys
import time

from support.decoders import UncaughtError, decoders

_BATCH = 500  # inputs


def main() -> int:
    """Goes round the decoders until the time is over; 1 if an input came through."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    seed = random.randrange(1 << 31)  # noqa: S311
    parser.add_argument("--seed", type=int, default=seed, help="as MUSTER_FUZZ_SEED has it")
    parser.add_argument("--only", help="the name of one decoder")
    options = parser.parse_args()
    chosen = [decoder for decoder in decoders() if options.only in (None, decoder.name)]
    if not chosen:
        parser.error(
            f"there is no decoder {options.only}; there are {', '.join(decoder.name for decoder in decoders())}"
        )
    end, at, failed = time.monotonic() + options.seconds, 0, False
    while chosen and time.monotonic() < end:
        for decoder in list(chosen):
            try:
                decoder.fuzz(options.seed, range(at, at + _BATCH))
            except UncaughtError as error:
                print(error, f"  caused by {error.__cause__!r:.300}", sep="\n", file=sys.stderr)
                chosen.remove(decoder)
                failed = True
        at += _BATCH
    print(
        f"{at} inputs for each decoder, MUSTER_FUZZ_SEED={options.seed}: {'FAILED' if failed else 'typed errors alone'}"
    )
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
