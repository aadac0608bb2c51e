"""`python -m muster.cli`, for where scripts are not on the path."""

from __future__ import annotations

from muster.cli import main

if __name__ == "__main__":
    main()
