"""What an item costs in DynamoDB: measured on DynamoDB Local (ReturnConsumedCapacity=INDEXES) beside ledger/cost.py.

    python benchmarks/ledger_cost.py [--nests 100] [--beats 6] [--endpoint URL]

Without an endpoint a DynamoDB Local is started. Units are exact and independent of the machine; nothing here is timed.
"""

from __future__ import annotations

import argparse
import contextlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from pyanamo_core.aws import Clients
from pyanamo_core.clock import FakeClock
from pyanamo_core.cost.prices import built_in
from pyanamo_core.ledger import Ledger, cost
from pyanamo_core.ledger.table import create_table, delete_table
from pyanamo_core.model import Attempt, Cause, Definition, LogPointer, Nest, NestStatus, Output, Rules, State

DOLLARS = built_in().write_million.dollars.high
"""Of a million write units, on demand in us-east-1."""
PYANAMO_1 = 28_376
"""Units of the same item in PyAnamo 1's table: one row, four indexes with all attributes, 300-byte logs."""


@dataclass
class Meter:
    """Sums consumed capacity."""

    writes: float = 0.0
    reads: float = 0.0
    by_call: dict[str, float] = field(default_factory=dict)

    def take(self) -> float:
        """The write units since the last call."""
        taken, self.writes = self.writes, 0.0
        return taken

    def add(self, name: str, told: Any) -> None:
        reading = name in ("get_item", "query", "batch_get_item")
        for each in told if isinstance(told, list) else [told]:
            if each and reading:
                self.reads += each["CapacityUnits"]
            elif each:
                self.writes += each["CapacityUnits"]


class Metered:
    """A DynamoDB client whose calls ask for their capacity."""

    def __init__(self, client: Any, meter: Meter) -> None:
        self._client, self._meter = client, meter
        self.meta, self.exceptions = client.meta, client.exceptions

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._client, name)
        if name not in ("get_item", "query", "batch_get_item", "put_item", "update_item", "transact_write_items"):
            return found

        def asking(**parameters: Any) -> Any:
            answer = found(**parameters, ReturnConsumedCapacity="INDEXES")
            self._meter.add(name, answer.get("ConsumedCapacity"))
            return answer

        return asking


class MeteredClients:
    """Clients with a meter on DynamoDB."""

    def __init__(self, clients: Clients, meter: Meter) -> None:
        self._clients, self._meter = clients, meter
        self.endpoint_url, self.region = clients.endpoint_url, clients.region

    def client(self, service: str) -> Any:
        return Metered(self._clients.client(service), self._meter)

    quick = client


def typical_nest(index: int, tail: str) -> Nest:
    """A locus of HaplotypeCaller: one gVCF, figures, a log of its own."""
    start = 11_012_344 + index * 1000
    prefix = f"s3://my-bucket/HaplotypeCaller/work/SRR6776829_TARDBP_FUS/{index:05d}/1"
    return Nest(
        item_id="SRR6776829_TARDBP_FUS",
        epoch=0,
        index=index,
        status=NestStatus.DONE,
        fence=1,
        exit_code=0,
        cause=Cause.DONE,
        started=1_795_372_900.125,
        ended=1_795_372_960.25,
        peak_memory_mb=1534.5,
        cpu_seconds=71.25,
        outputs=(Output(uri=f"{prefix}/chr1_{start}_{start + 999}.g.vcf.gz", bytes=48_231, sha256="a" * 64),),
        figures={"calls": 18, "bases": 1000},
        log=LogPointer(
            where="cloudwatch",
            group="/pyanamo/nests",
            stream="HaplotypeCaller/0a1b2c3d/3",
            start_ms=1_795_372_900_125,
            end_ms=1_795_372_960_250,
            bytes=8120,
        ),
        tail=tail,
        revision="0123456789ab",
        run_id="2026-11-23-nightly",
        pilot_id="0a1b2c3d4e5f60718293",
    )


