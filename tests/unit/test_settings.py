"""Tests of settings: the key ring, separate stores, and the settings that a function needs."""

from __future__ import annotations

import dataclasses
from urllib.parse import urlsplit

import pytest
from support import cloud
from typer.testing import CliRunner

from muster.cli.app import app
from muster_coordinator import bootstrap
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.application import CoordinatorConfig
from muster_coordinator.domain.keys import KeyRing, KeyRingError
from muster_coordinator.http import FUNCTIONS
from muster_coordinator.settings import Settings, SettingsError

A, B = "0a" * 32, "1b" * 32


def settings(root, **more):
    root = root.as_posix()
    fields = {"state": f"sqlite://{root}/s.db", "blobs": f"file://{root}/blobs", "queue": f"local://{root}/q.db"}
    return Settings.from_environment({f"MUSTER_{name.upper()}": value for name, value in {**fields, **more}.items()})


def test_every_setting_has_a_description():
    for name, field in Settings.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_every_field_of_the_configuration_is_documented():
    for field in dataclasses.fields(CoordinatorConfig):
        assert f"\n      {field.name}: " in CoordinatorConfig.__doc__, field.name


def test_key_ring_parses_one_or_several_keys_with_or_without_ids():
    assert [key.secret.hex() for key in KeyRing.parse(A)] == [A]
    ring = KeyRing.parse(f"2026-09:{B}, {A}")
    assert [(key.id, key.secret.hex()) for key in ring] == [("2026-09", B), ("", A)]
    # A key keeps its fingerprint when it gets an id.
    assert ring.oldest.fingerprint == KeyRing.parse(f"old:{A}").newest.fingerprint
    assert ring.find(ring.oldest.fingerprint) is ring.oldest
    assert ring.find("0" * 16) is None
    assert A not in repr(ring)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "hex"),
        ("abc", "hex"),
        (A[:-2], "hex"),
        (A + "0", "hex"),
        (A.upper(), "hex"),
        (f"{A},", "key 2"),
        (f"Ü:{A}", "id of key 1"),
        (f":{A}", "id of key 1"),
        (f"a:{A},a:{B}", "same id"),
        (f"a:{A},b:{A}", "twice"),
    ],
)
def test_invalid_key_ring_is_refused_without_quoting_a_key(tmp_path, text, reason):
    with pytest.raises(KeyRingError, match=reason) as refused:
        KeyRing.parse(text)
    assert A[:-2].lower() not in str(refused.value).lower()
    if text:
        with pytest.raises(SettingsError, match="MUSTER_SECRET") as error:
            settings(tmp_path, secret=text)
        assert A[:-2].lower() not in str(error.value).lower()


def test_only_client_api_needs_keys(tmp_path):
    bare = settings(tmp_path)
    for function in set(FUNCTIONS) - {"client_api"}:
        bootstrap.application(bare, function=function)
    for function in ("client_api", None):
        with pytest.raises(SettingsError, match="MUSTER_SECRET is not set, and client_api signs"):
            bootstrap.application(bare, function=function)
    bootstrap.application(settings(tmp_path, secret=A), function="client_api")


def test_updates_and_partials_are_stored_separately_if_set(tmp_path):
    separate = {part: f"file://{tmp_path.as_posix()}/{part}" for part in ("updates", "partials")}
    blobs = bootstrap.platform(settings(tmp_path, **separate)).blobs
    blob_names = ["manifests/t/1", "partials/t/1", "plans/p/full", "updates/0000/t/1"]
    for name in blob_names:
        blobs.create(name, [name.encode()])
    assert [blob.name for blob in blobs.list("")] == blob_names
    by_store = {
        part: [blob.name for blob in DirectoryBlobs(tmp_path / part).list("")]
        for part in ("blobs", "updates", "partials")
    }
    assert by_store == {"blobs": blob_names[::2], "updates": blob_names[3:], "partials": blob_names[1:2]}


def test_direct_uploads_go_to_the_store_of_updates(tmp_path):
    with cloud.environment(STORAGE_EMULATOR_HOST="http://127.0.0.1:9"):
        separate = {"updates": "gs://single-updates/home", "blobs": "gs://the-rest"}
        app = bootstrap.application(settings(tmp_path, secret=A, **separate), function="client_api")
        target = app.platform.direct.start("updates/0/a", size=9, crc32c="AAAAAA==", seconds=60)
        assert urlsplit(target.url).path == "/single-updates/home/updates/0/a"
        # Functions that sign no uploads need no account that may sign.
        assert bootstrap.application(settings(tmp_path, **separate), function="operator_api").platform.direct is None


def test_new_key_signs_when_put_before_the_others(tmp_path):
    new_key = CliRunner().invoke(app, ["key", "new"]).stdout.strip()
    ring = settings(tmp_path, secret=f"{new_key},{A}").keys
    assert ring.newest.id == new_key.partition(":")[0]
    assert len(ring.newest.secret) == 32
    assert CliRunner().invoke(app, ["key", "new", "--id", "Ü"]).exit_code == 2
    listed = CliRunner().invoke(app, ["key", "list"], env={"MUSTER_SECRET": f"{new_key},{A}"}).stdout
    assert [line.split()[:2] for line in listed.splitlines()] == [
        [ring.newest.fingerprint, "signs"],
        [ring.oldest.fingerprint, "verifies"],
    ]
    assert A not in listed
    assert CliRunner().invoke(app, ["key", "list"], env={"MUSTER_SECRET": "short"}).exit_code == 2


def test_minimum_defaults_to_one_and_must_be_positive(tmp_path):
    assert settings(tmp_path, secret=A).minimum == 1
    assert settings(tmp_path, secret=A, minimum="20").minimum == 20
    with pytest.raises(SettingsError, match="MUSTER_MINIMUM: Input should be greater than or equal to 1"):
        settings(tmp_path, secret=A, minimum="0")


def test_minimum_applies_to_new_tasks(tmp_path):
    assert bootstrap.application(settings(tmp_path, secret=A, minimum="20")).task_operations.least_minimum == 20


CLOUD = {"aggregator_url": "https://a.example", "committer_url": "https://c.example", "invoker": "i@p.example"}


def cloud_queue(root, options):
    queue = f"cloudtasks://p/l/work?endpoint=127.0.0.1:9{options}"
    return bootstrap.platform(settings(root, **CLOUD, queue=queue)).queue


def test_commits_have_a_second_queue_if_set(tmp_path):
    assert cloud_queue(tmp_path, "&commits=work-commits")._parents == {
        "committer": "projects/p/locations/l/queues/work-commits"
    }
    assert cloud_queue(tmp_path, "")._parents == {}


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ("&commits=", "option commits must look like the name of a queue"),
        ("&commits=projects/p/locations/l/queues/q", "option commits must look like"),
        ("&commits=a&commits=b", "each once"),
        ("&commit=work-commits", "may be commits, endpoint"),
    ],
)
def test_mistaken_option_of_the_queue_is_refused(tmp_path, options, reason):
    with pytest.raises(SettingsError, match=f"MUSTER_QUEUE is .*{reason}"):
        cloud_queue(tmp_path, options)
