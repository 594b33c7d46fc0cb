"""What a pilot spends: slot-seconds by what came of them, CPU time, outputs. Only the loop's thread writes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

from pyanamo_core.meter import Reading
from pyanamo_core.model import Cause, NestResult, Spent
from pyanamo_core.pilot.scheduler import Held

KEPT: Final = "kept"
"""Done, but another's result of that nest was recorded before."""
OPEN: Final = "open"
"""Of nests that run."""


@dataclass
class Spending:
    """Slot-seconds by what came of them, and what belongs to their nests."""

    slot_seconds: dict[str, float] = field(default_factory=lambda: defaultdict[str, float](float))
    cpu_seconds: float = 0.0
    s3_writes: int = 0
    s3_reads: int = 0
    outputs: int = 0
    output_bytes: int = 0

    def ended(self, held: Held | None, result: NestResult, shares: int) -> None:
        """A nest's process is over; what came of it is its cause, unless its item has gone."""
        seconds = spent_on(result, shares)
        became = result.cause
        if held is None:
            became = Cause.LOST if became is Cause.DONE else became
        elif held.lost or held.cancelled:
            became = Cause.LOST if held.lost else Cause.CANCELLED
        self.slot_seconds[became.value] += seconds
        self.cpu_seconds += result.cpu_seconds
        self.s3_writes += result.s3_writes
        self.s3_reads += result.s3_reads
        if held is not None:
            held.slot_seconds += seconds
            held.cpu_seconds += result.cpu_seconds

    def recorded(self, held: Held, result: NestResult, shares: int, became: Cause | str) -> None:
        """The ledger has its result; what came of it may have changed on the way (`kept`, lost, not to be stored)."""
        seconds = spent_on(result, shares)
        if became != result.cause:
            self.slot_seconds[result.cause.value] -= seconds
            self.slot_seconds[str(became)] += seconds
        if became is Cause.DONE:
            held.kept_seconds += seconds
            self.outputs += len(result.outputs)
            self.output_bytes += sum(each.bytes for each in result.outputs)

    def told(self, reading: Reading, held: Iterable[Held], now: float) -> Spent:
        """For the pilot's row.

        Args:
            held: its items, whose running nests are told as `open`.
            now: on the monotonic clock.
        """
        running = sum(
            max(0.0, now - task.began) * task.shares
            for each in list(held)
            for task in list(each.running.values())
            if task.began is not None
        )
        told = {name: round(seconds, 3) for name, seconds in sorted(self.slot_seconds.items()) if seconds > 0.0005}
        return Spent(
            slot_seconds=told | ({OPEN: round(running, 3)} if running else {}),
            cpu_seconds=round(self.cpu_seconds, 3),
            write_units=reading.write_units,
            read_units=reading.read_units,
            s3_writes=reading.s3_writes + self.s3_writes,
            s3_reads=reading.s3_reads + self.s3_reads,
            log_bytes=reading.log_bytes,
            outputs=self.outputs,
            output_bytes=self.output_bytes,
        )


def spent_on(result: NestResult, shares: int) -> float:
    """Slot-seconds of a nest."""
    return max(0.0, result.ended - result.started) * shares
