"""Who may call an operator's route: the identity, the role, and the audit log's entry for what changes something."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import SplitResult, urlsplit

from werkzeug.wrappers import Response

from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.application import Application
from muster_coordinator.domain.operators import ANYBODY, Principal, Role
from muster_coordinator.http.routing import RouteCall
from muster_coordinator.ports import UntrustedTokenError

T = TypeVar("T")


@dataclass(frozen=True)
class AuditedChange:
    """A call by an operator who may make it. What it changes, it changes by way of `record`."""

    app: Application
    who: Principal
    action: str
    subject: str

    def record(
        self,
        change: Callable[[], T],
        *,
        look: Callable[[], Mapping[str, Any]],
        request: Mapping[str, Any] | None = None,
    ) -> T:
        """See `Audit.record`."""
        return self.app.audit.record(self.who, self.action, self.subject, change=change, look=look, request=request)


class OperatorAccess:
    """Lets operators in, by their role."""

    def __init__(self, app: Application) -> None:
        self._app = app

    def viewing(self, handler: Callable[[RouteCall], Response]) -> Callable[[RouteCall], Response]:
        """A handler for viewers, and for operators."""

        def guarded(call: RouteCall) -> Response:
            self._identify(call)
            return handler(call)

        return guarded

    def changing(
        self,
        action: str,
        handler: Callable[[RouteCall, Callable[[str], AuditedChange]], Response],
    ) -> Callable[[RouteCall], Response]:
        """A handler for operators alone, which is given what makes a `Change` of its subject.

        A refusal is recorded with what the path says of the subject.
        """

        def guarded(call: RouteCall) -> Response:
            who = self._identify(call)
            if who is ANYBODY:
                _refuse_foreign_page(call)
            if not who.role.includes(Role.OPERATOR):
                self._app.audit.refused(who, action, next(iter(map(str, call.path.values())), ""))
                raise ProblemError(
                    ProblemType.FORBIDDEN,
                    f"{who.name} is a {who.role.value} here, and {action} needs the role operator",
                )
            return handler(call, lambda subject: AuditedChange(self._app, who, action, subject))

        return guarded

    def _identify(self, call: RouteCall) -> Principal:
        if self._app.operators is None:
            return ANYBODY
        token = call.bearer() if "Authorization" in call.request.headers else None
        try:
            return self._app.operators.identify(token)
        except UntrustedTokenError as error:
            raise ProblemError(ProblemType.UNAUTHENTICATED, str(error)) from error


def _refuse_foreign_page(call: RouteCall) -> None:
    """Where anybody may operate, a page of another site that an operator happens to look at may not do so in their name.

    A browser sends some requests without asking first, and then says from which origin. With a key there is no such danger: a
    page does not have it. A site can have its own name point to this machine (DNS rebinding), and so be of the same origin: from a
    page only a host counts whose name no stranger can own.
    """
    origin = call.request.headers.get("Origin")
    if origin is None:
        return
    place = _split(origin)
    if place is None or place.netloc != call.request.host:
        raise ProblemError(ProblemType.FORBIDDEN, "A page of another origin may not operate")
    if not _is_nobodys(place.hostname or ""):
        raise ProblemError(
            ProblemType.FORBIDDEN,
            f"While everybody may operate, a page may only at localhost, an IP address or a name without dots, not at {place.netloc[:80]}: "
            "set MUSTER_OPERATORS to keys:… (`muster key operator` makes one)",
        )


def _split(origin: str) -> SplitResult | None:
    try:
        return urlsplit(origin)
    except ValueError:  # brackets that are no IPv6 address
        return None


def _is_nobodys(host: str) -> bool:
    """Whether a host is one that can't be registered: an address, `localhost` or below it, a name of a local network."""
    if "." not in host or host.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
