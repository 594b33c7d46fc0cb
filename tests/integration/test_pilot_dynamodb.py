"""Several pilots on one DynamoDB Local: claims race for real, each nest is recorded once."""

from __future__ import annotations

import os
from pathlib import Path

from pilot_support import PATIENCE_SECONDS, Working, make_workflow

from pyanamo_core.aws import Clients
from pyanamo_core.ledger import open_ledger
from pyanamo_core.ledger.table import create_table, delete_table
from pyanamo_core.model import Cause, Definition, State
from pyanamo_core.pilot import Pilot, PilotOptions


def test_pilots_that_race_for_items_run_each_nest_once(
    dynamodb_clients: Clients, unique_name: str, tmp_path: Path
) -> None:
    # Given a table with 16 items of three nests, one of which fails at its first attempt
    create_table(dynamodb_clients, unique_name, deletion_protection=False, pitr=False)
    from pyanamo_core.ledger import Ledger

    Ledger(dynamodb_clients, unique_name).add_workflow(
        make_workflow(name=unique_name, items=2, nests=1, timing__lease_seconds=60.0)
    )
    ledger = open_ledger(dynamodb_clients, unique_name)[0]
    script = f"bash -c 'echo $PYANAMO_ITEM $1 >> {tmp_path}/ran; [ $PYANAMO_ATTEMPT$1 != 12 ]' _"
    for number in range(16):
        ledger.import_item(f"i{number}", "T", Definition(script=script, arguments=("1", "2", "3")))

    # When three pilots work at the same time
    def pilot(number: int) -> Working:
        options = PilotOptions(
            table=unique_name,
            scratch=tmp_path / f"scratch{number}",
            staging=tmp_path / "staging",
            array_index=number,
        )
        return Working(Pilot(options, dynamodb_clients, environ={"PATH": os.environ["PATH"]}))

    working = [pilot(number) for number in range(3)]
    for each in working:
        each.thread.join(PATIENCE_SECONDS * 3)
    codes = [each.leaves() for each in working]

    # Then every item is done at its second attempt, and only the failed nest ran twice
    ran = (tmp_path / "ran").read_text().splitlines()
    assert codes == [0, 0, 0]
    assert sorted(ran) == sorted(f"i{number} {value}" for number in range(16) for value in ("1", "2", "2", "3"))
    items = list(ledger.items())
    assert {(item.state, item.fence, item.tries, item.interruptions) for item in items} == {(State.DONE, 2, 2, 0)}
    assert {tuple(attempt.cause for attempt in ledger.attempts(item.item_id)) for item in items} == {
        (Cause.TASK_ERROR, Cause.DONE)
    }
    told = ledger.pilots()
    assert sum(each.items_done for each in told) == 16
    assert sum(each.nests_done for each in told) == 48
    delete_table(dynamodb_clients, unique_name)
