"""What a pilot does, told in the log of its flow run: items claimed, done, failed, handed back, and why it left.

The core calls an observer with a time budget and swallows what it raises. Nests are shown by the executor's task runs,
not here: a line per nest is more than a server takes.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pyanamo_core.model import Cause, Claim, Item, NestCall, NestResult, State
from pyanamo_flows.publish import Publisher

if TYPE_CHECKING:
    from pyanamo_flows.executor import PrefectExecutor

MAX_LINES = 500


class PrefectObserver:
    """An Observer that writes to a flow run's log and emits events. It makes no request of its own.

    Args:
        logger: the flow run's logger.
        executor: is told when items end, and how many nests are planned.
        publisher: emits the events of failed items.
    """

    def __init__(
        self,
        logger: logging.Logger | logging.LoggerAdapter[logging.Logger],
        executor: PrefectExecutor,
        publisher: Publisher,
    ) -> None:
        self._logger = logger
        self._executor = executor
        self._publisher = publisher
        self.lines = 0

    def claimed(self, claim: Claim) -> None:
        item = claim.item
        self._executor.detail.plan(max(0, item.nests - item.nests_done))
        self._say(f"claimed {item.item_id}: {item.nests - item.nests_done} of {item.nests} nests to do")

    def nest_started(self, nest: NestCall) -> None:
        """Shown by its task run."""

    def nest_finished(self, nest: NestCall, result: NestResult) -> None:
        if result.cause is not Cause.DONE:
            told = f"{nest.item_id} {nest.value}: {result.cause}: {result.message}"
            self._say(told[:1000], logging.WARNING)

    def item_done(self, item: Item) -> None:
        failed = item.state is State.FAILED
        why = f": {item.cause}: {item.message}" if failed else ""
        told = f"{item.item_id} is {item.state}{why}"
        name = "Completed" if item.state is State.DONE else str(item.state).capitalize()
        self._executor.item_ended(item.item_id, name=name, message=told, failed=failed)
        self._say(told, logging.WARNING if failed else logging.INFO)
        if failed:
            self._publisher.item_failed(item)

    def handed_back(self, item_id: str, cause: Cause) -> None:
        self._executor.item_ended(item_id, name="HandedBack", message=f"handed back: {cause}")
        self._say(f"handed {item_id} back: {cause}")

    def leaving(self, reason: str, exit_code: int) -> None:
        self._say(f"leaving: {reason} (exit code {exit_code}); {self._executor.detail.summary()}", last=True)

    def _say(self, line: str, level: int = logging.INFO, *, last: bool = False) -> None:
        self.lines += 1
        if self.lines <= MAX_LINES or last:
            self._logger.log(level, line)
        elif self.lines == MAX_LINES + 1:
            self._logger.warning("more than %s lines: no more are sent to Prefect; the ledger has them all", MAX_LINES)
