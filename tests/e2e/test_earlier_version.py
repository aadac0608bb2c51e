"""Interoperation with the version before sealed cookies and salts, whose code comes from git.

Each version reads what the other one has written.
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from support.environments import outside
from support.harness import POPULATION, SECRET, Harness
from support.plans import sum_update

from muster.wire.messages import Assignment, Wait, WaitReason
from muster.wire.tensors import encode
from muster_coordinator.domain import names
from muster_coordinator.domain.names import RoundKey

ROOT = Path(__file__).resolve().parents[2]
TOKENS = "functions/coordinator/tokens.py"  # the file's path in that version

# Runs in a separate process, with the earlier version's code and this test's stores.
SCRIPT = """
import json, sys
from pathlib import Path
from werkzeug.test import Client
from werkzeug.wrappers import Request
import coordinator
from coordinator.adapters.directory import DirectoryBlobs
from coordinator.adapters.sqlite import SqliteDocuments
from coordinator.adapters.system import ManualClock, SeededChance
from coordinator.application import assemble
from coordinator.http import router
from coordinator.use_cases.records import Platform

inputs = json.loads(sys.stdin.read())
class Queue:
    def enqueue(self, work, *, name, delay=0.0): pass
platform = Platform(
    SqliteDocuments(Path(inputs["root"]) / "state.db"), DirectoryBlobs(Path(inputs["root"]) / "blobs"),
    Queue(), ManualClock(inputs["now"]), SeededChance(1),
)
app = assemble(
    platform, secret=bytes.fromhex(inputs["secret"]), runtime=lambda plan: None, round_cache_seconds=0.0,
    retry_floor=1.0,
)
client = Client(Request.application(router(app)))
answers = {"from": coordinator.__file__, "read": [], "requests": []}
for cookie in inputs.get("cookies", ()):
    claims = app.tokens.read_cookie(cookie, now=inputs["now"])
    answers["read"].append([[claim.key.task, claim.contributed_at] for claim in claims])
for method, path, body, token in inputs.get("requests", ()):
    headers = {"Authorization": "Bearer " + token} if token else {}
    response = client.open(path, method=method, data=bytes.fromhex(body), headers=headers)
    answers["requests"].append([response.status_code, json.loads(response.data)])
