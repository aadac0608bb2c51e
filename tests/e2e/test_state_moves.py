"""Tests of moving a task to another deployment during a round: nothing is lost or counted twice."""

from __future__ import annotations

import hashlib
import io
import json
import stat
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import cloud
from support.bases import start_from
from support.harness import SECRET, TASK, Harness
from support.plans import sum_update
from typer.testing import CliRunner

from muster.cli.app import app
from muster.local.settings import settings_of
from muster.wire.messages import CheckpointList, Phase, StateRef, TaskStatus
from muster.wire.problems import ProblemError, ProblemType
from muster.wire.tensors import decode, encode
from muster_coordinator.domain import names
from muster_coordinator.domain.keys import Key, KeyRing
from muster_coordinator.ports import Blobs
from muster_coordinator.state.round_cache import tally_assignments
from muster_coordinator.task_export.transfer import export_state, import_state
from muster_coordinator.use_cases.audit_log import AuditLog

OTHER_SECRET = b"the secret of another deployment, long"
POLICY = {"rounds": 3, "goal": 6, "minimum": 3, "over_selection": 2.0, "chunk": 2, "shards": 2, "round_seconds": 100}
MOVE = 5000.0  # seconds; longer than a round


def in_flight(root: Path) -> tuple[Harness, dict[str, str]]:
    """Returns a coordinator with a paused task in its second round, and tokens of its clients.

    Clients 0 to 4 have uploaded, and some of their updates are folded. Client 5 has reported a
    failure. Clients 6 and 7 are working.
    """
    h = Harness(root)
    h.begin(**POLICY)
    for client in range(6):
        h.upload(h.assigned(client).token, sum_update(client, value=0.1 * client))
    h.deliver_all()
    for client in range(5):
        h.upload(h.assigned(client).token, sum_update(client, value=0.1 * client))
        h.deliver_all()
    h.report(h.assigned(5).token)
    tokens = {"again": h.assigned("late-4").token, **{str(client): h.assigned(client).token for client in (6, 7)}}
    h.operate("pause")
    return h, tokens


def exported(h: Harness, *, secret: bytes = SECRET) -> bytes:
    file = io.BytesIO()
    export_state(h.inner, TASK, file, secret=secret)
    return file.getvalue()


@pytest.fixture(params=["embedded", pytest.param("emulators", marks=cloud.EMULATORS)])
def target(request: Any, tmp_path: Path) -> Iterator[Callable[[float], Harness]]:
    """Returns a function that creates the target deployment with its clock at a time."""
    if request.param == "embedded":
        yield lambda start: Harness(tmp_path / "target", start=start)
        return
    firestore, storage = (request.getfixturevalue(f"{name}_emulator") for name in ("firestore", "storage"))
    with cloud.firestore(firestore.address) as documents, cloud.gcs(storage, prefix="pilot") as blobs:
        yield lambda start: Harness(tmp_path / "target", start=start, documents=documents, blobs=blobs)


def test_start_and_base_of_an_open_round_move_with_the_task(tmp_path, target):
    old = Harness(tmp_path / "source")
    old.put_plan()
    states = [bytes(encode({"total": np.int64(total), "rounds": np.int64(0)})) for total in (64, 128)]
    first, second = [hashlib.sha256(state).hexdigest() for state in states]
    for sha256, state in zip((first, second), states, strict=True):
        old.ask("PUT", f"/v1/states/{sha256}?plan={old.plan.sha256}", body=state)
    old.create_task(driven=True, start=StateRef(state=first), goal=1)
    old.deliver_all()
    old.run("first")
    old.deliver_all()
    old.upload(old.assigned(0).token, sum_update(0))
    old.deliver_all()
    start_from(old, StateRef(state=second))
    request = names.request_path(TASK, "a-request")
    document = old.inner.documents.get(request).data
    old.operate("pause")

    new = target(old.clock.now() + MOVE)
    state = exported(old)
    for _ in range(2):
        with suppress(ProblemError):  # the second import finds the task
            import_state(new.inner, io.BytesIO(state), secret=SECRET)
    assert new.inner.documents.get(request).data == document
    new.operate("resume")
    new.deliver_all()
    new.upload(new.assigned(1).token, sum_update(1))
    new.deliver_all()
    assert new.checkpoint(0) == states[0]
    assert [int(decode(new.checkpoint(version))["total"]) for version in (1, 2)] == [64 + 1, 128 + 2]
    parents = [
        view.parent for view in CheckpointList.decode(new.ask("GET", f"/v1/tasks/{TASK}/checkpoints")).checkpoints
    ]
    assert [(parent.version, parent.state) for parent in parents] == [(None, first), (0, None), (None, second)]
    assert new.blobs("states/") == []


