"""The use cases of one deployment, put together over its ports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.wire.plan import Plan
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.domain.limits import NO_LIMITS, RateLimits
from muster_coordinator.domain.pacing import LONGEST
from muster_coordinator.ports import ClientAuthenticator, InvokerAuthenticator, OperatorAuthenticator
from muster_coordinator.state.goal_checks import GoalChecker
from muster_coordinator.state.partial_builder import PartialBuilder
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.pseudonyms import Pseudonymizer
from muster_coordinator.state.records import Platform
from muster_coordinator.state.round_cache import RoundCache
from muster_coordinator.tokens import Tokens
from muster_coordinator.use_cases.assignment_issuer import AssignmentIssuer
from muster_coordinator.use_cases.audit_log import AuditLog
from muster_coordinator.use_cases.broadcast_reader import BroadcastReader
from muster_coordinator.use_cases.enrolment_revocations import EnrolmentRevocations
from muster_coordinator.use_cases.maintenance import Maintenance
from muster_coordinator.use_cases.round_closer import RoundCloser
from muster_coordinator.use_cases.round_committer import RoundCommitter
from muster_coordinator.use_cases.task_operations import TaskOperations
from muster_coordinator.use_cases.update_aggregator import UpdateAggregator
from muster_coordinator.use_cases.upload_receiver import UploadReceiver

if TYPE_CHECKING:
    from muster.runtime import Runtime


@dataclass(frozen=True)
class Application:
    """What the functions call."""

    platform: Platform
    tokens: Tokens
    plans: PlanRepository
    checkin: AssignmentIssuer
    uploads: UploadReceiver
    broadcasts: BroadcastReader
    tasks: TaskOperations
    folding: UpdateAggregator
    closing: RoundCloser
    sweeping: Maintenance
    committing: RoundCommitter
    audit: AuditLog
    enrolments: EnrolmentRevocations
    invoker: InvokerAuthenticator | None = None
    operators: OperatorAuthenticator | None = None
    cors_origins: tuple[str, ...] = ()
    clients: ClientAuthenticator | None = None
    rate_limits: RateLimits = NO_LIMITS
    trusted_proxies: int = 0


def assemble(
    platform: Platform,
    *,
    secret: KeyRing | bytes | None,
    runtime: Callable[[Plan], Runtime],
    round_cache_seconds: float,
    retry_floor: float,
    invoker: InvokerAuthenticator | None = None,
    direct_above: int | None = None,
    operators: OperatorAuthenticator | None = None,
    cors_origins: tuple[str, ...] = (),
    tensorflow_folds: bool = True,
    clients: ClientAuthenticator | None = None,
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
    tokens, plans = Tokens(ring), PlanRepository(platform.blobs, trusted_signers)
    if platform.direct is None:
        direct_above = None
    open_rounds = RoundCache(platform, seconds=round_cache_seconds)
    partials = PartialBuilder(platform, plans=plans, runtime=runtime)
    aggregator = UpdateAggregator(platform, plans=plans, partials=partials)
    closer = RoundCloser(platform, plans=plans, aggregator=aggregator)
    return Application(
        platform=platform,
        tokens=tokens,
        plans=plans,
        checkin=AssignmentIssuer(
            platform,
            tokens=tokens,
            plans=plans,
            open_rounds=open_rounds,
            pseudonyms=Pseudonymizer(platform, ring),
            retry_floor=retry_floor,
            direct_above=direct_above,
            longest_wait=longest_wait,
        ),
        uploads=UploadReceiver(
            platform,
            tokens=tokens,
            plans=plans,
            open_rounds=open_rounds,
            goals=GoalChecker(platform),
            retry_floor=retry_floor,
            longest_wait=longest_wait,
        ),
        broadcasts=BroadcastReader(platform, seconds=round_cache_seconds),
        tasks=TaskOperations(platform, plans=plans, tensorflow_folds=tensorflow_folds, least_minimum=least_minimum),
        folding=aggregator,
        closing=closer,
        sweeping=Maintenance(platform, round_closer=closer),
        committing=RoundCommitter(platform, plans=plans, partials=partials, runtime=runtime),
        audit=AuditLog(platform),
        invoker=invoker,
        operators=operators,
        cors_origins=cors_origins,
        enrolments=EnrolmentRevocations(platform),
        clients=clients,
        rate_limits=rate_limits,
        trusted_proxies=trusted_proxies,
    )
