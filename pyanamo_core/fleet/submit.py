"""Submitting pilots so that a lost answer, a dead watcher or two watchers never make a second fleet.

A submission goes through four steps, each of them safe to be the last one:

1. reserve (run, next number) in the run row, under the watcher's fence;
2. read the run's mode again: a run that was cancelled meanwhile submits nothing;
3. SubmitJob, one single request, within 10 s (monotonic) of the reservation, under the name `<token>-<n>`;
4. settle: note the job's id.

A reservation that is not settled, our own after an unknown outcome or one of a watcher that died, is looked for by its
exact name: at least 60 s and three times before it is sent again, under the same name. Should both exist after all, the
one that is settled is kept, else the older, and the other terminated. Each pilot is told the number of its submission:
once that is settled with another job, it claims nothing (pilot/leaving.py), so that a double that arrives late never works.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from pyanamo_core.aws import SUBMIT_SECONDS
from pyanamo_core.errors import PyAnamoError, SubmitThrottled, SubmitUnknown
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.jobs import ENDED, Found
from pyanamo_core.fleet.plan import array_sizes
from pyanamo_core.model import Mode, Run, Submission
from pyanamo_core.protocols import Clock, Ledger

log = logging.getLogger(__name__)

NOT_SUBMITTED: Final = "not submitted: "
"""How the reason of a submission begins that was given up before anything was sent."""
BUSY_SECONDS: Final = 2.0


@dataclass(frozen=True)
class Patience:
    """How long things are waited for, in seconds (docs/fleet.md). Tests and the local cloud shorten them."""

    window_seconds: float = 10.0
    """From the reservation to the request; a watcher that stalled in between submits nothing."""
    answer_seconds: float = float(SUBMIT_SECONDS)
    """How long SubmitJob's answer is waited for (aws.py)."""
    look_seconds: float = 60.0
    look_polls: int = 3
    tries: int = 3
    """Requests under one name before the submission is given up."""
    doubt_seconds: float = 600.0
    """How long after its reservation a name whose outcome was unknown is watched for a second job."""
    double_seconds: float = 15.0
    """Between two such looks."""
    missing_seconds: float = 60.0
    missing_polls: int = 2
    leave_seconds: float = 20.0
    """How long pilots have to leave a run that has nothing left, before they are terminated."""
    end_seconds: float = 90.0
    """How long terminated jobs are waited for: Batch gives 30 s after TERM."""

    @property
    def submit_lease_seconds(self) -> float:
        """The watcher's lease while it submits: longer than the request may take."""
        return self.answer_seconds + 2 * self.window_seconds


@dataclass
class _Look:
    """The search for one name."""

    since: float
    """Monotonic."""
    polls: int = 0
    tries: int = 0


