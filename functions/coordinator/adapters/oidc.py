"""Checks the OpenID Connect tokens that the queue's deliveries carry, against the keys that their issuer publishes.

For functions that anybody can reach. Cloud Run and Cloud Functions that only let an invoker in have checked the token before,
and take its signature off, so that nothing is left to check here.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

import jwt
import requests
import stamina

from coordinator.ports import UnavailableError, UntrustedTokenError

_LEEWAY = 30.0  # seconds by which clocks may differ
_TIMEOUT = 5.0  # seconds
_LIFESPAN = 3600.0  # seconds that keys are trusted without another look
_ALGORITHMS = ["RS256"]
_TAKEN_OFF = "SIGNATURE_REMOVED_BY_GOOGLE"


class OidcInvoker:
    """`Invoker` by OpenID Connect Discovery 1.0 and RFC 7519. Fetches the issuer's keys with the first token."""

    def __init__(self, *, issuer: str, account: str, audiences: Mapping[str, str]) -> None:
        """Makes a check.

        Args:
          issuer: The issuer's URL, such as `https://accounts.google.com`; its keys are found below it.
          account: The e-mail address of the one account whose tokens are good.
          audiences: Function name to the audience that a token for it must have: its base URL.
        """
        self._issuer = issuer.rstrip("/")
        self._account = account
        self._audiences = {function: url.rstrip("/") for function, url in audiences.items()}
        self._keys: jwt.PyJWKClient | None = None
        self._lock = threading.Lock()

    def verify(self, token: str, *, function: str) -> None:
        """See `Invoker.verify`."""
        if token.endswith(_TAKEN_OFF):
            raise UntrustedTokenError(
                "Cloud Run has checked this token and taken its signature off: unset MUSTER_TOKEN_ISSUER where only the "
                "invoker can call the function"
            )
        try:
            claims = jwt.decode(
                token,
                self._key_client().get_signing_key_from_jwt(token),
                algorithms=_ALGORITHMS,
                audience=self._audiences[function],
                issuer=self._issuer,
                leeway=_LEEWAY,
                options={"require": ["exp", "iat", "iss", "aud", "email"]},
            )
        except jwt.PyJWKClientConnectionError as error:
            raise UnavailableError(f"The keys of {self._issuer} can't be read now: {error}") from error
        except (jwt.InvalidTokenError, jwt.PyJWKClientError) as error:
            raise UntrustedTokenError(f"The token is not valid here: {error}") from error
        if claims["email"] != self._account or claims.get("email_verified") is not True:
            raise UntrustedTokenError("The token is not the queue's account's")

    def _key_client(self) -> jwt.PyJWKClient:
        with self._lock:
            if self._keys is None:
                try:
                    self._keys = jwt.PyJWKClient(self._discover(), lifespan=_LIFESPAN, timeout=_TIMEOUT)
                except (requests.RequestException, KeyError) as error:
                    raise UnavailableError(f"{self._issuer} does not say where its keys are: {error}") from error
            return self._keys

    @stamina.retry(on=requests.RequestException, attempts=3, timeout=_TIMEOUT)
    def _discover(self) -> str:
        answer = requests.get(f"{self._issuer}/.well-known/openid-configuration", timeout=_TIMEOUT)
        answer.raise_for_status()
        return str(answer.json()["jwks_uri"])
