"""Runs `muster` as `python -m muster.cli`, without a script on the path."""

from __future__ import annotations

from muster.cli import main

if __name__ == "__main__":
    main()
