"""Checks OpenID Connect tokens against the keys that their issuer publishes: OpenID Connect Discovery 1.0 and RFC 7519."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import jwt
import requests
import stamina

from muster_coordinator.adapters.loopback import exclude_loopback_from_proxies
from muster_coordinator.ports import UnavailableError, UntrustedTokenError

_LEEWAY = 30.0  # seconds by which clocks may differ
_TIMEOUT = 5.0  # seconds
_LIFESPAN = 3600.0  # seconds that keys are trusted without another look
# Asymmetric ones alone: with an HMAC among them, whoever reads the published keys could sign (RFC 8725 §2.1).
_ALGORITHMS = ["RS256", "ES256"]
SIGNATURE_REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"


class OidcTokens:
    """The tokens of one issuer. Fetches its keys with the first token, and again for a key that it does not know."""

    def __init__(self, issuer: str, *, jwks: str | None = None) -> None:
        """`issuer` is its URL, such as `https://accounts.google.com`; its keys are at `jwks`, or where it says below its URL."""
        exclude_loopback_from_proxies()
        self._issuer = issuer.rstrip("/")
        # An issuer may write its name with a slash at the end; tokens have it as it does.
        self._names = [self._issuer, self._issuer + "/"]
        self._jwks = jwks
        self._keys: jwt.PyJWKClient | None = None
        self._lock = threading.Lock()

    def claims(self, token: str, *, audience: str | Sequence[str], require: Sequence[str] = ()) -> dict[str, Any]:
        """What a good token says.

        Args:
          token: The token.
          audience: Whom it must be for; of several, one.
          require: Claims that it must have, besides `exp`, `iat`, `iss` and `aud`.

        Raises:
          UntrustedTokenError: it is not valid, and why.
          UnavailableError: the issuer's keys can't be read now.
        """
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key_client().get_signing_key_from_jwt(token),
                algorithms=_ALGORITHMS,
                audience=audience,
                issuer=self._names,
                leeway=_LEEWAY,
                options={"require": ["exp", "iat", "iss", "aud", *require]},
            )
        except jwt.PyJWKClientConnectionError as error:
            raise UnavailableError(f"The keys of {self._issuer} can't be read now: {error}") from error
        except (
            jwt.InvalidTokenError,
            jwt.PyJWKClientError,
            jwt.PyJWKError,
            jwt.PyJWKSetError,
            RecursionError,
        ) as error:
            raise UntrustedTokenError(f"The token is not valid here: {error}") from error
        return claims

    def _key_client(self) -> jwt.PyJWKClient:
        with self._lock:
            if self._keys is None:
                try:
                    self._keys = jwt.PyJWKClient(self._jwks or self._discover(), lifespan=_LIFESPAN, timeout=_TIMEOUT)
                except (requests.RequestException, KeyError) as error:
                    raise UnavailableError(f"{self._issuer} does not say where its keys are: {error}") from error
            return self._keys

    @stamina.retry(on=requests.RequestException, attempts=3, timeout=_TIMEOUT)
    def _discover(self) -> str:
        answer = requests.get(f"{self._issuer}/.well-known/openid-configuration", timeout=_TIMEOUT)
        answer.raise_for_status()
        return str(answer.json()["jwks_uri"])
