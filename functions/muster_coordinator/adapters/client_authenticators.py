"""How clients show who they are, where the deployment wants to know.

By a token of an issuer, by an enrolment token that an operator made, or by what a proxy that checks certificates says of them.
See `parse_clients`.
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

_LEEWAY = 60.0  # seconds by which the clocks of an operator's machine and ours may differ
_LONGEST_IDENTITY = 512  # characters
_SHORTEST_SECRET = 32  # characters
_HEADER = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,63}\Z")
_NEEDED = "A check-in here needs the header `Authorization: Bearer <token>` (--token-file or MUSTER_CLIENT_TOKEN)"
_FORMS = "must be open, oidc:https://issuer?audience=…, enrolment:PUBLIC-KEY or proxy:HEADER?secret-header=HEADER (or ?from=10.0.0.0/8)"

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class OidcClientAuthenticator:
    """Clients with an account at an issuer of OpenID Connect tokens, or of other JSON Web Tokens under published keys."""

    def __init__(self, *, issuer: str, audiences: Iterable[str], jwks: str | None = None, claim: str = "sub") -> None:
        """Makes a check.

        Args:
          issuer: The issuer's URL, just as its tokens have it.
          audiences: Whom a token must be for: one of these.
          jwks: Where the issuer's keys are; None: where its discovery document says.
          claim: The claim that says who the client is: a text or a number.
        """
        self._issuer = issuer
        self._tokens = OidcTokens(issuer, jwks=jwks)
        self._audiences = tuple(audiences)
        self._claim = claim

    def identify(self, caller: ClientCredentials) -> str:
        """See `Clients.identify`."""
        claims = self._tokens.claims(_token(caller), audience=self._audiences, require=[self._claim])
        who = claims[self._claim]
        if not isinstance(who, str | int) or isinstance(who, bool) or not 0 < len(str(who)) <= _LONGEST_IDENTITY:
            raise UntrustedTokenError(f"The token's claim {self._claim} does not say who the client is")
        return f"oidc:{self._issuer}:{who}"


class EnrolledClientAuthenticator:
    """Clients that an operator has given a token (`muster enrol issue`)."""

    def __init__(self, keys: PublicKeys, *, clock: Clock, revoked: Callable[[str], bool]) -> None:
        """Makes a check.

        Args:
          keys: What tokens may be signed with.
          clock: Judges whether they have expired.
          revoked: Whether the token of an id is good no more. May raise `UnavailableError`.
        """
        self._keys = keys
        self._clock = clock
        self._revoked = revoked

    def identify(self, caller: ClientCredentials) -> str:
        """See `Clients.identify`."""
        try:
            enrolment = self._keys.read(_token(caller))
        except EnrolmentError as error:
            raise UntrustedTokenError(f"The enrolment token is not valid here: {error}") from error
        now = self._clock.now()
        if now >= enrolment.expires_at + _LEEWAY:
            raise UntrustedTokenError("The enrolment token has expired; ask the operator for a new one")
        if now < enrolment.issued_at - _LEEWAY:
            raise UntrustedTokenError("The enrolment token is not valid yet: the clocks differ by more than a minute")
        if enrolment.population != caller.population:
            raise UntrustedTokenError(f"The enrolment token is not for population {caller.population}")
        if self._revoked(enrolment.id):
            raise UntrustedTokenError("The enrolment token has been revoked; ask the operator for a new one")
        return f"enrolment:{enrolment.population}:{enrolment.name}"


class ProxiedClientAuthenticator:
    """Clients whose certificate a proxy before us has checked (mutual TLS); it says in a header whose it was."""

    def __init__(
        self, header: str, *, secret_header: str | None = None, secret: str | None = None, peers: Iterable[Network] = ()
    ) -> None:
        """Makes a check: by a secret, by where the request comes from, or by both.

        Args:
          header: The header that says who the client is, such as its certificate's fingerprint.
          secret_header: The header in which the proxy shows `secret`.
          secret: What only the proxy and the coordinator know.
          peers: The networks that the proxy connects from; none: any.
        """
        self._header = header
        self._secret_header = secret_header
        self._secret = secret
        self._peers = tuple(peers)

    def identify(self, caller: ClientCredentials) -> str:
        """See `Clients.identify`."""
        if self._secret_header is not None:
            given = caller.header(self._secret_header) or ""
            if not hmac.compare_digest(given.encode(), (self._secret or "").encode()):
                raise UntrustedTokenError("Check-ins here come by way of a proxy; this one did not")
        if self._peers and not _is_in(caller.peer, self._peers):
            raise UntrustedTokenError("Check-ins here come by way of a proxy; this one did not")
        who = (caller.header(self._header) or "").strip()
        if not who:
            raise UntrustedTokenError("A check-in here needs a client certificate")
        # Several headers of one name arrive as one, with commas: one of them the client may have sent itself.
        if "," in who or not who.isprintable() or len(who) > _LONGEST_IDENTITY:
            raise UntrustedTokenError("What the proxy says of the client's certificate is not one plain value")
        return f"proxy:{who}"


def parse_clients(
    text: str, *, clock: Clock, revoked: Callable[[str], bool], proxy_secret: str | None = None
) -> ClientAuthenticator | None:
    """What identifies clients, by a setting's value; None for `open`: each is who it says.

    Args:
      text: `open`; `oidc:https://issuer?audience=…[&audience=…][&jwks=https://…][&claim=sub]`; `enrolment:KEY[,KEY…]`;
        `proxy:HEADER?secret-header=HEADER` or `proxy:HEADER?from=NETWORK[&from=…]`.
      clock: Judges whether enrolments have expired.
      revoked: Whether an enrolment is good no more.
      proxy_secret: What `secret-header` must hold.

    Raises:
      ValueError: it is none of them; the text says what is wrong and what would do.
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
    raise ValueError(_FORMS)


