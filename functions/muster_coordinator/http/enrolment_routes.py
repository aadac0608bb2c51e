"""Routes of operators that revoke enrolment tokens.

Tokens are issued elsewhere (`muster enrol issue`): no function has the private key.
"""

from __future__ import annotations

from werkzeug.wrappers import Response

from muster.wire.messages import Revocation, RevocationList
from muster.wire.problems import ProblemType
from muster_coordinator.http.operator_access import OperatorApi, OperatorRequest
from muster_coordinator.http.responses import json_response
from muster_coordinator.http.routing import route


class RevocationApi(OperatorApi):
    """Routes of operators for revoked enrolment tokens."""

    @route(
        "POST",
        "/v1/revocations",
        summary="Revoke an enrolment token. Idempotent.",
        action="enrolment.revoke",
        accepts=Revocation,
        returns=RevocationList,
        problems=(ProblemType.INVALID_REQUEST, ProblemType.CONFLICT, ProblemType.TOO_LARGE),
    )
    def revoke(self, call: OperatorRequest) -> Response:
        """Revokes the token and returns all revocations."""
        revocation = call.message(Revocation)
        revocations = self.audited(
            call,
            revocation.id,
            lambda: self.app.enrolment_revocations.revoke(revocation),
            state=lambda: {"revoked": self.app.enrolment_revocations.is_revoked(revocation.id)},
            request=revocation.to_dict(),
        )
        return json_response(revocations)

    @route("GET", "/v1/revocations", summary="List the revoked enrolment tokens.", returns=RevocationList)
    def list(self, _: OperatorRequest) -> Response:
        """Returns all revocations."""
        return json_response(self.app.enrolment_revocations.list())
