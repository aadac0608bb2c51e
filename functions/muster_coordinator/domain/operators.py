"""Operators and their roles."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """Role of an operator. A viewer may read; an operator may change things too."""

    VIEWER = "viewer"
    OPERATOR = "operator"

    def includes(self, needed: Role) -> bool:
        """Returns whether this role has the permissions of the role `needed`."""
        return self is Role.OPERATOR or self is needed


@dataclass(frozen=True, slots=True)
class Principal:
    """An authenticated operator.

    `name`, a key's name or an e-mail address, stands in the audit log.
    """

    name: str
    role: Role


# The caller where operators are not authenticated.
ANY_CALLER = Principal("anybody", Role.OPERATOR)  # prose: the name is stored in audit logs
