"""Base classes of messages: strict, immutable, with every bad field reported by its path."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, ClassVar, Optional, TypeVar, Union

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationError
from pydantic_core import CoreSchema, core_schema, from_json
from typing_extensions import Self

from muster.wire.problems import MAX_FIELDS, FieldError, ProblemError, ProblemType, shorten
from muster.wire.times import LENIENT

M = TypeVar("M", bound="Message")

_MAX_NAMED = 5  # bad fields named in a problem's detail
_MAX_LISTED = 10_000  # errors; beyond that none is listed, since pydantic converts all or none
_MAX_PATH_PARTS = 12
# Bytes; no request is longer. In a longer document pydantic copies the enclosing object per error.
_MAX_STRICT = 1 << 16
NAME_PATTERN = r"^[a-z][a-z0-9_-]{0,62}$"
SHA256_PATTERN = r"^[0-9a-f]{64}$"
CRC32C_PATTERN = r"^[A-Za-z0-9+/]{5}[AQgw]==$"
ENROLMENT_PATTERN = r"^[0-9a-f]{32}$"
_PATTERNS = {
    NAME_PATTERN: "a name of 1 to 63 lower-case letters, digits, - and _ that starts with a letter",
    SHA256_PATTERN: "a SHA-256, 64 lower-case hexadecimal digits",
    CRC32C_PATTERN: "a CRC32C, big-endian in base64",
    ENROLMENT_PATTERN: "the id of an enrolment, 32 lower-case hexadecimal digits",
}
_REASONS = {"missing": "is missing", "extra_forbidden": "is not a known field; check its spelling"}
_COLLECTIONS = ("list", "tuple", "set", "frozenset", "dict")
# Older versions of pydantic know `fail_fast` for fewer collections, and refuse it for the others.
_STOPPING = frozenset(
    kind for kind in _COLLECTIONS if "fail_fast" in getattr(core_schema, f"{kind}_schema").__kwdefaults__
)


def _stop_at_first_error(schema: Any) -> None:
    if isinstance(schema, dict):
        kind = schema.get("type")
        # In a dict of fields, `type` is the schema of a field of that name.
        if isinstance(kind, str) and kind in _STOPPING:
            schema["fail_fast"] = True
        for key, value in schema.items():
            if key != "metadata":
                _stop_at_first_error(value)
    elif isinstance(schema, (list, tuple)):
        for value in schema:
            _stop_at_first_error(value)


class WireModel(BaseModel):
    """Frozen model that refuses unknown fields.

    Validation of a collection stops at its first bad item. Refusing a million bad items therefore
    costs no more than refusing one.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Returns pydantic's schema of the class, with `fail_fast` set on every collection."""
        schema = handler(source)
        _stop_at_first_error(schema)
        return schema


class Message(WireModel):
    """JSON message of the protocol. Unknown fields, such as misspelled ones, are refused."""

    # Whether JSON values must have the declared types: no text for a number, no number for a bool.
    _strict: ClassVar[bool] = True
    _context: ClassVar[Optional[dict[str, Any]]] = None

    @classmethod
    def decode(cls, raw: Union[bytes, str]) -> Self:
        """Parses and validates JSON. An integer is accepted for a float, and no other conversion.

        Raises:
          ProblemError: `invalid_request`, with a `FieldError` for each bad field, up to
            `MAX_FIELDS`.
        """
        try:
            if len(raw) <= _MAX_STRICT:
                return cls.model_validate_json(raw, strict=cls._strict, context=cls._context)
            return cls.model_validate(_parsed(cls.__name__, raw), context=cls._context)
        except ValidationError as error:
            raise invalid(cls.__name__, error) from error

    @classmethod
    def from_dict(cls, data: Any) -> Self:
        """Validates Python values, such as keyword arguments. Numpy's numbers are accepted too.

        Raises:
          ProblemError: `invalid_request`, with a `FieldError` for each bad field, up to
            `MAX_FIELDS`.
        """
        try:
            return cls.model_validate(data, context=cls._context)
        except ValidationError as error:
            raise invalid(cls.__name__, error) from error

    def encode(self) -> bytes:
        """Returns the message as JSON, fields in declared order: equal messages are equal bytes."""
        return self.model_dump_json(exclude_none=True).encode()

    def to_dict(self) -> dict[str, Any]:
        """Returns the message as JSON-compatible data."""
        return self.model_dump(mode="json", exclude_none=True)


def without_defaults(message: Message, values: dict[str, Any], *, names: Iterable[str]) -> dict[str, Any]:
    """Returns the serialized `values` of a message without those of `names` that are defaults.

    For fields that an earlier version refuses: it reads stored documents and requests during an
    upgrade.
    """
    fields = type(message).model_fields
    omitted = {name for name in names if getattr(message, name) == fields[name].get_default(call_default_factory=True)}
    return {name: value for name, value in values.items() if name not in omitted}


class Answer(Message):
    """Message from a coordinator, read leniently: additions of a newer coordinator are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore")
    _strict: ClassVar[bool] = False
    _context: ClassVar[Optional[dict[str, Any]]] = LENIENT


def invalid(name: str, error: ValidationError) -> ProblemError:
    """Returns the problem of an invalid document `name`, with up to `MAX_FIELDS` faults."""
    count = error.error_count()
    if count > _MAX_LISTED:
        return ProblemError(ProblemType.INVALID_REQUEST, f"{name} is not valid in {count} places")
    items = error.errors(include_url=False, include_input=False)[:MAX_FIELDS]
    fields = tuple(FieldError(path=_path(item["loc"]), reason=shorten(_plain(item))) for item in items)
    listed = "; ".join(f"{field.path}: {field.reason}" for field in fields[:_MAX_NAMED])
    more = f" (and {count - _MAX_NAMED} more)" if count > _MAX_NAMED else ""
    return ProblemError(ProblemType.INVALID_REQUEST, f"{name} is not valid: {listed}{more}", fields=fields)


def _plain(item: Any) -> str:
    """Returns the fault of a field as text for users, without library names and expressions."""
    message, kind = str(item["msg"]), item["type"]
    if kind == "value_error":
        return message.removeprefix("Value error, ")
    if kind == "string_pattern_mismatch":
        return "must be " + _PATTERNS.get(item["ctx"]["pattern"], f"text like {item['ctx']['pattern']}")
    return _REASONS.get(kind, message)


def _parsed(name: str, raw: Union[bytes, str]) -> Any:
    try:
        return from_json(raw)
    except ValueError as error:
        raise ProblemError(ProblemType.INVALID_REQUEST, f"{name} is not valid JSON: {shorten(str(error))}") from error


def _path(location: tuple[Union[int, str], ...]) -> str:
    parts = [shorten(str(part)) for part in location[:_MAX_PATH_PARTS]]
    return shorten(".".join(parts)) or "(document)"
