"""Builds applications from settings. The only module that imports the adapters."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import parse_qsl, unquote, urlsplit

from muster.wire.plan import Plan
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.signatures import need_cryptography
from muster_coordinator.application import Application, CoordinatorConfig, assemble
from muster_coordinator.concurrency.cache import Cache
from muster_coordinator.domain import names
from muster_coordinator.domain.limits import RateLimits
from muster_coordinator.ports import (
    Blobs,
    ClientAuthenticator,
    DirectUploads,
    Documents,
    InvokerAuthenticator,
    OperatorAuthenticator,
    WorkQueue,
)
from muster_coordinator.queued_work import COMMITTER
from muster_coordinator.settings import SIGNING, Settings, SettingsError
from muster_coordinator.state.platform import Platform
from muster_coordinator.use_cases.enrolment_revocations import EnrolmentRevocations

if TYPE_CHECKING:
    from muster.runtime import Runtime

LOG = logging.getLogger(__name__)
Port = TypeVar("Port")
# Options in a URL of Cloud Tasks, with the values that they may have
_QUEUE_OPTIONS = {"commits": re.compile(r"[A-Za-z0-9-]{1,100}"), "endpoint": re.compile(r".+:[0-9]+")}
_OPTION_EXAMPLES = {"commits": "the name of a queue, such as muster-commits", "endpoint": "127.0.0.1:8123"}
_OPERATING = "operator_api"
_REVOCATIONS_TTL = 30.0  # seconds for which networked deployments may accept a revoked enrolment
MAX_CONCURRENT_CALLS = 16  # concurrent calls to a bucket, each of which takes tens of milliseconds
MAX_CACHED_RUNTIMES = 4  # graphs of a plan, with a model or two each
_LOCK = threading.Lock()  # concurrent first requests; `functools.cache` would make an application for each
_DIRECT_ABOVE = 8 << 20  # bytes; a function accepts 32 MB at most, and is billed for the time of an upload


def application(settings: Settings, *, function: str | None = None) -> Application:
    """Returns the application that `settings` describe.

    Args:
      settings: The settings.
      function: The function that it serves, or None for all of them.

    Raises:
      SettingsError: the scheme of a URL is unknown, or a setting or library that it needs is
        missing.
    """
    settings.check(function)
    serves_clients = function in (SIGNING, None)
    direct = _direct(settings) if serves_clients else None
    ports = platform(settings)
    config = CoordinatorConfig(
        runtime=runtimes(),
        secret=settings.keys,
        round_cache_seconds=settings.round_cache_seconds,
        retry_floor=settings.retry_floor,
        longest_wait=settings.longest_wait,
        direct_above=None if direct is None else direct.above,
        tensorflow_folds=settings.tensorflow_folds,
        least_minimum=settings.minimum,
        trusted_signers=_trusted(settings),
        invoker=invoker(settings),
        operators=operators(settings),
        clients=clients(settings, ports) if serves_clients else None,
        cors_origins=settings.cors_origins,
        rate_limits=RateLimits.parse(settings.rate_limit),
        trusted_proxies=settings.trusted_proxies,
    )
    return assemble(replace(ports, direct=None if direct is None else direct.uploads), config)


def platform(settings: Settings) -> Platform:
    """Returns the ports that `settings` describe, without direct uploads.

    Raises:
      SettingsError: as for `application`.
    """
    from muster_coordinator.adapters.system import SystemClock, SystemRandomness

    return Platform(
        documents=_documents(settings.state, "MUSTER_STATE"),
        blobs=_stores(settings),
        queue=_queue(settings),
        clock=SystemClock(),
        randomness=SystemRandomness(),
        at_once=MAX_CONCURRENT_CALLS if urlsplit(settings.blobs).scheme == "gs" else 1,
        separate_audit=_separate_audit(settings),
    )


def from_environment(function: str) -> Application:
    """Returns the application that this process's environment describes, for one of its functions.

    With a secret, all functions that this process serves share one application.

    Raises:
      SettingsError: as for `application`.
    """
    import os

    settings = Settings.from_environment(os.environ)
    settings.check(function)
    if function == _OPERATING and operators_are_open(settings):
        LOG.warning(
            "MUSTER_OPERATORS is open: any caller that reaches the operators' routes may create, change and read every "
            "task. Set it to keys:… (`muster key operator` makes one) or oidc:… before others can reach them"
        )
    with _LOCK:
        return _cached_application(settings, function if settings.secret is None else None)


@cache
def _cached_application(settings: Settings, function: str | None) -> Application:
    return application(settings, function=function)


def runtimes(*, seed: int | None = None) -> Callable[[Plan], Runtime]:
    """Returns a function that returns a plan's runtime, and caches those of the last few plans.

    TensorFlow is loaded by the first call of that function.

    Args:
      seed: Seeds the plan's random operations, so that a simulation is reproducible.
    """
    cached: Cache[str, Runtime] = Cache(max_entries=MAX_CACHED_RUNTIMES)
    return lambda plan: cached.get_or_load(plan.sha256, lambda: _runtime(plan, seed=seed))


def _runtime(plan: Plan, *, seed: int | None) -> Runtime:
    try:
        from muster.runtime import Runtime
    except ModuleNotFoundError as error:
        raise ProblemError(
            ProblemType.NOT_SUPPORTED,
            f"Plan {plan.manifest.name!r} has to run its graphs here, and {error.name} is not installed: deploy the "
            "bundle aggregator-tensorflow in place of aggregator, or set MUSTER_TENSORFLOW_FOLDS=false so that no such "
            "task is created",
        ) from error
    return Runtime(plan, seed=seed)


def _trusted(settings: Settings) -> frozenset[str]:
    """Returns the trusted plan signers.

    Raises `SettingsError` if the library that verifies them is missing.
    """
    signers = frozenset(settings.signers)
    if signers:
        try:
            need_cryptography()
        except ImportError as error:
            raise SettingsError(f"MUSTER_TRUSTED_SIGNERS is set, which needs a library: {error}") from error
    return signers


def _path(url: str) -> Path:
    return Path(unquote(urlsplit(url).path))


def _separate_audit(settings: Settings) -> Documents | None:
    if settings.audit_state is None or settings.audit_state == settings.state:
        return None
    return _documents(settings.audit_state, "MUSTER_AUDIT_STATE")


def _documents(url: str, variable: str) -> Documents:
    def sqlite(url: str) -> Documents:
        from muster_coordinator.adapters.sqlite import SqliteDocuments

        return SqliteDocuments(_path(url))

    def firestore(url: str) -> Documents:
        from muster_coordinator.adapters.firestore import FirestoreDocuments

        place = urlsplit(url)
        return FirestoreDocuments(place.netloc, unquote(place.path).strip("/") or "(default)")

    return _choose(url, variable, {"sqlite": sqlite, "firestore": firestore})


def _stores(settings: Settings) -> Blobs:
    default = _blobs(settings.blobs, "MUSTER_BLOBS")
    by_prefix = {
        prefix.rstrip("/"): _blobs(url, variable)
        for prefix, url, variable in (
            (names.UPDATES, settings.updates, "MUSTER_UPDATES"),
            (names.PARTIALS, settings.partials, "MUSTER_PARTIALS"),
        )
        if url is not None and url != settings.blobs
    }
    if not by_prefix:
        return default
    from muster_coordinator.adapters.split_blobs import SplitBlobs

    return SplitBlobs(default, by_prefix)


def _blobs(url: str, variable: str) -> Blobs:
    def directory(url: str) -> Blobs:
        from muster_coordinator.adapters.directory import DirectoryBlobs

        return DirectoryBlobs(_path(url))

    def bucket(url: str) -> Blobs:
        from muster_coordinator.adapters.gcs import GcsBlobs

        place = urlsplit(url)
        return GcsBlobs(place.netloc, unquote(place.path).strip("/"))

    return _choose(url, variable, {"file": directory, "gs": bucket})


@dataclass(frozen=True)
class _Direct:
    """A store's direct uploads, and the bytes above which clients use them."""

    uploads: DirectUploads
    above: int


