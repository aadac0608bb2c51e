"""Bundles: the same bytes from the same source, and nothing that a function imports left out."""

from __future__ import annotations

import ast
import os
import shutil
import sys
import zipfile
from pathlib import Path

import pytest

from muster import bundles
from muster.bundles import KINDS, SourceError, build

ROOT = Path(__file__).resolve().parents[2]
OURS = {"coordinator", "muster"}
LIMIT = 1_000_000  # bytes of our own code in a bundle of an API
# What brings a module that is imported, where it is not called like it.
BRINGS = {
    "google.api_core": "google-api-core",
    "google.auth": "google-auth",
    "google.cloud.firestore": "google-cloud-firestore",
    "google.cloud.storage": "google-cloud-storage",
    "google.cloud.tasks_v2": "google-cloud-tasks",
    "google.protobuf": "protobuf",
    "grpc": "grpcio",
    "jwt": "pyjwt",
    "tensorflow": "tensorflow-cpu",
}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    return {bundle.name: bundle for bundle in build(out=tmp_path_factory.mktemp("bundles"))}


def checkout(folder: Path, *, backwards: bool = False) -> Path:
    """A copy of what bundles are made of, with other times, and made in another order."""
    for place in ("functions", "client/muster", "requirements/functions"):
        files = sorted(path for path in (ROOT / place).rglob("*") if path.is_file() and path.suffix != ".pyc")
        for path in reversed(files) if backwards else files:
            target = folder / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            os.utime(target, (1e9, 1e9))
            target.chmod(0o600)
    return folder


def contents(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_two_builds_give_the_same_bytes_whatever_times_modes_order_and_leftovers(tmp_path, built):
    source = checkout(tmp_path / "a checkout", backwards=True)
    for leftover in (
        "coordinator/__pycache__/x.cpython-311.pyc",
        "coordinator/.main.py.swp",
        "client_api/.hidden/x.py",
    ):
        (source / "functions" / leftover).parent.mkdir(exist_ok=True)
        (source / "functions" / leftover).write_bytes(b"left over")
    again = build(source, out=tmp_path / "out")
    assert [bundle.name for bundle in again] == list(KINDS)
    for bundle in again:
        assert bundle.path.read_bytes() == built[bundle.name].path.read_bytes()
        assert bundle.sha256 == built[bundle.name].sha256
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.zip" for name in KINDS}


def test_a_change_of_the_source_changes_the_bundles_that_hold_it(tmp_path, built):
    source = checkout(tmp_path)
    with (source / "functions/aggregator/main.py").open("a") as file:
        file.write("# changed\n")
    changed = {
        bundle.name for bundle in build(source, out=tmp_path / "out") if bundle.sha256 != built[bundle.name].sha256
    }
    assert changed == {"aggregator", "aggregator-tensorflow"}


@pytest.mark.parametrize("name", KINDS)
def test_a_bundle_holds_what_it_imports_and_nothing_of_the_client(name, built):
    files = contents(built[name].path)
    assert "main.py" in files
    assert {path.partition("/")[0] for path in files} == {"main.py", "requirements.txt", "NOTICE", *OURS}
    assert {path.split("/")[1] for path in files if path.startswith("muster/")} == {"__init__.py", "wire", "runtime"}
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files}
    missing = {
        (path, module) for path, module in imports(files) if module.split(".")[0] in OURS and module not in modules
    }
    assert missing == set()


@pytest.mark.parametrize("name", KINDS)
def test_a_bundles_requirements_bring_what_it_imports(name, built):
    files = contents(built[name].path)
    pinned = {line.partition("==")[0] for line in files["requirements.txt"].decode().splitlines()}
    foreign = {module for _, module in imports(files) if module.split(".")[0] not in OURS}
    needed = {
        next(
            (brings for prefix, brings in BRINGS.items() if f"{module}.".startswith(f"{prefix}.")), module.split(".")[0]
        )
        for module in foreign - {"google.cloud"}  # a folder that several libraries fill
    }
    without_tensorflow = name in ("client_api", "operator_api", "aggregator")
    missing = {each.replace("_", "-") for each in needed} - pinned
    assert missing == ({"tensorflow-cpu"} if without_tensorflow else set()), (
        "name it in requirements/functions/*.in and run make requirements"
    )


def imports(files: dict[str, bytes]) -> set[tuple[str, str]]:
    """Each module that a file imports, in functions too, with the file; not the standard library's, nor what only types need."""
    found = set()
    for path, source in files.items():
        if not path.endswith(".py"):
            continue
        package = path.split("/")[:-1]
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                found |= {(path, alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) + 1 - node.level] if node.level else []
                module = ".".join([*base, *filter(None, [node.module])])
                if node.module is None or module == "google.cloud":
                    found |= {(path, f"{module}.{alias.name}") for alias in node.names}
                else:
                    found.add((path, module))
    return {(path, module) for path, module in found if module.split(".")[0] not in sys.stdlib_module_names}


def test_only_bundles_that_run_graphs_bring_tensorflow_and_none_brings_tff(built):
    pinned = {name: contents(bundle.path)["requirements.txt"].decode() for name, bundle in built.items()}
    assert {name for name, text in pinned.items() if "tensorflow" in text} == {"aggregator-tensorflow", "committer"}
    assert not any("federated" in text or "://" in text for text in pinned.values())


def test_an_api_has_less_than_a_megabyte_of_own_code(built):
    for name in ("client_api", "operator_api"):
        files = contents(built[name].path)
        assert built[name].files == len(files)
        assert (
            built[name].code_bytes
            == sum(len(data) for path, data in files.items() if path not in ("requirements.txt", "NOTICE"))
            < LIMIT
        )


def test_an_installed_muster_builds_the_same_bundles(tmp_path, built, monkeypatch):
    package = tmp_path / "site-packages" / "muster"
    source = checkout(tmp_path / "checkout")
    shutil.move(source / "client/muster", package)
    shutil.move(source / "functions", package / "_functions")
    shutil.move(source / "requirements/functions", package / "_requirements")  # where the wheel's build puts them
    monkeypatch.setattr(bundles, "__file__", str(package / "bundles.py"))
    monkeypatch.setattr(bundles, "functions_folder", lambda: package / "_functions")
    assert {each.name: each.sha256 for each in build(out=tmp_path / "out")} == {
        name: each.sha256 for name, each in built.items()
    }


def test_a_source_that_is_no_muster_is_refused_by_name(tmp_path):
    with pytest.raises(SourceError, match="functions"):
        build(tmp_path, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
