"""What pilots record of their costs: slot-seconds by what came of them, where and on what they ran, the ledger's units."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pilot_support import World, eventually, make_workflow

from pyanamo_core.cost.items import Pricing, item_costs
from pyanamo_core.cost.prices import price_list
from pyanamo_core.cost.spent import counted
from pyanamo_core.ledger import Ledger, cost
from pyanamo_core.ledger.table import create_table
from pyanamo_core.model import Cause, Definition, Mode, Move, State
from pyanamo_core.pilot import Pilot, PilotOptions

if TYPE_CHECKING:
    from pyanamo_core.aws import Clients


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path, make_workflow(nests=2, vcpus=4, budgets={"tries": 1}))


def test_a_pilot_tells_what_its_slots_were_held_for(world: World) -> None:
    # Given an item of two nests that are done, and one whose second nest fails
    world.shell("good", "sleep 0.3; dd if=/dev/zero of=/dev/null bs=1M count=300 2>/dev/null", "a", "b")
    world.shell("bad", "sleep 0.3; test $1 = a", "a", "b")
    # When a pilot has worked
    _, pilot = world.work(batch_job="j-1", job_queue="Seq_Queue")
    # Then its row tells the seconds by what came of them, when it was ready, its vCPUs and its queue
    row = world.ledger.pilot(pilot.pilot_id)
    assert row is not None
    spent = row.spent
    assert set(spent.slot_seconds) == {"done", "task_error"}
    assert 0.9 <= spent.slot_seconds["done"] < 30
    assert 0.3 <= spent.slot_seconds["task_error"] < spent.slot_seconds["done"]
    assert 0 < spent.cpu_seconds < 20
    assert (row.vcpus, row.job_queue, row.slots) == (4, "Seq_Queue", 2)
    assert row.ready is not None
    assert row.started <= row.ready <= row.started + 30
    # And the attempts tell the same of their items: what was kept, and what was in vain
    (good,), (bad,) = world.ledger.attempts("good"), world.ledger.attempts("bad")
    assert good.slot_seconds is not None
    assert bad.slot_seconds is not None
    assert good.kept_seconds == good.slot_seconds > 0.5
    assert 0 < bad.kept_seconds < bad.slot_seconds
    assert good.slot_seconds + bad.slot_seconds == pytest.approx(sum(spent.slot_seconds.values()), abs=0.01)
    assert (good.vcpus, good.slots, good.job_queue) == (4, 2, "Seq_Queue")


def test_what_is_cut_short_is_told_by_its_cause_and_what_runs_as_open(world: World) -> None:
    # Given a pilot whose two nests run on and on
    world.shell("long", "sleep 60", "a", "b")
    world.begin_run()
    working = world.begin_work("r1")
    assert eventually(lambda: any(each.spent.slot_seconds.get("open", 0) > 0.2 for each in world.ledger.pilots()))
    # When the run is drained at once
    world.ledger.set_mode("r1", Mode.DRAIN, "enough", hand_back=True)
    working.leaves()
    # Then nothing is open, and both slots' seconds are the drain's
    (row,) = world.ledger.pilots()
    assert set(row.spent.slot_seconds) == {"drained"}
    (attempt,) = world.ledger.attempts("long")
    assert attempt.cause is Cause.DRAINED
    assert attempt.kept_seconds == 0
    assert attempt.slot_seconds == pytest.approx(row.spent.slot_seconds["drained"], abs=0.01)


def test_a_nest_with_the_memory_of_two_slots_spends_both(world: World) -> None:
    world.shell("big", "sleep 0.5")
    item = world.ledger.item("big")
    claim = world.ledger.claim("big", "earlier")
    assert claim is not None
    world.ledger.fail(claim, Cause.OUT_OF_MEMORY, "")
    world.ledger.retry(world.ledger.item(item.item_id), memory_factor=2.0)
    world.work()
    attempt = world.ledger.attempts("big")[-1]
    assert attempt.slot_seconds is not None
    assert attempt.slot_seconds >= 1.0
    assert attempt.ended is not None
    assert attempt.slot_seconds > 1.5 * (attempt.ended - attempt.started) - 1.0


CALLS = """
import sys
from pyanamo_core.aws import Clients
s3 = Clients.with_keys("k", "s", "http://127.0.0.1:9", "us-east-1").once("s3")
for call in (s3.put_object, s3.head_object, s3.get_object, s3.delete_object):
    try:
        call(Bucket="b", Key="k")
    except Exception:
        pass
