"""HTTP front end of the four functions: routes to use cases, problem documents, OpenAPI."""

from muster_coordinator.http.functions import FUNCTIONS, entry_point, function_for, router

__all__ = ["FUNCTIONS", "entry_point", "function_for", "router"]
