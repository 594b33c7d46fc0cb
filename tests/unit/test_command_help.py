"""Every command explains itself, takes the global options anywhere, and has an example."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from pyanamo.context import GLOBALS, Context, command, takes_globals
from pyanamo.main import COMMANDS, GROUPS, app
from pyanamo.render import Told

ALL = {path: function for panel in COMMANDS.values() for path, function in panel.items()}
WANTED = (
    "init, demo, local up, local status, local env, local down, workflow create, workflow show, workflow list,"
    " workflow delete, samples list, loci plan, sheet make, sheet check, sheet import, run, runs list, runs show,"
    " runs drain, runs cancel, watch, status, items list, items show, items reset, items redo, items retry,"
    " items extend, items cancel, logs, results list, results get, results export, recover, pilot, settings, fsck"
)


@pytest.fixture
def runner() -> CliRunner:
    return CliRunner(env={"COLUMNS": "200", "TERM": "dumb"})


@pytest.mark.parametrize("path", sorted(ALL))
def test_the_help_of_every_command_has_a_sentence_an_example_and_the_global_options(
    runner: CliRunner, path: str
) -> None:
    # Given a command, when it is asked for help
    told = runner.invoke(app, [*path.split(), "--help"])
    # Then it says what it does, shows how it is typed, and names the global options
    assert told.exit_code == 0, told.output
    assert "Example" in told.output
    assert f"pyanamo {path}" in told.output or f"pyanamo {path.split()[0]}" in told.output
    assert (inspect.getdoc(ALL[path]) or "").splitlines()[0].rstrip(".")[:40] in told.output
    for option in ("--json", "--quiet", "--debug", "--table", "--region", "--endpoint-url"):
        assert option in told.output


@pytest.mark.parametrize("path", sorted(ALL))
def test_every_option_and_argument_of_a_command_is_explained(path: str) -> None:
    # Given a command's parameters
    for parameter in inspect.signature(ALL[path]).parameters.values():
        about = getattr(parameter.annotation, "__metadata__", (None,))[0]
        if isinstance(about, typer.models.OptionInfo):
            # Then each option says what it is for
            assert about.help, f"{path}: {parameter.name} has no help"


@pytest.mark.parametrize("path", WANTED.split(", "))
def test_every_command_that_users_were_promised_is_there(path: str) -> None:
    # Given the list of commands in the design, then each is registered
    assert path.strip() in ALL


@pytest.mark.parametrize("name", sorted(GROUPS))
def test_a_group_without_a_command_shows_its_commands(runner: CliRunner, name: str) -> None:
    # Given a group, when it is typed alone, then its commands are listed
    told = runner.invoke(app, [name])
    assert "Commands" in told.output
    assert "Example" in told.output


def probe(seen: list[Context]) -> typer.Typer:
    @command(example="probe look inner")
    def inner(context: Context, word: str = "none") -> Told:
        """Look."""
        seen.append(context)
        return Told({"word": word})

    made, group = typer.Typer(), typer.Typer()
    made.callback()(takes_globals(lambda: None))
    group.callback()(takes_globals(lambda: None))
    group.command("inner")(inner)
    made.add_typer(group, name="look")
    return made


@pytest.mark.parametrize(
    "typed",
    [
        ["--table", "T", "--json", "look", "inner"],
        ["look", "--table", "T", "--json", "inner"],
        ["look", "inner", "--table", "T", "--json"],
        ["--json", "look", "--table", "X", "inner", "--table=T"],
    ],
)
def test_global_options_are_taken_before_between_and_after_and_the_nearest_wins(typed: list[str]) -> None:
    # Given a command in a group, when global options stand in one place or another
    seen: list[Context] = []
    told = CliRunner().invoke(probe(seen), typed)
    # Then the command has them
    assert told.exit_code == 0, told.output
    assert (seen[0].table, seen[0].json) == ("T", True)
    assert told.stdout == '{\n  "word": "none"\n}\n'


def test_a_command_may_not_have_an_option_of_its_own_with_a_global_ones_name() -> None:
    # Given a function with a parameter `region`
    def clash(context: Context, region: str = "") -> None: ...

    # When it is made a command, then that is refused at once and not at the user's
    wrap: Callable[[Callable[..., Any]], Any] = command(example="x")
    with pytest.raises(ValueError, match="region"):
        wrap(clash)
    assert "region" in GLOBALS


def test_an_unknown_command_or_option_is_a_usage_error(runner: CliRunner) -> None:
    # Given what does not exist, when it is typed, then the exit code is 2
    assert runner.invoke(app, ["frobnicate"]).exit_code == 2
    assert runner.invoke(app, ["status", "--frobnicate"]).exit_code == 2
    assert runner.invoke(app, ["items", "list", "--state", "happy"]).exit_code == 2


def test_the_version_is_told(runner: CliRunner) -> None:
    # Given a user who reports a fault, when the version is asked for, then it is that of the distribution
    from importlib.metadata import version

    assert runner.invoke(app, ["--version"]).stdout == f"pyanamo {version('pyanamo')}\n"
