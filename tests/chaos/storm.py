"""The storm: pilots on one table while everything goes wrong at once; then what the histories say.

    found = storm(Plan(items=10_000, pilots=16, kills=100), dynamodb, clients, "table", folder)
    assert not found.violations

Pilots are processes that are killed, told to end and frozen at random; between them and DynamoDB Local is a proxy that
loses answers and delivers writes late or twice; in their clients keys are throttled and index pages old; their clocks
are off; a user imports, edits, resets, extends, redoes and cancels meanwhile.
"""

from __future__ import annotations

import json
import os
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from checker import RELEASES, Table, Violation, check
from history import LOST, OPEN, WON, Histories, History, LoggedLedger, Op, read_histories
from pilot_support import make_workflow
from pilot_under_fire import Orders, as_line
from proxy import Proxy, Weather

from pyanamo_core.aws import Clients
from pyanamo_core.errors import MoveRefused, PyAnamoError
from pyanamo_core.ledger import Ledger, open_ledger, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.fsck import Weight, weight_of
from pyanamo_core.ledger.fsck_walk import Fsck
from pyanamo_core.ledger.table import create_table
from pyanamo_core.local.dynamodb import DynamoDbLocal
from pyanamo_core.model import Definition, Item, Nest, State

NURSERY = Path(__file__).with_name("pilot_under_fire.py")
VALUES = ("a", "b", "c", "d")
TICK_SECONDS = 0.1


@dataclass(frozen=True)
class Plan:
    """How big, how bad, how long (seconds).

    Args:
        kills: at least so many pilots are killed or told to end; a tenth as many are frozen on top.
        users_moves: of a user, on random items.
        limit_seconds: the storm has failed if items are open then.
    """

    items: int
    pilots: int
    kills: int
    users_moves: int
    slots: int = 4
    lease_seconds: float = 20.0
    beat_seconds: float = 4.0
    sweep_seconds: float = 0.5
    limit_seconds: float = 2400.0
    seed: int = 1
    weather: Weather = field(default_factory=Weather)
    hot: float = 0.003
    stale: float = 0.1
    slow: float = 0.004
    failing: float = 0.002
    permanent: int = 500
    """One item in so many has a nest that fails for good."""
    heals: bool = True
    """Do pilots know their own token again? Without it the checker must find something."""

    @property
    def margin_seconds(self) -> float:
        return min(30.0, self.lease_seconds / 10) + 1.0


@dataclass
class Report:
    """What came out."""

    plan: Plan
    violations: list[Violation]
    states: Counter[str]
    expected_failures: int
    faults: list[str] = field(default_factory=list)
    """What fsck calls a fault in the final table."""
    figures: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        told = ", ".join(f"{name} {value}" for name, value in self.figures.items())
        states = " ".join(f"{state} {count}" for state, count in sorted(self.states.items()))
        plan = self.plan
        return (
            f"storm: {plan.items} items × {len(VALUES)} nests, {plan.pilots} pilots × {plan.slots} slots:"
            f" {len(self.violations)} violations, {len(self.faults)} faults by fsck; {states}; {told}"
        )


