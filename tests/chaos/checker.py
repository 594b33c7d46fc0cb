"""The checker: what merged histories and the final table must never show. Pure; violations are values.

It trusts no row and no rule of the ledger: it knows only which calls were answered with what, and when. A call counts
as having happened somewhere between its two lines; only what no order of the calls explains is a violation. Rules:

    fence       each claim has a fence of its own, and fences grow with time
    acting      after a claim has won, no older fence has a write accepted or children running within its own deadline
    deadline    no write is accepted that was begun past its claim's own deadline
    released    who has given an item away writes nothing more to it, and what is done or failed is claimed by nobody
    robbed      an owner is refused only if somebody else, a user, or it itself has moved the item
    nest fence  a nest is recorded by a claim that exists, under a fence that is not above the item's
    twice       a nest is recorded as done once in an epoch (unless a user had it done again)
    done        who finishes an item has had an answer for each nest, and each nest of this epoch was recorded as done
    verified    what is recorded as done has run to its end under the same claim
    definition  a claim works with the definition of the last import or edit
    epoch       after a reset or an edit the epoch is a higher one
    unasked     what is cancelled at the end was cancelled by a user who did not take it back
    unowned     a fence that was minted has an owner, unless its claim was never answered
    lost        every imported item is in the table, ended, not locked with a lease long over; what is done is complete
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from history import KEPT, LOST, OPEN, UNKNOWN, WON, Histories, Op

from pyanamo_core.model import FINISHED, Item, Nest, NestStatus, State

OWNERS = frozenset({"beat", "finish", "fail", "wait", "hand back"})
"""Writes of the claim's owner to the item's row."""
RELEASES = frozenset({"finish", "fail", "wait", "hand back"})
USERS = frozenset({"reset", "edit", "extend", "redo", "recover"})
"""Moves of users that mint a fence."""
AFRESH = frozenset({"retry", "reset", "edit", "extend", "redo"})
"""Moves of users that make a finished item claimable again."""


@dataclass(frozen=True)
class Violation:
    """A rule that was broken, for which item, in words, and the operations that show it."""

    rule: str
    item: str
    message: str
    shown: tuple[Op, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([f"[{self.rule}] {self.item}: {self.message}", *map(str, self.shown)])


@dataclass(frozen=True)
class Table:
    """The table at the end, by strong reads.

    Args:
        nests: rows of each item's present epoch.
        lease_seconds: a call that took longer than that may have won, unheard, and been overtaken.
        over_before: a lease that ended before this time (seconds since 1970) is long over.
        ended: must every item have ended?
    """

    items: Mapping[str, Item]
    nests: Mapping[str, Mapping[int, Nest]]
    over_before: float
    lease_seconds: float
    ended: bool = True


@dataclass
class _Case:
    """The operations of one item."""

    item: str
    ops: list[Op]
    last_sign: Mapping[str, float]
    claims: list[Op] = field(default_factory=list)
    """Won, by their fences."""
    mints: list[Op] = field(default_factory=list)
    """Everything that was told a new fence: claims and users' moves."""
    records: list[Op] = field(default_factory=list)
    runs: list[Op] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.claims = sorted((op for op in self.ops if op.kind == "claim" and op.happened), key=lambda op: op.fence)
        minted = [op for op in self.ops if op.kind in USERS and op.happened]
        self.mints = sorted([*self.claims, *minted], key=lambda op: op.fence)
        self.records = [op for op in self.ops if op.kind == "record"]
        self.runs = [op for op in self.ops if op.kind == "run"]

    def of(self, *kinds: str) -> Iterator[Op]:
        return (op for op in self.ops if op.kind in kinds)

    def claim_of(self, op: Op) -> Op | None:
        """The claim under which an operation was made."""
        return next((each for each in self.claims if each.fence == op.fence and each.actor == op.actor), None)

    def newer(self, fence: int, before: float) -> Op | None:
        """A claim, or a user's move, with a higher fence that was over before this time."""
        return next((op for op in self.mints if op.fence > fence and op.ended < before), None)

    def broken(self, rule: str, message: str, *shown: Op) -> Violation:
        return Violation(rule, self.item, message, shown)


def check(histories: Histories, table: Table) -> list[Violation]:
    """All violations, in the order of the items' names."""
    by_item: dict[str, list[Op]] = defaultdict(list)
    for op in histories.ops:
        if op.item:
            by_item[op.item].append(op)
    found: list[Violation] = []
    for item in sorted(by_item.keys() | table.items.keys()):
        case = _Case(item, by_item.get(item, []), histories.last_sign)
        for rule in _RULES:
            found += rule(case)
        found += _unowned(case, table)
        found += _robbed(case, table)
        found += _lost(case, table)
    return found


