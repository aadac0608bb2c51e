"""Settings of a deployment, read from environment variables that start with `MUSTER_`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from muster.wire.signatures import parse_signers
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.domain.limits import RateLimits
from muster_coordinator.domain.pacing import DEFAULT_LONGEST_WAIT

SIGNING = "client_api"  # the only function that signs tokens and names clients, and so needs keys
# The serialization of an origin that browsers send (RFC 6454, section 6.2), for http and https.
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:[1-9]\d{0,4})?")


class SettingsError(ValueError):
    """Error raised when a setting is missing or not valid. Names variable, reason and fix."""


class Settings(BaseModel):
    """Settings of a deployment. Each is read from the environment variable `MUSTER_<FIELD>`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str = Field(
        description="URL of the store of documents: `sqlite:///path/to/state.db` or `firestore://project/database`."
    )
    audit_state: str | None = Field(
        default=None,
        description=(
            "URL of the store of the audit log and of enrolment revocations, such as a second database in which "
            "`client_api` may only read; `state` if unset. Revocations in `state` stay in force, and new ones are "
            "copied to it; audit entries in `state` are not listed any more."
        ),
    )
    blobs: str = Field(
        description="URL of the store of blobs: `file:///path/to/folder`, `gs://bucket` or `gs://bucket/prefix`."
    )
    updates: str | None = Field(
        default=None,
        description="URL of the store of updates, such as a bucket with restricted read access; `blobs` if unset.",
    )
    partials: str | None = Field(
        default=None,
        description="URL of the store of partials, such as a bucket with restricted read access; `blobs` if unset.",
    )
    queue: str = Field(
        description=(
            "URL of the queue of work: `local:///path/to/queue.db` or `cloudtasks://project/location/queue`, with "
            "`?commits=queue` for a second queue, in the same location, for the committer's work, so that a busy "
            "committer does not slow folds down (one queue if omitted), and `?endpoint=host:port` for an emulator of "
            "Cloud Tasks."
        )
    )
    secret: str | None = Field(
        default=None,
        repr=False,
        description=(
            "Key of tokens and pseudonyms, at least 32 bytes in hex, or a ring of keys, newest first, as "
            "`id:hex,id:hex,…`; only `client_api` needs it."
        ),
    )
    round_cache_seconds: float = Field(
        default=1.0,
        ge=0,
        description="Seconds for which an instance may serve a cached round; keep it low on local stores, or 0.",
    )
    retry_floor: float = Field(
        default=1.0, gt=0, description="Shortest wait that a client is asked for between check-ins, in seconds."
    )
    longest_wait: float = Field(
        default=DEFAULT_LONGEST_WAIT,
        gt=0,
        le=86400,
        description=(
            "Longest wait that a client is asked for, in seconds, before jitter of up to a quarter; raise it if very "
            "many clients are always on."
        ),
    )
    direct_above: Annotated[int, Field(ge=0)] | Literal["never"] | None = Field(
        default=None,
        description=(
            "Bytes above which clients upload an update directly to the bucket, or `never`; only with `gs://`, where "
            "it is 8 MiB if unset."
        ),
    )
    trusted_signers: str = Field(
        default="",
        description=(
            "Public keys (`ed25519:…`, comma-separated), one of which must have signed a plan; if empty, any plan is "
            "accepted."
        ),
    )
    aggregator_url: str | None = Field(
        default=None, description="Base URL of the aggregator, to which Cloud Tasks delivers; required with it."
    )
    committer_url: str | None = Field(
        default=None, description="Base URL of the committer, to which Cloud Tasks delivers; required with it."
    )
    invoker: str | None = Field(
        default=None,
        description=(
            "E-mail address of the service account whose token the deliveries of Cloud Tasks carry; required with it."
        ),
    )
    token_issuer: str | None = Field(
        default=None,
        description=(
            "Issuer of that token, such as `https://accounts.google.com`, if the functions must verify it themselves; "
            "leave it unset where Cloud Run admits only the invoker, since Cloud Run strips the signature."
        ),
    )
    operators: str | None = Field(
        default=None,
        description=(
            "Authentication of operators: `open` (any caller), `keys:name:role:sha256,…` or "
            "`oidc:https://issuer?audience=…&operators=…&viewers=…`; if unset, `open` with a local queue and no "
            "operator at all with Cloud Tasks."
        ),
    )
    cors_origins: tuple[str, ...] = Field(
        default=(),
        description=(
            "Origins whose pages' scripts may call clients' routes, comma-separated, such as `https://app.example`; "
            "none if empty."
        ),
    )
    tensorflow_folds: bool = Field(
        default=True,
        description=(
            "Whether the aggregator has TensorFlow; if false, a task whose plan folds with its own graphs is refused."
        ),
    )
    minimum: int = Field(
        default=1,
        ge=1,
        description=(
            "The deployment's floor for the minimum of a task's rounds, in updates; a task with a smaller minimum is "
            "refused."
        ),
    )
    clients: str = Field(
        default="open",
        description=(
            "Authentication of clients: `open` (identity is self-asserted), `oidc:https://issuer?audience=…`, "
            "`enrolment:PUBLIC-KEY` or `proxy:HEADER?secret-header=HEADER`."
        ),
    )
    proxy_secret: str | None = Field(
        default=None,
        repr=False,
        description="Value of the secret header of `proxy:`, at least 32 characters; required with it.",
    )
    rate_limit: str = Field(
        default="",
        description=(
            "Rate limits of an address and of a client, per instance, such as `address=60/m,identity=10/m`; no limits "
            "if empty."
        ),
    )
    trusted_proxies: int = Field(
        default=0,
        ge=0,
        le=16,
        description=(
            "Number of the deployment's proxies in front of the functions, whose entries of `X-Forwarded-For` are "
            "trusted."
        ),
    )

    @field_validator(
        "state",
        "audit_state",
        "blobs",
        "updates",
        "partials",
        "queue",
        "aggregator_url",
        "committer_url",
        "token_issuer",
    )
    @classmethod
    def _is_url(cls, value: str | None) -> str | None:
        if value is not None and "://" not in value:
            raise ValueError("must be a URL such as sqlite:///path/state.db, gs://bucket or https://aggregator.example")
        return value

    @field_validator("rate_limit")
    @classmethod
    def _are_limits(cls, value: str) -> str:
        RateLimits.parse(value)
        return value

    @field_validator("secret")
    @classmethod
    def _is_ring(cls, value: str | None) -> str | None:
        if value is not None:
            KeyRing.parse(value)
        return value

    @cached_property
    def keys(self) -> KeyRing:
        """Ring of the keys in `secret`; empty if it is unset."""
        return KeyRing() if self.secret is None else KeyRing.parse(self.secret)

    def check(self, function: str | None) -> None:
        """Checks that a function has the settings that it needs.

        Args:
          function: The function, or None for a process that serves all of them.

        Raises:
          SettingsError: a setting is missing.
        """
        if function in (SIGNING, None) and self.secret is None:
            raise SettingsError(
                f"MUSTER_SECRET is not set, and {SIGNING} signs with it: set it to the output of `muster key new`. "
                f"Of the functions only {SIGNING} needs it"
            )

    @field_validator("cors_origins", mode="before")
    @classmethod
    def _is_list(cls, value: object) -> object:
        return tuple(filter(None, (item.strip() for item in value.split(",")))) if isinstance(value, str) else value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for origin in value:
            if not _ORIGIN.fullmatch(origin):
                raise ValueError(
                    f"{origin!r} is not an origin such as https://app.example or http://localhost:8000: scheme, host "
                    "and port in lower case, no path, no slash at the end; * and null are not accepted"
                )
        return value

    @field_validator("trusted_signers")
    @classmethod
    def _are_signers(cls, value: str) -> str:
        parse_signers(value)
        return value

    @property
    def signers(self) -> tuple[str, ...]:
        """The public keys in `trusted_signers`."""
        return parse_signers(self.trusted_signers)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Reads the settings from environment variables. An empty variable counts as unset.

        Raises:
          SettingsError: variables are missing or not valid; the text names each of them.
        """
        fields = {
            name: environment[f"MUSTER_{name.upper()}"]
            for name in cls.model_fields
            if environment.get(f"MUSTER_{name.upper()}")
        }
        try:
            return cls.model_validate(fields)
        except ValidationError as error:
            lines = (
                f"MUSTER_{str(item['loc'][0]).upper()}: {item['msg']}"
                for item in error.errors(include_url=False, include_context=False, include_input=False)
            )
            raise SettingsError("The coordinator's settings are not valid: " + "; ".join(lines)) from error
