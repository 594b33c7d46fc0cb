"""The twin in memory and DynamoDB's ledger do the same, move by move, whatever the moves are (tests/twin_machine.py)."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

pytest.register_assert_rewrite("ledger_suite", "twin_machine", "twin_rows", "twin_runs")

from twin_machine import Both, Items  # noqa: E402
from twin_runs import Runs  # noqa: E402

from pyanamo_core.aws import Clients  # noqa: E402
from pyanamo_core.ledger.table import create_table  # noqa: E402

Answers = Counter[tuple[str, str]]

OF_ITEMS = {
    "claim", "expire", "beat", "record", "finish", "fail", "wait", "hand back", "attempt",
    "import", "retry", "reset", "edit", "extend", "redo", "cancel", "recover",
}  # fmt: skip
OF_RUNS = {"pilot", "version", "begin run", "mode", "watch", "release", "reserve", "settle", "end run"}
NEVER_REFUSED = {"attempt", "version", "release"}


@pytest.fixture
def name(dynamodb_clients: Clients, unique_name: str) -> str:
    create_table(dynamodb_clients, unique_name, deletion_protection=False, pitr=False, wait=False)
    return unique_name


def driven(machine: type[Both], clients: Clients, name: str, examples: int, steps: int, *, fresh: bool) -> Answers:
    """Drive both ledgers.

    Args:
        fresh: other moves at each run, and a failure made small; else the same moves always, a failure told as it is.
    """
    machine.clients, machine.table_name, machine.answers = clients, name, Counter()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            derandomize=not fresh,
            database=None,
            phases=[Phase.generate, Phase.shrink] if fresh else [Phase.generate],
        ),
    )
    return machine.answers


def told(answers: Answers) -> str:
    won = sum(number for (_, kind), number in answers.items() if kind == "won")
    refused = Counter[str]()
    for (_, kind), number in answers.items():
        if kind not in {"won", "None"}:
            refused[kind] += number
    listed = ", ".join(f"{number} {kind}" for kind, number in refused.most_common())
    return f"{won} moves and reads won alike, {sum(refused.values())} refused alike ({listed})"


def won(answers: Answers) -> set[str]:
    return {move for move, kind in answers if kind == "won"}


def refused(answers: Answers) -> set[str]:
    return {move for move, kind in answers if kind != "won"}


@pytest.mark.parametrize(("machine", "moves", "examples"), [(Items, OF_ITEMS, 16), (Runs, OF_RUNS, 6)])
def test_the_twin_does_what_dynamodb_does(
    machine: type[Both], moves: set[str], examples: int, dynamodb_clients: Clients, name: str
) -> None:
    # Given both ledgers with the same clock, when the same random moves are made in both, legal or not
    answers = driven(machine, dynamodb_clients, name, examples, 40, fresh=False)
    # Then every answer, error and row was the same and sound (the machine asserts it), and almost every move took part
    print(f"twins, {machine.__name__.lower()}: {examples} lives of 40 moves: {told(answers)}")
    missing = moves - won(answers)
    assert len(missing) <= 2, missing


@pytest.mark.chaos
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("machine", "moves", "examples"), [(Items, OF_ITEMS, 250), (Runs, OF_RUNS, 60)])
def test_the_twin_does_what_dynamodb_does_for_minutes(
    machine: type[Both], moves: set[str], examples: int, dynamodb_clients: Clients, name: str
) -> None:
    # Given both ledgers, when other random moves are made at each run, many more of them
    answers = driven(machine, dynamodb_clients, name, examples, 60, fresh=True)
    # Then all was the same and sound, and every move was won, and refused where it can be
    print(f"twins, {machine.__name__.lower()}: {examples} lives of up to 60 moves: {told(answers)}")
    assert moves - won(answers) == set()
    assert moves - NEVER_REFUSED - refused(answers) == set()
