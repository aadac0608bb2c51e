"""Everything that an operator does, as calls that give the protocol's own messages."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Optional, Union
from urllib.parse import quote

import requests

from muster.transport.http import Transport
from muster.wire import plan as plans
from muster.wire.messages import (
    AuditEntry,
    AuditList,
    CheckpointList,
    CheckpointView,
    Revocation,
    RevocationList,
    RevocationView,
    Rollback,
    RoundList,
    RoundView,
    TaskList,
    TaskPolicy,
    TaskSpec,
    TaskView,
)
from muster.wire.plan import Plan
from muster.wire.tensors import Array, decode

if TYPE_CHECKING:
    from typing_extensions import Self

_PAGE = 100  # rounds


class Operator:
    """Runs tasks at one coordinator.

    Every call may be repeated. Every call raises `ProblemError` for what the coordinator refuses, and `UnreachableError` if
    it does not answer.

    Args:
      url: The coordinator's address, or a transport to it.
      session: The `requests` session to use, if not one of its own.
      token: The operator's key or OpenID Connect token, for a coordinator that asks for one. Not for a transport, which has its own.
    """

    def __init__(
        self, url: Union[str, Transport], *, session: Optional[requests.Session] = None, token: Optional[str] = None
    ) -> None:
        self._transport = url if isinstance(url, Transport) else Transport(url, session=session, token=token)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: Optional[type[BaseException]], error: Optional[BaseException], trace: Optional[TracebackType]
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The coordinator's address."""
        return self._transport.url

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def put_plan(self, plan: Plan) -> str:
        """Stores a plan and gives its address, the SHA-256 that tasks name it by."""
        self._transport.put(f"/v1/plans/{plan.sha256}", plan.encode(), content_type=plans.CONTENT_TYPE)
        return plan.sha256

    def create_task(
        self, name: str, *, population: str, plan: Union[Plan, str], policy: Optional[TaskPolicy] = None
    ) -> TaskView:
        """Makes a task; the same one again gives the one that is there.

        Args:
          name: The task's name, free so far.
          population: The clients that do the work.
          plan: A plan, which is stored first, or the address of one that is.
          policy: How its rounds run.
        """
        sha256 = plan if isinstance(plan, str) else self.put_plan(plan)
        spec = TaskSpec.from_dict(
            {"name": name, "population": population, "plan": sha256, "policy": policy or TaskPolicy()},
        )
        return self._transport.call("POST", "/v1/tasks", message=spec, answer=TaskView)

    def tasks(self) -> TaskList:
        """All tasks, by name."""
        return self._transport.call("GET", "/v1/tasks", answer=TaskList)

    def task(self, name: str) -> TaskView:
        """One task with its current round."""
        return self._transport.call("GET", _path(name), answer=TaskView)

    def pause(self, name: str) -> TaskView:
        """No new assignments and no new rounds until `resume`; updates under way are taken."""
        return self._transport.call("POST", f"{_path(name)}:pause", answer=TaskView)

    def resume(self, name: str) -> TaskView:
        """Goes on after a pause."""
        return self._transport.call("POST", f"{_path(name)}:resume", answer=TaskView)

    def cancel(self, name: str) -> TaskView:
        """Ends a task for good; its checkpoints stay."""
        return self._transport.call("POST", f"{_path(name)}:cancel", answer=TaskView)

    def rollback(self, name: str, *, version: int) -> TaskView:
        """Rolls back to an earlier checkpoint and retries the open round from there. A paused task stays paused."""
        return self._transport.call(
            "POST", f"{_path(name)}:rollback", message=Rollback.from_dict({"version": version}), answer=TaskView
        )

    def revoke_enrolment(self, id: str, *, expires_at: Optional[datetime] = None) -> tuple[RevocationView, ...]:  # noqa: A002
        """Has an enrolment token be good no more, and gives all that are revoked.

        Args:
          id: The token's, which `muster enrol issue` has shown.
          expires_at: When the token would have expired; it then leaves the list by itself.
        """
        message = Revocation.from_dict({"id": id, "expires_at": expires_at})
        return self._transport.call("POST", "/v1/revocations", message=message, answer=RevocationList).revocations

    def revoked_enrolments(self) -> tuple[RevocationView, ...]:
        """The enrolment tokens that are revoked, in the order of their revocation."""
        return self._transport.call("GET", "/v1/revocations", answer=RevocationList).revocations

    def rounds(self, name: str, *, after: Optional[str] = None, page: int = _PAGE) -> Iterator[RoundView]:
        """A task's rounds and attempts, oldest first, fetched page by page as they are read.

        Args:
          name: The task's.
          after: Only those behind this one, as `rounds_page` gives it.
          page: Rounds to a request.
        """
        while True:
            found = self.rounds_page(name, after=after, limit=page)
            yield from found.rounds
            if found.next is None or not found.rounds:
                return
            after = found.next

    def rounds_page(self, name: str, *, after: Optional[str] = None, limit: int = _PAGE) -> RoundList:
        """One page of `rounds`; its `next` is where the following one starts."""
        params: dict[str, Union[str, int]] = {"limit": limit}
        if after is not None:
            params["after"] = after
        return self._transport.call("GET", f"{_path(name)}/rounds", answer=RoundList, params=params)

    def audit(self, *, since: Optional[datetime] = None, page: int = _PAGE) -> Iterator[AuditEntry]:
        """The audit log, oldest first, fetched page by page as it is read.

        Args:
          since: Nothing older; with a time zone.
          page: Entries to a request.
        """
        params: dict[str, Union[str, int]] = {"limit": page}
        if since is not None:
            params["since"] = since.isoformat()
        while True:
            found = self._transport.call("GET", "/v1/audit", answer=AuditList, params=params)
            yield from found.entries
            if found.next is None or not found.entries:
                return
            params = {"limit": page, "after": found.next}

    def result(self, name: str, round: int) -> dict[str, Array]:  # noqa: A002  the protocol's word
        """A committed round's result, by tensor name, as the plan's `manifest.result` declares it."""
        return decode(self.result_bytes(name, round))

    def result_bytes(self, name: str, round: int) -> bytes:  # noqa: A002
        """A committed round's result as the safetensors file it is stored as."""
        return self._transport.download(f"{_path(name)}/rounds/{round}/result")

    def checkpoints(self, name: str) -> tuple[CheckpointView, ...]:
        """A task's checkpoints, oldest first; version 0 is the initial state."""
        return self._transport.call("GET", f"{_path(name)}/checkpoints", answer=CheckpointList).checkpoints

    def download_checkpoint(self, name: str, version: int) -> dict[str, Array]:
        """One version of the server state, by tensor name, as the plan's `manifest.state` declares it."""
        return decode(self.checkpoint_bytes(name, version))

    def checkpoint_bytes(self, name: str, version: int) -> bytes:
        """One version of the server state as the safetensors file it is stored as."""
        return self._transport.download(f"{_path(name)}/checkpoints/{version}")


def _path(name: str) -> str:
    return f"/v1/tasks/{quote(name, safe='')}"
