"""Bundles: reproducible, complete, and without code that functions do not import.

Also the contents of the wheel.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from muster import bundles
from muster.bundles import KINDS, SourceError, build

ROOT = Path(__file__).resolve().parents[2]
OWN_PACKAGES = {"muster_coordinator", "muster"}
CODE_LIMIT = 1_200_000  # bytes
# Distributions with another name than their modules.
DISTRIBUTIONS = {
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
    """Copies the sources of bundles in another order, with other times and modes."""
    for source in ("functions", "client/muster", "requirements/functions"):
        files = sorted(path for path in (ROOT / source).rglob("*") if path.is_file() and path.suffix != ".pyc")
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


def test_builds_are_reproducible_despite_times_modes_order_and_stray_files(tmp_path, built):
    source = checkout(tmp_path / "a checkout", backwards=True)
    for leftover in (
        "muster_coordinator/__pycache__/x.cpython-311.pyc",
        "muster_coordinator/.main.py.swp",
        "client_api/.hidden/x.py",
    ):
        (source / "functions" / leftover).parent.mkdir(exist_ok=True)
        (source / "functions" / leftover).write_bytes(b"left over")
    rebuilt = build(source, out=tmp_path / "out")
    assert [bundle.name for bundle in rebuilt] == list(KINDS)
    for bundle in rebuilt:
        assert bundle.path.read_bytes() == built[bundle.name].path.read_bytes()
        assert bundle.sha256 == built[bundle.name].sha256
    assert {path.name for path in (tmp_path / "out").iterdir()} == {f"{name}.zip" for name in KINDS}


def test_source_change_changes_only_the_bundles_that_contain_it(tmp_path, built):
    source = checkout(tmp_path)
    with (source / "functions/aggregator/main.py").open("a") as file:
        file.write("# changed\n")
    changed = {
        bundle.name for bundle in build(source, out=tmp_path / "out") if bundle.sha256 != built[bundle.name].sha256
    }
    assert changed == {"aggregator", "aggregator-tensorflow"}


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_bundle_contains_its_imports_and_no_client_code(name, built):
    files = contents(built[name].path)
    assert "main.py" in files
    assert {path.partition("/")[0] for path in files} == {"main.py", "requirements.txt", "NOTICE", *OWN_PACKAGES}
    assert {path.split("/")[1] for path in files if path.startswith("muster/")} == {"__init__.py", "wire", "runtime"}
    assert not [path for path in files if "task_export" in path]
    modules = {path.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for path in files}
    missing = {
        (path, module)
        for path, module in imports(files)
        if module.split(".")[0] in OWN_PACKAGES and module not in modules
    }
    assert missing == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_requirements_of_a_bundle_cover_its_imports(name, built):
    files = contents(built[name].path)
    pinned = {line.partition("==")[0] for line in files["requirements.txt"].decode().splitlines()}
    foreign = {module for _, module in imports(files) if module.split(".")[0] not in OWN_PACKAGES}
    needed = {
        next(
            (distribution for prefix, distribution in DISTRIBUTIONS.items() if f"{module}.".startswith(f"{prefix}.")),
            module.split(".")[0],
        )
        for module in foreign - {"google.cloud"}  # a namespace package of several libraries
    }
    without_tensorflow = name in ("client_api", "operator_api", "aggregator")
    missing = {distribution.replace("_", "-") for distribution in needed} - pinned
    assert missing == ({"tensorflow-cpu"} if without_tensorflow else set()), (
        "add it to requirements/functions/*.in and run make requirements"
    )


def imports(files: dict[str, bytes]) -> set[tuple[str, str]]:
    """Returns each file with each module that it imports, without the standard library."""
    imported = set()
    for path, source in files.items():
        if not path.endswith(".py"):
            continue
        package = path.split("/")[:-1]
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Import):
                imported |= {(path, alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                base = package[: len(package) + 1 - node.level] if node.level else []
                module = ".".join([*base, *filter(None, [node.module])])
                if node.module is None or module == "google.cloud":
                    imported |= {(path, f"{module}.{alias.name}") for alias in node.names}
                else:
                    imported.add((path, module))
    return {(path, module) for path, module in imported if module.split(".")[0] not in sys.stdlib_module_names}


def test_only_bundles_with_graphs_require_tensorflow_and_none_requires_tff(built):
    pinned = {name: contents(bundle.path)["requirements.txt"].decode() for name, bundle in built.items()}
    assert {name for name, text in pinned.items() if "tensorflow" in text} == {"aggregator-tensorflow", "committer"}
    assert not any("federated" in text or "://" in text for text in pinned.values())


def test_bundle_of_an_api_has_less_than_1_2_megabytes_of_code(built):
    for name in ("client_api", "operator_api"):
        files = contents(built[name].path)
        assert built[name].files == len(files)
        assert (
            built[name].code_bytes
            == sum(len(data) for path, data in files.items() if path not in ("requirements.txt", "NOTICE"))
            < CODE_LIMIT
        )


def test_installed_muster_builds_the_same_bundles(tmp_path, built, monkeypatch):
    site_packages = tmp_path / "site-packages"
    package = site_packages / "muster"
    source = checkout(tmp_path / "checkout")
    # The layout of the wheel.
    shutil.move(source / "client/muster", package)
    shutil.move(source / "functions/muster_coordinator", site_packages / "muster_coordinator")
    shutil.move(source / "requirements/functions", package / "_requirements")
    for function in ("client_api", "operator_api", "aggregator", "committer"):
        (package / "_functions" / function).mkdir(parents=True)
        shutil.move(source / "functions" / function / "main.py", package / "_functions" / function / "main.py")
    monkeypatch.setattr(bundles, "__file__", str(package / "bundles.py"))
    monkeypatch.setattr(bundles, "functions_folder", lambda: package / "_functions")
    monkeypatch.setattr(bundles, "_coordinator_package", lambda: site_packages / "muster_coordinator")
    assert {bundle.name: bundle.sha256 for bundle in build(out=tmp_path / "out")} == {
        name: bundle.sha256 for name, bundle in built.items()
    }


def wheel_sources(tmp_path: Path) -> list[str]:
    """Returns the names of the wheel's Python files.

    Builds the wheel if hatchling is installed, or else reads its configuration.
    """
    tools = Path(sys.prefix) / "build-tools"  # made by requirements/make-env.sh
    code = (
        "import sys; from hatchling.builders.wheel import WheelBuilder; "
        "print(*WheelBuilder(sys.argv[1]).build(directory=sys.argv[2], versions=['standard']))"
    )
    command = [sys.executable, "-c", code, str(ROOT), str(tmp_path)]
    # With `-c`, the working directory is on the path
    folder = tools if tools.is_dir() else tmp_path
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode == 0:
        with zipfile.ZipFile(done.stdout.strip()) as wheel:
            return [name for name in wheel.namelist() if name.endswith(".py")]
    assert "No module named 'hatchling'" in done.stderr, done.stderr
    wheel = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]["targets"]["wheel"]
    included = {package: package.rpartition("/")[2] for package in wheel["packages"]} | wheel["force-include"]
    return [
        f"{target}/{file.relative_to(ROOT / source).as_posix()}"
        for source, target in included.items()
        for file in (ROOT / source).rglob("*.py")
    ]


def test_wheel_contains_each_source_file_once(tmp_path):
    sources = [
        *(path.relative_to(ROOT / "client").as_posix() for path in (ROOT / "client/muster").rglob("*.py")),
        *(path.relative_to(ROOT / "functions").as_posix() for path in (ROOT / "functions").rglob("*.py")),
    ]
    expected = [name if name.split("/")[0] in OWN_PACKAGES else f"muster/_functions/{name}" for name in sources]
    assert Counter(wheel_sources(tmp_path)) == Counter(expected)


def test_source_without_muster_is_refused_with_its_name(tmp_path):
    with pytest.raises(SourceError, match="functions"):
        build(tmp_path, out=tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []
