"""The HTTP front of the four functions: routes to use cases, problems to documents, and the OpenAPI description of it all."""

from muster_coordinator.http.functions import FUNCTIONS, entry_point, owner, router

__all__ = ["FUNCTIONS", "entry_point", "owner", "router"]