def live(ledger: Ledger, meter: Meter, clock: FakeClock, definition: Definition, beats: int, tail: str) -> cost.Life:
    """One item from import to done; the measured units."""
    item_id = "SRR6776829_TARDBP_FUS"
    ledger.import_item(item_id, "SRR6776829", definition, revision="0123456789ab")
    imported = meter.take()
    for shard in range(ledger.rules.shards):
        ledger.candidates(State.TODO, shard, start="800000000000")
    claim = ledger.claim(item_id, "0a1b2c3d4e5f60718293", run_id="2026-11-23-nightly")
    assert claim is not None
    claiming = meter.take()
    told = {"item_id": item_id, "fence": claim.fence, "host": "i-0123456789abcdef0"}
    ledger.put_attempt(Attempt(**told, pilot_id=claim.pilot_id, run_id="2026-11-23-nightly", started=clock.now()))
    attempt = meter.take()
    ledger.definition(claim.item)
    ledger.nests(claim.item)
    for index in range(definition.nests):
        ledger.record_nest(claim, typical_nest(index, tail))
    nests = meter.take()
    for beat in range(beats):
        clock.move(200)
        beaten = ledger.beat(claim, progressed=True, nests_done=beat, nests_failed=0)
        claim = claim.model_copy(update={"deadline": beaten.deadline})
    beating = meter.take()
    ledger.finish(claim, nests_done=definition.nests)
    finish = meter.take()
    ledger.put_attempt(Attempt(**told, cause=Cause.DONE, ended=clock.now()))
    attempt += meter.take()
    return cost.Life(
        imported=round(imported),
        claim=round(claiming),
        beats=round(beating),
        nests=round(nests),
        finish=round(finish),
        attempt=round(attempt),
    )


def measured(clients: Clients, *, nests: int, beats: int, tail: str) -> tuple[cost.Life, cost.Life, float]:
    """(measured, as cost.py says, read units) of one item's life in a table of its own."""
    table = f"cost-{random.getrandbits(48):x}"
    meter, clock = Meter(), FakeClock()
    create_table(clients, table, deletion_protection=False, pitr=False)
    try:
        metered: Any = MeteredClients(clients, meter)
        ledger = Ledger(metered, table, rules=Rules(), clock=clock)
        values = tuple(f"chr1:{11_012_344 + i * 1000}-{11_013_343 + i * 1000}" for i in range(nests))
        script = "bash ${PIPELINE}/HaplotypeCaller-1KG.sh SRR6776829"
        definition = Definition(script=script, arguments=values)
        found = live(ledger, meter, clock, definition, beats, tail)
        said = cost.life("SRR6776829_TARDBP_FUS", definition, beats=beats, nest=typical_nest(0, tail))
        return found, said, meter.reads
    finally:
        delete_table(clients, table)


@contextlib.contextmanager
def clients_of(endpoint: str | None) -> Iterator[Clients]:
    """Clients of a given DynamoDB Local, or of one that is started for this."""
    if endpoint:
        yield Clients.with_keys("benchmark", "benchmark", endpoint, "us-east-1")
        return
    from pyanamo_core.local.dynamodb import dynamodb_local

    with dynamodb_local() as running:
        yield Clients.with_keys("benchmark", "benchmark", running.endpoint, "us-east-1")


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--nests", type=int, default=100)
    ask.add_argument("--beats", type=int, default=6)
    ask.add_argument("--endpoint", help="of a DynamoDB Local that runs already")
    given = ask.parse_args()
    print(f"One item, {given.nests} nests, {given.beats} beats; write units, table and index together.")
    print(f"{'':34}{'import':>8}{'claim':>7}{'beats':>7}{'nests':>7}{'finish':>8}{'attempt':>9}{'sum':>7}{'$/1M':>9}")
    with clients_of(given.endpoint) as clients:
        for label, tail in (
            ("without tails", ""),
            ("tails of 512 B in the row", "x" * 512),
            ("tails of 2 KB", "x" * 2048),
        ):
            found, said, reads = measured(clients, nests=given.nests, beats=given.beats, tail=tail)
            for name, told in ((f"{label}, measured", found), (f"{label}, cost.py", said)):
                print(
                    f"{name:34}{told.imported:8}{told.claim:7}{told.beats:7}{told.nests:7}{told.finish:8}"
                    f"{told.attempt:9}{told.total:7}{told.total * DOLLARS:9.2f}"
                )
            print(f"{'':34}read units: {reads:g}")
    print(f"PyAnamo 1's table, the same item with 300-byte logs: {PYANAMO_1}.")


if __name__ == "__main__":
    main()
