"""Routes that clients call: check-in, plan, broadcast, upload and report."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from werkzeug.wrappers import Response

from muster.wire import plan
from muster.wire.messages import (
    CheckinRequest,
    CheckinResponse,
    DirectUpload,
    Receipt,
    Report,
    UploadStart,
    Wait,
    WaitReason,
)
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator import events
from muster_coordinator.application import Application
from muster_coordinator.http.encodings import body_encoding
from muster_coordinator.http.limits import RateLimiter
from muster_coordinator.http.responses import SAFETENSORS, encoded_response, json_response
from muster_coordinator.http.routing import Api, Route, RoutedRequest, Security, route
from muster_coordinator.ports import ClientCredentials, UntrustedTokenError
from muster_coordinator.state.checkin_counters import ASSIGNED, CheckinCounters

_TOKEN_PROBLEMS = (
    ProblemType.UNAUTHENTICATED,
    ProblemType.ASSIGNMENT_INVALID,
    ProblemType.ASSIGNMENT_EXPIRED,
    ProblemType.ROUND_CLOSED,
)


class ClientApi(Api):
    """Routes of clients, limited in rate by the address of the caller."""

    def __init__(self, app: Application) -> None:
        super().__init__(app)
        self._limiter = RateLimiter(app.rate_limits, clock=app.platform.clock, trusted_proxies=app.trusted_proxies)

    def routes(self) -> list[Route]:
        """Returns the routes, each with the problem that a rate limit adds."""
        return [replace(entry, problems=(*entry.problems, ProblemType.RATE_LIMITED)) for entry in super().routes()]

    def admit(self, call: RoutedRequest) -> RoutedRequest:
        """Counts the request for its address. Raises `ProblemError` (`rate_limited`)."""
        self._limiter.check_address(call.request)
        return call

    @route(
        "POST",
        "/v1/populations/{population}:checkin",
        summary="Check in. The response is an assignment, or the time to wait and the reason.",
        accepts=CheckinRequest,
        returns=CheckinResponse,
        security=Security.CLIENT,
        problems=(ProblemType.INVALID_REQUEST, ProblemType.TOO_LARGE, ProblemType.UNAUTHENTICATED),
    )
    def check_in(self, call: RoutedRequest) -> Response:
        """Identifies the client before it reads the body, then asks for an assignment."""
        population, counters = call.path["population"], self.app.checkin_counters
        with _refusals_counted(counters, population):
            authenticated = self._authenticate(call)
            checkin = call.message(CheckinRequest)
            # A client without any identity counts as a new client at every check-in.
            identity = authenticated or checkin.client or self.app.platform.randomness.nonce()
            self._limiter.check_identity(identity)
        response = self.app.assignment_issuer.check_in(population, checkin, identity=identity)
        reason = response.answer.reason if isinstance(response.answer, Wait) else None
        outcome = ASSIGNED if reason is None else reason.value
        counters.count(population, outcome, known=reason is not WaitReason.NO_TASK, identity=identity)
        return json_response(response)

    @route(
        "GET",
        "/v1/plans/{sha256}",
        summary="Download a plan, without the parts that only the coordinator uses.",
        returns=plan.CONTENT_TYPE,
        encoded=True,
        problems=(ProblemType.NOT_FOUND,),
    )
    def get_plan(self, call: RoutedRequest) -> Response:
        """Returns the plan's file, or 304."""
        sha256 = call.path["sha256"]
        self.app.plans.manifest(sha256)  # raises `not_found`, so that a missing plan is never answered with 304
        return encoded_response(
            call.request,
            lambda encodings: self.app.plans.for_client(sha256, accepted=encodings),
            sha256=sha256,
            content_type=plan.CONTENT_TYPE,
        )

    @route(
        "GET",
        "/v1/tasks/{task}/rounds/{round}/broadcast",
        summary="Download the broadcast of an open round, as safetensors.",
        returns=SAFETENSORS,
        encoded=True,
        query={"sha256": "Hash of the broadcast, from the assignment."},
        problems=(ProblemType.INVALID_REQUEST, ProblemType.NOT_FOUND, ProblemType.ROUND_CLOSED),
    )
    def get_broadcast(self, call: RoutedRequest) -> Response:
        """Returns the broadcast, or 304."""
        sha256 = call.request.args.get("sha256", "")
        if not sha256:
            raise ProblemError(
                ProblemType.INVALID_REQUEST, "The query needs sha256=…, which the assignment's URL carries"
            )
        broadcast = self.app.broadcast_reader.find(call.path["task"], call.path["round"], sha256)
        return encoded_response(
            call.request,
            lambda encodings: self.app.broadcast_reader.read(broadcast, encodings),
            sha256=sha256,
            content_type=SAFETENSORS,
        )

    @route(
        "PUT",
        "/v1/updates",
        summary="Upload the update of an assignment, as safetensors. Idempotent; a repeat is counted once.",
        accepts=SAFETENSORS,
        encoded=True,
        returns=Receipt,
        security=Security.ASSIGNMENT,
        problems=(
            *_TOKEN_PROBLEMS,
            ProblemType.TOO_LARGE,
            ProblemType.ENCODING_NOT_SUPPORTED,
            ProblemType.UPDATE_INVALID,
            ProblemType.UPDATE_NOT_FINITE,
            ProblemType.UPDATE_TRUNCATED,
        ),
    )
    def upload(self, call: RoutedRequest) -> Response:
        """Streams the body to the store and returns a receipt."""
        with _refusals_logged():
            encoding = body_encoding(call.request)
            length = call.request.content_length
            receipt = self.app.upload_receiver.upload(
                call.bearer(), call.request.stream.read, length=length, encoding=encoding
            )
            return json_response(receipt)

    @route(
        "POST",
        "/v1/updates:start",
        summary="Start a direct upload of a large update to the store. Finish it with `updates:report`.",
        accepts=UploadStart,
        returns=DirectUpload,
        security=Security.ASSIGNMENT,
        problems=(
            *_TOKEN_PROBLEMS,
            ProblemType.INVALID_REQUEST,
            ProblemType.CONFLICT,
            ProblemType.TOO_LARGE,
            ProblemType.NOT_SUPPORTED,
        ),
    )
    def start_upload(self, call: RoutedRequest) -> Response:
        """Returns the address in the store to which the client sends its update."""
        with _refusals_logged():
            return json_response(self.app.upload_receiver.start(call.bearer(), call.message(UploadStart)))

    @route(
        "POST",
        "/v1/updates:report",
        summary="Return an assignment, which frees its slot, or report a finished direct upload.",
        accepts=Report,
        returns=Receipt,
        security=Security.ASSIGNMENT,
        problems=(
            *_TOKEN_PROBLEMS,
            ProblemType.INVALID_REQUEST,
            ProblemType.TOO_LARGE,
            ProblemType.NOT_SUPPORTED,
        ),
    )
    def report(self, call: RoutedRequest) -> Response:
        """Records the report and returns a receipt."""
        return json_response(self.app.upload_receiver.report(call.bearer(), call.message(Report)))

    def _authenticate(self, call: RoutedRequest) -> str | None:
        """Returns the client's identity, or None if the deployment lets clients assert their own.

        Raises:
          ProblemError: `unauthenticated`.
        """
        if self.app.clients is None:
            return None
        credentials = ClientCredentials(
            population=call.path["population"],
            token=call.optional_bearer(),
            peer=call.request.remote_addr or "",
            header=call.request.headers.get,
        )
        try:
            return self.app.clients.identify(credentials)
        except UntrustedTokenError as error:
            raise ProblemError(ProblemType.UNAUTHENTICATED, str(error)) from error


@contextmanager
def _refusals_counted(counters: CheckinCounters, population: str) -> Iterator[None]:
    """Counts a check-in whose client the block refuses."""
    try:
        yield
    except ProblemError as problem:
        if problem.type in (ProblemType.UNAUTHENTICATED, ProblemType.RATE_LIMITED):
            counters.count(population, problem.type.value, known=False)
        raise


@contextmanager
def _refusals_logged() -> Iterator[None]:
    """Logs an `update_refused` event for a `ProblemError` that the block raises."""
    try:
        yield
    except ProblemError as problem:
        events.update_refused(problem.type, at="upload")
        raise
