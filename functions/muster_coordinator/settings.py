"""What a deployment sets, by environment variables that all start with `MUSTER_`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from muster.wire.signatures import parse_signers
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.domain.limits import RateLimits
from muster_coordinator.domain.pacing import LONGEST

SIGNING = "client_api"  # the function that signs, and names clients: it alone needs keys
# As browsers send it: RFC 6454 §6.2, for http alone.
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:]+\]|[a-z0-9.-]+)(:[1-9]\d{0,4})?")


class SettingsError(ValueError):
    """A setting is missing or not valid; the text names the variable, the reason and what would do."""


class Settings(BaseModel):
    """Settings of a deployment. Each field is read from `MUSTER_<FIELD>`.

    Attributes:
      state: The store of documents: `sqlite:///path/to/state.db` or `firestore://project/database`.
      blobs: The store of blobs: `file:///path/to/folder`, `gs://bucket` or `gs://bucket/prefix`.
      updates: The store of updates, likewise, if not `blobs`: a bucket with restricted read access.
      partials: The store of partials, likewise.
      queue: The queue of work: `local:///path/to/queue.db` or `cloudtasks://project/location/queue`; with
        `?endpoint=host:port`, at a stand-in for Cloud Tasks.
      secret: The key of tokens and pseudonyms, at least 32 bytes in hex; or a ring of keys, newest first:
        `id:hex,id:hex,…`. Only `client_api` needs it.
      round_cache_seconds: Seconds for which an instance may serve a cached round. Keep it low on local stores.
      direct_above: Clients upload updates of more bytes than this directly to the bucket; `never`: none. Only with
        `gs://`.
      retry_floor: The shortest wait of a client, in seconds.
      longest_wait: The longest wait of a client, in seconds, before jitter of up to a quarter. Set it high if very many
        clients are always on.
      trusted_signers: The public keys (`ed25519:…`, comma-separated), one of which must have signed a plan; empty: any
        plan is accepted.
      aggregator_url: The aggregator's base URL, which Cloud Tasks delivers to. Likewise `committer_url`.
      invoker: The e-mail address of the service account whose token those deliveries carry.
      tensorflow_folds: Whether the aggregator has TensorFlow. If not, a task whose plan folds with its own graphs is
        refused.
      minimum: The deployment's floor for the minimum of a task's rounds. A task with a smaller minimum is refused.
      token_issuer: The issuer of that token, such as `https://accounts.google.com`, if the functions must verify it
        themselves. Leave it unset where Cloud Run admits only the invoker: it strips the signature.
      operators: Authentication of operators: `open` (any caller; the default with a local queue),
        `keys:name:role:sha256,…`, or `oidc:https://issuer?audience=…&operators=…&viewers=…`.
      cors_origins: The origins whose pages' scripts may call clients' routes, comma-separated.
      clients: Authentication of clients: `open` (identity is self-asserted), `oidc:https://issuer?audience=…`,
        `enrolment:PUBLIC-KEY`, or `proxy:HEADER?secret-header=HEADER`.
      proxy_secret: The value of the secret header of `proxy:`, at least 32 characters.
      rate_limit: The rate limits of an address and of a client, per instance: `address=60/m,identity=10/m`.
      trusted_proxies: Number of the deployment's proxies in front of the functions, whose `X-Forwarded-For` entries are
        trusted.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str
    blobs: str
    updates: str | None = None
    partials: str | None = None
    queue: str
    secret: str | None = Field(default=None, repr=False)
    round_cache_seconds: float = Field(default=1.0, ge=0)
    retry_floor: float = Field(default=1.0, gt=0)
    longest_wait: float = Field(default=LONGEST, gt=0, le=86400)
    direct_above: Annotated[int, Field(ge=0)] | Literal["never"] | None = None
    trusted_signers: str = ""
    aggregator_url: str | None = None
    committer_url: str | None = None
    invoker: str | None = None
    token_issuer: str | None = None
    operators: str | None = None
    cors_origins: tuple[str, ...] = ()
    tensorflow_folds: bool = True
    minimum: int = Field(default=1, ge=1)
    clients: str = "open"
    proxy_secret: str | None = Field(default=None, repr=False)
    rate_limit: str = ""
    trusted_proxies: int = Field(default=0, ge=0, le=16)

    @field_validator(
        "state", "blobs", "updates", "partials", "queue", "aggregator_url", "committer_url", "token_issuer"
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
        """The keys of `secret`; an empty ring without one."""
        return KeyRing() if self.secret is None else KeyRing.parse(self.secret)

    def check(self, function: str | None) -> None:
        """Raises `SettingsError` if `function` needs something that is not set. None: a process that serves all functions."""
        if function in (SIGNING, None) and self.secret is None:
            raise SettingsError(
                f"MUSTER_SECRET is not set, and {SIGNING} signs with it: set it to what `muster key new` prints. Of the functions "
                f"only {SIGNING} needs it"
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
                    f"{origin!r} is no origin such as https://app.example or http://localhost:8000: scheme, host and port in "
                    "lower case, no path, no slash at the end; * and null are not taken"
                )
        return value

    @field_validator("trusted_signers")
    @classmethod
    def _are_signers(cls, value: str) -> str:
        parse_signers(value)
        return value

    @property
    def signers(self) -> tuple[str, ...]:
        """The keys in `trusted_signers`."""
        return parse_signers(self.trusted_signers)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Settings:
        """Reads the settings.

        Raises:
          SettingsError: with every variable that is missing or not valid.
        """
        given = {
            name: environment[f"MUSTER_{name.upper()}"]
            for name in cls.model_fields
            if environment.get(f"MUSTER_{name.upper()}")
        }
        try:
            return cls.model_validate(given)
        except ValidationError as error:
            lines = (
                f"MUSTER_{str(item['loc'][0]).upper()}: {item['msg']}"
                for item in error.errors(include_url=False, include_context=False, include_input=False)
            )
            raise SettingsError("The coordinator's settings are not valid: " + "; ".join(lines)) from error
