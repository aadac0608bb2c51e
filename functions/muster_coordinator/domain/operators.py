"""Who operates, and what they may do."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Role(StrEnum):
    """What an operator may do: a viewer looks, an operator changes things as well."""

    VIEWER = "viewer"
    OPERATOR = "operator"

    def includes(self, needed: Role) -> bool:
        """Whether who has this role may do what needs the other."""
        return self is Role.OPERATOR or self is needed


@dataclass(frozen=True, slots=True)
class Principal:
    """An operator who has shown who they are. `name` is what the audit log says: a key's name, or an e-mail address."""

    name: str
    role: Role


ANYBODY = Principal("anybody", Role.OPERATOR)  # where operators need not show who they are
