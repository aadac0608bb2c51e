"""Data that remain about a participant after a round, and while a small round is open."""

from __future__ import annotations

import hashlib
import hmac
import json
import re

import pytest
from support.harness import SECRET, TASK
from support.plans import sum_update
from support.secured_harness import OPERATOR, VIEWER

from muster_coordinator.domain import names

PSEUDONYM = re.compile(r"[0-9a-f]{32}")


def everything(h):
    """Returns the content of all stores: paths, documents, names of blobs and their bytes."""
    texts = []
    pending = ["tasks", "audit", "populations/phones/tasks", "enrolments"]
    while pending:
        collection = pending.pop()
        for document in h.inner.documents.list(collection):
            texts.append(f"{document.path} {json.dumps(dict(document.data))}")
            if collection == "tasks":
                pending.append(f"{document.path}/rounds")
            elif collection.endswith("/rounds"):
                pending += [f"{document.path}/{counter}" for counter in ("tickets", "shards", "keys", "holders")]
    for name in h.blobs():
        texts += [name, bytes(h.inner.blobs.read(name)).decode("latin-1")]
    return texts


def pseudonyms_of(h, *clients):
    pseudonyms = set()
    for client in clients:
        token = h.assigned(client).token
        pseudonyms.add(h.app.tokens.read_assignment(token, now=h.clock.now()).pseudonym)
        h.upload(token, sum_update(client))
    return pseudonyms


def test_swept_round_does_not_reveal_its_clients(h):
    """Given every key, every client's name, and all stores before and after."""
    key = h.key()
    names_in_round = pseudonyms_of(h, 0, 1, 2)
    before = everything(h)
    assert all(any(name in text for text in before) for name in names_in_round)
    h.deliver_all()
    assert h.committed()
    after = everything(h)
    assert not any(name in text for name in names_in_round for text in after)
    assert h.inner.documents.get(names.pseudonym_key_path(key)) is None
    assert h.blobs("manifests/") == []
    assert h.leftovers() == []
    # Nor does a pseudonym match a client by the formula of this or the previous version.
    for identity in (f"client-{number}" for number in range(200)):
        text = f"{key.task}\n{key.id}\n{identity}".encode()
        digests = {hmac.new(SECRET, prefix + text, hashlib.sha256).hexdigest()[:32] for prefix in (b"", b"\0" * 32)}
        assert names.pseudonym(SECRET, key, identity) in digests
        assert digests.isdisjoint(names_in_round)


def test_salt_is_forgotten_with_the_next_round_or_a_minute(h):
    cached = h.app.assignment_issuer.pseudonyms._cached
    pseudonyms_of(h, 0, 1, 2)
    (first,) = [entry.value.round for entry in cached.entries().values()]
    h.deliver_all()
    h.assigned(0)
    assert [entry.value.round for entry in cached.entries().values()] == [h.key()] != [first]
    h.clock.advance(61)
    h.create_task("other", goal=3)
    h.deliver_all()
    h.checkin(9)
    assert all(entry.stored_at == h.clock.now() for entry in cached.entries().values())


@pytest.mark.parametrize("token", [OPERATOR, VIEWER])
def test_no_route_counts_contributors_of_an_open_small_round(h, token):
    """A live count would show when one client contributed."""

    def views():
        task = json.loads(h.bare("GET", f"/v1/tasks/{TASK}", token=token).data)["current"]
        listed = json.loads(h.bare("GET", "/v1/tasks", token=token).data)["tasks"][0]["current"]
        rounds = json.loads(h.bare("GET", f"/v1/tasks/{TASK}/rounds", token=token).data)["rounds"]
        (round_,) = [view for view in rounds if (view["round"], view["epoch"]) == (task["round"], task["epoch"])]
        entries = json.loads(h.bare("GET", "/v1/audit", token=token).data)["entries"]
        changed = [view[when] for view in entries for when in ("before", "after") if "current" in view.get(when, {})]
        return [task, listed, round_, *(view["current"] for view in changed)]

    for client in (0, 1):
        h.upload(h.assigned(client).token, sum_update(client))
        h.operate("pause")
        h.operate("resume")
        for view in views():
            assert "reported" not in view
            assert view["folded"] == view["update_bytes"] == 0
        assert all(view["assigned"] <= client + 1 for view in views())
    h.upload(h.assigned(2).token, sum_update(2))
    h.deliver_all()
    (committed,) = h.committed()
    rounds = json.loads(h.bare("GET", f"/v1/tasks/{TASK}/rounds", token=token).data)["rounds"]
    assert (rounds[0]["reported"], rounds[0]["folded"]) == (committed.tally.reported, committed.tally.folded) == (3, 3)
