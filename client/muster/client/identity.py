"""Checks client ids, population names and attributes before a request is sent."""

from __future__ import annotations

import re
from collections.abc import Mapping

from muster.wire.messages import CheckinRequest
from muster.wire.messages.policy_parts import AttributeValue
from muster.wire.problems import ProblemError

Attributes = Mapping[str, AttributeValue]
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


def check_attributes(attributes: Attributes) -> dict[str, AttributeValue]:
    """Returns a copy of a client's attributes if they are valid.

    Raises:
      ValueError: a name or a value is not valid; the text states which one and why.
    """
    try:
        return CheckinRequest.from_dict({"attributes": dict(attributes)}).attributes
    except ProblemError as problem:
        reasons = "; ".join(f"{field.path}: {field.reason}" for field in problem.fields) or problem.detail
        raise ValueError(f"The client's attributes are not valid: {reasons}") from problem
