"""Operator API as Python calls that return the protocol's messages."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import TYPE_CHECKING, Any, Optional, Union
from urllib.parse import quote

import requests

from muster.transport.http import BINARY, Followed, Transport
from muster.wire import plan as plans
from muster.wire.messages import (
    AuditEntry,
    AuditList,
    CheckpointList,
    CheckpointView,
    Evaluation,
    PopulationList,
    PopulationView,
    Revocation,
    RevocationList,
    RevocationView,
    Rollback,
    RoundList,
    RoundView,
    RunRequest,
    RunView,
    StateRef,
    Tag,
    TaskChange,
    TaskKind,
    TaskList,
    TaskPolicy,
    TaskSpec,
    TaskView,
)
from muster.wire.plan import Plan
from muster.wire.tensors import Array, decode, encode

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
        self,
        name: str,
        *,
        population: str,
        plan: Union[Plan, str],
        policy: Optional[TaskPolicy] = None,
        kind: TaskKind = TaskKind.TRAIN,
        selector: Optional[Mapping[str, Any]] = None,
        driven: bool = False,
        start: Optional[StateRef] = None,
        evaluates: Optional[Evaluation] = None,
    ) -> TaskView:
        """Creates a task. A repeat with the same arguments returns the existing task.

        Args:
          name: The task's name.
          population: The population that does the work.
          plan: A plan, which is stored first, or the address of a stored plan.
          policy: The task's policy; None: the default policy.
          kind: The kind of the work.
          selector: The value for the data functions of the clients.
          driven: Whether rounds run only on request; see `run`.
          start: The state of version 0; None: the plan's initial state.
          evaluates: The training task whose checkpoints the task evaluates.
        """
        sha256 = plan if isinstance(plan, str) else self.put_plan(plan)
        spec = TaskSpec.from_dict(
            {
                "name": name,
                "population": population,
                "plan": sha256,
                "policy": policy or TaskPolicy(),
                "kind": kind,
                "selector": None if selector is None else dict(selector),
                "driven": driven,
                "start": start,
                "evaluates": evaluates,
            },
        )
        return self._transport.call("POST", "/v1/tasks", message=spec, answer=TaskView)

    def clone_task(
        self, name: str, *, source: str, version: Optional[int] = None, policy: Optional[Mapping[str, Any]] = None
    ) -> TaskView:
        """Creates a task like another one, which starts from a checkpoint of it.

        The clients fetch no plan again.

        Args:
          name: The new task's name.
          source: The task to clone.
          version: The version to start from; None: the newest.
          policy: Changed fields of the policy.
        """
        view = self.task(source)
        spec = view.spec
        return self.create_task(
            name,
            population=spec.population,
            plan=spec.plan,
            policy=TaskPolicy.from_dict({**spec.policy.to_dict(), **(policy or {})}),
            kind=spec.kind,
            selector=spec.selector,
            driven=spec.driven,
            start=StateRef(task=source, version=view.checkpoint if version is None else version),
            evaluates=spec.evaluates,
        )

    def put_state(self, state: Union[bytes, Mapping[str, Array]], *, plan: str) -> str:
        """Stores a server state and returns its address, the SHA-256 of its file.

        Args:
          state: The state's tensors by name (the plan's `manifest.state`), or its safetensors file.
          plan: The address of the stored plan that the state belongs to.
        """
        data = state if isinstance(state, bytes) else encode(state)
        sha256 = hashlib.sha256(data).hexdigest()
        self._transport.put(f"/v1/states/{sha256}?plan={plan}", data, content_type=BINARY)
        return sha256

    def run(
        self,
        name: str,
        *,
        request: str,
        base: Optional[StateRef] = None,
        goal: Optional[int] = None,
        rounds: int = 1,
    ) -> RunView:
        """Requests rounds of a driven task. A repeat with the same arguments returns the same run.

        Args:
          name: The task's name.
          request: The idempotency key of the run.
          base: The state to start from; None: the newest checkpoint.
          goal: Number of updates that closes each round; None: the task's goal.
          rounds: Number of rounds.
        """
        message = RunRequest.from_dict({"request": request, "base": base, "goal": goal, "rounds": rounds})
        return self._transport.call("POST", f"{_path(name)}:run", message=message, answer=RunView)

    def run_status(self, name: str, request: str) -> RunView:
        """Returns the run that answers a request."""
        return self._transport.call("GET", f"{_path(name)}/runs/{quote(request, safe='')}", answer=RunView)

    def tasks(self, *, archived: bool = False) -> TaskList:
        """Returns all tasks, sorted by name; archived ones only if `archived` is set."""
        params = {"archived": "true"} if archived else None
        return self._transport.call("GET", "/v1/tasks", answer=TaskList, params=params)

    def task(self, name: str) -> TaskView:
        """Returns a task with its current round."""
        return self._transport.call("GET", _path(name), answer=TaskView)

    def follow_task(self, name: str, previous: Optional[Followed[TaskView]] = None) -> Followed[TaskView]:
        """Returns a task for a caller that polls it.

        An unchanged task is not sent again. `retry_after` is the pace that the coordinator advises.

        Args:
          name: The task's name.
          previous: The result of the previous call.
        """
        return self._transport.follow(_path(name), answer=TaskView, previous=previous)

    def round(self, name: str, number: int) -> RoundView:
        """Returns the newest attempt of a round."""
        return self._transport.call("GET", f"{_path(name)}/rounds/{number}", answer=RoundView)

    def update_policy(self, name: str, changes: Mapping[str, Any]) -> TaskView:
        """Changes fields of a task's policy, from the next round on.

        A completed task with more rounds continues.

        Args:
          name: The task's name.
          changes: New values by field of `TaskPolicy`; None restores a default.
        """
        message = TaskChange.from_dict({"policy": dict(changes)})
        return self._transport.call("PATCH", _path(name), message=message, answer=TaskView)

    def complete(self, name: str) -> TaskView:
        """Ends an idle driven task."""
        return self._transport.call("POST", f"{_path(name)}:complete", answer=TaskView)

    def archive(self, name: str) -> TaskView:
        """Leaves an ended task out of the default list of tasks."""
        return self._transport.call("POST", f"{_path(name)}:archive", answer=TaskView)

    def unarchive(self, name: str) -> TaskView:
        """Lists an archived task again."""
        return self._transport.call("POST", f"{_path(name)}:unarchive", answer=TaskView)

    def delete(self, name: str) -> TaskView:
        """Starts to delete an ended task: its documents, checkpoints and results.

        `task` raises `ProblemError` (`not_found`) once nothing is left.
        """
        return self._transport.call("DELETE", _path(name), answer=TaskView)

    def tag(self, name: str, tag: str, *, version: int) -> TaskView:
        """Tags a checkpoint. A tag names one version; tagging another one moves it."""
        message = Tag.from_dict({"version": version})
        return self._transport.call(
            "PUT", f"{_path(name)}/tags/{quote(tag, safe='')}", message=message, answer=TaskView
        )

    def untag(self, name: str, tag: str) -> TaskView:
        """Removes a tag."""
        return self._transport.call("DELETE", f"{_path(name)}/tags/{quote(tag, safe='')}", answer=TaskView)

    def best(self, name: str, *, metric: str, better: str = "lower") -> RoundView:
        """Returns the committed round with the best value of a metric.

        Args:
          name: The task's name.
          metric: The path of the metric.
          better: `lower` or `higher`.
        """
        return self._transport.call(
            "GET", f"{_path(name)}/best", answer=RoundView, params={"metric": metric, "better": better}
        )

    def populations(self) -> tuple[PopulationView, ...]:
        """Returns the populations with tasks or recent check-ins, by name."""
        return self._transport.call("GET", "/v1/populations", answer=PopulationList).populations

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
