"""Routes of operators for stored states."""

from __future__ import annotations

import re
from http import HTTPStatus

from werkzeug.wrappers import Response

from muster.wire.problems import FieldError, ProblemError, ProblemType
from muster_coordinator.http.operator_access import OperatorApi, OperatorRequest
from muster_coordinator.http.responses import SAFETENSORS
from muster_coordinator.http.routing import PATTERNS, route


class StateApi(OperatorApi):
    """Routes of operators for stored states."""

    @route(
        "PUT",
        "/v1/states/{sha256}",
        summary="Store a server state, as safetensors. A task or a round that starts from it can be created "
        "afterwards.",
        action="state.store",
        accepts=SAFETENSORS,
        returns="application/json",
        status=HTTPStatus.CREATED,
        repeat_status=HTTPStatus.OK,
        query={"plan": "SHA-256 of a stored plan, in hex, whose server state has the same tensors."},
        problems=(
            ProblemType.INVALID_REQUEST,
            ProblemType.NOT_FOUND,
            ProblemType.CONFLICT,
            ProblemType.TOO_LARGE,
            ProblemType.UPDATE_TRUNCATED,
        ),
    )
    def put_state(self, call: OperatorRequest) -> Response:
        """Streams the state to the store under its hash; a repeat is answered with 200."""
        sha256, plan = call.path["sha256"], call.request.args.get("plan", "")
        if not re.fullmatch(PATTERNS["hash"], plan):
            reason = "must be the SHA-256 of a stored plan, in hex"
            raise ProblemError(
                ProblemType.INVALID_REQUEST,
                f"The query's plan {reason}: PUT /v1/states/{{sha256}}?plan={{sha256 of the plan}}",
                fields=(FieldError(path="plan", reason=reason),),
            )
        length = call.request.content_length
        created = self.audited(
            call,
            sha256,
            lambda: self.app.state_store.put(sha256, call.request.stream.read, plan=plan, length=length),
            state=lambda: {"stored": self.app.state_store.has(sha256)},
            request={"plan": plan} if length is None else {"plan": plan, "size": length},
        )
        status = HTTPStatus.CREATED if created else HTTPStatus.OK
        return Response("{}", status=status, content_type="application/json")
