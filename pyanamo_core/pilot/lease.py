"""Leases: one thread beats for all held items, another watches their deadlines, whatever the rest of the pilot does.

A deadline is monotonic and counts from before the renewing request was sent. Past it the item may be another's: what
runs for it is stopped and nothing more is written. A beat that gets no answer hangs for a while, so the watch over the
deadlines never waits for one.
"""

from __future__ import annotations

import logging
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from pyanamo_core.errors import LeaseLost, MoveRefused
from pyanamo_core.model import Beaten, Claim
from pyanamo_core.protocols import Clock, Ledger

STOP_AHEAD_SECONDS: Final = 7.0
"""Children are stopped this long before the deadline (or a twentieth of the lease, if that is less)."""
TERM_SHARE: Final = 0.7
"""So much of that time they have between TERM and KILL: none is left when the item may be another's."""

_log = logging.getLogger("pyanamo.pilot")


@dataclass
class _Lease:
    claim: Claim
    progressed: bool = False
    nests_done: int = 0
    nests_failed: int = 0
    tried: float = 0.0
    """When its last beat was sent (monotonic)."""


class Leases:
    """The claims of a pilot.

    Args:
        beat_seconds: the rhythm; each beat is up to 10 % earlier or later.
        on_lost: told item id, fence and reason when an item is no longer ours.
        on_cancelled: told the id of an item that a user has cancelled.
        on_beat: called after each round, also when nothing is held.
    """

    def __init__(
        self,
        ledger: Ledger,
        clock: Clock,
        rng: random.Random,
        *,
        beat_seconds: float,
        lease_seconds: float,
        on_lost: Callable[[str, int, str], None],
        on_cancelled: Callable[[str], None],
        on_beat: Callable[[], None],
    ) -> None:
        self._ledger = ledger
        self._clock = clock
        self._rng = rng
        self._beat_seconds = beat_seconds
        self._ahead = min(STOP_AHEAD_SECONDS, lease_seconds / 20)
        self._on_lost = on_lost
        self._on_cancelled = on_cancelled
        self._on_beat = on_beat
        self._held: dict[str, _Lease] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._added = threading.Event()

    @property
    def term_seconds(self) -> float:
        """From TERM to KILL for what runs for an item that was lost."""
        return self._ahead * TERM_SHARE

    # ------------------------------------------------------------------ what is held

    def add(self, claim: Claim) -> None:
        """An item is ours from now on."""
        with self._lock:
            self._held[claim.item_id] = _Lease(claim, tried=self._clock.monotonic())
        self._added.set()

    def drop(self, item_id: str) -> None:
        """It is no longer to be renewed."""
        with self._lock:
            self._held.pop(item_id, None)

    def claim(self, item_id: str) -> Claim | None:
        """The claim with its newest deadline; None if it is not held."""
        with self._lock:
            lease = self._held.get(item_id)
            return lease.claim if lease else None

    def progress(self, item_id: str, *, progressed: bool, nests_done: int, nests_failed: int) -> None:
        """What the next beat shall say."""
        with self._lock:
            lease = self._held.get(item_id)
            if lease:
                lease.progressed, lease.nests_done, lease.nests_failed = progressed, nests_done, nests_failed

    @property
    def holding(self) -> tuple[str, ...]:
        """Ids of the items held."""
        with self._lock:
            return tuple(self._held)

    # ------------------------------------------------------------------ the threads

    def start(self) -> None:
        """Begin to beat and to watch."""
        for name, run in (("lease", self._beats), ("deadlines", self._deadlines)):
            threading.Thread(target=run, name=name, daemon=True).start()

    def stop(self) -> None:
        """Beat no more."""
        self._stop.set()
        self._added.set()

    def _beats(self) -> None:
        pause = self._pause()
        while not self._stop.wait(pause):
            pause = self._pause() if self.beat() else self._beat_seconds / 5
            self._on_beat()

    def _deadlines(self) -> None:
        while not self._stop.is_set():
            soonest = self._next_deadline()
            left = None if soonest == float("inf") else max(0.02, soonest - self._clock.monotonic())
            # A beat only moves a deadline away: the old one is looked at in vain, and the next waited for.
            self._added.wait(left)
            self._added.clear()
            if not self._stop.is_set():
                self.check_deadlines()

    def _pause(self) -> float:
        return self._beat_seconds * self._rng.uniform(0.9, 1.1)

    def _next_deadline(self) -> float:
        with self._lock:
            return min((each.claim.deadline for each in self._held.values()), default=float("inf")) - self._ahead

    def check_deadlines(self) -> None:
        """Give up every item whose own deadline has come."""
        now = self._clock.monotonic()
        with self._lock:
            over = [each.claim for each in self._held.values() if each.claim.deadline - self._ahead <= now]
        for claim in over:
            self._lose(claim, "it could not be renewed in time")

    def beat(self) -> bool:
        """One round over all held items; False if one of them got no answer.

        The round ends there, because the others would hardly fare better and each costs seconds; the next one follows
        sooner and begins with those that have waited longest.
        """
        with self._lock:
            leases = sorted(self._held.values(), key=lambda lease: lease.tried)
        for lease in leases:
            if self._stop.is_set():
                break
            claim = lease.claim
            lease.tried = self._clock.monotonic()
            try:
                beaten = self._ledger.beat(
                    claim,
                    progressed=lease.progressed,
                    nests_done=lease.nests_done,
                    nests_failed=lease.nests_failed,
                )
            except (LeaseLost, MoveRefused) as error:
                self._lose(claim, str(error))
            except Exception as error:  # noqa: BLE001 - whatever it was, the deadline stands and decides
                _log.warning("a beat for item %s went wrong: %s", claim.item_id, error)
                return False
            else:
                self._renew(claim, beaten)
        return True

    def _renew(self, claim: Claim, beaten: Beaten) -> None:
        with self._lock:
            lease = self._held.get(claim.item_id)
            if lease is None or lease.claim.fence != claim.fence:
                return
            lease.claim = claim.model_copy(update={"deadline": beaten.deadline})
        if beaten.cancelled:
            self._on_cancelled(claim.item_id)

    def _lose(self, claim: Claim, reason: str) -> None:
        with self._lock:
            lease = self._held.get(claim.item_id)
            if lease is None or lease.claim.fence != claim.fence:
                return
            del self._held[claim.item_id]
        self._on_lost(claim.item_id, claim.fence, reason)
