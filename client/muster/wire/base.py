"""The base of every message: strict, immutable, and every bad field reported with its path."""

from __future__ import annotations

from typing import Any, TypeVar, Union

from pydantic import BaseModel, ConfigDict, ValidationError
from typing_extensions import Self

from .problems import FieldError, ProblemError, ProblemType

M = TypeVar("M", bound="Message")


class Message(BaseModel):
    """A JSON document that both sides share. Unknown fields are refused, so a misspelt name is never silently lost."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def decode(cls, raw: Union[bytes, str]) -> Self:
        """Parses JSON.

        Raises:
          ProblemError: `invalid_request`, with one `FieldError` for each bad field.
        """
        try:
            return cls.model_validate_json(raw)
        except ValidationError as error:
            raise invalid(cls.__name__, error) from error

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Like `decode`, from data that is already parsed (a stored document)."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise invalid(cls.__name__, error) from error

    def encode(self) -> bytes:
        """The message as JSON, in the declared order of its fields: equal messages give equal bytes."""
        return self.model_dump_json(exclude_none=True).encode()

    def to_dict(self) -> dict[str, Any]:
        """The message as JSON-compatible data."""
        return self.model_dump(mode="json", exclude_none=True)


class Answer(Message):
    """A message that a coordinator sends. What a newer one adds is passed over, so that older clients go on."""

    model_config = ConfigDict(frozen=True, extra="ignore")


def invalid(name: str, error: ValidationError) -> ProblemError:
    """The problem that lists every bad field of `error`, found while a `name` was read."""
    fields = tuple(
        FieldError(path=".".join(str(part) for part in item["loc"]) or "(document)", reason=item["msg"])
        for item in error.errors(include_url=False, include_context=False, include_input=False)
    )
    listed = "; ".join(f"{field.path}: {field.reason}" for field in fields[:5])
    more = f" (and {len(fields) - 5} more)" if len(fields) > 5 else ""  # noqa: PLR2004
    return ProblemError(ProblemType.INVALID_REQUEST, f"{name} is not valid: {listed}{more}", fields=fields)
