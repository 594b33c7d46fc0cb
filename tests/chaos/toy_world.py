"""A toy world for the checker's own tests: pilots, a user and a network in one thread, by a seed, on a clock that is moved.

The pilots keep every rule that pilots have (nothing past their own deadline, finish only after each answer); they die,
freeze, and have clocks that are off by less than half the margin. What goes wrong then is the ledger's fault.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from broken_ledgers import Wire, World
from checker import Table, Violation, check
from history import WON, History, LoggedLedger, read_histories

from pyanamo_core.errors import LeaseLost, MoveRefused
from pyanamo_core.model import FINISHED, Cause, Claim, Definition, Item, Nest, NestStatus, Rules, State

RULES = Rules(max_tries=4, max_interruptions=3, lease_seconds=100, shards=1)
DEFINITIONS = [Definition(script=f"work {n}", arguments=("a", "b", "c")[: 2 + n % 2]) for n in range(3)]
SETTLE_STEPS = 4000
DEPTH = 2
Steps = Generator[None, None, None]


class ToyWorld:
    """See the module.

    Args:
        make: the ledger's class.
        pilots, items: how many.
    """

    def __init__(self, make: type[Wire], folder: Path, seed: int, *, pilots: int = 3, items: int = 3) -> None:
        self.rng = random.Random(seed)
        self.world = World()
        self.folder = folder
        self.ledger = make(RULES, self.world, self.rng, travel=self._travel, loses=lambda: self.rng.random() < 0.08)
        self.items = [f"i{n}" for n in range(items)]
        self._ticks = 0
        self._depth = 0
        self._busy: set[int] = set()
        self._frozen: dict[int, float] = {}
        self._stormy = True
        self._born = 0
        self._histories: list[History] = []
        self.actors: list[tuple[float, Steps]] = []
        self._start(0.0, self._user)
        for _ in range(pilots):
            self._pilot()

    # ------------------------------------------------------------------ the run

    def run(self, steps: int = 300) -> list[Violation]:
        """So many steps of bad weather, then as many of good as it takes; what the checker says."""
        for _ in range(steps):
            self._step()
        self._stormy = False
        for _ in range(SETTLE_STEPS):
            self._step()
            if all(self.ledger.item(i).state in FINISHED for i in self.items):
                break
        self.world.move(3 * RULES.lease_seconds)
        for history in self._histories:
            history.close()
        items = {i: self.ledger.item(i) for i in self.items}
        nests = {i: self.ledger.nests(item) for i, item in items.items()}
        histories = read_histories(self.folder.glob("*.jsonl"))
        over = self.world.now() - 2 * RULES.lease_seconds
        return check(histories, Table(items, nests, over_before=over, lease_seconds=RULES.lease_seconds))

    def _now(self) -> float:
        self._ticks += 1  # no two lines at one time
        return self.world.monotonic() + self._ticks * 1e-9

    def _start(self, skew: float, actor: Callable[[LoggedLedger, History], Steps]) -> None:
        self._born += 1
        history = History(self.folder / f"{self._born:04d}.jsonl", f"actor-{self._born}", self._now)
        self._histories.append(history)
        self.actors.append((skew, actor(LoggedLedger(self.ledger, history), history)))

    def _pilot(self) -> None:
        self._start(self.rng.uniform(-0.49, 0.49) * RULES.margin_seconds, self._work)

    def _step(self) -> None:
        free = [
            n
            for n in range(len(self.actors))
            if n not in self._busy and self._frozen.get(n, 0) <= self.world.monotonic()
        ]
        if self.rng.random() < 0.3 or not free:
            self.world.move(self.rng.choice([0.1, 1, 2, 4, 10, 30]))
        if not free:
            return
        number = self.rng.choice(free)
        skew, actor = self.actors[number]
        self._busy.add(number)
        try:
            with self.world.seen_with(skew):
                next(actor)
        except StopIteration:
            pass
        finally:
            self._busy.discard(number)
        if number and self._stormy:
            if self.rng.random() < 0.02:
                self._die(number)
            elif self.rng.random() < 0.03:
                self._frozen[number] = self.world.monotonic() + self.rng.uniform(0.5, 2.5) * RULES.lease_seconds

    def _die(self, number: int) -> None:
        self.actors[number] = (0.0, iter(()))  # type: ignore[assignment]
        self._busy.add(number)
        self._pilot()

    def _travel(self) -> None:
        """A call is under way: now and then others act meanwhile, or it takes long."""
        if self._depth >= DEPTH or self.rng.random() > 0.3:
            return
        self._depth += 1
        try:
            late = self._stormy and self.rng.random() < 0.3
            if late:
                self.world.move(1.2 * RULES.lease_seconds + RULES.margin_seconds)
            for _ in range(self.rng.randint(4, 16) if late else self.rng.randint(1, 6)):
                self._step()
        finally:
            self._depth -= 1

    # ------------------------------------------------------------------ pilots

    def _work(self, ledger: LoggedLedger, history: History) -> Steps:
        while True:
            item_id = self.rng.choice(self.items)
            claim = ledger.claim(item_id, history.actor)
            if claim is None:
                ledger.expire(item_id)
                yield
                continue
            try:
                yield from self._hold(ledger, history, claim)
            except LeaseLost:
                yield

    def _hold(self, ledger: LoggedLedger, history: History, claim: Claim) -> Steps:
        definition = ledger.definition(claim.item)
        done = {index for index, nest in ledger.nests(claim.item).items() if nest.status is NestStatus.DONE}
        progressed = False
        for index in range(definition.nests):
            if index in done:
                continue
            failed = self.rng.random() < 0.1
            with self._nest(history, claim, index):
                for _ in range(self.rng.randint(0, 3)):
                    claim = self._beat(ledger, claim, progressed, len(done))
                    yield
            status = NestStatus.FAILED if failed else NestStatus.DONE
            row = Nest(item_id=claim.item_id, epoch=claim.epoch, index=index, status=status, fence=claim.fence)
            ledger.record_nest(claim, row)
            progressed = True
            yield
            if failed:
                move = ledger.wait if self.rng.random() < 0.8 else ledger.fail
                move(claim, Cause.TASK_ERROR, "in vain", **({"delay_seconds": 5.0} if move == ledger.wait else {}))
                return
            done.add(index)
            if self._stormy and self.rng.random() < 0.1:
                ledger.hand_back(claim, Cause.SPOT, progressed=progressed, started=True)
                return
        ledger.finish(claim, nests_done=len(done))
        yield

    @contextmanager
    def _nest(self, history: History, claim: Claim, index: int) -> Iterator[None]:
        run = history.begin("run", claim.item_id, fence=claim.fence, epoch=claim.epoch, nest=index)
        try:
            yield
        except GeneratorExit:  # killed: no line
            raise
        except BaseException:
            history.end(run, "lost")
            raise
        history.end(run, WON)

    def _beat(self, ledger: LoggedLedger, claim: Claim, progressed: bool, done: int) -> Claim:
        if self.rng.random() < 0.5:
            return claim
        beaten = ledger.beat(claim, progressed=progressed, nests_done=done, nests_failed=0)
        return claim.model_copy(update={"deadline": beaten.deadline})

    # ------------------------------------------------------------------ the user

    def _user(self, ledger: LoggedLedger, history: History) -> Steps:
        for item_id in self.items:
            ledger.import_item(item_id, "T", DEFINITIONS[0])
        yield
        while True:
            while not self._stormy:
                yield
            for _ in range(self.rng.randint(2, 12)):
                yield
            self._change(ledger, ledger.item(self.rng.choice(self.items)))

    def _change(self, ledger: LoggedLedger, item: Item) -> None:
        moves: list[Callable[[], Any]] = [
            lambda: ledger.import_item(item.item_id, "T", self.rng.choice(DEFINITIONS)),
            lambda: ledger.import_item(item.item_id, "T", self.rng.choice(DEFINITIONS), update=True),
            lambda: ledger.reset(item),
            lambda: ledger.reset(item),
            lambda: ledger.redo(item, [self.rng.randrange(item.nests)]),
            lambda: ledger.extend(item, [f"more-{self.rng.getrandbits(20)}"]),
            lambda: ledger.cancel(item),
            lambda: ledger.retry(item),
            lambda: ledger.edit(item, self.rng.choice(DEFINITIONS)),
        ]
        move = self.rng.choice(moves)
        if item.state is State.LOCKED and self.rng.random() < 0.7:
            return
        try:
            move()
        except MoveRefused:
            return