class Submitter:
    """Submits pilots of one run. Not for several threads.

    Args:
        ledger: where reservations are made; the caller holds the run's watch.
        queue, definition: the workflow's; a run stays with the revision of its first submission.
        environment: overrides beside PYANAMO_TABLE, PYANAMO_RUN, PYANAMO_SUBMISSION and PREFECT_API_URL.
    """

    def __init__(
        self,
        ledger: Ledger,
        batch: Batch,
        clock: Clock,
        *,
        queue: str,
        definition: str,
        environment: Mapping[str, str] | None = None,
        patience: Patience | None = None,
    ) -> None:
        self._ledger, self._batch, self._clock = ledger, batch, clock
        self._queue, self._definition = queue, definition
        self._environment = dict(environment or {})
        self._patience = patience or Patience()
        self._looks: dict[int, _Look] = {}
        self.was_busy = False
        """Was Batch too busy to take what was last to be added?"""
        self._clean: set[int] = set()
        """Submissions that can exist only once: one request of ours, and its answer."""
        self._looked_for_doubles = -math.inf

    # ------------------------------------------------------------------------------------------ new pilots

    def add(self, run: Run, pilots: int, *, queue: str = "") -> Run:
        """Submit so many pilots, as one job or, above 10,000, as several.

        Args:
            queue: another one than the workflow's.

        Returns:
            The run's row, with a submission settled or left open (unknown outcome: `settle` goes on with it).

        Raises:
            RunConflict: another watcher has taken over.
            SubmitRefused: Batch said no; the submission is settled as failed.
        """
        definition = self.pinned(run)
        self.was_busy = False
        for size in array_sizes(pilots):
            began = self._clock.monotonic()
            run, submission = self._ledger.reserve_submission(
                run, size=size, queue=queue or self._queue, definition=definition
            )
            run = self._send(run, submission, began)
            if run.mode is not Mode.RUN or self.was_busy or self.is_open(run):
                break  # the rest is for a later poll
        return run

    def pinned(self, run: Run) -> str:
        """`definition:revision` of the run: that of its first submission, else the newest active one.

        Raises:
            DefinitionMissing: Batch has none.
        """
        if run.submissions:
            return run.submissions[0].definition
        return self._batch.definition(self._definition).name

    def _send(self, run: Run, submission: Submission, began: float) -> Run:
        """Steps 2 to 4. `began` is the monotonic time from before the reservation."""
        look = self._looks.setdefault(submission.sequence, _Look(self._clock.monotonic()))
        prefix = "given up: " if look.tries else NOT_SUBMITTED
        mode = self._ledger.run(run.run_id).mode
        if mode is not Mode.RUN:
            run = self._give_up(run, submission, f"{prefix}the run's mode is {mode}")
            return run.model_copy(update={"mode": mode})
        if self._clock.monotonic() - began > self._patience.window_seconds:
            # Too late: by now another watcher may have taken over and be looking for this name.
            return run if look.tries else self._give_up(run, submission, f"{prefix}too late after the reservation")
        look.tries += 1
        try:
            job_id = self._submit(run, submission, began)
        except SubmitUnknown:
            look.since, look.polls = self._clock.monotonic(), 0
            return run
        except SubmitThrottled as error:
            self.was_busy = True
            if look.tries > 1:
                look.since, look.polls = self._clock.monotonic(), 0
                return run
            return self._give_up(run, submission, f"{NOT_SUBMITTED}{error.facts['reason']}")
        except PyAnamoError as error:
            if look.tries > 1:
                # An earlier request of this name may still have arrived: only this one was refused.
                look.since, look.polls = self._clock.monotonic(), 0
                return run
            self._give_up(run, submission, f"{NOT_SUBMITTED}{error.facts.get('reason') or error}")
            raise
        if look.tries == 1:
            self._clean.add(submission.sequence)
        run = self._settle(run, submission, job_id)
        mode = self._ledger.run(run.run_id).mode
        if mode is Mode.CANCEL:
            # Cancelled between the last look at the mode and Batch's answer: nobody else knows this id yet.
            self._batch.terminate(job_id, "the run was cancelled")
        return run.model_copy(update={"mode": mode})

    def _submit(self, run: Run, submission: Submission, began: float) -> str:
        """SubmitJob; again after two seconds while Batch says that it is too busy, which is an answer, and the window lasts."""
        while True:
            try:
                return self._batch.submit(
                    submission.name,
                    queue=submission.queue,
                    definition=submission.definition,
                    size=submission.size,
                    environment=self._overrides(run, submission),
                )
            except SubmitThrottled:
                if self._clock.monotonic() + BUSY_SECONDS - began > self._patience.window_seconds:
                    raise
                self._clock.sleep(BUSY_SECONDS)

    def _overrides(self, run: Run, submission: Submission) -> dict[str, str]:
        told = self._environment | {
            "PYANAMO_TABLE": self._ledger.table,
            "PYANAMO_RUN": run.run_id,
            "PYANAMO_SUBMISSION": str(submission.sequence),
        }
        return told | ({"PREFECT_API_URL": run.prefect_api_url} if run.prefect_api_url else {})

    # ------------------------------------------------------------------------------------------ what stayed open

    def settle(self, run: Run, *, needed: bool = True) -> Run:
        """Go one step on with every submission that is reserved and not settled, and with doubles. Never waits.

        Args:
            run: the row as it is now; the caller holds its watch.
            needed: are pilots still wanted? If not, what was not found is not sent again.

        Raises:
            RunConflict: another watcher has taken over.
        """
        now = self._clock.monotonic()
        look_for_doubles = now - self._looked_for_doubles >= self._patience.double_seconds
        if look_for_doubles:
            self._looked_for_doubles = now
        for submission in run.submissions:
            if submission.outcome == "reserved":
                run = self._look(run, submission, needed and run.mode is Mode.RUN)
            elif look_for_doubles and self._is_doubtful(submission):
                run = self._resolve_double(run, submission)
        return run

    def is_open(self, run: Run) -> bool:
        """Is there a submission whose outcome is not known yet? Then no further one is made."""
        return any(submission.outcome == "reserved" for submission in run.submissions)

    def _look(self, run: Run, submission: Submission, needed: bool) -> Run:
        look = self._looks.setdefault(submission.sequence, _Look(self._clock.monotonic()))
        found = self._batch.find(submission.name, submission.queue)
        look.polls += 1
        if found:
            return self._adopt(run, submission, found)
        patience = self._patience
        looked_long = (
            self._clock.monotonic() - look.since >= patience.look_seconds and look.polls >= patience.look_polls
        )
        # A watcher that died may have sent its request at the end of its window, and Batch may have taken its time.
        arrives_until = submission.reserved_at + patience.window_seconds + patience.answer_seconds
        if not looked_long or (look.tries == 0 and self._clock.now() < arrives_until):
            return run
        if not needed or look.tries >= patience.tries:
            return self._give_up(run, submission, f"it never arrived ({look.polls} looks by name)")
        began = self._clock.monotonic()
        renewed = self._ledger.take_watch(run.run_id, run.watcher, patience.submit_lease_seconds)
        if renewed is None or renewed.watcher_fence != run.watcher_fence:
            return run
        if look.tries == 0:
            look.tries = 1  # the dead watcher's
        return self._send(renewed, submission, began)

    def _adopt(self, run: Run, submission: Submission, found: list[Found]) -> Run:
        """Of one name or several the oldest is ours."""
        self._keep(found[0], found)
        return self._settle(run, submission, found[0].job_id)

    def _is_doubtful(self, submission: Submission) -> bool:
        """May a second job of this name turn up? Not after ten minutes, and not if one clean request was answered."""
        if submission.sequence in self._clean or submission.reason.startswith(NOT_SUBMITTED):
            return False
        return self._clock.now() - submission.reserved_at <= self._patience.doubt_seconds

    def _resolve_double(self, run: Run, submission: Submission) -> Run:
        """Of two jobs of one name keep the one that is settled: the other's pilots claim nothing. A late arrival of a
        submission given up becomes part of the fleet."""
        found = self._batch.find(submission.name, submission.queue)
        if not found:
            return run
        if not submission.job_id:
            return self._adopt(run, submission, found)
        known = next((each for each in found if each.job_id == submission.job_id), None)
        if known is not None:
            self._keep(known, found)
            return run
        # Batch has forgotten the one that was settled: whatever else bears its name is still a double.
        for each in found:
            self._end_double(each, submission.job_id)
        return run

    def _keep(self, kept: Found, found: list[Found]) -> None:
        for other in found:
            if other is not kept:
                self._end_double(other, kept.job_id)

    def _end_double(self, double: Found, kept: str) -> None:
        if double.status not in ENDED:
            log.warning("job %s was submitted twice under the name %s: it is ended", double.job_id, double.name)
            self._batch.terminate(double.job_id, f"submitted twice, {kept} is kept")

    def _settle(self, run: Run, submission: Submission, job_id: str) -> Run:
        return self._ledger.settle_submission(run, submission.sequence, job_id=job_id)

    def _give_up(self, run: Run, submission: Submission, reason: str) -> Run:
        return self._ledger.settle_submission(run, submission.sequence, reason=reason)
