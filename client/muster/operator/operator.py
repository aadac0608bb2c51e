"""Operator API as Python calls that return the protocol's messages."""

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

_PAGE = 100  # rounds or audit entries in one page


class Operator:
    """Operator of one coordinator.

    Every call is idempotent. Every call raises `ProblemError` if the coordinator refuses, and
    `UnreachableError` if it does not answer.

    Args:
      url: The coordinator's address, or a transport to it.
      session: The `requests` session to use; None: a new one.
      token: The operator's key or OpenID Connect token, if the coordinator authenticates operators.
        Ignored with a transport, which has its own token.
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
        """Returns the coordinator's address."""
        return self._transport.url

    def close(self) -> None:
        """Closes the connections."""
        self._transport.close()

    def put_plan(self, plan: Plan) -> str:
        """Stores a plan and returns its address, the SHA-256 by which tasks name it."""
        self._transport.put(f"/v1/plans/{plan.sha256}", plan.encode(), content_type=plans.CONTENT_TYPE)
        return plan.sha256

    def create_task(
        self, name: str, *, population: str, plan: Union[Plan, str], policy: Optional[TaskPolicy] = None
    ) -> TaskView:
        """Creates a task. A repeat with the same arguments returns the existing task.

        Args:
          name: The task's name.
          population: The population that does the work.
          plan: A plan, which is stored first, or the address of a stored plan.
          policy: The task's policy; None: the default policy.
        """
        sha256 = plan if isinstance(plan, str) else self.put_plan(plan)
        spec = TaskSpec.from_dict(
            {"name": name, "population": population, "plan": sha256, "policy": policy or TaskPolicy()},
        )
        return self._transport.call("POST", "/v1/tasks", message=spec, answer=TaskView)

    def tasks(self) -> TaskList:
        """Returns all tasks, sorted by name."""
        return self._transport.call("GET", "/v1/tasks", answer=TaskList)

    def task(self, name: str) -> TaskView:
        """Returns a task with its current round."""
        return self._transport.call("GET", _path(name), answer=TaskView)

    def pause(self, name: str) -> TaskView:
        """Pauses a task: no new assignments or rounds. Updates of open assignments are accepted."""
        return self._transport.call("POST", f"{_path(name)}:pause", answer=TaskView)

    def resume(self, name: str) -> TaskView:
        """Resumes a paused task."""
        return self._transport.call("POST", f"{_path(name)}:resume", answer=TaskView)

    def cancel(self, name: str) -> TaskView:
        """Ends a task permanently. Its checkpoints remain."""
        return self._transport.call("POST", f"{_path(name)}:cancel", answer=TaskView)

    def rollback(self, name: str, *, version: int) -> TaskView:
        """Rolls back to an earlier checkpoint and retries the open round from there.

        A paused task stays paused.
        """
        return self._transport.call(
            "POST", f"{_path(name)}:rollback", message=Rollback.from_dict({"version": version}), answer=TaskView
        )

    def revoke_enrolment(self, id: str, *, expires_at: Optional[datetime] = None) -> tuple[RevocationView, ...]:  # noqa: A002
        """Revokes an enrolment token and returns all revoked tokens. Idempotent.

        Args:
          id: The token's id, which `muster enrol issue` printed.
          expires_at: The token's expiry, at which the revocation may be forgotten; None: never.
        """
        message = Revocation.from_dict({"id": id, "expires_at": expires_at})
        return self._transport.call("POST", "/v1/revocations", message=message, answer=RevocationList).revocations

    def revoked_enrolments(self) -> tuple[RevocationView, ...]:
        """Returns the revoked enrolment tokens, in the order of their revocation."""
        return self._transport.call("GET", "/v1/revocations", answer=RevocationList).revocations

    def rounds(self, name: str, *, after: Optional[str] = None, page: int = _PAGE) -> Iterator[RoundView]:
        """Yields a task's rounds and attempts, oldest first, and fetches pages as needed.

        Args:
          name: The task's name.
          after: A cursor of `rounds_page`: yields only the rounds behind it.
          page: Rounds in one request.
        """
        while True:
            rounds = self.rounds_page(name, after=after, limit=page)
            yield from rounds.rounds
            if rounds.next is None or not rounds.rounds:
                return
            after = rounds.next

    def rounds_page(self, name: str, *, after: Optional[str] = None, limit: int = _PAGE) -> RoundList:
        """Returns one page of `rounds`; its `next` is the cursor of the next page."""
        params: dict[str, Union[str, int]] = {"limit": limit}
        if after is not None:
            params["after"] = after
        return self._transport.call("GET", f"{_path(name)}/rounds", answer=RoundList, params=params)

    def audit(self, *, since: Optional[datetime] = None, page: int = _PAGE) -> Iterator[AuditEntry]:
        """Yields the audit log, oldest first, and fetches pages as needed.

        Args:
          since: The earliest time, with a time zone; None: the whole log.
          page: Entries in one request.
        """
        params: dict[str, Union[str, int]] = {"limit": page}
        if since is not None:
            params["since"] = since.isoformat()
        while True:
            entries = self._transport.call("GET", "/v1/audit", answer=AuditList, params=params)
            yield from entries.entries
            if entries.next is None or not entries.entries:
                return
            params = {"limit": page, "after": entries.next}

    def result(self, name: str, round: int) -> dict[str, Array]:  # noqa: A002  the protocol's word
        """Returns a committed round's result, by tensor name (the plan's `manifest.result`)."""
        return decode(self.result_bytes(name, round))

    def result_bytes(self, name: str, round: int) -> bytes:  # noqa: A002
        """Returns a committed round's result as a safetensors file."""
        return self._transport.download(f"{_path(name)}/rounds/{round}/result")

    def checkpoints(self, name: str) -> tuple[CheckpointView, ...]:
        """Returns a task's checkpoints, oldest first; version 0 is the initial state."""
        return self._transport.call("GET", f"{_path(name)}/checkpoints", answer=CheckpointList).checkpoints

    def download_checkpoint(self, name: str, version: int) -> dict[str, Array]:
        """Returns a checkpoint's state, by tensor name (the plan's `manifest.state`)."""
        return decode(self.checkpoint_bytes(name, version))

    def checkpoint_bytes(self, name: str, version: int) -> bytes:
        """Returns a checkpoint's state as a safetensors file."""
        return self._transport.download(f"{_path(name)}/checkpoints/{version}")


def _path(name: str) -> str:
    return f"/v1/tasks/{quote(name, safe='')}"