# ----------------------------------------------------------------------------------------------------- who owns an item


def _fence(case: _Case) -> Iterator[Violation]:
    latest: Op | None = None
    for before, op in zip([None, *case.mints], case.mints, strict=False):
        if before is not None and before.fence == op.fence:
            yield case.broken("fence", f"the fence {op.fence} was given twice", before, op)
        if latest is not None and op.ended < latest.began:
            yield case.broken("fence", f"the fence {op.fence} came before the lower {latest.fence}", latest, op)
        if latest is None or op.began > latest.began:
            latest = op


def _acting(case: _Case) -> Iterator[Violation]:
    for op in case.of("late"):
        if op.happened and op.told.get("stale"):
            yield case.broken("acting", "a write of an earlier owner was accepted after the next claim", op)
    for op in case.of("record", "late", *OWNERS):
        if op.happened and op.fence and (op.kind != "late" or op.told.get("owners")):
            newer = case.newer(op.fence, op.began)
            if newer is not None:
                why = f"{op.kind} under fence {op.fence} was accepted after fence {newer.fence} was given"
                yield case.broken("acting", why, newer, op)
    for run in case.runs:
        claim = case.claim_of(run)
        renewed = [
            op.told["renewed"]
            for op in case.of("beat")
            if op.happened and op.fence == run.fence and op.actor == run.actor
        ]
        deadline = max([claim.told["deadline"] if claim else math.inf, *renewed])
        # A nest that its pilot did not live to see the end of ran at least until the pilot's last sign.
        until = min(case.last_sign[run.actor] if run.outcome == OPEN else run.ended, deadline)
        newer = case.newer(run.fence, until)
        if newer is not None:
            why = f"a nest of fence {run.fence} ran within its deadline after fence {newer.fence} was given"
            yield case.broken("acting", why, newer, run)


def _deadline(case: _Case) -> Iterator[Violation]:
    for op in case.of("record", *OWNERS):
        if op.happened and op.began > op.told.get("deadline", math.inf):
            yield case.broken("deadline", f"{op.kind} was begun past its own deadline, and accepted", op)


def _frees(op: Op) -> bool:
    """May it have made a finished item claimable again?"""
    if op.kind == "import":
        return op.told.get("imported") == "edited" or (op.told["update"] and op.outcome in (OPEN, UNKNOWN))
    return (op.kind in AFRESH and op.possible) or (op.kind == "late" and op.happened and not op.told.get("owners"))


def _released(case: _Case) -> Iterator[Violation]:
    ends = [op for op in case.of(*RELEASES, "expire") if op.happened]
    for end in ends:
        for op in case.of(*OWNERS):
            if op is not end and op.happened and op.fence == end.fence and op.began > end.ended:
                yield case.broken("released", f"{op.kind} was accepted after {end.kind} of the same fence", end, op)
        if end.told.get("state") not in {"done", "failed", "cancelled"}:
            continue
        for claim in case.claims:
            between = (op for op in case.ops if op.ended > end.began and op.began < claim.ended)
            if claim.fence > end.fence and not any(_frees(op) for op in between):
                yield case.broken("released", f"what {end.kind} had ended was claimed", end, claim)


# ---------------------------------------------------------------------------------------------------------------- nests


def _nest_fence(case: _Case) -> Iterator[Violation]:
    for op in case.records:
        if not op.happened:
            continue
        claim = case.claim_of(op)
        if claim is None or claim.began > op.ended:
            yield case.broken(
                "nest fence", f"nest {op.told['nest']} was recorded under a fence that was not its own", op
            )


def _twice(case: _Case) -> Iterator[Violation]:
    first: dict[tuple[int, int], Op] = {}
    for op in case.records:
        if not op.happened or op.told["status"] != NestStatus.DONE.value:
            continue
        nest = op.told["nest"]
        before = first.setdefault((op.epoch, nest), op)
        if before is op:
            continue
        again = (redo for redo in case.of("redo") if redo.possible and nest in redo.told["redone"])
        if not any(redo.began < op.ended and redo.ended > before.began for redo in again):
            yield case.broken("twice", f"nest {nest} of epoch {op.epoch} was recorded as done twice", before, op)
        first[op.epoch, nest] = op


