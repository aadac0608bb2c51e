"""`muster client run`: its log, and options that are refused before any request."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from muster.cli.app import app
from muster.cli.client import _attributes_of
from muster.cli.client_log import ClientLog, write_event
from muster.cli.failures import LoadingError
from muster.cli.token_files import checked_token, exposure_of, token_reader
from muster.client import Assigned, Contributed, Failed, Ineligible, Unreached, Waited
from muster.client.identity import check_attributes
from muster.wire.messages import FailureCode, FailureReason, WaitReason

TIME = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d "
FAILED = Failed("t", 3, FailureReason.DATA, "The data callback failed: ValueError: Anna", 1.0, ValueError("Anna"))


def waited(reason: WaitReason) -> Waited:
    return Waited(reason, 1.1)


class Log:
    def __init__(self, capsys: pytest.CaptureFixture[str], **more: Any) -> None:
        self.now = 0.0
        self._log = ClientLog("wards", clock=lambda: self.now, **more)
        self._capsys = capsys

    def lines(self, *events: Any) -> list[str]:
        for event in events:
            self._log.write(event)
        lines = self._capsys.readouterr().out.splitlines()
        assert all(re.match(TIME, line) for line in lines)
        return [re.sub(TIME, "", line) for line in lines]


def test_repeated_wait_is_logged_every_ten_minutes(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(capsys)
    assert len(log.lines(*[waited(WaitReason.NO_TASK)] * 500)) == 1
    log.now = 599.0
    assert log.lines(waited(WaitReason.NO_TASK)) == []
    log.now = 600.0
    assert len(log.lines(*[waited(WaitReason.NO_TASK)] * 500)) == 1


def test_alternating_waits_are_each_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    pair = [waited(WaitReason.ROUND_FULL), waited(WaitReason.BETWEEN_ROUNDS)]
    assert len(Log(capsys).lines(*pair * 100)) == 2


def test_change_is_logged_at_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(capsys)
    outage = Unreached("Can't reach it", 1.0)
    lines = log.lines(waited(WaitReason.NO_TASK), outage, outage, waited(WaitReason.NO_TASK), Assigned("t", 1, False))
    assert [line.split()[0] for line in lines] == ["no", "Can't", "no", "t"]


def test_population_without_a_task_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = Log(capsys).lines(waited(WaitReason.NO_TASK))
    assert "population 'wards' has no task; check the name" in line


def test_wait_after_a_failure_has_its_reason(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(capsys)
    assert "contributed" in log.lines(waited(WaitReason.ALREADY_IN))[0]
    assert "gave its assignment of the open round back (data)" in log.lines(FAILED, waited(WaitReason.ALREADY_IN))[1]
    last = log.lines(Contributed("t", 4, 9, 1.0), waited(WaitReason.ALREADY_IN))[1]
    assert "this client has contributed" in last


def test_first_outage_warns_that_no_coordinator_responded(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(capsys)
    assert log.lines(Unreached("a", 1.0))[0].startswith("Warning: no coordinator has responded yet. a")
    assert log.lines(waited(WaitReason.NO_TASK), Unreached("b", 1.0))[1].startswith("b; retry in")


def test_quiet_errors_log_only_the_kind_of_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert "Anna" in Log(capsys).lines(FAILED)[0]
    assert Log(capsys, quiet_errors=True).lines(FAILED) == ["t round 3: failed (data): ValueError"]
    write_event(FAILED, quiet_errors=True)
    text = capsys.readouterr().out
    assert "Anna" not in text
    assert json.loads(text)["detail"] == "ValueError"
    write_event(FAILED)
    assert "Anna" in json.loads(capsys.readouterr().out)["detail"]


def test_assignment_is_logged_with_its_kind(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Log(capsys).lines(Assigned("t", 1, False, kind="evaluate"), Assigned("t", 2, True))
    assert lines == [
        "t round 1: assigned (evaluate)",
        "t round 2: assigned (train); its secure sums are summed in the clear, not securely",
    ]


def test_failure_is_logged_with_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(capsys)
    failed = replace(FAILED, code=FailureCode.DATA_MISSING)
    assert log.lines(failed)[0].startswith("t round 3: failed (data.missing): ")
    assert "gave its assignment of the open round back (data.missing)" in log.lines(waited(WaitReason.ALREADY_IN))[0]


@pytest.mark.parametrize(
    ("reason", "text"),
    [("not_eligible", "attributes"), ("outside_window", "other hours"), ("reserved", "evaluation"), ("later", "other")],
)
def test_wait_is_explained(capsys: pytest.CaptureFixture[str], reason: str, text: str) -> None:
    assert text in Log(capsys).lines(waited(WaitReason(reason)))[0]


def test_ineligible_client_is_logged_once(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(Log(capsys).lines(*[Ineligible("not charging", 60.0)] * 5)) == 1


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--population", "Großklinik"], "[a-z][a-z0-9_-]{0,62}"),
        (["--population", ""], "[a-z][a-z0-9_-]{0,62}"),
        (["--population", "wards\n"], "[a-z][a-z0-9_-]{0,62}"),
        (["--client-id", "x" * 300], "1 to 256 characters"),
        (["--client-id", ""], "1 to 256 characters"),
        (["--attribute", "App=1"], "attributes.App"),
        (["--attribute", "app"], "'app' is not KEY=TEXT or KEY:=VALUE"),
        (["--attribute", "=1"], "'=1' is not KEY=TEXT or KEY:=VALUE"),
        (["--attribute", "ram:=four"], "'ram:=four' is not a JSON number or boolean after :="),
        (["--attribute", "ram:=[4]"], "attributes.ram"),
        (["--attribute", "a=1", "--attribute", "a=2"], "'a=2' is given twice"),
    ],
)
def test_invalid_names_are_refused_before_any_request(options: list[str], text: str) -> None:
    arguments = ["client", "run", "--population", "wards", "--data", "there_is_no_module:data", *options]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "200", "TERMINAL_WIDTH": "200"})
    assert result.exit_code == 2, result.output
    assert text in " ".join(result.output.replace("│", " ").split())
    assert "pydantic" not in result.output


def test_attributes_are_text_unless_they_are_marked_as_json() -> None:
    options = ["app_version=2.10", "ram_gb:=4", "beta:=true", "note=a=b", "load:=0.5", "empty="]
    expected = {"app_version": "2.10", "ram_gb": 4, "beta": True, "note": "a=b", "load": 0.5, "empty": ""}
    assert _attributes_of(options) == expected
    assert check_attributes(expected) == expected


def test_exposed_token_file_is_warned_of_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "token"
    file.write_text("a.b.c\n")
    file.chmod(0o640)
    read = token_reader(file)
    assert [read(), read()] == ["a.b.c", "a.b.c"]
    assert capsys.readouterr().err.count("chmod 600") == 1
    file.chmod(0o600)
    assert exposure_of(file) is None


@pytest.mark.parametrize("text", ["", "two words", "tökén", "a\nb", "\ud800"])
def test_invalid_token_is_refused_before_any_request(text: str) -> None:
    with pytest.raises(LoadingError, match="contains no token"):
        checked_token(text, where="--token")
