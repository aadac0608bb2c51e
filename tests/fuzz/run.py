"""Fuzzes every decoder for a given time, with new inputs in every run.

make fuzz ARGS="--seconds 600 --only plan"
"""

from __future__ import annotations

import argparse
import random
import sys
import time

from support.decoders import UncaughtError, decoders

_BATCH_SIZE = 500  # inputs


def main() -> int:
    """Fuzzes the decoders in turn until the time is over.

    Returns 1 if an input caused an undeclared error.
    """
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=60.0)
    seed = random.randrange(1 << 31)  # noqa: S311
    parser.add_argument("--seed", type=int, default=seed, help="seed of the inputs, like MUSTER_FUZZ_SEED")
    parser.add_argument("--only", help="name of the only decoder to fuzz")
    options = parser.parse_args()
    chosen = [decoder for decoder in decoders() if options.only in (None, decoder.name)]
    if not chosen:
        parser.error(
            f"there is no decoder {options.only}; choose one of {', '.join(decoder.name for decoder in decoders())}"
        )
    end, first, failed = time.monotonic() + options.seconds, 0, False
    while chosen and time.monotonic() < end:
        for decoder in list(chosen):
            try:
                decoder.fuzz(options.seed, range(first, first + _BATCH_SIZE))
            except UncaughtError as error:
                print(error, f"  caused by {error.__cause__!r:.300}", sep="\n", file=sys.stderr)
                chosen.remove(decoder)
                failed = True
        first += _BATCH_SIZE
    outcome = "FAILED" if failed else "only typed errors"
    print(f"{first} inputs for each decoder, MUSTER_FUZZ_SEED={options.seed}: {outcome}")
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
