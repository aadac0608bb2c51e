"""Builds commands that run Muster's modules in separate processes."""

from __future__ import annotations

import sys

# `python -m` and `python -c` put the working directory first on the path, where a user's `queue.py`
# would shadow the standard library's. From Python 3.11 on, `-P` prevents that.
_RUN = (
    "import sys; sys.path[:1] = []; import runpy; sys.argv[:1] = []; "
    "runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
)


def command_for(module: str, *arguments: str) -> list[str]:
    """Returns the command that runs `module` like `python -m`.

    The working directory is not on its import path.
    """
    if sys.version_info >= (3, 11):
        return [sys.executable, "-P", "-m", module, *arguments]
    return [sys.executable, "-c", _RUN, module, *arguments]
