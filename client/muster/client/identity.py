"""Checks client ids and population names before a request is sent."""

from __future__ import annotations

import re

_POPULATION = re.compile(r"[a-z][a-z0-9_-]{0,62}")
_MAX_CLIENT_ID = 256  # characters


def check_population(name: str) -> str:
    """Returns `name` if it is a valid population name.

    Raises:
      ValueError: the name is not valid; the text states the pattern.
    """
    if not _POPULATION.fullmatch(name):
        pattern = "a lower-case letter, then at most 62 lower-case letters, digits, '-' and '_' ([a-z][a-z0-9_-]{0,62})"
        raise ValueError(f"{name[:80]!r} can't be the name of a population, which is {pattern}")
    return name


def check_client_id(name: str) -> str:
    """Returns `name` if it is a valid client id.

    Raises:
      ValueError: the name is not valid; the text states the rule.
    """
    if not 1 <= len(name) <= _MAX_CLIENT_ID:
        raise ValueError(f"A client id has 1 to {_MAX_CLIENT_ID} characters; this one has {len(name)}")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise ValueError("A client id is text that UTF-8 can encode; this one is not") from None
    return name
