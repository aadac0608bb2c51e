"""Forged, changed, stolen, expired, foreign and replayed assignments and cookies."""

from __future__ import annotations

import hashlib
import hmac
import json

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from support.harness import SECRET, TASK, Harness
from support.plans import every_dtype_plan, every_dtype_update, sum_update

from muster.wire.messages import Assignment, TaskPolicy, TaskSpec, Wait, WaitReason
from muster.wire.problems import ProblemError, ProblemType
from muster_coordinator.domain.keys import KeyRing
from muster_coordinator.tokens import SKEW, Tokens

KEY = KeyRing.of(SECRET).newest
P = ProblemType


def refused(h, token, update=None):
    """Returns the problem's type, the same on every route for assignments; stores nothing."""
    before = h.blobs("updates/")
    types = set()
    for act in (
        lambda: h.upload(token, update or sum_update(9)),
        lambda: h.report(token),
        lambda: h.ask("POST", "/v1/updates:report", token=token, json={"outcome": "uploaded"}),
        lambda: h.ask("POST", "/v1/updates:start", token=token, json={"size": 10, "crc32c": "yZRlqg=="}),
    ):
        with pytest.raises(ProblemError) as caught:
            act()
        assert token not in str(caught.value)
        types.add(caught.value.type)
    assert h.blobs("updates/") == before
    (kind,) = types
    return kind


def claims_of(token):
    return jwt.decode(token, options={"verify_signature": False})


def settled(h, *clients):
    """Completes the round; returns its clients (one bit each) and the number of updates."""
    for client in clients:
        h.upload(h.assigned(client).token, sum_update(client))
    h.settle()
    result = h.result(1)
    return int(result["ids"]), int(result["count"])


def test_forged_assignment_is_refused(h):
    token = h.assigned(0).token
    claims, kid = claims_of(token), jwt.get_unverified_header(token)["kid"]
    for key in (b"x" * 32, SECRET + b"x", kid.encode() * 2, b"\0" * 64):
        assert refused(h, jwt.encode(claims, key, "HS256", headers={"kid": kid})) is P.ASSIGNMENT_INVALID
    for text in (
        "x",
        "a.b.c",
        "..",
        token + "x",
        token[:-4],
        token.rpartition(".")[0] + ".",
        "null",
        "é€".encode().decode("latin-1"),
    ):
        assert refused(h, text) is P.ASSIGNMENT_INVALID


@pytest.mark.parametrize(
    "change",
    [
        {"task": "other"},
        {"task": "../tasks/sum"},
        {"round": 2},
        {"epoch": 1},
        {"shard": 7},
        {"sub": "0" * 32},
        {"sub": "../../plans"},
        {"plan": "0" * 64},
        {"size": 10**12},
        {"exp": 4e9},
        {"counter": 3},
        {"aud": ["muster:assignment", "muster:cookie"]},
    ],
    ids=str,
)
def test_assignment_with_another_claim_is_refused(h, change):
    """Client, round, attempt, shard, plan, slot and size can't be changed."""
    token = h.assigned(0).token
    header, _, signature = token.split(".")
    assert refused(h, f"{header}.{part({**claims_of(token), **change})}.{signature}") is P.ASSIGNMENT_INVALID


def part(data):
    return jwt.utils.base64url_encode(json.dumps(data).encode()).decode()


def signed(header, claims, key=SECRET):
    """Returns an HMAC token with any header; the library refuses to create some of these."""
    text = f"{part(header)}.{part(claims)}"
    mac = hmac.new(key, text.encode(), hashlib.sha256).digest()
    return f"{text}.{jwt.utils.base64url_encode(mac).decode()}"


def forgeries(token):
    """Yields tokens that would pass if the token's header were trusted."""
    claims, kid = claims_of(token), jwt.get_unverified_header(token)["kid"]
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    pem = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = private.public_key()
    jwk = json.loads(jwt.algorithms.RSAAlgorithm.to_jwk(public))
    for name in ("none", "None", "NoNe", "", None, "HS1", 256):
        unsigned = f"{part({'alg': name, 'kid': kid, 'typ': 'JWT'})}.{token.split('.')[1]}"
        yield f"{name!r} without a signature", f"{unsigned}."
        yield f"{name!r} with the signature", f"{unsigned}.{token.split('.')[2]}"
        yield f"{name!r} with the right key", signed({"alg": name, "kid": kid}, claims)
    yield "RS256", jwt.encode(claims, pem, "RS256", headers={"kid": kid})
    yield "RS256 with its key beside it", jwt.encode(claims, pem, "RS256", headers={"kid": kid, "jwk": jwk})
    yield "HS512 of the same key", jwt.encode(claims, SECRET, "HS512", headers={"kid": kid})
    yield "its kid as the key", signed({"alg": "HS256", "kid": kid}, claims, kid.encode())
    yield "a key at an address", signed({"alg": "HS256", "kid": kid, "jku": "https://evil.example/keys"}, claims, b"x")
    for trick in (
        "../../../../dev/null",
        "/dev/null",
        "' OR 1=1 --",
        "0",
        "\0",
        "",
        kid.upper() + "A",
        kid[:-1],
        f"{kid} ",
    ):
        yield f"kid {trick!r}", signed({"alg": "HS256", "kid": trick}, claims, b"")
        yield f"kid {trick!r} and the right key", signed({"alg": "HS256", "kid": trick}, claims)
    for odd in (1, [kid], {"kid": kid}, True):
        yield f"kid {odd!r}", signed({"alg": "HS256", "kid": odd}, claims)


