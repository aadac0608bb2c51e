"""Checks the OpenID Connect tokens that the queue's deliveries carry, against the keys that their issuer publishes.

For functions that anybody can reach. Cloud Run and Cloud Functions that only let an invoker in have checked the token before,
and take its signature off, so that nothing is left to check here.
"""

from __future__ import annotations

from collections.abc import Mapping

from muster_coordinator.adapters.oidc_tokens import SIGNATURE_REMOVED, OidcTokens
from muster_coordinator.ports import UntrustedTokenError


class OidcInvokerAuthenticator:
    """`Invoker` by OpenID Connect."""

    def __init__(self, *, issuer: str, account: str, audiences: Mapping[str, str]) -> None:
        """Makes a check.

        Args:
          issuer: The issuer's URL, such as `https://accounts.google.com`; its keys are found below it.
          account: The e-mail address of the one account whose tokens are good.
          audiences: Function name to the audience that a token for it must have: its base URL.
        """
        self._tokens = OidcTokens(issuer)
        self._account = account
        self._audiences = {function: url.rstrip("/") for function, url in audiences.items()}

    def verify(self, token: str, *, function: str) -> None:
        """See `Invoker.verify`."""
        if token.endswith(SIGNATURE_REMOVED):
            raise UntrustedTokenError(
                "Cloud Run has checked this token and taken its signature off: unset MUSTER_TOKEN_ISSUER where only the "
                "invoker can call the function"
            )
        claims = self._tokens.claims(token, audience=self._audiences[function], require=["email"])
        if claims["email"] != self._account or claims.get("email_verified") is not True:
            raise UntrustedTokenError("The token is not the queue's account's")
