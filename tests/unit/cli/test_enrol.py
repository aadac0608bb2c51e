"""`muster enrol`: private files of keys and tokens, and revocation."""

from __future__ import annotations

import json
import stat

import pytest
from support.harness import Harness
from support.served import served
from typer.testing import CliRunner
from werkzeug.wrappers import Request

from muster.cli.app import app
from muster.wire.enrolment import PublicKeys
from muster_coordinator.http import router


def run(*arguments, code=0):
    result = CliRunner().invoke(app, list(map(str, arguments)))
    assert result.exit_code == code, result.output
    return result


@pytest.fixture
def key(tmp_path):
    path = tmp_path / "enrolment.key"
    made = json.loads(run("enrol", "key", "--out", path, "--json").stdout)
    return path, made["public"]


def test_key_file_is_private_and_never_overwritten(key):
    path, public = key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    before = path.read_bytes()
    assert "exists already" in run("enrol", "key", "--out", path, code=2).output
    assert path.read_bytes() == before
    assert public not in before.decode()


def test_only_the_token_is_written_to_stdout(key):
    path, public = key
    result = run("enrol", "issue", "--key", path, "--population", "phones", "--name", "ward-7", "--expires", "12h")
    enrolment = PublicKeys(public).read(result.stdout.strip())
    assert (enrolment.population, enrolment.name) == ("phones", "ward-7")
    assert enrolment.expires_at - enrolment.issued_at == pytest.approx(12 * 3600, abs=2)
    assert enrolment.id in result.stderr


@pytest.mark.parametrize("expires", ["90", "0d", "90x", "-1d", "9999d", "1.5h"])
def test_invalid_duration_is_wrong_usage(key, expires):
    arguments = ("--population", "phones", "--name", "a", "--expires", expires)
    assert "is not a duration such as" in run("enrol", "issue", "--key", key[0], *arguments, code=2).output


def test_invalid_names_and_keys_are_reported(key, tmp_path):
    named = ("--population", "phones", "--name")
    assert "is not a valid client name" in run("enrol", "issue", "--key", key[0], *named, "a b", code=2).output
    other = tmp_path / "other"
    other.write_text("no key")
    assert "not a private key" in run("enrol", "issue", "--key", other, *named, "a", code=2).output


def test_revoke_by_token_and_by_id(key, tmp_path):
    harness = Harness(tmp_path, durable=True)  # served by threads
    out = tmp_path / "token"
    common = ("enrol", "issue", "--key", key[0], "--population", "phones", "--name", "a", "--json")
    first = json.loads(run(*common, "--out", out).stdout)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    second = json.loads(run(*common).stdout)
    with served(Request.application(router(harness.app))) as url:
        run("enrol", "revoke", out.read_text().strip(), "--url", url)
        run("enrol", "revoke", second["id"], "--url", url)
        listed = json.loads(run("enrol", "revoked", "--url", url, "--json").stdout)
    assert {view["id"]: "expires_at" in view for view in listed} == {first["id"]: True, second["id"]: False}
