"""Run rows: mode, watcher's fenced lease, submissions. Small, so that each pilot can read one at each beat."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from pyanamo_core.errors import OutcomeUnknown, PyAnamoError, RunConflict, RunMissing
from pyanamo_core.ledger import decisions, rows
from pyanamo_core.ledger import expressions as x
from pyanamo_core.ledger.base import USER_SECONDS, LedgerBase
from pyanamo_core.ledger.decisions import Refusal
from pyanamo_core.ledger.expressions import Expressions
from pyanamo_core.ledger.run_rows import names_of, read_run, reserved, run_row, sequence_key, settled, told
from pyanamo_core.ledger.store import NoAnswer, Won
from pyanamo_core.model import Mode, Run, Submission

Write = tuple[str, str, Mapping[str, Any]]
"""Condition, update and values of a run row's write."""


class Runs(LedgerBase):
    """Writes and reads run rows."""

    def begin_run(self, run: Run) -> Run:
        """Store a new run; the same run again is the one that stands.

        The live runs are looked at before the put and again after it: of two runs with different revisions that begin
        in one moment each then sees the other, and at most one stays.

        Raises:
            RunConflict: the id exists with other content, or another live run pins another revision.
            BadInput: the id is longer than 64 bytes.
            OutcomeUnknown: nothing answered; begin it again.
        """
        rows.check_owner("Run", run.run_id)
        standing = self._run_or_none(run.run_id)
        try:
            if standing is None:
                decisions.alone(run, self.live_runs())
                answer = self._put_once(run_row(run), "")
                standing = run if isinstance(answer, Won) else self.run(run.run_id)
            decisions.same_run(standing, run)
            if standing.ended is None and not standing.submissions:
                self._alone_or_withdrawn(standing)
        except Refusal as refusal:
            raise RunConflict(run_id=run.run_id, reason=refusal.reason) from None
        return standing

    def _alone_or_withdrawn(self, run: Run) -> None:
        try:
            decisions.alone(run, self.live_runs())
        except Refusal:
            self._store.delete(rows.key(x.RUN_ID, run.run_id), x.RUN_WITHDRAW, rows.values(token=run.token, zero=0))
            raise

    def run(self, run_id: str) -> Run:
        """A run, by a strong read. Raises RunMissing."""
        found = self._run_or_none(run_id)
        if found is None:
            raise RunMissing(table=self.table, run_id=run_id)
        return found

    def _run_or_none(self, run_id: str) -> Run | None:
        row = self._store.get(x.RUN_ID, run_id)
        return read_run(row) if row else None

    def runs(self) -> list[Run]:
        """All runs of the table, oldest first."""
        found = [read_run(row) for row in self._store.rows(x.RUN_ID, "")]
        return sorted(found, key=lambda run: (run.started, run.run_id))

    def live_runs(self) -> list[Run]:
        return [run for run in self.runs() if run.ended is None]

    def set_mode(self, run_id: str, mode: Mode, reason: str = "", *, hand_back: bool = False) -> Run:
        """Only ever from run to drain to cancel; the same again changes nothing.

        Args:
            hand_back: for drain: pilots end what runs and hand it back, instead of finishing what they hold.

        Raises:
            RunConflict: that would be a step back.
            RunMissing, OutcomeUnknown.
        """
        before = decisions.MODES[: decisions.MODES.index(mode) + hand_back]

        def write(run: Run) -> Write | None:
            if not decisions.forward(run, mode, hand_back=hand_back):
                return None
            values = rows.values(
                mode=mode.value,
                reason=rows.clipped(reason, rows.REASON_BYTES),
                hand_back=hand_back,
                before_1=before[0].value,
                before_2=before[-1].value,
            )
            return x.MODE_FORWARD, x.MODE_UPDATE, values

        return self._change(run_id, write)

    def take_watch(self, run_id: str, watcher: str, lease_seconds: float) -> Run | None:
        """Take or renew the watcher's fenced lease; None while another holds it.

        Args:
            watcher: unique for each watching process: by this name it renews.
            lease_seconds: how long it holds from now on.
        """

        def write(run: Run) -> Write | None:
            now = self._now()
            if run.watcher != watcher and run.watcher_lease_end > now:
                raise Refusal(f"it is watched by {run.watcher} until {decisions.told(run.watcher_lease_end)}")
            return (
                x.WATCH_FREE,
                x.WATCH_UPDATE,
                rows.values(
                    now=now,
                    watcher=watcher,
                    seen_fence=run.watcher_fence,
                    watcher_fence=run.watcher_fence + (run.watcher != watcher),
                    watcher_lease_end=round(now + lease_seconds, 3),
                ),
            )

        try:
            return self._change(run_id, write)
        except RunConflict:
            return None

    def release_watch(self, run: Run) -> None:
        """Give the watcher's lease back, if it is still ours."""

        def write(standing: Run) -> Write | None:
            if standing.watcher_fence != run.watcher_fence or not standing.watcher:
                return None
            return (
                x.WATCH_MINE,
                x.RELEASE_UPDATE,
                rows.values(seen_fence=run.watcher_fence, nobody="", zero=0),
            )

        self._change(run.run_id, write)

    def reserve_submission(self, run: Run, *, size: int, queue: str, definition: str) -> tuple[Run, Submission]:
        """Reserve (run, next sequence number) under the watcher's fence, before SubmitJob is sent.

        Raises:
            RunConflict: the watcher's fence is no longer ours.
            RunMissing, OutcomeUnknown.
        """
        made: list[Submission] = []

        def write(standing: Run) -> Write | None:
            if standing.watcher_fence != run.watcher_fence:
                raise Refusal(f"its watcher's fence is {standing.watcher_fence}, not {run.watcher_fence}")
            if made and made[-1] in standing.submissions:
                return None
            new = reserved(standing, size=size, queue=queue, definition=definition, now=self._now())
            made.append(new)
            names = names_of((*standing.submissions, new))
            step = sequence_key(new.sequence)
            values = rows.values(
                seen_fence=run.watcher_fence,
                before=len(standing.submissions),
                submission=told(new, names),
                names=names,
            )
            return x.RESERVE.format(sequence=step), x.RESERVE_UPDATE.format(sequence=step), values

        after = self._change(run.run_id, write)
        return after, made[-1]

    def settle_submission(self, run: Run, sequence: int, *, job_id: str = "", reason: str = "") -> Run:
        """Say what became of a reserved submission: a job id, or the reason why there is none.

        A job id is written whoever watches by now: it is a fact. A failure never replaces one.

        Raises:
            RunConflict: the run has no such submission.
            RunMissing, OutcomeUnknown.
        """
        step = sequence_key(sequence)

        def write(standing: Run) -> Write | None:
            after = settled(standing, sequence, job_id=job_id, reason=reason)
            if after == standing:
                return None
            names = names_of(standing.submissions)
            values = rows.values(
                submission=told(after.submissions[sequence], names),
                reserved=told(standing.submissions[sequence], names),
            )
            condition = x.SETTLE if job_id else x.SETTLE_FAILED
            return condition.format(sequence=step), x.SETTLE_UPDATE.format(sequence=step), values

        return self._change(run.run_id, write)

    def end_run(self, run_id: str, outcome: str, reason: str = "") -> Run:
        """End a run; one that has ended keeps its outcome. Raises RunMissing, OutcomeUnknown."""

        def write(run: Run) -> Write | None:
            if run.ended is not None:
                return None
            kept = rows.clipped(reason, rows.REASON_BYTES) or run.reason
            return x.RUN_LIVE, x.END_UPDATE, rows.values(ended=self._now(), outcome=outcome, reason=kept)

        return self._change(run_id, write)

    def _change(self, run_id: str, write: Callable[[Run], Write | None]) -> Run:
        """A guarded write of a run's row, decided anew with the row that stands until it is won or not needed.

        Every one of these writes is idempotent: after silence it is decided again from a strong read.

        Raises:
            RunConflict: `write` refused.
            RunMissing, OutcomeUnknown.
        """
        until, none = self._clock.monotonic() + USER_SECONDS, None
        while True:
            try:
                run = self.run(run_id)
            except PyAnamoError as error:
                if none is None:
                    raise
                raise OutcomeUnknown(move="change", what=f"run {run_id}", reason=str(none)) from error
            try:
                decided = write(run)
            except Refusal as refusal:
                raise RunConflict(run_id=run_id, reason=refusal.reason) from None
            if decided is None:
                return run
            try:
                answer = self._store.update(rows.key(x.RUN_ID, run_id), Expressions(*decided))
            except NoAnswer as silence:
                none = silence
                if self._clock.monotonic() + 1.0 >= until:
                    raise OutcomeUnknown(move="change", what=f"run {run_id}", reason=str(silence)) from silence
                self._clock.sleep(self._rng.uniform(0.2, 1.0))
                continue
            if isinstance(answer, Won):
                return read_run(answer.row)
