"""The use cases of one deployment, put together over its ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from coordinator.domain.keys import KeyRing
from coordinator.domain.limits import NO_LIMITS, RateLimits
from coordinator.domain.pacing import LONGEST
from coordinator.ports import Clients, Invoker, Operators
from coordinator.tokens import Tokens
from coordinator.use_cases.audit import Audit
from coordinator.use_cases.broadcasts import Broadcasts
from coordinator.use_cases.checkin import Checkin
from coordinator.use_cases.closing import ClosingRounds
from coordinator.use_cases.committing import Committing
from coordinator.use_cases.enrolments import Enrolments
from coordinator.use_cases.folding import Folding
from coordinator.use_cases.goals import Goals
from coordinator.use_cases.open_rounds import OpenRounds
from coordinator.use_cases.plans import Plans
from coordinator.use_cases.pseudonyms import Pseudonyms
from coordinator.use_cases.records import Platform
from coordinator.use_cases.sweeping import Sweeping
from coordinator.use_cases.tasks import Tasks
from coordinator.use_cases.uploads import Uploads
from muster.wire.plan import Plan

if TYPE_CHECKING:
    from muster.runtime import Runtime


@dataclass(frozen=True)
class Application:
    """What the functions call."""

    platform: Platform
    tokens: Tokens
    plans: Plans
    checkin: Checkin
    uploads: Uploads
    broadcasts: Broadcasts
    tasks: Tasks
    folding: Folding
    closing: ClosingRounds
    sweeping: Sweeping
    committing: Committing
    audit: Audit
    enrolments: Enrolments
    invoker: Invoker | None = None
    operators: Operators | None = None
    cors_origins: tuple[str, ...] = ()
    clients: Clients | None = None
    rate_limits: RateLimits = NO_LIMITS
    trusted_proxies: int = 0


def assemble(
    platform: Platform,
    *,
    secret: KeyRing | bytes | None,
    runtime: Callable[[Plan], Runtime],
    round_cache_seconds: float,
    retry_floor: float,
    invoker: Invoker | None = None,
    direct_above: int | None = None,
    operators: Operators | None = None,
    cors_origins: tuple[str, ...] = (),
    tensorflow_folds: bool = True,
    clients: Clients | None = None,
    rate_limits: RateLimits = NO_LIMITS,
    trusted_proxies: int = 0,
    trusted_signers: frozenset[str] = frozenset(),
    longest_wait: float = LONGEST,
    least_minimum: int = 1,
) -> Application:
    """Puts the use cases together.

    Args:
      platform: The ports.
      secret: The keys of tokens and pseudonyms, or the only one; None if this application signs nothing.
      runtime: Returns the runtime of a plan; called for a commit, and for a fold that requires TensorFlow.
      round_cache_seconds: Seconds for which a cached round is served.
      retry_floor: The shortest wait of a client, in seconds.
      longest_wait: The longest wait of a client, before jitter of up to a quarter.
      direct_above: Clients upload updates of more bytes directly to the store, if the platform has `direct`; None:
        none.
      tensorflow_folds: Whether the aggregator has TensorFlow; if not, a task that requires it there is refused.
      trusted_signers: Public keys, one of which must have signed a plan; empty: any plan is accepted.
      least_minimum: The deployment's floor: a task with a smaller minimum is refused.
      invoker: Authenticates internal requests; None if no other caller can reach those routes.
      operators: Authenticates operators; None if no other caller can reach those routes.
      cors_origins: The origins whose pages may call clients' routes.
      clients: Authenticates clients; None: identity is self-asserted.
      rate_limits: The rate limits of an address and of a client.
      trusted_proxies: Number of the deployment's proxies that a request passes.
    """
    ring = KeyRing.of(secret)
    tokens, plans = Tokens(ring), Plans(platform.blobs, trusted_signers)
    if platform.direct is None:
        direct_above = None
    open_rounds = OpenRounds(platform, seconds=round_cache_seconds)
    folding = Folding(platform, plans, runtime)
    closing = ClosingRounds(platform, folding)
    return Application(
        platform=platform,
        tokens=tokens,
        plans=plans,
        checkin=Checkin(
            platform, tokens, plans, open_rounds, Pseudonyms(platform, ring), retry_floor, direct_above, longest_wait
        ),
        uploads=Uploads(platform, tokens, plans, open_rounds, Goals(platform), retry_floor, longest_wait),
        broadcasts=Broadcasts(platform, round_cache_seconds),
        tasks=Tasks(platform, plans, tensorflow_folds, least_minimum),
        folding=folding,
        closing=closing,
        sweeping=Sweeping(platform, closing),
        committing=Committing(platform, folding, runtime),
        audit=Audit(platform),
        invoker=invoker,
        operators=operators,
        cors_origins=cors_origins,
        enrolments=Enrolments(platform),
        clients=clients,
        rate_limits=rate_limits,
        trusted_proxies=trusted_proxies,
    )
