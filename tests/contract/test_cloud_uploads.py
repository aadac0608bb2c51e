"""Direct uploads to fake-gcs-server, which does not check signatures, lengths or generations."""

from __future__ import annotations

from dataclasses import replace

import pytest
from support import cloud, direct
from support.bucket import checksum
from support.harness import POPULATION, Harness
from support.plans import sum_update
from support.served import served
from werkzeug.wrappers import Request

from muster.client import Contributed, MusterClient, Sending
from muster_coordinator import bootstrap
from muster_coordinator.adapters.gcs_uploads import GcsDirectUploads
from muster_coordinator.http import router
from muster_coordinator.settings import Settings, SettingsError

BODY = bytes(range(256)) * 4096
BUCKET = "direct-uploads"


@pytest.fixture(scope="module")
def bucket(storage_emulator):
    storage_emulator.make_bucket(BUCKET)
    return BUCKET


@pytest.fixture(params=["signed", "session"])
def place(request, storage_emulator, bucket):
    """Blobs and direct uploads of a bucket."""
    above = 1 if request.param == "session" else 1 << 30
    prefix = f"home/{request.node.name}".replace("[", "/").rstrip("]")
    with cloud.gcs(storage_emulator, bucket=bucket, prefix=prefix) as blobs:
        with cloud.environment(**storage_emulator.environment):
            direct = GcsDirectUploads(bucket, prefix, resumable_above=above)
        yield blobs, direct
        direct.close()


@cloud.EMULATORS
def test_direct_upload_creates_a_blob(place):
    blobs, uploads = place
    grant = uploads.start("updates/a.b/c", size=len(BODY), crc32c=checksum(BODY), seconds=60)
    headers = dict(grant.headers)
    if grant.resumable:
        headers["Content-Range"] = f"bytes 0-{len(BODY) - 1}/{len(BODY)}"
    assert direct.put(grant.url, data=BODY, headers=headers, timeout=60).status_code == 200
    assert blobs.read("updates/a.b/c") == BODY
    assert [blob.size for blob in blobs.list("updates/")] == [len(BODY)]
    again = blobs.create("updates/a.b/c", [BODY])
    assert (again.created, again.same) == (False, True)


class Worker:
    def work(self, data, _broadcast):
        return sum_update(data)


@cloud.EMULATORS
def test_round_of_direct_uploads_commits_and_leaves_no_update(tmp_path, place):
    blobs, direct = place
    h = Harness(tmp_path, wrap=lambda inner: replace(inner, blobs=blobs, direct=direct), direct_above=10, durable=True)
    h.begin(goal=3, chunk=2)
    events = []
    with served(Request.application(router(h.app))) as url:
        for number in range(3):
            with MusterClient(
                url,
                POPULATION,
                lambda number=number: number,
                runtime_factory=lambda _: Worker(),
                on_event=events.append,
            ) as client:
                assert isinstance(client.run_once(), Contributed)
    h.deliver_all()
    assert any(isinstance(event, Sending) for event in events)
    assert int(h.result(1)["ids"]) == 0b111
    assert list(blobs.list("updates/")) == []


@cloud.EMULATORS
@pytest.mark.parametrize(
    ("setting", "above"), [({}, 8 << 20), ({"direct_above": "1000"}, 1000), ({"direct_above": "never"}, None)]
)
def test_direct_uploads_need_a_bucket_and_can_be_disabled(tmp_path, storage_emulator, bucket, setting, above):
    root = tmp_path.as_posix()
    fields = {"state": f"sqlite://{root}/s.db", "queue": f"local://{root}/q.db", "secret": "5" * 64, **setting}
    with cloud.environment(**storage_emulator.environment):
        app = bootstrap.application(Settings.model_validate({**fields, "blobs": f"gs://{bucket}/home"}))
    assert app.assignment_issuer.direct_above == above
    assert (app.platform.direct is None) is (above is None)
    folder = Settings.model_validate({**fields, "blobs": f"file://{root}/blobs"})
    if isinstance(folder.direct_above, int):
        with pytest.raises(SettingsError, match="MUSTER_BLOBS=gs://"):
            bootstrap.application(folder)
    else:
        assert bootstrap.application(folder).platform.direct is None
