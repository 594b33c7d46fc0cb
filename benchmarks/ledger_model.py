"""Exhaustive exploration of the ledger's moves: one item, two nests, two pilots, a user, a network that repeats, delays and loses.

Every interleaving of a bounded number of steps is visited, and each reached state is checked. What a move does is asked
of pyanamo_core.ledger.decisions itself, so that the model cannot fall out of step with the ledger; what the model adds
is the world around it. Switch a rule off to see that the checker would notice:

    python benchmarks/ledger_model.py                      all rules on: no violation expected (minutes, some GB)
    python benchmarks/ledger_model.py --user 0             without users: seconds
    python benchmarks/ledger_model.py --without fence      or: epoch, nest_fence, cap, expire, nest_first, cancelled

Without `heal` and `copy` nothing is wrong, only slow: an item stays locked by a pilot that does not know it.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

from pyanamo_core.ledger import decisions
from pyanamo_core.model import Cause, Nest, NestStatus, Recorded, Rules, State
from pyanamo_core.model import Item as Row

MAX_TRIES, CAP, NESTS = 2, 2, 2
WIRE = 2
"""Messages under way at a time, beside claims."""
NOW, LEASE = 10_000.0, 600.0
RULES = Rules(max_tries=MAX_TRIES, max_interruptions=CAP, lease_seconds=LEASE)
UNCAPPED = Rules(max_tries=MAX_TRIES, max_interruptions=10**6, lease_seconds=LEASE)
KNOWN = frozenset({"fence", "epoch", "nest_fence", "cap", "expire", "heal", "copy", "nest_first", "cancelled"})


class Item(NamedTuple):
    """An item's row: lease is 1 = live, 0 = over (margin included); progress is the fence of the last claim that told of
    a recorded nest; token is that of the last claim (lockID). Waiting is told as todo: its time has come."""

    state: str = "todo"
    fence: int = 0
    epoch: int = 0
    tries: int = 0
    interruptions: int = 0
    lease: int = 0
    cancelled: bool = False
    token: int | None = None
    progress: int = 0
    nests: int = NESTS


class Pilot(NamedTuple):
    """mode: idle, asking, owner; a dead pilot is one that takes no further step."""

    mode: str
    token: int | None
    fence: int
    epoch: int
    done: frozenset[int]
    claims: int
    nests: int
    recorded: bool


class World(NamedTuple):
    """rows: ((epoch, nest) → (status, fence, epoch of the claim that ran it)); wire: messages that may still arrive, each
    with the deliveries left; ran: faults seen on the way that a state alone does not show."""

    item: Item
    rows: tuple[Any, ...]
    pilots: tuple[Pilot, ...]
    wire: tuple[Any, ...]
    user: int
    tokens: int
    ran: frozenset[str]


def start(pilots: int, claims: int, user: int) -> World:
    idle = Pilot("idle", None, 0, 0, frozenset(), claims, 0, False)
    return World(Item(), (), (idle,) * pilots, (), user, 0, frozenset())


# --------------------------------------------------------------------------------- the ledger's own decisions, by rows


def _row(item: Item) -> Row:
    return Row(
        item_id="i",
        task_id="t",
        state=State(item.state),
        fence=item.fence,
        epoch=item.epoch,
        tries=item.tries,
        interruptions=item.interruptions,
        progress_fence=item.progress,
        cancelled=item.cancelled,
        owner="p" if item.state == "locked" else None,
        lease_end=(NOW + 1 if item.lease else 0.0) if item.state == "locked" else None,
        nests=item.nests,
    )


def _item(row: Row, token: int | None) -> Item:
    live = row.state is State.LOCKED and row.lease_end is not None and row.lease_end > NOW
    return Item(
        "todo" if row.state is State.WAITING else row.state.value,
        row.fence,
        row.epoch,
        row.tries,
        row.interruptions,
        int(live),
        row.cancelled,
        token,
        row.progress_fence,
        row.nests,
    )


@functools.cache
def decided(kind: str, item: Item, fence: int, told: int, rules: Rules) -> Item | None:
    """The item after a move, as the ledger decides it; None if the ledger refuses. `told` is what the message says."""
    row = _row(item)
    common: dict[str, Any] = {"token": "", "now": NOW}
    owned: dict[str, Any] = common | {"pilot_id": "p", "run_id": ""}
    mine: dict[str, Any] = common | {"fence": fence}
    try:
        if kind == "claim":
            after = decisions.claim(row, rules=rules, **owned)
        elif kind == "reclaim":
            after = decisions.reclaim(row, rules=rules, **owned)
        elif kind == "expire":
            after = decisions.expire(row, rules=rules, **common)
        elif kind == "beat":
            after = decisions.beat(
                row,
                fence=fence,
                token="",
                lease_end=NOW + LEASE,
                progressed=bool(told),
                nests_done=0,
                nests_failed=0,
            )
        elif kind == "finish":
            after = decisions.finish(row, nests_done=told, note="", **mine)
        elif kind == "wait":
            after = decisions.wait(
                row,
                rules=rules,
                cause=Cause.TASK_ERROR,
                message="",
                delay_seconds=0,
                memory_factor=1,
                nests_done=0,
                nests_failed=0,
                **mine,
            )
        elif kind == "fail":
            after = decisions.fail(row, cause=Cause.PERMANENT, message="", nests_done=0, nests_failed=0, **mine)
        elif kind == "hand back":
            after = decisions.hand_back(
                row,
                rules=rules,
                cause=Cause.SPOT,
                message="",
                progressed=bool(told),
                started=True,
                counts=True,
                nests_done=0,
                **mine,
            )
        elif kind == "recover":
            after = decisions.recover(row, seen=row, ended_at=NOW - 61, rules=rules, **common)
        elif kind == "cancel":
            after = decisions.cancel(row, **common)
        elif kind == "reset":
            after = decisions.reset(row, seen=row, token="")
        elif kind == "retry":
            after = decisions.retry(row, seen=row, token="", memory_factor=None, nest_seconds=None)
        elif kind == "redo":
            after = decisions.redo(row, seen=row, token="", done_left=0, nests=[0])
        else:
            raise ValueError(kind)
    except decisions.Refusal:
        return None
    return _item(after, item.token)


@functools.cache
def kept(status: str, standing: int, fence: int) -> bool:
    """Does the row that stands keep out a result of a claim with this fence?"""
    row = Nest(item_id="i", epoch=0, index=0, status=NestStatus(status), fence=standing, token="a")
    new = Nest(item_id="i", epoch=0, index=0, status=NestStatus.DONE, fence=fence, token="b")
    return decisions.record(row, new) is Recorded.KEPT


# ------------------------------------------------------------------------------------------------------ the world


def put(rows: tuple[Any, ...], key: tuple[int, int], value: tuple[str, int, int]) -> tuple[Any, ...]:
    return tuple(sorted((dict(rows) | {key: value}).items()))


def apply(world: World, message: tuple[Any, ...], rules: frozenset[str]) -> tuple[World, tuple[Any, ...]]:
    """What the table does with a message: (world, answer)."""
    kind, _, token, fence, epoch, nest = message
    item, rows = world.item, dict(world.rows)
    if kind == "claim":
        used = item.token == token and "copy" in rules
        won = None if used else decided("claim", item, 0, 0, RULES)
        if won is None and item.token != token:
            won = decided("reclaim", item, 0, 0, RULES)
        if won is not None:
            won = won._replace(token=token, lease=1)
            return world._replace(item=won), ("won", won.fence, won.epoch)
        if "heal" in rules and item.state == "locked" and item.token == token:
            return world, ("won", item.fence, item.epoch)
        return world, ("refused",)
    if kind == "nest":
        key = (epoch if "epoch" in rules else 0, nest)
        old = rows.get(key)
        if old and (old[0] == "done" or ("nest_fence" in rules and kept(old[0], old[1], fence))):
            return world, ("kept",)
        ran = world.ran
        if old and old[0] == "reset" and old[1] > fence:
            ran |= {"a claim from before the reset filled a nest again"}
        return world._replace(rows=put(world.rows, key, ("done", fence, epoch)), ran=ran), ("won",)
    asked = fence if "fence" in rules else item.fence
    limits = UNCAPPED if kind == "hand back" and "cap" not in rules else RULES
    seen = item if "cancelled" in rules or kind not in ("hand back", "wait") else item._replace(cancelled=False)
    after = decided(kind, seen, asked, nest, limits)
    if after is None:
        return world, ("refused",)
    if seen is not item and after.state == "todo":
        after = after._replace(cancelled=item.cancelled)
    return world._replace(item=after), ("won",)


def counted(world: World, rules: frozenset[str]) -> frozenset[int]:
    """Nests of the current epoch that count as done."""
    epoch = world.item.epoch if "epoch" in rules else 0
    rows = dict(world.rows)
    return frozenset(n for n in range(world.item.nests) if rows.get((epoch, n), ("",))[0] == "done")


def successors(world: World, rules: frozenset[str]) -> Iterator[tuple[str, World]]:
    """Every step that may come next."""
    yield from _time(world, rules)
    for index in range(len(world.pilots)):
        yield from _pilot(world, index, rules)
    yield from _network(world, rules)
    if world.user:
        yield from _user(world._replace(user=world.user - 1), rules)


def _time(world: World, rules: frozenset[str]) -> Iterator[tuple[str, World]]:
    item = world.item
    if item.state == "locked" and item.lease:
        yield "lease over", world._replace(item=item._replace(lease=0))
    if "expire" in rules:
        expired = decided("expire", item, 0, 0, RULES)
        if expired is not None:
            yield "expire", world._replace(item=expired)


def _pilot(world: World, index: int, rules: frozenset[str]) -> Iterator[tuple[str, World]]:
    item, pilot = world.item, world.pilots[index]

    def became(**changes: Any) -> tuple[Pilot, ...]:
        return (*world.pilots[:index], pilot._replace(**changes), *world.pilots[index + 1 :])

    def sent(kind: str, told: int, deliveries: int = 2) -> tuple[Any, ...]:
        return (*world.wire, ((kind, index, 0, pilot.fence, pilot.epoch, told), deliveries))

    if pilot.mode == "idle" and pilot.claims:
        token = world.tokens + 1
        wire = (*world.wire, (("claim", index, token, 0, 0, 0), 2))
        asking = became(mode="asking", token=token, claims=pilot.claims - 1)
        yield f"{index} asks", world._replace(pilots=asking, wire=wire, tokens=token)
    if pilot.mode == "asking":  # no answer ever came: read the item
        if "heal" in rules and item.state == "locked" and item.token == pilot.token:
            yield f"{index} reads: mine", world._replace(pilots=became(**_owner(world, item.fence, item.epoch, rules)))
        else:
            yield f"{index} reads: not mine", world._replace(pilots=became(mode="idle"))
    if pilot.mode != "owner" or len(world.wire) >= WIRE:
        return
    left = [n for n in range(pilot.nests) if n not in pilot.done]
    owed = any(m[0] == "nest" and m[1] == index and m[3] == pilot.fence and n == 2 for m, n in world.wire)
    for nest in left[:1]:
        ran = became(done=pilot.done | {nest}, recorded=True)
        yield f"{index} ran nest {nest}", world._replace(wire=sent("nest", nest), pilots=ran)
    if not left and not (owed and "nest_first" in rules):
        finishing = world._replace(wire=sent("finish", pilot.nests), pilots=became(mode="idle"))
        yield f"{index} finishes", finishing
    if pilot.done and not owed:
        yield f"{index} beats", world._replace(wire=sent("beat", int(pilot.recorded), 1))
    for kind, told in (("wait", 0), ("fail", 0), ("hand back", int(pilot.recorded and not owed))):
        yield f"{index}: {kind}", world._replace(wire=sent(kind, told), pilots=became(mode="idle"))


def _owner(world: World, fence: int, epoch: int, rules: frozenset[str]) -> dict[str, Any]:
    return {
        "mode": "owner",
        "fence": fence,
        "epoch": epoch,
        "done": counted(world, rules),
        "nests": world.item.nests,
        "recorded": False,
    }


def _network(world: World, rules: frozenset[str]) -> Iterator[tuple[str, World]]:
    for place, (message, left) in enumerate(world.wire):
        after, answer = apply(world, message, rules)
        again = ((message, left - 1),) if left > 1 else ()
        rest = (*world.wire[:place], *again, *world.wire[place + 1 :])
        yield f"{message[:2]} arrives, answer lost", after._replace(wire=rest)
        index = message[1]
        pilot = world.pilots[index]
        if message[0] == "claim" and pilot.mode == "asking" and pilot.token == message[2]:
            if answer[0] == "won":
                new = pilot._replace(**_owner(after, answer[1], answer[2], rules))
            else:
                new = pilot._replace(mode="idle")
            gone = (*world.wire[:place], *world.wire[place + 1 :])
            pilots = (*world.pilots[:index], new, *world.pilots[index + 1 :])
            yield f"{message[:2]} answered {answer[0]}", after._replace(wire=gone, pilots=pilots)


def _user(world: World, rules: frozenset[str]) -> Iterator[tuple[str, World]]:
    item = world.item
    for kind in ("cancel", "reset", "retry", "recover"):
        after = decided(kind, item, 0, 0, RULES)
        if after is None:
            continue
        yield f"user: {kind}", world._replace(item=after)
    again = decided("redo", item, 0, 0, RULES)
    if again is None:
        return
    epoch = item.epoch if "epoch" in rules else 0
    # One transaction: the item and its nest's row.
    rows = put(world.rows, (epoch, 0), ("reset", again.fence, item.epoch))
    yield "user: redo nest 0", world._replace(item=again, rows=rows)
    # An extension is a redo of nothing with more nests.
    yield "user: extend", world._replace(item=again._replace(nests=item.nests + 1))


def faults(world: World, rules: frozenset[str]) -> Iterator[str]:
    """What is wrong with a state."""
    item, rows = world.item, dict(world.rows)
    yield from world.ran
    epoch = item.epoch if "epoch" in rules else 0
    if item.state == "done" and len(counted(world, rules)) < item.nests:
        yield "done with a nest that is not"
    if any(fence > item.fence for _, (_, fence, _) in world.rows):
        yield "a nest's fence is above the item's"
    done = [rows[epoch, n] for n in range(item.nests) if rows.get((epoch, n), ("",))[0] == "done"]
    if any(ran_in != item.epoch for _, _, ran_in in done):
        yield "a result of an older definition counts"
    if item.state == "todo" and item.tries >= MAX_TRIES:
        yield "todo, but nobody may claim it"
    if item.state == "todo" and item.cancelled:
        yield "todo and cancelled: nobody may claim it"
    if item.state == "todo" and item.interruptions >= CAP and "cap" not in rules:
        yield "interrupted past the cap"
    if not 0 <= item.tries <= MAX_TRIES:
        yield "tries out of range"
    unclaimable = item.cancelled or item.interruptions >= CAP
    if item.state == "locked" and not item.lease and unclaimable and "expire" not in rules:
        yield "locked for ever"
    owners = [p for p in world.pilots if p.mode == "owner" and item.state == "locked" and p.fence == item.fence]
    if len(owners) > 1:
        yield "two pilots own the item with one fence"


class Found(NamedTuple):
    """What an exploration found: the number of states, a fault or "", and the steps that lead to it."""

    states: int
    fault: str
    path: list[str]
    end: World | None


def explore(
    rules: frozenset[str] = KNOWN, *, pilots: int = 2, claims: int = 1, user: int = 1, limit: int = 10**7
) -> Found:
    """Visit every state, nearest first; stop at the first fault, or beyond `limit` states."""
    first = start(pilots, claims, user)
    front: list[World] = [first]
    came: dict[World, tuple[World, str] | None] = {first: None}
    while front:
        reached: list[World] = []
        for world in front:
            for step, after in successors(world, rules):
                if after in came:
                    continue
                came[after] = (world, step)
                fault = next(faults(after, rules), None)
                if fault:
                    return Found(len(came), fault, _path(came, after), after)
                reached.append(after)
        front = reached
        if len(came) > limit:
            return Found(len(came), f"stopped at {limit} states", [], None)
    return Found(len(came), "", [], None)


def _path(came: dict[World, tuple[World, str] | None], at: World) -> list[str]:
    path: list[str] = []
    before = came[at]
    while before:
        path.append(before[1])
        before = came[before[0]]
    return path[::-1]


def main() -> None:
    ask = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ask.add_argument("--without", choices=sorted(KNOWN), action="append", default=[])
    ask.add_argument("--pilots", type=int, default=2)
    ask.add_argument("--claims", type=int, default=1, help="claims that each pilot may try")
    ask.add_argument("--user", type=int, default=1, help="moves of the user")
    ask.add_argument("--limit", type=int, default=20_000_000, help="states; each takes about half a kilobyte")
    given = ask.parse_args()
    found = explore(
        KNOWN - set(given.without), pilots=given.pilots, claims=given.claims, user=given.user, limit=given.limit
    )
    print(f"{found.states} states: {found.fault or 'no violation'}")
    for step in found.path:
        print("  ", step)
    if found.end:
        print("  ", found.end.item, found.end.rows)


if __name__ == "__main__":
    main()
