"""Settings of a local coordinator: the paths in its folder, and the settings of each process.

The committer runs plans' graphs, so it must not hold the keys that sign assignments or authorize
operators. A process gets the settings that its own functions read, and no other variable that
starts with `MUSTER_`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from muster.local.secret import secret_of

PREFIX = "MUSTER_"
# Seconds. A read takes microseconds, but a round with many shards needs many for each check-in.
_ROUND_CACHE_SECONDS = 0.05
# Settings that only the functions of the web process read. Every other setting reaches the
# committer too.
WEB_ONLY = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "SECRET",
        "PROXY_SECRET",
        "CLIENTS",
        "OPERATORS",
        "CORS_ORIGINS",
        "RATE_LIMIT",
        "TRUSTED_PROXIES",
        "DIRECT_ABOVE",
        "LONGEST_WAIT",
        "AUDIT_STATE",
    )
)
# Settings that the committer reads.
COMMITTER = frozenset(
    f"{PREFIX}{name}"
    for name in (
        "STATE",
        "BLOBS",
        "UPDATES",
        "PARTIALS",
        "QUEUE",
        "ROUND_CACHE_SECONDS",
        "RETRY_FLOOR",
        "TRUSTED_SIGNERS",
        "TENSORFLOW_FOLDS",
        "MINIMUM",
        "AGGREGATOR_URL",
        "COMMITTER_URL",
        "INVOKER",
        "TOKEN_ISSUER",
    )
)
_BY_ROLE = {"web": COMMITTER | WEB_ONLY, "committer": COMMITTER, "pump": frozenset()}


def settings_of(data_dir: Path) -> dict[str, str]:
    """Returns the settings (`MUSTER_…`) of the coordinator whose state is in `data_dir`."""
    root = quote(data_dir.absolute().as_posix())
    return {
        "MUSTER_STATE": f"sqlite://{root}/state.db",
        "MUSTER_BLOBS": f"file://{root}/blobs",
        "MUSTER_QUEUE": f"local://{root}/queue.db",
        "MUSTER_SECRET": secret_of(data_dir),
        "MUSTER_ROUND_CACHE_SECONDS": str(_ROUND_CACHE_SECONDS),
    }


def environment_for(role: str, environment: Mapping[str, str]) -> dict[str, str]:
    """Returns the subset of `environment` that a process of `muster up` needs.

    Args:
      role: `web`, `committer` or `pump`.
      environment: The variables of all processes together.
    """
    return {name: value for name, value in environment.items() if not name.startswith(PREFIX) or name in _BY_ROLE[role]}