print(json.dumps(answers))
"""


@pytest.fixture(scope="module")
def earlier(tmp_path_factory):
    """Returns a function that sends requests to the newest version without sealed cookies."""
    folder = tmp_path_factory.mktemp("earlier") / "checkout"

    def git(*arguments):
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)  # noqa: S603, S607

    try:
        commits = git("log", "--format=%H", "--", TOKENS).stdout.decode().split()
    except FileNotFoundError:
        pytest.skip("the earlier version comes from git, which is not installed")
    sealed = [commit for commit in commits if b"muster2" in git("show", f"{commit}:{TOKENS}").stdout]
    if not sealed or commits[-1] == sealed[-1]:
        pytest.skip("there is no git history with an earlier version")
    # The parent of the commit that introduced sealed cookies.
    archive = git("archive", "--format=zip", f"{sealed[-1]}^", "functions", "client/muster")
    assert archive.returncode == 0, archive.stderr
    zipfile.ZipFile(io.BytesIO(archive.stdout)).extractall(folder)

    def ask(h, root, **inputs):
        # The environment provides the libraries. Its checkout of Muster must not hide that
        # version's packages.
        path = f"{folder / 'functions'}:{folder / 'client'}"
        text = json.dumps({"root": str(root), "now": h.clock.now(), "secret": SECRET.hex(), **inputs})
        done = subprocess.run(  # noqa: S603
            [sys.executable, "-c", SCRIPT],
            input=text.encode(),
            env=outside(PYTHONPATH=path),
            capture_output=True,
            check=True,
        )
        outputs = json.loads(done.stdout)
        assert Path(outputs["from"]).is_relative_to(folder)
        return outputs

    return ask


def checkin(client, cookie=None):
    body = {"client": client} if cookie is None else {"client": client, "cookie": cookie}
    return ["POST", f"/v1/populations/{POPULATION}:checkin", json.dumps(body).encode().hex(), None]


def upload(token, client):
    return ["PUT", "/v1/updates", bytes(encode(sum_update(client))).hex(), token]


def test_earlier_version_lets_clients_of_a_salted_round_wait(tmp_path, earlier):
    h = Harness(tmp_path, durable=True)
    h.begin(goal=3, rounds=1)
    tokens = [h.assigned(f"c{client}").token for client in range(2)]
    h.upload(tokens[0], sum_update(0))
    (repeated, new, uploaded) = earlier(h, tmp_path, requests=[checkin("c0"), checkin("c2"), upload(tokens[1], 1)])[
        "requests"
    ]
    for status, body in (repeated, new):
        assert (status, body["answer"]["status"], body["answer"]["reason"]) == (200, "wait", "between_rounds")
    # The earlier version accepts assignments of this one, and this one counts updates that were
    # accepted there.
    assert uploaded[0] == 200
    assert len(h.blobs("updates/")) == 2
    h.upload(h.assigned("c2").token, sum_update(2))
    h.deliver_all()
    assert (int(h.result(1)["ids"]), int(h.result(1)["count"])) == (0b111, 3)


def test_both_versions_use_one_pseudonym_in_a_round_of_the_earlier_one(tmp_path, earlier):
    h = Harness(tmp_path, durable=True)
    h.begin(goal=3, rounds=1, over_selection=3.0)
    answers = earlier(h, tmp_path, requests=[checkin("c0"), checkin("c1")])["requests"]
    tokens = [body["answer"]["token"] for _, body in answers]
    assert h.inner.documents.get(names.pseudonym_key_path(h.key())).data == {
        "key": h.app.assignment_issuer.pseudonyms.ring.newest.fingerprint
    }
    h.upload(tokens[0], sum_update(0))
    assert h.checkin("c0").reason is WaitReason.ALREADY_IN
    here = h.assigned("c1").token
    for token in (tokens[1], here):
        assert h.upload(token, sum_update(1)).status == "accepted"
    there = earlier(h, tmp_path, requests=[checkin("c0"), checkin("c1")])["requests"]
    assert {body["answer"]["reason"] for _, body in there} == {"already_in"}
    h.upload(h.assigned("c2").token, sum_update(2))
    h.deliver_all()
    assert (int(h.result(1)["ids"]), int(h.result(1)["count"])) == (0b111, 3)
    assert h.leftovers() == []


def test_earlier_version_ignores_sealed_cookies_and_this_one_reads_its(tmp_path, earlier):
    h = Harness(tmp_path, durable=True)
    h.put_plan()
    for task in ("a", "b"):
        h.create_task(task, goal=5, separation_seconds=1000, round_seconds=5000)
    h.deliver_all()
    first = h.assigned("c0")
    sealed = h.upload(first.token, sum_update(0)).cookie
    assert earlier(h, tmp_path, cookies=[sealed, sealed[:-1], "muster2.x.y"])["read"] == [[], [], []]
    # The earlier version accepts an assignment with the new claim, and issues its own cookie.
    h.clock.advance(1001)
    second = h.checkin("c0", cookie=sealed)
    assert isinstance(second, Assignment)
    ((status, receipt),) = earlier(h, tmp_path, requests=[upload(second.token, 0)])["requests"]
    assert status == 200
    (claims,) = h.app.tokens.read_cookie(receipt["cookie"], now=h.clock.now())
    assert (claims.key, claims.contributed_at, claims.separates) == (RoundKey(second.task, 1, 0), h.clock.now(), None)
    # With that cookie, the client waits for the same task.
    answer = h.checkin("c0", cookie=receipt["cookie"])
    assert isinstance(answer, Wait) or answer.task != second.task
