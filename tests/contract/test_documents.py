"""Contract of `Documents`, over every adapter."""

from __future__ import annotations

import math

import pytest

from muster_coordinator.ports import AlreadyExistsError, ConflictError

PATH = "tasks/t1/rounds/000001-0000"
DATA = {
    "text": "Grüße\n\0",
    "n": 2**53,
    "float": 0.1,
    "none": None,
    "yes": True,
    "list": [1, [2], {}],
    "map": {"a": {"b": []}},
}


def test_created_document_reads_back_equal(documents):
    made = documents.create(PATH, DATA)
    assert documents.get(PATH) == made
    assert (made.path, made.id, made.data) == (PATH, "000001-0000", DATA)


def test_non_finite_floats_are_stored(documents):
    documents.create("a/b", {"nan": math.nan, "inf": -math.inf})
    data = documents.get("a/b").data
    assert math.isnan(data["nan"])
    assert data["inf"] == -math.inf


def test_repeated_create_raises_and_writes_nothing(documents):
    made = documents.create(PATH, DATA)
    for data in (DATA, {"other": 1}):
        with pytest.raises(AlreadyExistsError):
            documents.create(PATH, data)
    assert documents.get(PATH) == made


def test_get_returns_none_for_a_missing_document(documents):
    documents.create(PATH, DATA)
    assert documents.get("tasks/t1") is None
    assert documents.get("tasks/t1/rounds/000001-0001") is None


def test_returned_data_is_not_shared_with_the_store(documents):
    data = {"list": [1]}
    documents.create("a/b", data).data["list"].append(2)
    data["list"].append(3)
    documents.get("a/b").data["list"].append(4)
    assert documents.get("a/b").data == {"list": [1]}


def test_replace_writes_if_the_version_is_current(documents):
    made = documents.create(PATH, DATA)
    written = documents.replace(PATH, {"n": 1}, version=made.version)
    assert documents.get(PATH) == written
    assert written.data == {"n": 1}


@pytest.mark.parametrize(
    "change", ["replace", "increment", "delete", "delete and create", "nothing but a foreign version"]
)
def test_replace_of_a_changed_document_raises_and_writes_nothing(documents, change):
    version = documents.create(PATH, {"n": 1}).version
    if change == "replace":
        documents.replace(PATH, {"n": 1}, version=version)
    elif change == "increment":
        documents.increment(PATH, {"n": 1})
    elif change.startswith("delete"):
        documents.delete(PATH)
        if change.endswith("create"):
            assert documents.create(PATH, {"n": 1}).version != version
    else:
        version = "not a version"
    before = documents.get(PATH)
    with pytest.raises(ConflictError):
        documents.replace(PATH, {"n": 9}, version=version)
    assert documents.get(PATH) == before


def test_every_write_has_a_new_version(documents):
    versions = []
    for _ in range(3):
        versions.append(documents.create("a/b", {"n": 0}).version)
        versions.append(documents.replace("a/b", {"n": 0}, version=versions[-1]).version)
        documents.increment("a/b", {"n": 0})
        versions.append(documents.get("a/b").version)
        documents.delete("a/b")
    assert len(set(versions)) == 9


def test_delete_ignores_a_missing_document(documents):
    documents.delete(PATH)
    documents.delete(PATH, version=documents.create("a/b", {}).version)
    documents.delete("a/b")
    assert documents.get("a/b") is None


def test_delete_with_a_version_deletes_only_that_version(documents):
    old = documents.create(PATH, {"n": 1})
    new = documents.replace(PATH, {"n": 2}, version=old.version)
    with pytest.raises(ConflictError):
        documents.delete(PATH, version=old.version)
    assert documents.get(PATH) == new
    documents.delete(PATH, version=new.version)
    assert documents.get(PATH) is None