def storm(plan: Plan, dynamodb: DynamoDbLocal, clients: Clients, table: str, folder: Path) -> Report:
    """Make the table, let it blow until every item has ended, and check all histories.

    Raises:
        TimeoutError: items are still open after `limit_seconds`; where the storm stood is in the message.
    """
    (folder / "history").mkdir()
    began = time.monotonic()
    ledger = _table(plan, clients, table, folder)
    imported = time.monotonic()
    _say(f"{plan.items} items imported in {imported - began:.0f} s")
    network = History(folder / "history" / "network.jsonl", "network")
    with Proxy(dynamodb.port, plan.weather, network, plan.seed) as proxy:
        fleet = Fleet(plan, table, proxy.endpoint, folder)
        try:
            _blow(plan, ledger, fleet, proxy, folder, began + plan.limit_seconds)
        finally:
            fleet.end()
    ended = time.monotonic()
    _say(f"every item has ended after {ended - imported:.0f} s; reading the table and the histories")
    final = _final(clients, table, plan)
    histories = read_histories((folder / "history").glob("*.jsonl"))
    violations = check(histories, final)
    figures = _figures(plan, histories, fleet, proxy) | {"wall seconds": round(ended - imported)}
    # Attempt rows are best effort: what they lack is left over, no fault.
    walk = Fsck(clients, table, settle_seconds=0.0)
    weighed = [(weight_of(each.finding.kind), str(each.finding)) for each in walk.walk()]
    faults = [text for weight, text in weighed if weight is Weight.FAULT]
    figures["fsck: rows, left over"] = f"{walk.tally.rows}, {walk.tally.open(Weight.LEFT_OVER)}"
    states = Counter(item.state.value for item in final.items.values())
    doomed = len(range(plan.permanent // 2, plan.items, plan.permanent))
    return Report(plan, violations, states, doomed, faults, figures)


def _table(plan: Plan, clients: Clients, table: str, folder: Path) -> Ledger:
    create_table(clients, table, deletion_protection=False, pitr=False)
    workflow = make_workflow(
        name=table,
        items=max(1, plan.slots // 2),
        nests=min(2, plan.slots),
        pilots=plan.pilots,
        budgets__tries=20,
        timing__lease_seconds=plan.lease_seconds,
        timing__beat_seconds=plan.beat_seconds,
        timing__sweep_seconds=plan.sweep_seconds,
    )
    Ledger(clients, table).add_workflow(workflow)
    ledger = open_ledger(clients, table)[0]
    logged = LoggedLedger(ledger, History(folder / "history" / "importer.jsonl", "importer"))

    def bring(number: int) -> None:
        values = ("permanent", *VALUES[1:]) if number % plan.permanent == plan.permanent // 2 else VALUES
        logged.import_item(f"i{number:05d}", "T", Definition(script="nothing", arguments=values))

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(bring, range(plan.items)))
    return ledger


def _say(text: str) -> None:
    print(f"storm: {text}", file=sys.stderr, flush=True)


# ---------------------------------------------------------------------------------------------------------------- fleet


class Fleet:
    """Pilots of one table, forked by a nursery; each that ends is replaced while there is work."""

    def __init__(self, plan: Plan, table: str, endpoint: str, folder: Path) -> None:
        self._plan, self._table, self._endpoint, self._folder = plan, table, endpoint, folder
        self._rng = random.Random(plan.seed + 1)
        self._history = History(folder / "history" / "harness.jsonl", "harness")
        self._born = self._aimed = 0
        self.living: set[str] = set()
        self.doomed: set[str] = set()
        self.frozen: dict[str, float] = {}
        self.codes: Counter[int] = Counter()
        self.sent: Counter[str] = Counter()
        environment = {"PATH": os.environ["PATH"], "AWS_EC2_METADATA_DISABLED": "true", "PYTHONHASHSEED": "0"}
        self._nursery = subprocess.Popen(
            [sys.executable, str(NURSERY)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
        )
        self._ready = threading.Event()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    def _listen(self) -> None:
        assert self._nursery.stdout is not None
        for line in self._nursery.stdout:
            told = json.loads(line)
            if "ended" in told:
                self.living.discard(told["ended"])
                self.frozen.pop(told["ended"], None)
                self.codes[told["code"]] += 1
            elif "signalled" in told:
                self._history.note("signal", pilot=told["signalled"], signal=told["signal"], at=told["at"])
        self._ready.set()

    def fill(self) -> None:
        """Start as many pilots as are missing."""
        plan = self._plan
        while len(self.living) < plan.pilots:
            self._born += 1
            corrected = self._rng.random() < 0.5
            # What a pilot does not know of its clock must stay below half the margin: two of them then disagree by less.
            most = 30.0 if corrected else 0.45 * plan.margin_seconds
            orders = Orders(
                name=f"p{self._born:05d}",
                table=self._table,
                endpoint=self._endpoint,
                folder=str(self._folder),
                seed=plan.seed * 100_000 + self._born,
                skew_seconds=round(self._rng.uniform(-most, most), 3),
                corrected=corrected,
                lease_seconds=plan.lease_seconds,
                hot=plan.hot,
                stale=plan.stale,
                stale_seconds=min(1.0, plan.lease_seconds / 10),
                slow=plan.slow,
                failing=plan.failing,
                heals=plan.heals,
            )
            self.living.add(orders.name)
            self._write(as_line(orders))

    def shoot(self) -> None:
        """One of them, at random: half KILL, half TERM, and each seventh is frozen for up to two leases instead."""
        aims = sorted(self.living - self.doomed)
        if not aims:
            return
        name = self._rng.choice(aims)
        self._aimed += 1
        if self._aimed % 7 == 4:
            if name not in self.frozen:
                self.frozen[name] = time.monotonic() + self._rng.uniform(0.5, 2.0) * self._plan.lease_seconds
                self._signal(name, signal.SIGSTOP)
            return
        number = self._rng.choice([signal.SIGKILL, signal.SIGTERM])
        if number == signal.SIGKILL or name not in self.frozen:
            self.doomed.add(name)
            self._signal(name, number)

    def thaw(self) -> None:
        """Let those go on whose time has come."""
        for name, until in list(self.frozen.items()):
            if until <= time.monotonic():
                self.frozen.pop(name, None)
                self._signal(name, signal.SIGCONT)

    @property
    def shots(self) -> int:
        """Pilots that were killed or told to end."""
        return self.sent["SIGKILL"] + self.sent["SIGTERM"]

    def _signal(self, name: str, number: signal.Signals) -> None:
        self.sent[number.name] += 1
        self._write((json.dumps({"name": name, "signal": int(number)}) + "\n").encode())

    def _write(self, line: bytes) -> None:
        assert self._nursery.stdin is not None
        self._nursery.stdin.write(line)
        self._nursery.stdin.flush()

    def end(self) -> None:
        """End all of them, and the nursery."""
        assert self._nursery.stdin is not None
        with suppress(OSError):
            self._nursery.stdin.close()
        try:
            self._nursery.wait(60)
        except subprocess.TimeoutExpired:
            self._nursery.kill()
            self._nursery.wait()
        self._listener.join(10)


# ----------------------------------------------------------------------------------------------------------------- user


class User:
    """Moves of a user on random items, on a network of its own that is good."""

    def __init__(self, ledger: Ledger, folder: Path, plan: Plan) -> None:
        self._ledger = LoggedLedger(ledger, History(folder / "history" / "user.jsonl", "user"))
        self._rng = random.Random(plan.seed + 2)
        self._plan = plan
        self.did: Counter[str] = Counter()

    def move(self) -> None:
        item = self._ledger.item(f"i{self._rng.randrange(self._plan.items):05d}")
        name = self._rng.choice(["import", "update", "reset", "redo", "extend", "edit", "cancel", "retry"])
        other = Definition(script=f"nothing {self._rng.randrange(1000)}", arguments=VALUES)
        moves: dict[str, Callable[[], Any]] = {
            "import": lambda: self._ledger.import_item(item.item_id, "T", other),
            "update": lambda: self._ledger.import_item(item.item_id, "T", other, update=True),
            "reset": lambda: self._ledger.reset(item),
            "redo": lambda: self._ledger.redo(item, [self._rng.randrange(item.nests)]),
            "extend": lambda: self._ledger.extend(item, [f"more {self._rng.getrandbits(32)}"]),
            "edit": lambda: self._ledger.edit(item, other),
            "cancel": lambda: self._ledger.cancel(item),
            "retry": lambda: self._ledger.retry(item),
        }
        try:
            moves[name]()
            self.did[name] += 1
        except MoveRefused:
            self.did["refused"] += 1


def _blow(plan: Plan, ledger: Ledger, fleet: Fleet, proxy: Proxy, folder: Path, give_up: float) -> None:
    user = User(ledger, folder, plan)
    moved, told_at, looked_at = 0, time.monotonic(), 0.0
    counts = ledger.counts()
    look_seconds = min(5.0, max(0.3, plan.items / 2000))
    while True:
        fleet.fill()
        fleet.thaw()
        now = time.monotonic()
        if now - looked_at >= look_seconds:
            counts, looked_at = ledger.counts(), now
        progress = 1.0 - counts.open / plan.items
        if counts.open and fleet.shots < plan.kills * (0.05 + progress / 0.8):
            fleet.shoot()
        if counts.open and moved < plan.users_moves * progress / 0.8:
            with suppress(PyAnamoError):
                user.move()
            moved += 1
        if now - told_at >= 10.0:
            told_at = now
            _say(
                f"{counts.open} open ({counts.locked} locked), {fleet.shots} shot, {proxy.counts['requests']} requests"
            )
        if not counts.open and fleet.shots >= plan.kills:
            # Nobody is shot any more; what is still on its way arrives, and may lock an item once more.
            if not proxy.calmed:
                proxy.calm()
                proxy.deliver(60.0 + plan.weather.late_seconds)
                looked_at = 0.0
            elif now - looked_at < look_seconds:
                return
        if now > give_up:
            left = [f"{item.item_id} {item.state} {item.fence}" for item in ledger.items() if item.state in _OPEN][:20]
            raise TimeoutError(
                f"after {plan.limit_seconds:.0f} s items are open: {counts}; {left}; codes {fleet.codes}"
            )
        time.sleep(TICK_SECONDS)


_OPEN = {State.TODO, State.WAITING, State.LOCKED}


# ------------------------------------------------------------------------------------------------------------ afterwards


def _final(clients: Clients, table: str, plan: Plan) -> Table:
    """All items and the nests of their present epochs, by a strong scan."""
    items: dict[str, Item] = {}
    found: list[Nest] = []
    pages = clients.client("dynamodb").get_paginator("scan").paginate(TableName=table, ConsistentRead=True)
    for page in pages:
        for row in page["Items"]:
            if row[x.HASH]["S"].startswith("!"):
                continue
            if row[x.RANGE]["S"] == x.ITEM_ROW:
                item = rows.read_item(row)
                items[item.item_id] = item
            elif row[x.RANGE]["S"].startswith(x.NEST_PREFIX):
                found.append(rows.read_nest(row))
    nests: dict[str, dict[int, Nest]] = {}
    for nest in found:
        if nest.item_id in items and nest.epoch == items[nest.item_id].epoch:
            nests.setdefault(nest.item_id, {})[nest.index] = nest
    return Table(items, nests, over_before=time.time() - plan.margin_seconds, lease_seconds=plan.lease_seconds)


def _figures(plan: Plan, histories: Histories, fleet: Fleet, proxy: Proxy) -> dict[str, Any]:
    ops = histories.ops
    claims = [op for op in ops if op.kind == "claim"]
    won = sum(op.happened for op in claims)
    runs = Counter((op.item, op.epoch, op.told["nest"]) for op in ops if op.kind == "run" and op.outcome in (WON, OPEN))
    recovered = recoveries(ops, plan.lease_seconds)
    figures: dict[str, Any] = {
        "killed": fleet.sent["SIGKILL"],
        "told to end": fleet.sent["SIGTERM"],
        "frozen": fleet.sent["SIGSTOP"],
        "moves of users": sum(1 for op in ops if op.actor == "user"),
        "claims": won,
        "conflicts": sum(op.outcome == LOST for op in claims),
        "self-heals": sum(op.told.get("heals", 0) for op in ops),
        "unknowns": sum(op.told.get("unknown", 0) for op in ops),
        "unanswered writes": sum(op.told.get("silent", 0) for op in ops),
        "results": sum(1 for op in ops if op.kind == "record" and op.happened),
        "duplicate executions": sum(count - 1 for count in runs.values()),
        "requests": proxy.counts.pop("requests"),
        "network": dict(sorted(proxy.counts.items())),
    }
    if recovered:
        cuts = statistics.quantiles(recovered, n=100, method="inclusive") if len(recovered) > 1 else recovered * 99
        figures["recovered items"] = len(recovered)
        figures["leases to recover"] = f"p50 {cuts[49]:.2f}, p99 {cuts[98]:.2f}"
    return figures


def recoveries(ops: list[Op], lease_seconds: float) -> list[float]:
    """For each item that a killed pilot held: leases from the kill until another had it or ended it."""
    killed = {
        op.told["pilot"]: op.told["at"] for op in ops if op.kind == "signal" and op.told["signal"] == signal.SIGKILL
    }
    by_item: dict[str, list[Op]] = {}
    for op in ops:
        if op.kind in ("claim", "expire", *RELEASES):
            by_item.setdefault(op.item, []).append(op)
    found: list[float] = []
    for told in by_item.values():
        for claim in told:
            at = killed.get(claim.actor)
            if at is None or claim.kind != "claim" or not claim.happened:
                continue
            if any(op.kind in RELEASES and op.actor == claim.actor and op.fence == claim.fence for op in told):
                continue  # let go, or nobody knows
            after = [op.ended for op in told if op.happened and op.began > at and op.kind in ("claim", "expire")]
            if after:
                found.append((min(after) - at) / lease_seconds)
    return found
