"""The Terraform configuration: format, validity, its own tests, and up-to-date READMEs."""

from __future__ import annotations

import sys

import pytest
from support import terraform
from support.terraform import TREE

DIRECTORIES = terraform.directories()
TESTED = [directory for directory in DIRECTORIES if any((TREE / directory).glob("tests/*.tftest.hcl"))]


def folders(names):
    # One worker runs all tests of a folder, which share its providers.
    return [pytest.param(name, marks=pytest.mark.xdist_group(f"terraform {name}"), id=name) for name in names]


def test_is_formatted():
    terraform.require()
    done = terraform.run("terraform", "fmt", "-check", "-recursive", "-diff", "-no-color", ".", cwd=TREE)
    assert done.code == 0, f"run terraform fmt -recursive infra/terraform\n{done.output}"


@pytest.mark.parametrize("directory", folders(DIRECTORIES))
def test_validates(copy, directory):
    assert not copy.validate(directory)


@pytest.mark.parametrize("directory", folders(TESTED))
def test_passes_its_tests(copy, directory):
    verdict = copy.test(directory)
    assert not verdict.errors
    assert not verdict.assertions
    assert verdict.passed


def test_every_module_has_tests():
    assert {directory for directory in DIRECTORIES if not directory.startswith("examples/")} == {
        directory for directory in TESTED if not directory.startswith("examples/")
    }


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_folder_has_a_readme(directory):
    assert (TREE / directory / "README.md").exists()


def test_readmes_list_the_current_variables_and_outputs():
    done = terraform.run(sys.executable, "readme.py", "--check", cwd=TREE)
    assert done.code == 0, done.output + done.errors


@pytest.mark.parametrize("directory", [name for name in DIRECTORIES if name == "." or name.startswith("modules/")])
def test_module_has_the_four_standard_files(directory):
    names = {file.name for file in (TREE / directory).glob("*.tf")}
    assert names >= {"main.tf", "variables.tf", "outputs.tf", "versions.tf"}


def test_tree_contains_no_files_of_a_run():
    assert not [*TREE.rglob(".terraform.lock.hcl"), *TREE.rglob("*.tfstate")]
