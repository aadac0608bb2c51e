"""The guide names the errors that stop a first apply, in the words that a user searches for."""

from __future__ import annotations

import pytest
import requests
from google.api_core import exceptions
from support.google_errors import ERRORS, refusing_once
from support.terraform import ROOT

GUIDE = ROOT / "docs/how-to/deploy-to-google-cloud.md"


def named(name):
    return next(error for error in ERRORS if error["name"] == name)


def cells(row):
    return [cell.strip() for cell in row.strip().strip("|").split(" | ")]


def rows(fragments):
    """Returns the rows of the guide's tables whose first cell has all fragments."""
    table = [line for line in GUIDE.read_text().splitlines() if line.startswith("| ")]
    return [cells(row) for row in table if all(fragment in cells(row)[0] for fragment in fragments)]


NAMES = [error["name"] for error in ERRORS]


@pytest.mark.parametrize("name", NAMES)
def test_guide_names_the_error(name):
    assert rows(named(name)["searched"]), f"no table of {GUIDE.name} has a row of {named(name)['searched']}"


@pytest.mark.parametrize("name", NAMES)
def test_guide_says_what_to_do_about_the_error(name):
    error = named(name)
    remedies = [row[-1] for row in rows(error["searched"])]
    assert any(all(word in remedy for word in error["remedy"]) for remedy in remedies), remedies


@pytest.mark.parametrize("name", NAMES)
def test_searched_words_are_those_of_the_error(name):
    error = named(name)
    text = f"{error['message']} {error.get('details', '')}"
    assert all(fragment in text for fragment in error["searched"])


@pytest.fixture(scope="module")
def answers():
    """Returns the first and the second answer to the request of each error."""
    with refusing_once() as address:

        def send(error):
            method, path = error["request"].split(" ")
            return requests.request(method, address + path, json={}, timeout=10)

        return {error["name"]: (send(error), send(error)) for error in ERRORS}


@pytest.mark.parametrize("name", NAMES)
def test_fake_refuses_once_as_google_does(answers, name):
    error, (first, second) = named(name), answers[name]
    refused = exceptions.from_http_response(first)
    assert (refused.code, second.status_code) == (error["status"], 200)
    # Google's own client shows the words that the guide is searched for.
    shown = f"{refused} {refused.details}"
    assert all(fragment in shown for fragment in error["searched"])
