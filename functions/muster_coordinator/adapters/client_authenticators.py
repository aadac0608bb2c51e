"""Authenticates clients, if the deployment requires it.

Credentials are an OpenID Connect token of an issuer, an enrolment token that an operator issued, or
a header of a proxy that has verified a client certificate. See `parse_clients`.
"""

from __future__ import annotations

import hmac
import ipaddress
import re
from collections.abc import Callable, Iterable
from urllib.parse import parse_qs, urlsplit

from muster.wire.enrolment import EnrolmentError, PublicKeys
from muster_coordinator.adapters.oidc_tokens import OidcTokens
from muster_coordinator.ports import ClientAuthenticator, ClientCredentials, Clock, UntrustedTokenError

_CLOCK_SKEW = 60.0  # seconds between the clocks of the issuing operator and this machine
_MAX_IDENTITY = 512  # characters
_MIN_SECRET = 32  # characters
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}\Z")
_NO_CREDENTIALS = (
    "A check-in here needs the header `Authorization: Bearer <token>` (--token-file or MUSTER_CLIENT_TOKEN)"
)
_SYNTAX = (
    "must be open, oidc:https://issuer?audience=…, enrolment:PUBLIC-KEY or proxy:HEADER?secret-header=HEADER "
    "(or ?from=10.0.0.0/8)"
)
# Same text for both checks, so that a caller can't learn which one failed.
_NOT_PROXIED = "Check-ins here must pass a proxy; this one did not"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class OidcClientAuthenticator:
    """Authenticator of clients by JSON Web Tokens of an issuer that publishes its keys.

    Such tokens are OpenID Connect tokens, or others in the same format. Errors: see `OidcTokens`.
    """

    def __init__(self, *, issuer: str, audiences: Iterable[str], jwks: str | None = None, claim: str = "sub") -> None:
        """Creates an authenticator; it connects with the first token.

        Args:
          issuer: URL of the issuer, spelled as in its tokens.
          audiences: Accepted audiences; a token must have one of them.
          jwks: URL of the issuer's keys; None to use its discovery document.
          claim: Claim with the client's identity, a string or a number.
        """
        self._issuer = issuer
        self._tokens = OidcTokens(issuer, jwks=jwks)
        self._audiences = tuple(audiences)
        self._claim = claim

    def identify(self, caller: ClientCredentials) -> str:
        """See `ClientAuthenticator.identify`."""
        claims = self._tokens.claims(_token(caller), audience=self._audiences, require=[self._claim])
        name = claims[self._claim]
        if not isinstance(name, str | int) or isinstance(name, bool) or not 0 < len(str(name)) <= _MAX_IDENTITY:
            raise UntrustedTokenError(f"The token's claim {self._claim} does not identify the client")
        return f"oidc:{self._issuer}:{name}"


class EnrolledClientAuthenticator:
    """Authenticator of clients by enrolment tokens (`muster enrol issue`)."""

    def __init__(self, keys: PublicKeys, *, clock: Clock, revoked: Callable[[str], bool]) -> None:
        """Creates an authenticator.

        Args:
          keys: Public keys of the accepted issuers.
          clock: Source of the current time, for expiry.
          revoked: Returns whether the token of an id is revoked. May raise `UnavailableError`.
        """
        self._keys = keys
        self._clock = clock
        self._revoked = revoked

    def identify(self, caller: ClientCredentials) -> str:
        """See `ClientAuthenticator.identify`."""
        try:
            enrolment = self._keys.read(_token(caller))
        except EnrolmentError as error:
            raise UntrustedTokenError(f"The enrolment token is not valid here: {error}") from error
        now = self._clock.now()
        if now >= enrolment.expires_at + _CLOCK_SKEW:
            raise UntrustedTokenError("The enrolment token has expired; ask the operator for a new one")
        if now < enrolment.issued_at - _CLOCK_SKEW:
            raise UntrustedTokenError("The enrolment token is not valid yet: the clocks differ by more than a minute")
        if enrolment.population != caller.population:
            raise UntrustedTokenError(f"The enrolment token is not for population {caller.population}")
        if self._revoked(enrolment.id):
            raise UntrustedTokenError("The enrolment token has been revoked; ask the operator for a new one")
        return f"enrolment:{enrolment.population}:{enrolment.name}"


