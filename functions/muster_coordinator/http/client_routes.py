"""The routes that clients call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from werkzeug.wrappers import Response

from muster.wire import plan
from muster.wire.messages import CheckinRequest, CheckinResponse, DirectUpload, Receipt, Report, UploadStart
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator import events
from muster_coordinator.application import Application
from muster_coordinator.http import encodings
from muster_coordinator.http.limits import Limiter
from muster_coordinator.http.routing import Route, RouteCall, encoded_response, json_response
from muster_coordinator.ports import ClientCredentials, UntrustedTokenError

SAFETENSORS = "application/octet-stream"

_TOKEN_PROBLEMS = (
    ProblemType.UNAUTHENTICATED,
    ProblemType.ASSIGNMENT_INVALID,
    ProblemType.ASSIGNMENT_EXPIRED,
    ProblemType.ROUND_CLOSED,
)


def client_routes(app: Application) -> list[Route]:
    """Check-in, plan, broadcast, upload, start of a direct upload, and report."""
    limiter = Limiter(app.rate_limits, clock=app.platform.clock, trusted_proxies=app.trusted_proxies)

    def checkin(call: RouteCall) -> Response:
        # Who it is comes first: what a stranger sends is not even read.
        known = _identify(app, call)
        request = call.message(CheckinRequest)
        # Open identity: the client says who it is; one that does not is somebody new every time.
        identity = known or request.client or app.platform.randomness.nonce()
        limiter.check_identity(identity)
        return json_response(app.checkin(call.path["population"], request, identity=identity))

    def get_plan(call: RouteCall) -> Response:
        sha256 = call.path["sha256"]
        app.plans.manifest(sha256)  # raises `not_found`, also where the client says that it has the plan
        return encoded_response(
            call,
            lambda accepted: app.plans.for_client(sha256, accepted=accepted),
            sha256=sha256,
            content_type=plan.CONTENT_TYPE,
        )

    def broadcast(call: RouteCall) -> Response:
        sha256 = call.request.args.get("sha256", "")
        if not sha256:
            raise ProblemError(
                ProblemType.INVALID_REQUEST, "The query needs sha256=…, which the assignment's URL carries"
            )
        found = app.broadcasts.find(call.path["task"], call.path["round"], sha256)
        return encoded_response(
            call, lambda accepted: app.broadcasts.read(found, accepted), sha256=sha256, content_type=SAFETENSORS
        )

    def upload(call: RouteCall) -> Response:
        encoding = encodings.of_body(call.request)
        request = call.request
        return json_response(
            app.uploads.upload(call.bearer(), request.stream.read, length=request.content_length, encoding=encoding)
        )

    def start(call: RouteCall) -> Response:
        return json_response(app.uploads.start(call.bearer(), call.message(UploadStart)))

    def report(call: RouteCall) -> Response:
        return json_response(app.uploads.report(call.bearer(), call.message(Report)))

    routes = [
        Route(
            "POST",
            "/v1/populations/{population}:checkin",
            "Ask for work: an assignment, or how long to wait and why",
            checkin,
            takes=CheckinRequest,
            gives=CheckinResponse,
            client=True,
            problems=(ProblemType.INVALID_REQUEST, ProblemType.TOO_LARGE, ProblemType.UNAUTHENTICATED),
        ),
        Route(
            "GET",
            "/v1/plans/{sha256}",
            "The plan, as a client needs it",
            get_plan,
            gives=plan.CONTENT_TYPE,
            encoded=True,
            problems=(ProblemType.NOT_FOUND,),
        ),
        Route(
            "GET",
            "/v1/tasks/{task}/rounds/{round}/broadcast",
            "The open round's broadcast, as safetensors",
            broadcast,
            gives=SAFETENSORS,
            encoded=True,
            query={"sha256": "the broadcast's hash, as the assignment gives it"},
            problems=(ProblemType.INVALID_REQUEST, ProblemType.NOT_FOUND, ProblemType.ROUND_CLOSED),
        ),
        Route(
            "PUT",
            "/v1/updates",
            "Upload the update of an assignment, as safetensors; a repeat is answered the same and counted once",
            _telling(upload),
            takes=SAFETENSORS,
            encoded=True,
            gives=Receipt,
            bearer=True,
            problems=(
                *_TOKEN_PROBLEMS,
                ProblemType.TOO_LARGE,
                ProblemType.ENCODING_NOT_SUPPORTED,
                ProblemType.UPDATE_INVALID,
                ProblemType.UPDATE_NOT_FINITE,
                ProblemType.UPDATE_TRUNCATED,
            ),
        ),
        Route(
            "POST",
            "/v1/updates:start",
            "Ask where to put a large update, past the coordinator; `updates:report` then says that it is there",
            _telling(start),
            takes=UploadStart,
            gives=DirectUpload,
            bearer=True,
            problems=(
                *_TOKEN_PROBLEMS,
                ProblemType.INVALID_REQUEST,
                ProblemType.CONFLICT,
                ProblemType.TOO_LARGE,
                ProblemType.NOT_SUPPORTED,
            ),
        ),
        Route(
            "POST",
            "/v1/updates:report",
            "Give an assignment back, so that its slot is free at once; or say that its update is in the store",
            report,
            takes=Report,
            gives=Receipt,
            bearer=True,
            problems=(
                *_TOKEN_PROBLEMS,
                ProblemType.INVALID_REQUEST,
                ProblemType.TOO_LARGE,
                ProblemType.NOT_SUPPORTED,
            ),
        ),
    ]
    return [
        replace(route, handler=limiter.limited(route.handler), problems=(*route.problems, ProblemType.RATE_LIMITED))
        for route in routes
    ]


def _telling(handler: Callable[[RouteCall], Response]) -> Callable[[RouteCall], Response]:
    """The handler of an upload, whose refusals are told to whoever watches."""

    def told(call: RouteCall) -> Response:
        try:
            return handler(call)
        except ProblemError as problem:
            events.update_refused(problem.type, at="upload")
            raise

    return told


def _identify(app: Application, call: RouteCall) -> str | None:
    """Who checks in; None where each is who it says. Raises `ProblemError` (`unauthenticated`)."""
    if app.clients is None:
        return None
    request = call.request
    caller = ClientCredentials(
        population=call.path["population"],
        token=call.bearer() if "Authorization" in request.headers else None,
        peer=request.remote_addr or "",
        header=request.headers.get,
    )
    try:
        return app.clients.identify(caller)
    except UntrustedTokenError as error:
        raise ProblemError(ProblemType.UNAUTHENTICATED, str(error)) from error
