"""Route of operators that lists populations."""

from __future__ import annotations

from werkzeug.wrappers import Response

from muster.wire.messages import PopulationList
from muster_coordinator.http.operator_access import OperatorApi, OperatorRequest
from muster_coordinator.http.responses import json_response
from muster_coordinator.http.routing import route


class PopulationApi(OperatorApi):
    """Route of operators that lists populations."""

    @route(
        "GET",
        "/v1/populations",
        summary="List the populations: their tasks, and the outcomes of their check-ins during the last day.",
        returns=PopulationList,
    )
    def list(self, _: OperatorRequest) -> Response:
        """Returns all populations."""
        return json_response(self.app.populations.list())
