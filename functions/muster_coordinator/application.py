"""Assembles the use cases of one deployment over its ports.

`bootstrap` builds a `CoordinatorConfig` from the environment's `Settings`; tests and simulations
build one in code:

    application = assemble(platform, CoordinatorConfig(runtime=runtimes(), secret=os.urandom(32)))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from muster.wire.plan import Plan
from muster_coordinator.concurrency.memory_budget import MemoryBudget
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.domain.limits import NO_LIMITS, RateLimits
from muster_coordinator.domain.pacing import DEFAULT_LONGEST_WAIT
from muster_coordinator.ports import ClientAuthenticator, InvokerAuthenticator, OperatorAuthenticator
from muster_coordinator.state.bases import BaseResolver
from muster_coordinator.state.checkin_counters import CheckinCounters
from muster_coordinator.state.evaluation_shares import EvaluationShares
from muster_coordinator.state.goal_checks import GoalChecker
from muster_coordinator.state.partial_builder import PartialBuilder
from muster_coordinator.state.plan_repository import PlanRepository
from muster_coordinator.state.platform import Platform
from muster_coordinator.state.pseudonyms import Pseudonymizer
from muster_coordinator.state.round_cache import RoundCache
from muster_coordinator.tokens import Tokens
from muster_coordinator.use_cases.assignment_issuer import AssignmentIssuer
from muster_coordinator.use_cases.audit_log import AuditLog
from muster_coordinator.use_cases.broadcast_reader import BroadcastReader
from muster_coordinator.use_cases.enrolment_revocations import EnrolmentRevocations
from muster_coordinator.use_cases.maintenance import Maintenance
from muster_coordinator.use_cases.populations import Populations
from muster_coordinator.use_cases.round_closer import RoundCloser
from muster_coordinator.use_cases.round_committer import RoundCommitter
from muster_coordinator.use_cases.state_store import StateStore
from muster_coordinator.use_cases.task_changes import TaskChanges
from muster_coordinator.use_cases.task_deletion import TaskDeletion
from muster_coordinator.use_cases.task_marks import TaskMarks
from muster_coordinator.use_cases.task_opener import TaskOpener
from muster_coordinator.use_cases.task_operations import TaskOperations
from muster_coordinator.use_cases.task_purge import TaskPurge
from muster_coordinator.use_cases.task_runs import TaskRuns
from muster_coordinator.use_cases.update_aggregator import UpdateAggregator
from muster_coordinator.use_cases.upload_receiver import UploadReceiver

if TYPE_CHECKING:
    from muster.runtime import Runtime


@dataclass(frozen=True, kw_only=True)
class CoordinatorConfig:
    """Configuration of a coordinator, beside its ports. The defaults suit a test in one process.

    Attributes:
      runtime: Returns the runtime of a plan. It is called for a commit, and for a fold that
        requires TensorFlow; `bootstrap.runtimes()` loads TensorFlow when it is first called. A test
        passes a function that returns a runtime in plain numpy.
      secret: The keys of tokens and pseudonyms: a ring, or the only key as bytes (32 or more).
        None, the default, suits a function that signs nothing; `client_api` can't work without
        keys. Change it only by adding a new key in front of the ring, or clients lose their
        assignments.
      round_cache_seconds: Seconds for which an instance may serve a cached round (default 0: no
        caching). Raise it to about a second where a read crosses a network. Clients learn of the
        end of a round later by that time.
      retry_floor: The shortest wait that a client is asked for between check-ins, in seconds
        (default 1). Lower it for short rounds with few clients; raise it to save requests.
      longest_wait: The longest wait that a client is asked for, in seconds, before jitter of up to
        a quarter (default 60). Raise it if very many clients are always on.
      direct_above: Clients upload updates of more bytes than this directly to the store (default
        None: no update). Without effect if the platform has no direct uploads. Set it where
        requests are limited in size or billed by time.
      tensorflow_folds: True, the default, if the aggregator has TensorFlow. With False a task whose
        plan folds with its own graphs is refused when it is created, not when it folds.
      least_minimum: The deployment's floor for the `minimum` of a task, in updates (default 1). A
        task with a smaller minimum is refused. Raise it to enforce a privacy rule on all operators.
      trusted_signers: Public keys of the trusted plan signers, one of which must have signed a
        plan. Empty, the default, accepts any plan. Set it wherever an operator's key must not be
        enough to run code on clients.
      invoker: Authenticates internal requests (queue and scheduler). None, the default, accepts any
        caller: for deployments in which no other caller can reach those routes.
      operators: Authenticates operators. None, the default, accepts any caller as an operator: for
        deployments in which no other caller can reach those routes.
      clients: Authenticates clients. With None, the default, identity is self-asserted: one device
        can pose as a thousand clients.
      cors_origins: Origins whose pages' scripts may call clients' routes (default: none). Set it
        for clients in browsers.
      rate_limits: Rate limits of an address and of a client, per instance (default: no limits). Set
        them where clients are not authenticated.
      trusted_proxies: Number of the deployment's proxies that a request passes (default 0). The
        client's address is taken from as many entries of `X-Forwarded-For`. Too high a number lets
        clients forge their address.
    """

    runtime: Callable[[Plan], Runtime]
    secret: KeyRing | bytes | None = None
    round_cache_seconds: float = 0.0
    retry_floor: float = 1.0
    longest_wait: float = DEFAULT_LONGEST_WAIT
    direct_above: int | None = None
    tensorflow_folds: bool = True
    least_minimum: int = 1
    trusted_signers: frozenset[str] = frozenset()
    invoker: InvokerAuthenticator | None = None
    operators: OperatorAuthenticator | None = None
    clients: ClientAuthenticator | None = None
    cors_origins: tuple[str, ...] = ()
    rate_limits: RateLimits = NO_LIMITS
    trusted_proxies: int = 0


@dataclass(frozen=True, kw_only=True)
class Application:
    """The use cases of one deployment, and the access rules of its routes.

    Attributes:
      platform: The ports.
      tokens: Signs and reads assignments and cookies.
      plans: The plans.
      assignment_issuer: Assigns work to clients that check in.
      checkin_counters: Counts check-ins by outcome.
      populations: Lists populations.
      upload_receiver: Receives updates and reports of failures.
      broadcast_reader: Reads broadcasts.
      state_store: Stores states that operators upload.
      task_operations: Creates, reads and steers tasks.
      task_deletion: Marks tasks for deletion.
      task_purge: Deletes the data of tasks that are marked.
      task_changes: Changes the policies of tasks.
      task_marks: Tags checkpoints, and archives tasks.
      task_runs: Runs rounds of driven tasks on request.
      update_aggregator: Folds updates into partials.
      round_closer: Closes rounds.
      maintenance: Removes what ended rounds leave behind, and repairs lost work.
      round_committer: Commits rounds.
      task_opener: Opens tasks and runs.
      audit_log: The audit log of operators' actions.
      enrolment_revocations: Revokes enrolment tokens.
      invoker: See `CoordinatorConfig`; likewise the following.
      operators: Authenticates operators.
      clients: Authenticates clients.
      cors_origins: Origins whose pages' scripts may call clients' routes.
      rate_limits: Rate limits of an address and of a client.
      trusted_proxies: Number of the deployment's proxies.
    """

    platform: Platform
    tokens: Tokens
    plans: PlanRepository
    assignment_issuer: AssignmentIssuer
    checkin_counters: CheckinCounters
    populations: Populations
    upload_receiver: UploadReceiver
    broadcast_reader: BroadcastReader
    state_store: StateStore
    task_operations: TaskOperations
    task_deletion: TaskDeletion
    task_purge: TaskPurge
    task_changes: TaskChanges
    task_marks: TaskMarks
    task_runs: TaskRuns
    update_aggregator: UpdateAggregator
    round_closer: RoundCloser
    maintenance: Maintenance
    round_committer: RoundCommitter
    task_opener: TaskOpener
    audit_log: AuditLog
    enrolment_revocations: EnrolmentRevocations
    invoker: InvokerAuthenticator | None = None
    operators: OperatorAuthenticator | None = None
    clients: ClientAuthenticator | None = None
    cors_origins: tuple[str, ...] = ()
    rate_limits: RateLimits = NO_LIMITS
    trusted_proxies: int = 0


def assemble(platform: Platform, config: CoordinatorConfig) -> Application:
    """Returns the application of a deployment: its use cases over the ports of `platform`."""
    ring = KeyRing.of(config.secret)
    tokens, plans = Tokens(ring), PlanRepository(platform.blobs, config.trusted_signers)
    rounds = RoundCache(platform, seconds=config.round_cache_seconds)
    partials = PartialBuilder(platform, plans=plans, runtime=config.runtime)
    aggregator = UpdateAggregator(platform, plans=plans, partials=partials)
    closer = RoundCloser(platform, plans=plans, aggregator=aggregator)
    operations = TaskOperations(
        platform, plans=plans, tensorflow_folds=config.tensorflow_folds, least_minimum=config.least_minimum
    )
    memory = MemoryBudget()
    purge = TaskPurge(platform, plans=plans)
    return Application(
        platform=platform,
        tokens=tokens,
        plans=plans,
        assignment_issuer=AssignmentIssuer(
            platform,
            tokens=tokens,
            plans=plans,
            open_rounds=rounds,
            pseudonyms=Pseudonymizer(platform, ring=ring),
            shares=EvaluationShares(platform, ring=ring),
            retry_floor=config.retry_floor,
            direct_above=None if platform.direct is None else config.direct_above,
            longest_wait=config.longest_wait,
        ),
        checkin_counters=CheckinCounters(platform, ring=ring),
        populations=Populations(platform),
        upload_receiver=UploadReceiver(
            platform,
            tokens=tokens,
            plans=plans,
            open_rounds=rounds,
            goals=GoalChecker(platform),
            retry_floor=config.retry_floor,
            longest_wait=config.longest_wait,
        ),
        broadcast_reader=BroadcastReader(platform, seconds=config.round_cache_seconds),
        task_operations=operations,
        task_deletion=TaskDeletion(platform, task_operations=operations, task_purge=purge),
        task_purge=purge,
        state_store=StateStore(platform, plans=plans),
        task_changes=TaskChanges(platform, plans=plans, operations=operations, least_minimum=config.least_minimum),
        task_marks=TaskMarks(platform, operations=operations),
        task_runs=TaskRuns(platform, plans=plans, bases=BaseResolver(platform, plans=plans), operations=operations),
        update_aggregator=aggregator,
        round_closer=closer,
        maintenance=Maintenance(platform, round_closer=closer, task_purge=purge),
        round_committer=RoundCommitter(platform, plans=plans, partials=partials, runtime=config.runtime, memory=memory),
        task_opener=TaskOpener(platform, plans=plans, runtime=config.runtime, memory=memory),
        audit_log=AuditLog(platform),
        enrolment_revocations=EnrolmentRevocations(platform),
        invoker=config.invoker,
        operators=config.operators,
        clients=config.clients,
        cors_origins=config.cors_origins,
        rate_limits=config.rate_limits,
        trusted_proxies=config.trusted_proxies,
    )