def _done(case: _Case) -> Iterator[Violation]:
    for finish in case.of("finish"):
        if not finish.happened:
            continue
        claim = case.claim_of(finish)
        if claim is None:
            yield case.broken("done", "it was finished by a pilot that had no such claim", finish)
            continue
        owed = [op for op in case.records if op.fence == finish.fence and op.actor == finish.actor]
        for op in owed:
            if op.ended > finish.began:
                yield case.broken("done", f"it was finished before nest {op.told['nest']} was answered", op, finish)
        for nest in range(claim.told["nests"]):
            why = _not_done(case, claim, finish, nest)
            if why:
                yield case.broken("done", f"it was finished, but nest {nest} {why}", claim, finish)


def _not_done(case: _Case, claim: Op, finish: Op, nest: int) -> str:
    """Why a nest was not done when its item was finished; "" if it may have been."""
    recorded = [
        op
        for op in case.records
        if op.told["nest"] == nest
        and op.told["status"] == NestStatus.DONE.value
        and (op.possible or op.outcome == KEPT)
        and op.began < finish.ended
    ]
    if not any(op.possible for op in recorded):
        return "was recorded by nobody before"
    since = max((op.began for op in _generations(case) if op.happened and op.ended < claim.began), default=-math.inf)
    fresh = [op for op in recorded if op.possible and op.began > since]
    if not fresh:
        return "was recorded only before the last reset or edit"
    if not any(op.epoch == finish.epoch for op in fresh):
        return f"was recorded by nobody in epoch {finish.epoch}"
    redone = [op for op in case.of("redo") if op.happened and op.ended < claim.began and nest in op.told["redone"]]
    if redone and not any(op.fence > redone[-1].fence for op in fresh):
        return "was not done again after a user's redo"
    return ""


def _generations(case: _Case) -> Iterator[Op]:
    """Moves after which old results do not count."""
    for op in case.of("reset", "edit", "import"):
        if op.kind != "import" or op.told.get("imported") == "edited":
            yield op


def _verified(case: _Case) -> Iterator[Violation]:
    if not case.runs:
        return
    ran = {(op.actor, op.fence, op.told["nest"]): op for op in case.runs if op.outcome == WON}
    for op in case.records:
        if op.outcome not in (WON, KEPT) or op.told["status"] != NestStatus.DONE.value:
            continue
        run = ran.get((op.actor, op.fence, op.told["nest"]))
        if run is None or run.ended > op.began:
            yield case.broken(
                "verified", f"nest {op.told['nest']} was recorded as done, but had not run to its end", op
            )


# ------------------------------------------------------------------------------------------------ definition and epoch


def _definition(case: _Case) -> Iterator[Violation]:
    changes: list[tuple[Op, str]] = []
    for op in case.of("import", "edit", "extend"):
        told = op.told.get("imported")
        if op.possible and (op.kind != "import" or told in (None, "created", "edited")):
            changes.append((op, op.told.get("hash", "")))
    for claim in case.claims:
        sure = [each for each in changes if each[0].happened and each[0].ended < claim.began]
        last = max((each[0].began for each in sure), default=-math.inf)
        allowed = {told for op, told in changes if op.ended > last and op.began < claim.ended}
        # An extension whose answer was lost may stand: its hash was never told.
        if claim.told["hash"] not in allowed and "" not in allowed and changes:
            shown = [op for op, _ in changes[-2:]]
            yield case.broken("definition", f"a claim has the definition {claim.told['hash']}", *shown, claim)
    for op in case.of("definition"):
        if op.told["read"] != op.told["hash"]:
            yield case.broken("definition", f"definition {op.told['hash']} reads as {op.told['read']}", op)
    for op in case.of("import"):
        later = [c for c in case.of("import") if c.happened and c.began > op.ended]
        if op.told.get("imported") == "created" and (
            two := next((c for c in later if c.told["imported"] == "created"), None)
        ):
            yield case.broken("definition", "it was created twice", op, two)


def _epoch(case: _Case) -> Iterator[Violation]:
    for move in _generations(case):
        if not move.happened:
            continue
        before = [op for op in case.claims if op.ended < move.began]
        after = [op for op in case.claims if op.began > move.ended]
        told = [move] if "epoch" in move.told else []
        for op in before:
            for later in [*told, *after]:
                if later.epoch <= op.epoch:
                    yield case.broken("epoch", f"after {move.kind} the epoch is still {op.epoch}", op, move, later)
                    return


# ------------------------------------------------------------------------------------------------------ the final table