def test_dot_in_a_field_is_part_of_its_name(documents):
    assert documents.increment("a/b", {"failed_data.missing": 1, "failed_data": 2}) == {
        "failed_data.missing": 1,
        "failed_data": 2,
    }
    assert documents.increment("a/b", {"failed_data.missing": 1}) == {"failed_data.missing": 2}
    assert documents.get("a/b").data == {"failed_data.missing": 2, "failed_data": 2}


def test_increment_creates_missing_document_and_fields_at_0(documents):
    assert documents.increment("a/b", {"x": 2, "y": 0}) == {"x": 2, "y": 0}
    assert documents.increment("a/b", {"x": -3, "z": 1}) == {"x": -1, "z": 1}
    assert documents.get("a/b").data == {"x": -1, "y": 0, "z": 1}
    documents.create("a/c", {"keep": "me"})
    documents.increment("a/c", {"n": 1})
    assert documents.get("a/c").data == {"keep": "me", "n": 1}


def test_list_returns_direct_documents_in_order_of_id(documents):
    for key in ("b", "a", "a-b", "B", "10", "9", "é"):
        documents.create(f"tasks/{key}", {"key": key})
    for other in ("tasks/a/rounds/1", "tasksx/a", "populations/p/tasks/a"):
        documents.create(other, {})
    ids = ["10", "9", "B", "a", "a-b", "b", "é"]
    assert [document.id for document in documents.list("tasks")] == ids
    assert documents.list("tasks") == [documents.get(f"tasks/{key}") for key in ids]
    assert [document.id for document in documents.list("tasks", after="9", limit=3)] == ["B", "a", "a-b"]
    assert [document.id for document in documents.list("tasks", after="9z")] == ids[2:]
    assert documents.list("tasks", limit=0) == []
    assert documents.list("tasks/none/rounds") == []


@pytest.mark.parametrize("path", ["", "a", "a/b/c", "/a", "a/", "a//b/c", "/a/b/c"])
def test_invalid_paths_are_refused(documents, path):
    for call in (
        documents.get,
        documents.delete,
        lambda path: documents.create(path, {}),
        lambda path: documents.increment(path, {}),
    ):
        with pytest.raises(ValueError, match="is not the path of a document"):
            call(path)
    with pytest.raises(ValueError, match="is not the path of a collection"):
        documents.list("a/b")


def test_one_concurrent_create_wins(documents, at_once):
    def create(writer):
        made = []
        for number in range(20):
            try:
                documents.create(f"things/{number}", {"by": writer})
            except AlreadyExistsError:
                continue
            made.append((str(number), writer))
        return made

    won = sorted(pair for made in at_once(create) for pair in made)
    assert won == sorted((document.id, document.data["by"]) for document in documents.list("things"))
    assert len(won) == 20


def test_concurrent_increments_get_distinct_values(documents, at_once):
    values = at_once(lambda _: [documents.increment("a/b", {"n": 1, "m": 2}) for _ in range(25)])
    assert sorted(value["n"] for mine in values for value in mine) == list(range(1, 201))
    assert all(value["m"] == 2 * value["n"] for mine in values for value in mine)


def test_concurrent_replaces_lose_nothing(documents, at_once):
    documents.create("a/b", {"n": 0})

    def add(_):
        done = conflicts = 0
        while done < 25:
            document = documents.get("a/b")
            try:
                documents.replace("a/b", {"n": document.data["n"] + 1}, version=document.version)
            except ConflictError:
                conflicts += 1
            else:
                done += 1
        return conflicts

    at_once(add)
    assert documents.get("a/b").data == {"n": 200}


def test_one_concurrent_versioned_delete_or_replace_wins(documents, at_once):
    for _ in range(10):
        version = documents.create("a/b", {"by": None}).version

        def change(writer, version=version):
            try:
                if writer % 2:
                    documents.replace("a/b", {"by": writer}, version=version)
                else:
                    documents.delete("a/b", version=version)
            except ConflictError:
                return None
            return writer

        winners = [writer for writer in at_once(change) if writer is not None and writer % 2]
        left = documents.get("a/b")
        assert [left.data["by"]] == winners if left else winners == []
        documents.delete("a/b")
