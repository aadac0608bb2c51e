"""Objects by reference: modules, files, and names that clash with installed modules."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from muster.cli.failures import LoadingError
from muster.cli.loading import load, load_computation, load_function
from muster.interpreter import command_for


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "h4_sample.py").write_text(
        "import h4_neighbour\n"
        "number = 5\n"
        "def nothing(): return [1, 2]\n"
        "def one(round): return {'a': round}\n"
        "def two(a, b): pass\n"
        "class Shelf:\n  item = 7\n"
    )
    (tmp_path / "h4_neighbour.py").write_text("")
    (tmp_path / "h4_broken.py").write_text("import h4_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("h4_sample", "h4_neighbour", "h4_broken"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    return "h4_sample"


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize("where", ["h4_sample", "h4_sample.py", "./h4_sample.py"])
def test_load_from_a_module_or_a_file(where: str) -> None:
    assert load(f"{where}:number") == 5
    assert load(f"{where}:Shelf.item") == 7


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("reference", "text"),
    [
        ("h4_sample", "should be module:attribute"),
        ("h4_sample:", "should be module:attribute"),
        (":number", "should be module:attribute"),
        ("h4_absent:x", "There is no module 'h4_absent'"),
        ("h4_absent.deeper:x", "There is no module 'h4_absent'"),
        ("absent.py:x", "There is no file absent.py"),
        ("h4_sample:nothink", "h4_sample has no 'nothink'; it has .*nothing"),
    ],
)
def test_error_names_the_missing_part_of_a_reference(reference: str, text: str) -> None:
    with pytest.raises(LoadingError, match=text):
        load(reference)


@pytest.mark.usefixtures("module")
def test_errors_of_the_loaded_module_propagate() -> None:
    with pytest.raises(ModuleNotFoundError, match="h4_that_is_not_there"):
        load("h4_broken:x")


@pytest.mark.parametrize(("name", "text"), [("number", "is a int"), ("two", "requires 2 arguments")])
def test_unusable_function_is_refused(module: str, name: str, text: str) -> None:
    with pytest.raises(LoadingError, match=text):
        load_function(f"{module}:{name}")


def test_computation_may_be_built_by_a_function(module: str) -> None:
    assert load_computation(f"{module}:nothing") == [1, 2]
    assert load_computation(f"{module}:number") == 5
    with pytest.raises(LoadingError, match="with arguments"):
        load_computation(f"{module}:one")


@pytest.fixture
def shadows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Returns a folder of files with the names of imported modules."""
    for name in ("muster", "queue", "secrets", "numpy", "typing", "sys", "json", "colorsys"):
        (tmp_path / f"{name}.py").write_text("def data(): return [1]\n")
    (tmp_path / "requests").mkdir()
    (tmp_path / "requests" / "mine.py").write_text("def data(): return [1]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path


@pytest.mark.parametrize("suffix", [".py", ""])
@pytest.mark.parametrize("name", ["muster", "queue", "secrets", "numpy", "typing", "sys", "json", "colorsys"])
def test_user_file_never_replaces_another_module(shadows: Path, name: str, suffix: str) -> None:
    before = sys.modules.get(name)
    assert load_function(f"{name}{suffix}:data")() == [1]
    assert sys.modules.get(name) is before
    assert importlib.import_module(name).__name__ == name
    assert getattr(importlib.import_module(name), "__file__", None) != str(shadows / f"{name}.py")


def test_user_file_is_loaded_again_under_its_own_name(module: str) -> None:
    assert load(f"{module}.py:number") == load(f"{module}.py:number") == 5
    assert sys.modules[module].number == 5


@pytest.mark.usefixtures("shadows")
def test_user_package_with_the_name_of_an_installed_one_is_refused() -> None:
    with pytest.raises(LoadingError, match=r"folder requests .* rename the folder"):
        load("requests.mine:data")


@pytest.mark.usefixtures("module")
def test_file_that_fails_to_load_is_not_registered() -> None:
    with pytest.raises(ModuleNotFoundError):
        load("h4_broken.py:x")
    assert "h4_broken" not in sys.modules


def test_muster_processes_ignore_modules_of_the_working_directory(shadows: Path) -> None:
    ran = subprocess.run(  # noqa: S603  our own command
        command_for("muster.local.serving", "--help"), cwd=shadows, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    assert "One process of `muster up`" in ran.stdout