def _unowned(case: _Case, table: Table) -> Iterator[Violation]:
    item = table.items.get(case.item)
    highest = max([op.fence for op in case.mints] + ([item.fence] if item else []), default=0)
    owned = {op.fence for op in case.mints}
    excuses = sorted((op for op in case.ops if _may_have_minted(op, table)), key=lambda op: op.ended)
    for fence in (each for each in range(1, highest + 1) if each not in owned):
        # Between the fences around it somebody must have been who was never told that he had won.
        after = max((op.began for op in case.mints if op.fence < fence), default=-math.inf)
        before = min((op.ended for op in case.mints if op.fence > fence), default=math.inf)
        excuse = next((op for op in excuses if op.ended >= after and op.began <= before), None)
        if excuse is None:
            shown = [op for op in case.of("claim") if op.outcome == LOST and after <= op.ended and op.began <= before]
            why = f"fence {fence} was given to nobody: a claim that had won was told that it was lost"
            yield case.broken("unowned", why, *shown[:4])
            return
        excuses.remove(excuse)


def _may_have_minted(op: Op, table: Table) -> bool:
    """May this call have been given a fence that its caller was not told?"""
    if op.kind == "import":
        return op.told.get("imported") == "edited" or (op.told["update"] and op.outcome in (OPEN, UNKNOWN))
    if op.kind == "late":
        return op.happened
    if op.kind not in USERS and op.kind != "claim":
        return False
    if op.ended - op.began >= table.lease_seconds:
        return True  # an earlier try of the call may have won, and its lease been over, before a later one was answered
    return op.outcome in (OPEN, UNKNOWN) or (op.outcome == LOST and bool(op.told.get("silent")))


def _robbed(case: _Case, table: Table) -> Iterator[Violation]:
    for op in case.of(*OWNERS):
        if op.outcome != LOST or "our own clock" in op.told.get("why", ""):
            continue
        claim = case.claim_of(op)
        before = (each for each in case.ops if each is not op and each.began < op.ended)
        if claim is not None and not any(_may_have_taken(each, op, table) for each in before):
            yield case.broken("robbed", f"{op.kind} was refused, though nobody else had the item", claim, op)


def _may_have_taken(other: Op, op: Op, table: Table) -> bool:
    """May this call be the reason why an owner's write was refused?"""
    if other.kind in RELEASES:
        return other.actor == op.actor and other.fence == op.fence
    if other.kind == "claim" and other.happened:
        return other.fence > op.fence
    return (other.kind in ("expire", *AFRESH) and other.possible) or _may_have_minted(other, table)


def _lost(case: _Case, table: Table) -> Iterator[Violation]:
    item = table.items.get(case.item)
    created = [op for op in case.of("import") if op.told.get("imported") == "created"]
    if item is None:
        if created:
            yield case.broken("lost", "it was imported, and is not in the table", *created)
        return
    last = case.claims[-1:]
    if item.state is State.LOCKED and (item.lease_end or 0.0) < table.over_before:
        yield case.broken("lost", f"it is locked under fence {item.fence} by a lease that is long over", *last)
    elif table.ended and item.state not in FINISHED:
        yield case.broken("lost", f"it is still {item.state}", *last)
    if item.state is State.CANCELLED:
        back = max((op.began for op in case.of(*AFRESH) if op.happened), default=-math.inf)
        if not any(op.possible and op.ended > back for op in case.of("cancel")):
            yield case.broken("unasked", "it is cancelled, but no user wanted that", *case.of("cancel", *AFRESH))
    rows = table.nests.get(case.item, {})
    for index, nest in rows.items():
        if nest.fence > item.fence:
            yield case.broken("nest fence", f"nest {index} has fence {nest.fence}, the item {item.fence}")
        if nest.status is not NestStatus.RESET and not any(
            op.told["nest"] == index and op.fence == nest.fence and (op.possible or op.outcome == KEPT)
            for op in case.records
        ):
            yield case.broken("lost", f"nest {index} has a result of fence {nest.fence} that nobody recorded")
    if item.state is State.DONE:
        undone = [n for n in range(item.nests) if n not in rows or rows[n].status is not NestStatus.DONE]
        if undone:
            yield case.broken("done", f"it is done, but its nests {undone} are not", *case.of("finish"))


_RULES = (_fence, _acting, _deadline, _released, _nest_fence, _twice, _done, _verified, _definition, _epoch)


def told(violations: Iterable[Violation], limit: int = 20) -> str:
    """The first violations in words, and how many there are by rule."""
    found = list(violations)
    rules: dict[str, int] = defaultdict(int)
    for each in found:
        rules[each.rule] += 1
    return "\n".join([f"{len(found)} violations {dict(rules)}", *map(str, found[:limit])])