class ProxiedClientAuthenticator:
    """Authenticator of clients by a header of a proxy that has verified their certificate (mTLS).

    The proxy proves itself by a shared secret, by its network, or by both.
    """

    def __init__(
        self, header: str, *, secret_header: str | None = None, secret: str | None = None, peers: Iterable[Network] = ()
    ) -> None:
        """Creates an authenticator.

        Args:
          header: Header with the client's identity, such as its certificate's fingerprint.
          secret_header: Header in which the proxy sends `secret`, or None.
          secret: Secret that only the proxy and the coordinator know.
          peers: Networks from which the proxy connects; empty to accept any.
        """
        self._header = header
        self._secret_header = secret_header
        self._secret = secret
        self._peers = tuple(peers)

    def identify(self, caller: ClientCredentials) -> str:
        """See `ClientAuthenticator.identify`."""
        if self._secret_header is not None:
            sent = caller.header(self._secret_header) or ""
            if not hmac.compare_digest(sent.encode(), (self._secret or "").encode()):
                raise UntrustedTokenError(_NOT_PROXIED)
        if self._peers and not _is_in(caller.peer, self._peers):
            raise UntrustedTokenError(_NOT_PROXIED)
        name = (caller.header(self._header) or "").strip()
        if not name:
            raise UntrustedTokenError("A check-in here needs a client certificate")
        # Repeated headers arrive as one, joined by commas. The client may have sent one of them.
        if "," in name or not name.isprintable() or len(name) > _MAX_IDENTITY:
            raise UntrustedTokenError("The proxy's header about the client certificate is not one plain value")
        return f"proxy:{name}"


def parse_clients(
    text: str, *, clock: Clock, revoked: Callable[[str], bool], proxy_secret: str | None = None
) -> ClientAuthenticator | None:
    """Returns the authenticator that the setting MUSTER_CLIENTS describes.

    Args:
      text: `open`; `oidc:https://issuer?audience=…[&audience=…][&jwks=https://…][&claim=sub]`;
        `enrolment:KEY[,KEY…]`; `proxy:HEADER?secret-header=HEADER` or
        `proxy:HEADER?from=NETWORK[&from=…]`.
      clock: Source of the current time, for the expiry of enrolment tokens.
      revoked: Returns whether the enrolment token of an id is revoked.
      proxy_secret: Expected value of the `secret-header`.

    Returns:
      The authenticator, or None for `open`: client identity is self-asserted.

    Raises:
      ValueError: `text` is not valid; the message has the reason and the fix.
    """
    if text == "open":
        return None
    kind, _, rest = text.partition(":")
    if kind == "oidc":
        return _oidc(rest)
    if kind == "enrolment":
        keys = [key for key in (part.strip() for part in rest.split(",")) if key]
        if not keys:
            raise ValueError("enrolment: needs a public key: `muster enrol key` makes one and prints it")
        return EnrolledClientAuthenticator(PublicKeys(*keys), clock=clock, revoked=revoked)
    if kind == "proxy":
        return _proxy(rest, proxy_secret)
    raise ValueError(_SYNTAX)


def _oidc(text: str) -> OidcClientAuthenticator:
    address, _, query = text.partition("?")
    options = _options(query, {"audience", "jwks", "claim"})
    for option, url in (("issuer", address), ("jwks", options.get("jwks", [address])[-1])):
        parts = urlsplit(url)
        local = parts.scheme == "http" and parts.hostname in ("127.0.0.1", "localhost", "::1")
        if not (parts.hostname and (parts.scheme == "https" or local)):
            raise ValueError(
                f"the {option} {url!r} must be an https:// address: keys that arrive unprotected protect nothing"
            )
    if not options.get("audience"):
        raise ValueError("oidc: needs ?audience=…, or tokens that the issuer made for others would be valid here")
    return OidcClientAuthenticator(
        issuer=address,
        audiences=options["audience"],
        jwks=options.get("jwks", [None])[-1],
        claim=options.get("claim", ["sub"])[-1],
    )


def _proxy(text: str, secret: str | None) -> ProxiedClientAuthenticator:
    header, _, query = text.partition("?")
    options = _options(query, {"secret-header", "from"})
    secret_header = options.get("secret-header", [None])[-1]
    for name in (header, secret_header):
        if name is not None and not _HEADER.match(name):
            raise ValueError(f"{name!r} is not a valid header name")
    if secret_header is None and not options.get("from"):
        raise ValueError(
            "proxy: needs ?secret-header=HEADER or ?from=NETWORK; otherwise any caller could send the header and pose "
            "as any client"
        )
    if secret_header is not None and len(secret or "") < _MIN_SECRET:
        raise ValueError(f"secret-header needs MUSTER_PROXY_SECRET, of at least {_MIN_SECRET} characters")
    try:
        peers = [ipaddress.ip_network(network) for network in options.get("from", [])]
    except ValueError as error:
        raise ValueError(f"from: {error}; a network is written as 10.0.0.0/8") from error
    return ProxiedClientAuthenticator(header, secret_header=secret_header, secret=secret, peers=peers)


def _options(query: str, known: set[str]) -> dict[str, list[str]]:
    options = parse_qs(query, keep_blank_values=True)
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ValueError(f"{unknown[0]} is not a known option; use {', '.join(sorted(known))}")
    for name, values in options.items():
        if not all(values):
            raise ValueError(f"{name} is empty")
    return options


def _token(caller: ClientCredentials) -> str:
    if caller.token is None:
        raise UntrustedTokenError(_NO_CREDENTIALS)
    return caller.token


def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(mapped in network for network in networks if network.version == mapped.version)
