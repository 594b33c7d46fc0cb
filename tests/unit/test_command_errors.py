"""How a command fails: in one message, with an exit code that is documented, and a traceback only when asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pyanamo.context import Context, command
from pyanamo_core.errors import (
    BadInput,
    EndpointDown,
    NoCredentials,
    NoRegion,
    NotFound,
    PyAnamoError,
    Refused,
    Surroundings,
)


def app_that(does: Callable[[], Any]) -> typer.Typer:
    @command(example="x")
    def only(context: Context) -> Any:
        """Do it."""
        return does()

    made = typer.Typer()
    made.command()(only)
    return made


def raising(error: BaseException) -> typer.Typer:
    def does() -> None:
        raise error

    return app_that(does)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (BadInput("bad"), 3),
        (NotFound("none"), 4),
        (Refused("no"), 5),
        (Surroundings("broken"), 6),
        (NoCredentials(reason="expired"), 6),
        (NoRegion(), 6),
        (EndpointDown(endpoint="http://x", reason="refused"), 6),
        (FileNotFoundError(2, "No such file or directory", "sheet.txt"), 3),
    ],
)
def test_an_error_is_one_message_and_its_exit_code(error: Exception, code: int) -> None:
    # Given a command that fails, when it is run
    told = CliRunner().invoke(raising(error), [])
    # Then stderr has the message, stdout nothing, nobody sees a traceback
    assert told.exit_code == code
    assert told.stdout == ""
    assert told.stderr.startswith("error: ")
    assert "Traceback" not in told.stderr


def test_with_json_an_error_is_json_too() -> None:
    # Given a command that fails for a program
    told = CliRunner().invoke(raising(NotFound("no such thing")), ["--json"])
    # Then the program can read why
    assert json.loads(told.stderr) == {"error": "no such thing", "kind": "NotFound", "exit_code": 4}


def test_an_unforeseen_error_is_exit_code_1_and_tells_of_debug() -> None:
    # Given a fault of ours
    plain = CliRunner().invoke(raising(ZeroDivisionError("by zero")), [])
    asked = CliRunner().invoke(raising(ZeroDivisionError("by zero")), ["--debug"])
    # Then the message leads to --debug, and that shows where it came from
    assert (plain.exit_code, asked.exit_code) == (1, 1)
    assert "unexpected ZeroDivisionError: by zero" in plain.stderr
    assert "--debug" in plain.stderr
    assert "Traceback" not in plain.stderr
    assert "Traceback" in asked.stderr


def test_ctrl_c_is_exit_code_130_without_a_traceback() -> None:
    # Given a user who presses Ctrl-C
    told = CliRunner().invoke(raising(KeyboardInterrupt()), [])
    # Then that is all that is said
    assert told.exit_code == 130
    assert told.stderr == "interrupted\n"


def test_an_error_of_the_sdk_that_nobody_caught_is_still_explained() -> None:
    # Given boto3's own errors
    from botocore.exceptions import ClientError, NoCredentialsError

    expired = ClientError({"Error": {"Code": "ExpiredTokenException", "Message": "too old"}}, "GetItem")
    # Then they are told in PyAnamo's words, with the exit code of the surroundings
    for error in (NoCredentialsError(), expired):
        told = CliRunner().invoke(raising(error), [])
        assert told.exit_code == 6
        assert "AWS credentials are missing or no longer valid" in told.stderr


def test_exit_codes_are_those_of_the_documentation() -> None:
    # Given the table in docs/exit-codes.md
    text = (Path(__file__).parents[2] / "docs" / "exit-codes.md").read_text()
    documented = {int(number) for number in re.findall(r"^\| (\d+) \|", text, re.MULTILINE)}
    # Then every error's code stands in it
    import pyanamo.main  # noqa: F401 - its commands define errors too

    def kinds(kind: type[PyAnamoError]) -> set[int]:
        return {kind.exit_code}.union(*(kinds(one) for one in kind.__subclasses__()))

    assert kinds(PyAnamoError) <= documented
    assert {0, 7, 75, 130} <= documented


@pytest.mark.parametrize(
    ("arguments", "says", "code"),
    [
        (("--bound", "depth=1..2"), "Names: titv, het_hom, mean_depth, callable_fraction", 3),
        (("--bound", "titv=3..2"), "titv=3..2 is not of the form NAME=LOW..HIGH", 3),
        (("--bound", "titv=a..2"), "titv=a..2 is not of the form NAME=LOW..HIGH", 3),
        (("--out", "qc.xlsx"), "qc.xlsx", 3),
        (("--vcf", "cohort.vcf.gz"), "--multiqc", 3),
        (("--multiqc", "qc", "--vcf", "none.vcf.gz"), "There is no VCF none.vcf.gz", 4),
    ],
)
def test_wishes_of_results_qc_that_cannot_be_are_refused_before_anything_is_read(
    arguments: tuple[str, ...], says: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pyanamo.main import app

    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(
        app, ["results", "qc", "--table", "T", "--endpoint-url", "http://127.0.0.1:1", *arguments]
    )
    assert (done.exit_code, says in re.sub(r"\s+", " ", done.stderr)) == (code, True), done.output
    assert list(tmp_path.iterdir()) == []