@pytest.mark.filterwarnings("ignore:The HMAC key is:UserWarning")  # the key is short for HS512 on purpose
def test_downgraded_algorithm_and_foreign_key_id_are_refused(h):
    refusals = {name: refused(h, forged) for name, forged in forgeries(h.assigned(0).token)}
    assert set(refusals.values()) == {P.ASSIGNMENT_INVALID}
    assert len(refusals) > 40


def test_expired_assignment_is_refused(h):
    token = h.assigned(0).token
    h.clock.advance(999)
    h.upload(token, sum_update(0))  # still valid in the last second
    other = h.assigned(1).token if isinstance(h.checkin(1), Assignment) else None
    h.clock.advance(1000)
    for old in filter(None, (token, other)):
        assert refused(h, old) is P.ASSIGNMENT_EXPIRED


def test_assignment_from_the_future_is_refused(h):
    token = h.assigned(0).token
    h.clock.advance(-SKEW - 1)
    assert refused(h, token) is P.ASSIGNMENT_INVALID


def test_replayed_assignment_is_counted_once(h):
    token = h.assigned(0).token
    for attempt in range(5):
        assert h.upload(token, sum_update(0, attempt)).status == "accepted"
        h.deliver_all()
    assert len(h.blobs("updates/")) == 1
    assert settled(h, 1, 2) == (0b111, 3)


def test_replay_after_the_fold_is_not_counted(tmp_path):
    """Its name is free then, but the manifests list it."""
    h = Harness(tmp_path)
    h.begin(goal=4, minimum=2, chunk=2, shards=1, rounds=1)
    tokens = [h.assigned(client).token for client in (0, 1)]
    for client, token in enumerate(tokens):
        h.upload(token, sum_update(client))
    h.deliver_all()
    assert h.blobs("updates/") == []
    assert h.blobs("partials/")
    for client, token in enumerate(tokens):
        h.upload(token, sum_update(client))
    assert settled(h, 2, 3) == (0b1111, 4)


def test_assignment_is_valid_for_its_round_only(h):
    held = h.assigned(5).token
    assert settled(h, 0, 1, 2) == (0b111, 3)
    assert h.key().number == 2
    assert refused(h, held) is P.ROUND_CLOSED


def test_assignment_is_valid_for_its_attempt_only(h):
    held = h.assigned(0).token
    h.clock.advance(999.5)
    late = h.assigned(1).token  # outlives its round
    h.clock.advance(1)
    h.settle(minutes=1)
    assert h.abandoned()
    assert h.key().number == 1
    assert refused(h, late) is P.ROUND_CLOSED
    assert refused(h, held) in (P.ROUND_CLOSED, P.ASSIGNMENT_EXPIRED)


def test_assignment_is_valid_for_its_task_and_plan_only(tmp_path):
    h = Harness(tmp_path)
    h.begin(goal=3, minimum=2, rounds=1)
    token = h.assigned(0).token
    h.operate("pause")
    other = every_dtype_plan()
    h.ask("PUT", f"/v1/plans/{other.sha256}", body=other.encode())
    spec = TaskSpec(name="other", population="phones", plan=other.sha256, policy=TaskPolicy(goal=3))
    h.ask("POST", "/v1/tasks", body=spec.encode())
    h.deliver_all()
    with pytest.raises(ProblemError) as caught:
        h.upload(token, {"t/float32": every_dtype_update()["t/float32"]})
    assert caught.value.type is P.UPDATE_INVALID
    assert h.upload(token, sum_update(0)).task == TASK
    assert all("/sum/" in name for name in h.blobs("updates/"))


def test_assignment_of_another_deployment_is_refused(h, tmp_path):
    elsewhere = Harness(tmp_path / "elsewhere", secret=b"another deployment's secret, as long")
    elsewhere.begin(goal=3)
    assert refused(h, elsewhere.assigned(0).token) is P.ASSIGNMENT_INVALID


