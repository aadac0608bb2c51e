"""A coordinator with trusted signers accepts and runs only plans that they signed."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from support.plans import sum_plan

from muster.wire.encodings import decoding_reader
from muster.wire.plan import Plan
from muster.wire.problems import ProblemError
from muster.wire.signatures import SigningKey
from muster_coordinator.adapters.directory import DirectoryBlobs
from muster_coordinator.bootstrap import application
from muster_coordinator.domain.names import plan_name
from muster_coordinator.settings import Settings, SettingsError
from muster_coordinator.state.plan_repository import PlanRepository

PLAN = sum_plan()
KEY, OTHER = SigningKey.generate(), SigningKey.generate()
SIGNED = PLAN.signed(KEY)
TRUSTED = frozenset({KEY.signer})
FULL, COPY = plan_name(PLAN.sha256, for_client=False), plan_name(PLAN.sha256, for_client=True)


@pytest.fixture
def blobs(tmp_path: Path) -> DirectoryBlobs:
    return DirectoryBlobs(tmp_path)


def test_plan_of_a_trusted_signer_is_accepted_and_run(blobs):
    plans = PlanRepository(blobs, TRUSTED)
    assert plans.put(PLAN.sha256, SIGNED.encode())
    assert not plans.put(PLAN.sha256, SIGNED.encode())
    assert plans.full(PLAN.sha256) == SIGNED
    assert Plan.decode(bytes(plans.for_client(PLAN.sha256).data)) == SIGNED.for_client()


@pytest.mark.parametrize("plan", [PLAN, PLAN.signed(OTHER)], ids=["unsigned", "another signer"])
def test_plan_without_trusted_signature_is_refused(blobs, plan):
    with pytest.raises(ProblemError, match=r"not signed|none of whom"):
        PlanRepository(blobs, TRUSTED).put(PLAN.sha256, plan.encode())
    assert not list(blobs.list("plans/"))


@pytest.mark.parametrize("swapped", [PLAN, PLAN.signed(OTHER)], ids=["unsigned", "another signer"])
def test_plan_replaced_in_the_store_is_not_run(blobs, swapped):
    PlanRepository(blobs, TRUSTED).put(PLAN.sha256, SIGNED.encode())
    blobs.delete([FULL])
    blobs.create(FULL, [swapped.encode()])
    with pytest.raises(ProblemError, match=r"not signed|none of whom"):
        PlanRepository(blobs, TRUSTED).full(PLAN.sha256)


def test_repeated_upload_adds_signatures(blobs):
    plans = PlanRepository(blobs)
    for plan in (PLAN, PLAN.signed(OTHER), SIGNED, PLAN):
        plans.put(PLAN.sha256, plan.encode())
    both = PLAN.signed(KEY).signed(OTHER)
    assert bytes(blobs.read(FULL)) == both.encode()
    assert bytes(blobs.read(COPY)) == both.for_client().encode()
    assert PlanRepository(blobs, TRUSTED).full(PLAN.sha256) == both


def test_repeated_upload_repairs_a_damaged_plan(blobs):
    for name in (FULL, COPY):
        blobs.create(name, [b"broken"])
    PlanRepository(blobs, TRUSTED).put(PLAN.sha256, SIGNED.encode())
    assert PlanRepository(blobs, TRUSTED).full(PLAN.sha256) == SIGNED
    assert bytes(blobs.read(COPY)) == SIGNED.for_client().encode()


def environment(tmp_path: Path, signers: str) -> dict[str, str]:
    return {
        "MUSTER_STATE": f"sqlite://{tmp_path}/state.db",
        "MUSTER_BLOBS": f"file://{tmp_path}/blobs",
        "MUSTER_QUEUE": f"local://{tmp_path}/queue.db",
        "MUSTER_SECRET": "ab" * 32,
        "MUSTER_TRUSTED_SIGNERS": signers,
    }


def test_setting_names_the_trusted_signers(tmp_path):
    both = f"{KEY.signer}, {OTHER.signer}"
    app = application(Settings.from_environment(environment(tmp_path, both)))
    assert app.plans.trusted == {KEY.signer, OTHER.signer}
    with pytest.raises(SettingsError, match=r"MUSTER_TRUSTED_SIGNERS: .*is not a signer"):
        Settings.from_environment(environment(tmp_path, "me"))


def test_later_signature_appears_in_encoded_copies(blobs):
    plans = PlanRepository(blobs)
    plans.put(PLAN.sha256, PLAN.encode())
    plans.put(PLAN.sha256, SIGNED.encode())
    plain = plans.for_client(PLAN.sha256).data
    for encoding in ("zstd", "gzip"):
        copy = PlanRepository(blobs).for_client(PLAN.sha256, accepted=[encoding])
        read = decoding_reader(io.BytesIO(copy.data).read, encoding) if copy.encoding else io.BytesIO(copy.data).read
        assert read(1 << 20) == plain
    assert Plan.decode(bytes(plain)).signatures == SIGNED.signatures