def _direct(settings: Settings) -> _Direct | None:
    """Returns the direct uploads that `settings` describe, or None."""
    above, place = settings.direct_above, urlsplit(settings.updates or settings.blobs)
    if place.scheme != "gs":
        if isinstance(above, int):
            raise SettingsError(
                f"MUSTER_DIRECT_ABOVE is {above}, which needs MUSTER_BLOBS=gs://… or MUSTER_UPDATES=gs://…; omit it"
            )
        return None
    if above == "never":
        return None
    from muster_coordinator.adapters.gcs_uploads import GcsDirectUploads

    uploads = GcsDirectUploads(place.netloc, unquote(place.path).strip("/"))
    return _Direct(uploads, _DIRECT_ABOVE if above is None else above)


def _queue(settings: Settings) -> WorkQueue:
    def local(url: str) -> WorkQueue:
        from muster_coordinator.adapters.local_queue import LocalQueue
        from muster_coordinator.adapters.system import SystemClock

        return LocalQueue(_path(url), clock=SystemClock())

    def cloud_tasks(url: str) -> WorkQueue:
        from muster_coordinator.adapters.cloud_tasks import CloudTasksQueue
        from muster_coordinator.adapters.system import SystemClock

        place = urlsplit(url)
        location, _, queue = unquote(place.path).strip("/").partition("/")
        if not (place.netloc and location and queue) or "/" in queue:
            raise SettingsError(f"MUSTER_QUEUE is {url!r}; it must look like cloudtasks://project/location/queue")
        options = _queue_options(url)
        callees = _callees(settings, "MUSTER_QUEUE is Cloud Tasks")
        return CloudTasksQueue(
            place.netloc,
            location,
            queue,
            targets=callees.urls,
            account=callees.account,
            clock=SystemClock(),
            queues={COMMITTER: options["commits"]} if "commits" in options else {},
            endpoint=options.get("endpoint"),
        )

    return _choose(settings.queue, "MUSTER_QUEUE", {"local": local, "cloudtasks": cloud_tasks})


