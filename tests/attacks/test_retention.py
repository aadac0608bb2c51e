"""What can still be learned of one participant once a round has ended, and while a small one is open."""

from __future__ import annotations

import hashlib
import hmac
import json
import re

import pytest
from support.fortress import OPERATOR, VIEWER
from support.harness import SECRET, TASK
from support.plans import sum_update

from muster_coordinator.domain import names

PSEUDONYM = re.compile(r"[0-9a-f]{32}")


def everything(h):
    """All that the stores hold: paths, documents, names of blobs and their bytes."""
    texts = []
    pending = ["tasks", "audit", "populations/phones/tasks", "enrolments"]
    while pending:
        collection = pending.pop()
        for document in h.inner.documents.list(collection):
            texts.append(f"{document.path} {json.dumps(dict(document.data))}")
            if collection == "tasks":
                pending.append(f"{document.path}/rounds")
            elif collection.endswith("/rounds"):
                pending += [f"{document.path}/{each}" for each in ("tickets", "shards", "keys", "holders")]
    for name in h.blobs():
        texts += [name, bytes(h.inner.blobs.read(name)).decode("latin-1")]
    return texts


def pseudonyms_of(h, *clients):
    found = set()
    for client in clients:
        token = h.assigned(client).token
        found.add(h.app.tokens.read_assignment(token, now=h.clock.now()).pseudonym)
        h.upload(token, sum_update(client))
    return found


def test_nobody_can_tell_who_was_in_a_round_once_it_is_swept(h):
    """With every key, every name of a client, and all that the stores held before and hold after."""
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
    # Nor does a name that was seen in time fit a client: not by this version's formula, nor by the one before it.
    for identity in (f"client-{number}" for number in range(200)):
        text = f"{key.task}\n{key.id}\n{identity}".encode()
        digests = {hmac.new(SECRET, prefix + text, hashlib.sha256).hexdigest()[:32] for prefix in (b"", b"\0" * 32)}
        assert names.pseudonym(SECRET, key, identity) in digests
        assert digests.isdisjoint(names_in_round)


def test_an_instance_forgets_the_salt_of_a_round_when_the_next_one_names_a_client_or_a_minute_has_passed(h):
    cached = h.app.checkin.pseudonyms._cached
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
def test_no_route_says_how_many_contributed_to_a_small_round_before_it_has_ended(h, token):
    """A count that is live shows when one client contributed."""

    def views():
        task = json.loads(h.bare("GET", f"/v1/tasks/{TASK}", token=token).data)["current"]
        listed = json.loads(h.bare("GET", "/v1/tasks", token=token).data)["tasks"][0]["current"]
        rounds = json.loads(h.bare("GET", f"/v1/tasks/{TASK}/rounds", token=token).data)["rounds"]
        (round_,) = [each for each in rounds if (each["round"], each["epoch"]) == (task["round"], task["epoch"])]
        entries = json.loads(h.bare("GET", "/v1/audit", token=token).data)["entries"]
        changed = [each[when] for each in entries for when in ("before", "after") if "current" in each.get(when, {})]
        return [task, listed, round_, *(each["current"] for each in changed)]

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
