"""Account that may create objects but not delete them.

Cloud Storage may report that before it checks whether a name is free.
"""

from __future__ import annotations

import json

import pytest
from support import cloud
from support.bucket import checksum
from support.served import served
from werkzeug.wrappers import Request, Response

from muster_coordinator.adapters.gcs import GcsBlobs
from muster_coordinator.adapters.google_calls import ForbiddenError


class DenyingBucket:
    """Bucket that denies every upload, and lists its blobs."""

    def __init__(self, held: dict[str, bytes]) -> None:
        self._held = held

    @Request.application
    def __call__(self, request: Request) -> Response:
        if request.method == "POST":
            body = {"error": {"code": 403, "message": "no storage.objects.delete access"}}
            return Response(json.dumps(body), status=403, content_type="application/json")
        items = [
            {"name": name, "size": str(len(data)), "crc32c": checksum(data), "timeCreated": "2026-01-01T00:00:00Z"}
            for name, data in self._held.items()
            if name.startswith(request.args["prefix"])
        ]
        return Response(json.dumps({"items": items}), content_type="application/json")


@pytest.mark.parametrize("size", [10, 4 << 20])
def test_denied_create_on_a_taken_name_is_not_an_error(size):
    data = bytes(size)
    with served(DenyingBucket({"updates/taken": data})) as url, cloud.environment(STORAGE_EMULATOR_HOST=url):
        blobs = GcsBlobs("bucket", patience=2.0)
        for brought, same in ((data, True), (b"other", False)):
            made = blobs.create("updates/taken", [brought])
            assert (made.created, made.same, made.blob.size) == (False, same, size)
        with pytest.raises(ForbiddenError, match="grant"):
            blobs.create("updates/free", [data])
        blobs.close()