def _oidc(text: str) -> OidcClientAuthenticator:
    address, _, query = text.partition("?")
    options = _options(query, {"audience", "jwks", "claim"})
    for what, url in (("issuer", address), ("jwks", options.get("jwks", [address])[-1])):
        place = urlsplit(url)
        plain = place.scheme == "http" and place.hostname in ("127.0.0.1", "localhost", "::1")
        if not (place.hostname and (place.scheme == "https" or plain)):
            raise ValueError(
                f"the {what} {url!r} must be an https:// address: keys that come unprotected protect nothing"
            )
    if not options.get("audience"):
        raise ValueError("oidc: needs ?audience=…, or tokens that the issuer made for others would be good here too")
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
            raise ValueError(f"{name!r} is no header's name")
    if secret_header is None and not options.get("from"):
        raise ValueError(
            "proxy: needs ?secret-header=HEADER, or ?from=NETWORK: else anybody could send the header and be anybody"
        )
    if secret_header is not None and len(secret or "") < _SHORTEST_SECRET:
        raise ValueError(f"secret-header needs MUSTER_PROXY_SECRET, of at least {_SHORTEST_SECRET} characters")
    try:
        peers = [ipaddress.ip_network(each) for each in options.get("from", [])]
    except ValueError as error:
        raise ValueError(f"from: {error}; it looks like 10.0.0.0/8") from error
    return ProxiedClientAuthenticator(header, secret_header=secret_header, secret=secret, peers=peers)


def _options(query: str, known: set[str]) -> dict[str, list[str]]:
    options = parse_qs(query, keep_blank_values=True)
    unknown = sorted(options.keys() - known)
    if unknown:
        raise ValueError(f"{unknown[0]} is not known here; what is: {', '.join(sorted(known))}")
    for name, values in options.items():
        if not all(values):
            raise ValueError(f"{name} is empty")
    return options


def _token(caller: ClientCredentials) -> str:
    if caller.token is None:
        raise UntrustedTokenError(_NEEDED)
    return caller.token


def _is_in(address: str, networks: tuple[Network, ...]) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return False
    mapped = getattr(found, "ipv4_mapped", None) or found
    return any(mapped in network for network in networks if network.version == mapped.version)