def _queue_options(url: str) -> dict[str, str]:
    """Returns the options in a URL of Cloud Tasks, by name. Raises `SettingsError`."""
    pairs = parse_qsl(urlsplit(url).query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs) or options.keys() - _QUEUE_OPTIONS:
        known = ", ".join(sorted(_QUEUE_OPTIONS))
        raise SettingsError(f"MUSTER_QUEUE is {url!r}; the options after its ? may be {known}, each once")
    for name, value in options.items():
        if not _QUEUE_OPTIONS[name].fullmatch(value):
            raise SettingsError(f"MUSTER_QUEUE is {url!r}; its option {name} must look like {_OPTION_EXAMPLES[name]}")
    return options


def invoker(settings: Settings) -> InvokerAuthenticator | None:
    """Builds the authenticator of internal requests, or None if `settings` name no token issuer.

    Raises:
      SettingsError: as for `application`.
    """
    if settings.token_issuer is None:
        return None
    from muster_coordinator.adapters.invoker_authenticator import OidcInvokerAuthenticator

    callees = _callees(settings, "MUSTER_TOKEN_ISSUER is set")
    return OidcInvokerAuthenticator(issuer=settings.token_issuer, account=callees.account, audiences=callees.urls)


def operators_are_open(settings: Settings) -> bool:
    """Returns whether any caller is an operator."""
    return settings.operators == "open" or (settings.operators is None and urlsplit(settings.queue).scheme == "local")


def operators(settings: Settings) -> OperatorAuthenticator:
    """Builds the authenticator of operators.

    By default any caller is an operator with a local queue, and none with a cloud queue.

    Raises:
      SettingsError: as for `application`.
    """
    from muster_coordinator.adapters.operator_authenticators import ClosedOperatorAuthenticator, parse_operators

    if settings.operators is None and not operators_are_open(settings):
        return ClosedOperatorAuthenticator()
    try:
        return parse_operators(settings.operators or "open")
    except ValueError as error:
        raise SettingsError(f"MUSTER_OPERATORS: {error}") from error


def clients(settings: Settings, platform: Platform) -> ClientAuthenticator | None:
    """Builds the client authenticator, or None if client identity is self-asserted.

    Raises:
      SettingsError: as for `application`.
    """
    from muster_coordinator.adapters.client_authenticators import parse_clients

    enrolments = EnrolmentRevocations(platform, seconds=_REVOCATIONS_TTL if settings.round_cache_seconds else 0.0)
    try:
        return parse_clients(
            settings.clients,
            clock=platform.clock,
            revoked=enrolments.is_revoked,
            proxy_secret=settings.proxy_secret,
        )
    except ValueError as error:
        raise SettingsError(f"MUSTER_CLIENTS: {error}") from error


@dataclass(frozen=True)
class _Callees:
    """Functions that the queue calls.

    Attributes:
      urls: Their base URLs, by name.
      account: The e-mail address of the service account that may call them.
    """

    urls: dict[str, str]
    account: str


def _callees(settings: Settings, reason: str) -> _Callees:
    """Returns the functions that the queue calls. `reason` starts the text of the error."""
    aggregator, committer, account = settings.aggregator_url, settings.committer_url, settings.invoker
    if not (aggregator and committer and account):
        needed = {
            "MUSTER_AGGREGATOR_URL": aggregator,
            "MUSTER_COMMITTER_URL": committer,
            "MUSTER_INVOKER": account,
        }
        raise SettingsError(f"{reason}, so set {', '.join(name for name, value in needed.items() if not value)} too")
    return _Callees({"aggregator": aggregator, "committer": committer}, account)


def _choose(url: str, variable: str, known: Mapping[str, Callable[[str], Port]]) -> Port:
    scheme = urlsplit(url).scheme
    if scheme not in known:
        raise SettingsError(f"{variable} is {url!r}; its scheme must be one of {', '.join(sorted(known))}")
    try:
        return known[scheme](url)
    except ImportError as error:  # a namespace package such as google.cloud raises no ModuleNotFoundError
        raise SettingsError(
            f"{variable} is {url!r}, which needs a library that is not installed here ({error}): install "
            "muster-fl[cloud]"
        ) from error
