"""Authenticates the work queue and the scheduler by OpenID Connect tokens.

For functions that every caller can reach. Cloud Run functions that only their invoker can reach do
not need it: Cloud Run verifies the token and removes its signature.
"""

from __future__ import annotations

from collections.abc import Mapping

from muster_coordinator.adapters.oidc_tokens import SIGNATURE_REMOVED, OidcTokens
from muster_coordinator.ports import UntrustedTokenError


class OidcInvokerAuthenticator:
    """`InvokerAuthenticator` by OpenID Connect. Errors: see `OidcTokens`."""

    def __init__(self, *, issuer: str, account: str, audiences: Mapping[str, str]) -> None:
        """Creates an authenticator; it connects with the first token.

        Args:
          issuer: URL of the issuer, such as `https://accounts.google.com`.
          account: E-mail address of the one accepted account.
          audiences: Required audience of each function's tokens, its base URL, by function name.
        """
        self._tokens = OidcTokens(issuer)
        self._account = account
        self._audiences = {function: url.rstrip("/") for function, url in audiences.items()}

    def verify(self, token: str, *, function: str) -> None:
        """See `InvokerAuthenticator.verify`."""
        if token.endswith(SIGNATURE_REMOVED):
            raise UntrustedTokenError(
                "Cloud Run has verified this token and removed its signature: unset MUSTER_TOKEN_ISSUER if only the "
                "invoker can call the function"
            )
        claims = self._tokens.claims(token, audience=self._audiences[function], require=["email"])
        if claims["email"] != self._account or claims.get("email_verified") is not True:
            raise UntrustedTokenError("The token is not the queue's account's")