def test_cookie_is_not_accepted_as_assignment(h):
    assert refused(h, h.upload(h.assigned(0).token, sum_update(0)).cookie) is P.ASSIGNMENT_INVALID


def test_assignment_and_forged_cookie_are_ignored_as_cookie(h):
    """An invalid cookie is ignored: the check-in is that of a client without one."""
    first = h.assigned(0)
    h.upload(first.token, sum_update(0))
    own = h.upload(first.token, sum_update(0)).cookie
    kind, kid, _ = own.split(".")
    (entry,) = Tokens(SECRET).read_cookie(own, now=h.clock.now())
    real = {"aud": "muster:cookie", "task": entry.key.task, "round": entry.key.number, "epoch": entry.key.epoch}
    real |= {"at": entry.contributed_at, "exp": entry.expires_at}  # signed by an earlier version
    for cookie in (
        first.token,
        jwt.encode(real, b"x" * 32, "HS256"),
        jwt.encode(real, None, "none"),
        Tokens(b"x" * 32).cookie(entry),
        f"{kind}.{kid}.{Tokens(b'x' * 32).cookie(entry).split('.')[2]}",
        f"{kind}.{kid}.{part(real)}",
        own[:-3],
        "x" * 2000,
    ):
        assert isinstance(h.checkin(1, cookie=cookie), Assignment)
        answer = h.checkin(0, cookie=cookie)  # the ledger still has it
        assert isinstance(answer, Wait)
        assert answer.reason is WaitReason.ALREADY_IN


def test_assignment_does_not_reveal_history(tmp_path):
    """Its history of other tasks, which would link pseudonyms, is sealed."""
    h = Harness(tmp_path)
    h.put_plan()
    for task in ("blood", "bones"):
        h.create_task(task, goal=9)
    h.deliver_all()
    first, then = h.assigned(0), h.clock.now()
    cookie = h.upload(first.token, sum_update(0)).cookie
    tokens = []
    for client in range(2):  # one history, in two assignments
        h.clock.advance(17)
        tokens.append(h.checkin(client, cookie=cookie).token)
    carried = set()
    for claims in map(claims_of, tokens):
        sealed = claims.pop("past")
        carried.add(sealed)
        assert claims["task"] != first.task
        for said in (first.task, str(int(then))):
            assert said not in json.dumps(claims)
            assert said.encode() not in jwt.utils.base64url_decode(sealed)
    assert len(carried) == 2


def test_cookie_does_not_reveal_history(tmp_path):
    """Together with the name in a check-in, it would show the rounds of a client."""
    h = Harness(tmp_path)
    h.begin(goal=3, round_seconds=86400)
    h.clock.advance(12345.5)
    cookie = h.upload(h.assigned("ward-7").token, sum_update(0)).cookie
    (entry,) = Tokens(SECRET).read_cookie(cookie, now=h.clock.now())
    assert (entry.key, entry.contributed_at) == (h.key(), h.clock.now())
    kind, kid, sealed = cookie.split(".")
    assert (kind, kid) == ("muster2", KEY.fingerprint)  # the same for every client and every round
    raw = jwt.utils.base64url_decode(sealed)
    for said in (entry.key.task, entry.key.id, str(int(entry.contributed_at)), "round", "task", "[", "{", "ward"):
        for text in (said.encode(), part(said).encode()):
            assert text not in raw, said
            assert text not in sealed.encode() or len(said) < 3, said


def test_stolen_assignment_counts_its_owner_once(h):
    """It is a bearer token for one update, and grants nothing else."""
    mine = h.assigned(0).token
    h.upload(mine, sum_update(20))  # the thief, with other data
    assert h.upload(mine, sum_update(0)).status == "accepted"
    assert len(h.blobs("updates/")) == 1
    for method, path in (("GET", "/v1/tasks"), ("POST", f"/v1/tasks/{TASK}:cancel"), ("POST", "/internal/tick")):
        assert h.bare(method, path, headers={"Authorization": f"Bearer {mine}"}).status_code == 401
    ids, count = settled(h, 1, 2)
    assert (ids, count) == (1 << 20 | 0b110, 3)


def test_client_can_not_take_the_place_of_another(h):
    """Asserted identities are ignored, and a token names its own client."""
    victim, mine = h.assigned(0).token, h.assigned(1).token
    named = Tokens(SECRET).read_assignment(victim, now=h.clock.now()).pseudonym
    forged = jwt.encode({**claims_of(mine), "sub": named}, b"x" * 32, "HS256", headers={"kid": KEY.fingerprint})
    assert refused(h, forged) is P.ASSIGNMENT_INVALID
    assert named != Tokens(SECRET).read_assignment(mine, now=h.clock.now()).pseudonym
