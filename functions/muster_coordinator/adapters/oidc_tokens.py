"""Verifies JSON Web Tokens (RFC 7519) with the published keys of their issuer.

The keys are found by OpenID Connect Discovery 1.0.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any

import jwt
import requests
import stamina

from muster_coordinator.adapters.loopback import exclude_loopback_from_proxies
from muster_coordinator.ports import UnavailableError, UntrustedTokenError

_CLOCK_SKEW = 30.0  # seconds between the clocks of the issuer and this machine
_TIMEOUT = 5.0  # seconds of a request to the issuer
_KEYS_TTL = 3600.0  # seconds for which fetched keys are cached
# Asymmetric algorithms only: with an HMAC, every reader of the published keys could sign (RFC 8725
# §2.1).
_ALGORITHMS = ["RS256", "ES256"]
SIGNATURE_REMOVED = "SIGNATURE_REMOVED_BY_GOOGLE"


class OidcTokens:
    """Verifier of one issuer's tokens.

    It fetches the issuer's keys with the first token, caches them for an hour, and fetches them
    again for an unknown key. A failed discovery is tried up to three times in five seconds.
    """

    def __init__(self, issuer: str, *, jwks: str | None = None) -> None:
        """Creates a verifier; it connects with the first token.

        Args:
          issuer: URL of the issuer, such as `https://accounts.google.com`.
          jwks: URL of its keys; None to use its discovery document.
        """
        exclude_loopback_from_proxies()
        self._issuer = issuer.rstrip("/")
        # An issuer may spell its name in tokens with a slash at the end.
        self._spellings = [self._issuer, self._issuer + "/"]
        self._jwks = jwks
        self._keys: jwt.PyJWKClient | None = None
        self._lock = threading.Lock()

    def claims(self, token: str, *, audience: str | Sequence[str], require: Sequence[str] = ()) -> dict[str, Any]:
        """Returns the claims of a valid token.

        Args:
          token: The token.
          audience: Accepted audience, or several of them.
          require: Claims that must be present, besides `exp`, `iat`, `iss` and `aud`.

        Raises:
          UntrustedTokenError: The token is not valid; the message has the reason.
          UnavailableError: The issuer's keys can't be fetched now.
        """
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                self._key_client().get_signing_key_from_jwt(token),
                algorithms=_ALGORITHMS,
                audience=audience,
                issuer=self._spellings,
                leeway=_CLOCK_SKEW,
                options={"require": ["exp", "iat", "iss", "aud", *require]},
            )
        except jwt.PyJWKClientConnectionError as error:
            raise UnavailableError(f"The keys of {self._issuer} can't be fetched now: {error}") from error
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
                    self._keys = jwt.PyJWKClient(self._jwks or self._discover(), lifespan=_KEYS_TTL, timeout=_TIMEOUT)
                except (requests.RequestException, KeyError) as error:
                    raise UnavailableError(f"{self._issuer} does not say where its keys are: {error}") from error
            return self._keys

    @stamina.retry(on=requests.RequestException, attempts=3, timeout=_TIMEOUT)
    def _discover(self) -> str:
        response = requests.get(f"{self._issuer}/.well-known/openid-configuration", timeout=_TIMEOUT)
        response.raise_for_status()
        return str(response.json()["jwks_uri"])
