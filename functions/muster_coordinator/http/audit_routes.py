"""Route of operators that reads the audit log."""

from __future__ import annotations

import re

from werkzeug.wrappers import Response

from muster.wire.messages import AuditList
from muster.wire.problems import ProblemType
from muster_coordinator.http import paging
from muster_coordinator.http.operator_access import OperatorApi, OperatorRequest
from muster_coordinator.http.responses import json_response
from muster_coordinator.http.routing import route
from muster_coordinator.use_cases.audit_log import DEFAULT_PAGE_SIZE

_ENTRY_ID = re.compile(r"[0-9]{16,17}-[0-9a-f]{16}(\.outcome)?")


class AuditApi(OperatorApi):
    """Route of operators for the audit log."""

    @route(
        "GET",
        "/v1/audit",
        summary="List the entries of the audit log (operator, action, time, states before and after), oldest first.",
        returns=AuditList,
        query={
            "since": "Time (RFC 3339) of the oldest entry to return. Not together with `after`.",
            "after": "The `next` of the previous page.",
            "limit": f"Maximum number of entries on the page, up to {paging.MAX_PAGE}.",
        },
        problems=(ProblemType.INVALID_REQUEST,),
    )
    def entries(self, call: OperatorRequest) -> Response:
        """Returns a page of the audit log."""
        after = paging.after(call, pattern=_ENTRY_ID)
        limit = paging.limit(call, default=DEFAULT_PAGE_SIZE)
        return json_response(self.app.audit_log.entries(after=after, limit=limit, start=paging.since(call)))