def test_open_round_continues_at_the_target_without_loss(tmp_path, target):
    old, tokens = in_flight(tmp_path / "source")
    state = exported(old)
    assert state == exported(old)
    assert any(name.startswith("blobs/updates/") for name in zipfile.ZipFile(io.BytesIO(state)).namelist())
    assert any(name.startswith("blobs/partials/") for name in zipfile.ZipFile(io.BytesIO(state)).namelist())

    new = target(old.clock.now() + MOVE)
    summary = import_state(new.inner, io.BytesIO(state), secret=SECRET)
    assert (summary.task, summary.status, summary.checkpoint, summary.round) == (TASK, "paused", 1, 2)
    assert new.task().status is TaskStatus.PAUSED
    new.tick()
    new.operate("resume")
    new.deliver_all()
    view = new.task().current
    assert view.phase is Phase.COLLECTING
    assert view.failed == {"other": 1}
    # The view of an open round hides this count, since the round is small.
    assert tally_assignments(new.inner, new.round()).reported == 5

    # Clients that have contributed can't contribute again, whether their update is folded or not.
    for client in range(5):
        answer = new.checkin(client)
        if answer.status == "assigned":
            new.upload(answer.token, sum_update(client, value=100.0))
    new.deliver_all()
    assert new.task().current.round == 2 or new.task().checkpoint == 2
    while new.task().checkpoint == 1:
        new.upload(new.assigned(8).token, sum_update(8))
        new.deliver_all()
    contributors = [0, 1, 2, 3, 4, 8]
    result = new.result(2)
    assert int(result["ids"]) == sum(1 << client for client in contributors)
    assert int(result["count"]) == len(contributors)
    assert result["value"].tolist() == pytest.approx([1.0] * 3)
    # Assignments from before the move have expired meanwhile.
    with pytest.raises(ProblemError) as refused:
        new.upload(tokens["6"], sum_update(6))
    assert refused.value.type is ProblemType.ASSIGNMENT_EXPIRED

    for client in range(20, 26):
        new.upload(new.assigned(client).token, sum_update(client))
    new.deliver_all()
    assert new.task().status is TaskStatus.COMPLETED
    assert int(new.result(3)["ids"]) == 0b111111 << 20
    assert new.checkpoint(1) == old.checkpoint(1)
    new.settle()
    assert new.leftovers() == []


def test_driven_task_keeps_its_runs(tmp_path):
    old = Harness(tmp_path / "source")
    old.begin(driven=True, goal=1)
    for client, request in enumerate(("a", "b")):
        old.run(request)
        old.deliver_all()
        old.upload(old.assigned(client).token, sum_update(client))
        old.deliver_all()
    old.operate("pause")
    new = Harness(tmp_path / "target", start=old.clock.now() + MOVE)
    import_state(new.inner, io.BytesIO(exported(old)), secret=SECRET)
    for request in ("a", "b"):
        assert new.run(request) == old.get_run(request)
    assert [new.checkpoint(version) for version in range(3)] == [old.checkpoint(version) for version in range(3)]
    new.operate("resume")
    assert new.run("c").first_round == 3


def test_working_clients_upload_to_the_target_after_a_short_move(tmp_path):
    old, tokens = in_flight(tmp_path / "source")
    new = Harness(tmp_path / "target", start=old.clock.now() + 1)
    import_state(new.inner, io.BytesIO(exported(old)), secret=SECRET)
    new.upload(tokens["6"], sum_update(6))
    new.operate("resume")
    new.deliver_all()
    assert int(new.result(2)["ids"]) == 0b1011111


