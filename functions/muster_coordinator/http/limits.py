"""Rate limits of one instance, by address and by client identity.

They stop one caller from crowding out the others. Against a flood from many addresses they do
little; that is the task of the proxy or load balancer in front of the functions.
"""

from __future__ import annotations

import ipaddress

from werkzeug.wrappers import Request

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain.limits import RateLimits, TokenBuckets
from muster_coordinator.ports import Clock

_SUBSCRIBER_BITS = 64  # prefix length of the IPv6 network that one subscriber has
_MAX_ADDRESS = 64  # characters


class RateLimiter:
    """Token buckets by address and by identity. Thread-safe."""

    def __init__(self, limits: RateLimits, *, clock: Clock, trusted_proxies: int) -> None:
        """Creates a limiter with full buckets.

        Args:
          limits: Limits of an address and of an identity; either may be absent.
          clock: Source of the current time.
          trusted_proxies: Number of the deployment's proxies on a request's path; see `address_of`.
        """
        self._clock = clock
        self._trusted_proxies = trusted_proxies
        self._addresses = None if limits.address is None else TokenBuckets(limits.address)
        self._identities = None if limits.identity is None else TokenBuckets(limits.identity)

    def check_address(self, request: Request) -> None:
        """Counts a request for its sender's address. Raises `ProblemError` (`rate_limited`)."""
        if self._addresses is not None:
            self._take(self._addresses, _subscriber(address_of(request, self._trusted_proxies)), "address")

    def check_identity(self, identity: str) -> None:
        """Counts a request for a client. Raises `ProblemError` (`rate_limited`)."""
        if self._identities is not None:
            self._take(self._identities, identity, "identity")

    def _take(self, buckets: TokenBuckets, key: str, kind: str) -> None:
        wait = buckets.take(key, now=self._clock.now())
        if wait:
            detail = f"This {kind} has made too many requests; the next one is accepted in {wait:.1f} s"
            raise ProblemError(ProblemType.RATE_LIMITED, detail, retry_after=wait)


def address_of(request: Request, trusted_proxies: int) -> str:
    """Returns the address that sent a request.

    With trusted proxies, this is the entry of `X-Forwarded-For` that the outermost of them added;
    the caller may have forged the entries before it. Without, the header is ignored.
    """
    if trusted_proxies:
        hops = [hop.strip() for hop in ",".join(request.headers.getlist("X-Forwarded-For")).split(",")]
        if len(hops) >= trusted_proxies and hops[-trusted_proxies]:
            return hops[-trusted_proxies]
    return request.remote_addr or ""


def _subscriber(address: str) -> str:
    """Returns the key of the bucket that all addresses of one subscriber share."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:_MAX_ADDRESS]
    if parsed.version == 6:  # noqa: PLR2004
        return str(parsed.ipv4_mapped or ipaddress.ip_network((int(parsed), _SUBSCRIBER_BITS), strict=False))
    return str(parsed)
