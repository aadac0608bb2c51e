"""Authenticates operators, authorizes them by role, and audits what they change."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain.operators import ANY_CALLER, Principal, Role
from muster_coordinator.http.routing import Api, Route, RoutedRequest, Security
from muster_coordinator.ports import UntrustedTokenError

T = TypeVar("T")


@dataclass(frozen=True)
class OperatorRequest(RoutedRequest):
    """A request by an operator who may make it."""

    principal: Principal


class OperatorApi(Api):
    """Base of the routes for operators.

    Every operator may call a route without an `action`. A route with an `action` changes something:
    it needs the role `operator`, and its handler changes things through `audited` only.
    """

    def routes(self) -> list[Route]:
        """Returns the routes, each with the problems that authentication and authorization add."""
        return [
            replace(
                entry,
                security=Security.OPERATOR,
                problems=(
                    *entry.problems,
                    ProblemType.UNAUTHENTICATED,
                    *(() if entry.action is None else (ProblemType.FORBIDDEN,)),
                ),
            )
            for entry in super().routes()
        ]

    def admit(self, call: RoutedRequest) -> OperatorRequest:
        """Authenticates the operator, and checks the role if the route has an `action`.

        A refusal for the role is audited, with the first path parameter as its subject.

        Raises:
          ProblemError: `unauthenticated` or `forbidden`.
        """
        principal = self._authenticate(call)
        action = call.route.action
        if action is not None:
            if principal is ANY_CALLER:
                _refuse_foreign_page(call)
            if not principal.role.includes(Role.OPERATOR):
                self.app.audit_log.record_refusal(principal, action, next(iter(map(str, call.path.values())), ""))
                raise ProblemError(
                    ProblemType.FORBIDDEN,
                    f"{principal.name} is a {principal.role.value} here, and {action} needs the role operator",
                )
        return OperatorRequest(call.request, call.route, call.path, principal)

    def audited(
        self,
        call: OperatorRequest,
        subject: str,
        change: Callable[[], T],
        *,
        state: Callable[[], Mapping[str, Any]],
        request: Mapping[str, Any] | None = None,
    ) -> T:
        """Makes a change, with an audit entry of the intent before and of the outcome after.

        Args:
          call: The operator's request, whose route names the action.
          subject: Name of what is changed.
          change: Makes the change.
          state: Returns the subject's state for the log. Called before and after the change.
          request: Parameters of the change for the log.

        Returns:
          The result of `change`. Its errors pass through.
        """
        action = call.route.action
        if action is None:  # a mistake in the table of routes: `admit` has not checked the role
            raise ValueError(f"{call.route.method} {call.route.path} changes {subject} and has no action")
        return self.app.audit_log.record(
            call.principal, action, subject, change=change, read_state=state, request=request
        )

    def _authenticate(self, call: RoutedRequest) -> Principal:
        if self.app.operators is None:
            return ANY_CALLER
        token = call.optional_bearer()
        try:
            return self.app.operators.identify(token)
        except UntrustedTokenError as error:
            raise ProblemError(ProblemType.UNAUTHENTICATED, str(error)) from error


def _refuse_foreign_page(call: RoutedRequest) -> None:
    """Refuses requests of other sites' pages while operators need no credentials.

    A browser sends some requests of a page without a preflight, and names the page's origin. With
    credentials there is no danger, since the page does not have them. Without, a site could point
    its own host name at this machine (DNS rebinding) and so have the same origin. Therefore a page
    counts as the coordinator's own only at a host that can't be registered.
    """
    origin = call.request.headers.get("Origin")
    if origin is None:
        return
    parts = _split_origin(origin)
    if parts is None or parts.netloc != call.request.host:
        raise ProblemError(ProblemType.FORBIDDEN, "Pages of other origins may not operate")
    if not _is_unregistrable(parts.hostname or ""):
        raise ProblemError(
            ProblemType.FORBIDDEN,
            "While operators need no credentials, a page may operate only at localhost, an IP address or a name "
            f"without dots, not at {parts.netloc[:80]}: set MUSTER_OPERATORS to keys:… (`muster key operator` "
            "makes one)",
        )


def _split_origin(origin: str) -> SplitResult | None:
    try:
        return urlsplit(origin)
    except ValueError:  # brackets without an IPv6 address
        return None


def _is_unregistrable(host: str) -> bool:
    """Returns whether `host` can't be registered as a domain.

    True for IP addresses, `localhost` and names below it, and names without dots.
    """
    if "." not in host or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