def test_working_client_gets_its_slot_again_at_the_target(tmp_path):
    old, tokens = in_flight(tmp_path / "source")
    new = Harness(tmp_path / "target", start=old.clock.now() + 1)
    import_state(new.inner, io.BytesIO(exported(old)), secret=SECRET)
    new.operate("resume")
    assert new.assigned(6).token == tokens["6"]
    assert new.task().current.assigned == old.task().current.assigned


def test_interrupted_import_is_resumed_by_a_repeat(tmp_path):
    old, _ = in_flight(tmp_path / "source")
    state = exported(old)

    class FullError(Exception):
        pass

    def import_with_writes(writes: int, h: Harness) -> None:
        remaining = iter(range(writes))

        class Stopping:
            def __init__(self, inner: Any) -> None:
                self._inner = inner

            def __getattr__(self, name: str) -> Any:
                if name in ("create", "replace") and next(remaining, None) is None:
                    raise FullError
                return getattr(self._inner, name)

        stopping = replace(h.inner, documents=Stopping(h.inner.documents), blobs=Stopping(h.inner.blobs))
        import_state(stopping, io.BytesIO(state), secret=SECRET)

    new = Harness(tmp_path / "target", start=old.clock.now())
    writes = 0
    while True:
        try:
            import_with_writes(writes, new)
            break
        except FullError:
            writes += 1
            # The task is not visible yet, and the tick does not remove what was imported.
            new.tick()
            new.clock.advance(0.01)
    assert writes > 20
    assert new.task().status is TaskStatus.PAUSED
    new.operate("resume")
    new.upload(new.assigned(8).token, sum_update(8))
    new.deliver_all()
    assert int(new.result(2)["ids"]) == 0b100011111


def test_existing_task_or_blob_is_not_overwritten(tmp_path):
    old, _ = in_flight(tmp_path / "source")
    state = exported(old)
    before = old.inner.documents.get(f"tasks/{TASK}")
    with pytest.raises(ProblemError, match="here already"):
        import_state(old.inner, io.BytesIO(state), secret=SECRET)
    assert old.inner.documents.get(f"tasks/{TASK}") == before

    # Nor is a blob with the name of one of the task's.
    new = Harness(tmp_path / "target")
    name = next(name for name in old.blobs("checkpoints/"))
    new.inner.blobs.create(name, [b"another's"])
    with pytest.raises(ProblemError, match="something else"):
        import_state(new.inner, io.BytesIO(state), secret=SECRET)
    assert bytes(new.inner.blobs.read(name)) == b"another's"
    assert new.inner.tasks.list("tasks") == []


def test_active_or_changing_task_is_not_exported(tmp_path):
    h, tokens = in_flight(tmp_path)

    class UploadingBlobs:
        """Blobs that receive an update at each of the first reads."""

        def __init__(self, inner: Blobs) -> None:
            self._inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inner, name)

        def read(self, name: str) -> memoryview:
            if tokens:
                h.upload(tokens.popitem()[1], sum_update(7))
            return self._inner.read(name)

    with pytest.raises(ProblemError, match="changed while it was read"):
        export_state(replace(h.inner, blobs=UploadingBlobs(h.inner.blobs)), TASK, io.BytesIO(), secret=SECRET)
    h.operate("resume")
    with pytest.raises(ProblemError, match="pause it first"):
        exported(h)


def test_other_secret_is_refused_only_while_a_round_is_open(tmp_path):
    old, _ = in_flight(tmp_path / "source")
    new = Harness(tmp_path / "target")
    with pytest.raises(ProblemError, match="MUSTER_SECRET"):
        import_state(new.inner, io.BytesIO(exported(old)), secret=OTHER_SECRET)
    assert new.blobs() == []
    old.operate("cancel")
    old.settle()
    assert import_state(new.inner, io.BytesIO(exported(old)), secret=OTHER_SECRET).status == "cancelled"


