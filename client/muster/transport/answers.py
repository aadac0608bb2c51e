"""Answers of requests that are more than one message."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic, Optional, TypeVar

from muster.wire.base import Message

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Followed(Generic[M]):
    """Answer that a caller polls.

    Attributes:
      answer: The newest answer.
      changed: Whether it may differ from the previous one.
      etag: Entity tag of the answer, or None if the coordinator sent none.
      retry_after: Seconds after which the coordinator expects a change, or None.
    """

    answer: M
    changed: bool
    etag: Optional[str]
    retry_after: Optional[float]


@dataclass(frozen=True)
class StoreAnswer:
    """Answer of the store to a direct upload."""

    status: int
    reason: str
    headers: Mapping[str, str]
