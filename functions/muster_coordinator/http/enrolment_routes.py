"""The routes by which operators take enrolment tokens back. Tokens are made elsewhere: no function has the key for it."""

from __future__ import annotations

from collections.abc import Callable

from werkzeug.wrappers import Response

from muster.wire.messages import Revocation, RevocationList
from muster.wire.problems import ProblemType
from muster_coordinator.application import Application
from muster_coordinator.http.operator_access import AuditedChange, OperatorAccess
from muster_coordinator.http.routing import Route, RouteCall, json_response


def enrolment_routes(app: Application, access: OperatorAccess) -> list[Route]:
    """Revoke, and what is revoked."""

    def revoke(call: RouteCall, begin: Callable[[str], AuditedChange]) -> Response:
        revocation = call.message(Revocation)
        revoked = begin(revocation.id).record(
            lambda: app.enrolments.revoke(revocation),
            look=lambda: {"revoked": app.enrolments.is_revoked(revocation.id)},
            request=revocation.to_dict(),
        )
        return json_response(revoked)

    return [
        Route(
            "POST",
            "/v1/revocations",
            "Have an enrolment token be good no more; a repeat changes nothing",
            access.changing("enrolment.revoke", revoke),
            takes=Revocation,
            gives=RevocationList,
            problems=(ProblemType.INVALID_REQUEST, ProblemType.CONFLICT, ProblemType.TOO_LARGE),
        ),
        Route(
            "GET",
            "/v1/revocations",
            "The enrolment tokens that are revoked",
            access.viewing(lambda _: json_response(app.enrolments.list())),
            gives=RevocationList,
        ),
    ]