def test_open_round_keeps_its_pseudonyms_where_another_key_signs(tmp_path):
    old, tokens = in_flight(tmp_path / "source")
    ring = KeyRing((Key(OTHER_SECRET), Key(SECRET)))
    new = Harness(tmp_path / "target", start=old.clock.now() + 1, secret=ring)
    import_state(new.inner, io.BytesIO(exported(old)), secret=ring)
    new.operate("resume")
    for token in (tokens["6"], new.assigned(6).token):
        new.upload(token, sum_update(6))
    new.deliver_all()
    assert int(new.result(2)["ids"]) == 0b1011111
    # From there it moves on to a deployment with only the new key, under which no client has a
    # pseudonym yet.
    new.operate("pause")
    assert import_state(Harness(tmp_path / "next").inner, io.BytesIO(exported(new, secret=ring)), secret=OTHER_SECRET)


def test_damaged_file_or_foreign_names_are_refused(tmp_path):
    old, _ = in_flight(tmp_path / "source")
    state, new = exported(old), Harness(tmp_path / "target")
    at = state.index(b"blobs/checkpoints/") + 150
    for bad in (b"no zip", state[: len(state) // 2], state[:at] + bytes([state[at] ^ 1]) + state[at + 1 :]):
        with pytest.raises(ProblemError) as refused:
            import_state(new.inner, io.BytesIO(bad), secret=SECRET)
        assert refused.value.type is ProblemType.INVALID_REQUEST
    for name in ("blobs/checkpoints/other/000001-0", "documents/tasks/other.json", "blobs/updates/../x"):
        file = io.BytesIO(state)
        with zipfile.ZipFile(file, "a") as archive:
            archive.writestr(name, b"{}")
        with pytest.raises(ProblemError, match="but holds"):
            import_state(new.inner, file, secret=SECRET)
    assert new.inner.tasks.list("tasks") == []


def test_commands_move_a_task_between_folders(tmp_path):
    def run(*arguments: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["state", *arguments])
        assert result.exit_code == code, (result.output, result.stderr, result.exception)
        return result.stdout if code == 0 else result.stderr

    source, target, file = tmp_path / "my data", tmp_path / "elsewhere", tmp_path / "sum.state"
    source.mkdir()
    secret = (settings_of(source)["MUSTER_SECRET"], (source / "secret").read_text())
    h = Harness(source, durable=True, secret=KeyRing.parse(secret[0]))
    h.begin(**POLICY)
    for client in range(3):
        h.upload(h.assigned(client).token, sum_update(client))
    assert secret[0] == secret[1]
    assert "pause it first" in run("export", TASK, str(file), "--from", str(source), code=1)
    assert not file.exists()
    exported_event = json.loads(run("export", TASK, str(file), "--from", str(source), "--pause", "--json"))
    assert (exported_event["status"], exported_event["round"], exported_event["updates"]) == ("paused", 1, 3)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert list(tmp_path.glob(".*")) == []
    assert "not overwritten" in run("export", TASK, str(file), "--from", str(source), code=2)
    assert "neither a file" in run("export", TASK, str(tmp_path / "x"), "--from", str(target), code=2)

    assert "MUSTER_SECRET" in run("import", str(file), "--to", str(target), code=1)
    settings = tmp_path / "there.env"
    lines = [f'{name}="{value}"' for name, value in {**settings_of(target), "MUSTER_SECRET": secret[0]}.items()]
    settings.write_text("\n".join(["# another home", "", *lines]))
    assert "muster task resume sum" in run("import", str(file), "--to", str(settings))
    assert "here already" in run("import", str(file), "--to", str(settings), code=1)
    changes = [
        (entry.action, entry.result) for entry in AuditLog(Harness(source, durable=True).inner).entries().entries
    ]
    assert changes.count(("task.pause", "done")) == 1
    (_, imported, refused) = AuditLog(Harness(target, durable=True).inner).entries().entries
    assert (imported.action, imported.result, imported.after["status"]) == ("task.import", "done", "paused")
    assert (refused.action, refused.result, refused.problem) == ("task.import", "failed", "conflict")
    settings.write_text("MUSTER_STATE")
    assert "there.env:1" in run("import", str(file), "--to", str(settings), code=2)
