"""Rate limits of this instance, by address and by identity, and where a request comes from.

They keep one caller from crowding the others out of an instance. Against a flood from many addresses they do little: that is for
what stands before the functions.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

from werkzeug.wrappers import Request, Response

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain.limits import RateLimits, TokenBuckets
from muster_coordinator.http.routing import RouteCall
from muster_coordinator.ports import Clock

_NETWORK = 64  # bits of an IPv6 address that tell one subscriber from another


class Limiter:
    """Counts calls, and refuses those that are too many."""

    def __init__(self, limits: RateLimits, *, clock: Clock, trusted_proxies: int) -> None:
        """Makes an empty one.

        Args:
          limits: What is allowed.
          clock: The time.
          trusted_proxies: How many proxies of the deployment's own a request passes; see `address_of`.
        """
        self._clock = clock
        self._trusted_proxies = trusted_proxies
        self._addresses = None if limits.address is None else TokenBuckets(limits.address)
        self._identities = None if limits.identity is None else TokenBuckets(limits.identity)

    def limited(self, handler: Callable[[RouteCall], Response]) -> Callable[[RouteCall], Response]:
        """The handler, for callers whose address has calls left. Raises `ProblemError` (`rate_limited`) for others."""

        def guarded(call: RouteCall) -> Response:
            if self._addresses is not None:
                self._take(self._addresses, _subscriber(address_of(call.request, self._trusted_proxies)), "address")
            return handler(call)

        return guarded

    def check_identity(self, identity: str) -> None:
        """Counts a call of a client. Raises `ProblemError` (`rate_limited`)."""
        if self._identities is not None:
            self._take(self._identities, identity, "identity")

    def _take(self, buckets: TokenBuckets, caller: str, what: str) -> None:
        wait = buckets.take(caller, now=self._clock.now())
        if wait:
            detail = f"This {what} has made too many requests; the next is taken in {wait:.1f} s"
            raise ProblemError(ProblemType.RATE_LIMITED, detail, retry_after=wait)


def address_of(request: Request, trusted_proxies: int) -> str:
    """Where a request comes from: of `X-Forwarded-For` the entry that the outermost proxy of ours has added.

    What stands before that entry the caller may have written itself. Without proxies of ours the header says nothing.
    """
    if trusted_proxies:
        hops = [hop.strip() for hop in ",".join(request.headers.getlist("X-Forwarded-For")).split(",")]
        if len(hops) >= trusted_proxies and hops[-trusted_proxies]:
            return hops[-trusted_proxies]
    return request.remote_addr or ""


def _subscriber(address: str) -> str:
    """One bucket for all the addresses that a single subscriber has."""
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address[:_NETWORK]
    if found.version == 6:  # noqa: PLR2004
        return str(found.ipv4_mapped or ipaddress.ip_network((int(found), _NETWORK), strict=False))
    return str(found)