"""


def test_what_tasks_ask_of_s3_is_told_by_their_processes_and_by_any_script(world: World, tmp_path: Path) -> None:
    # Given a task whose Python asks S3 four times (a deletion is free), and one that says itself what it asked
    program = tmp_path / "calls.py"
    program.write_text(CALLS)
    world.add("python", f"{sys.executable} {program}")
    said = tmp_path / "said.sh"
    said.write_text(
        'echo \'{"s3_writes": 20, "s3_reads": 300}\' >> "$PYANAMO_METER"; echo nonsense >> "$PYANAMO_METER"\n'
    )
    world.add("script", f"bash {said}")
    # When a pilot runs both
    _, pilot = world.work()
    # Then its row has the sum
    row = world.ledger.pilot(pilot.pilot_id)
    assert row is not None
    assert world.ledger.counts().done == 2
    assert (row.spent.s3_writes, row.spent.s3_reads) == (21, 302)


def test_ecs_tells_what_batch_gave_the_container(world: World, tmp_path: Path) -> None:
    import threading
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Ecs(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = json.dumps({"Limits": {"CPU": 8192, "Memory": 4096}}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None: ...

    server = HTTPServer(("127.0.0.1", 0), Ecs)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        world.shell("one", "true")
        address = f"http://127.0.0.1:{server.server_port}/v4/container"
        pilot = world.pilot(environ={"ECS_CONTAINER_METADATA_URI_V4": address})
        pilot.prepare()
        pilot.work()
    finally:
        server.shutdown()
        server.server_close()
    row = world.ledger.pilot(pilot.pilot_id)
    assert row is not None
    assert row.vcpus == 8


def test_a_pilots_units_are_those_of_its_moves(dynamodb_clients: Clients, unique_name: str, tmp_path: Path) -> None:
    # Given a table with four items of three nests each, and clients that nobody else uses
    create_table(dynamodb_clients, unique_name, deletion_protection=False, pitr=False)
    workflow = make_workflow(
        name=unique_name,
        nests=2,
        timing={"beat_seconds": 5.0, "lease_seconds": 60.0, "sweep_seconds": 0.1, "start_jitter_seconds": 0.0},
    )
    from pyanamo_core.aws import Clients as Made

    apart = Made.with_keys("test", "test", dynamodb_clients.endpoint_url, "us-east-1")
    ledger = Ledger(dynamodb_clients, unique_name, rules=workflow.rules)
    ledger.add_workflow(workflow)
    definition = Definition(script="true", arguments=("a", "b", "c"))
    for number in range(4):
        ledger.import_item(f"item-{number}", "T", definition)
    # When a pilot has done them
    options = PilotOptions(table=unique_name, scratch=tmp_path / "scratch", staging=tmp_path / "staging")
    pilot = Pilot(options, apart, environ={"PATH": "/usr/bin:/bin"})
    pilot.prepare()
    pilot.work()
    assert ledger.count(State.DONE) == 4
    # Then its row tells the write units that DynamoDB took: those of claims, nests, ends and attempts, besides its own rows
    row = ledger.pilot(pilot.pilot_id)
    assert row is not None
    moves = 4 * (cost.MOVE_UNITS[Move.CLAIM] + cost.MOVE_UNITS[Move.FINISH] + cost.ATTEMPT_UNITS + 3)
    own = row.spent.write_units - moves - row.conflicts
    beats = 2 + (time.time() - row.started) / 4.5
    assert 0 < own <= beats * 5
    assert row.spent.read_units >= 4
    # And the units that are counted from its row are bounds of them, as those of its items are their moves
    bounds = counted(row, 5.0)
    assert bounds.low <= row.spent.write_units <= bounds.high
    pricing = Pricing(price_list(), time.time(), beat_seconds=5.0)
    assert sum(one.write_units for one in item_costs(ledger, pricing)) == pytest.approx(moves, abs=4 * 3 * beats)
    # And the last row itself is all that the meter has seen since
    assert 0 < apart.meter.reading.write_units - row.spent.write_units <= 5
