"""The watcher of a run: brings Batch and the ledger together, tops up, explains, and ends the run.

It is a view with hands: pilots need no watcher. If it dies, the next one takes its lease over and carries on from the run
row; two at a time are told apart by the fence, and the second only looks on. Each poll is one renewal of the lease, one
DescribeJobs per 100 submissions and the ledger's counts (tally.py), whatever the number of items; all else is asked only on a change.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from pyanamo_core.aws import Clients
from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import AwsFailed, EndpointDown, OutcomeUnknown, PyAnamoError, RunConflict, SubmitRefused
from pyanamo_core.fleet import explain, plan
from pyanamo_core.fleet.batch import Batch, passes
from pyanamo_core.fleet.ending import REPEAT_SECONDS, Ender
from pyanamo_core.fleet.on_demand import STUCK_SECONDS, OnDemand, Split, is_end_game, split_top_up
from pyanamo_core.fleet.progress import Outcome, Progress, Rate
from pyanamo_core.fleet.sight import Sight
from pyanamo_core.fleet.spending import Spending, hand_back_for_dollars, spending, stop_for_dollars
from pyanamo_core.fleet.submit import Patience, Submitter
from pyanamo_core.fleet.tally import ChosenTally, Tally
from pyanamo_core.model import Counts, Mode, Run
from pyanamo_core.protocols import Clock, Ledger
from pyanamo_core.workflow import Workflow

log = logging.getLogger(__name__)

LEASE_POLLS: Final = 4
LEASE_MIN_SECONDS: Final = 10.0
EMPTY_POLLS: Final = 2
"""In so many polls in a row nothing must be left (or claimable): an item that moves may be missing from an index page."""
REFUSALS: Final = 3
"""Refused submissions in a row that stop a run."""
BLIND_SECONDS: Final = 900.0
"""How long a watcher goes on without the ledger answering. Without Batch it goes on for as long as it takes."""
BACK_OFF_SECONDS: Final = 120.0
"""The longest pause between two tries to reach an AWS that does not answer."""
SLICE_SECONDS: Final = 0.5


class Watch:
    """Watches one run. Not for several threads; `poll` is one step, `until_end` all of them.

    Args:
        watcher: name of this watcher, unique to its process: two that share a name would share the lease.
        environment: overrides for pilots, beside the run's own.
        on_progress: called at each poll; what it raises is logged once.
        stop: set from elsewhere, it ends the watch (not the run).
    """

    def __init__(
        self,
        clients: Clients,
        ledger: Ledger,
        run_id: str,
        workflow: Workflow,
        *,
        watcher: str,
        clock: Clock | None = None,
        environment: Mapping[str, str] | None = None,
        patience: Patience | None = None,
        on_progress: Callable[[Progress], None] | None = None,
        stop: threading.Event | None = None,
    ) -> None:
        self._ledger, self._run_id, self._workflow, self._watcher = ledger, run_id, workflow, watcher
        self._clock: Clock = clock or SystemClock()
        self._patience = patience or Patience()
        self._batch = Batch(clients)
        self._submitter = Submitter(
            ledger,
            self._batch,
            self._clock,
            queue=workflow.queue,
            definition=workflow.job_definition,
            environment=environment,
            patience=self._patience,
        )
        self._on_progress, self._stop = on_progress, stop or threading.Event()
        self._tally: Tally | ChosenTally = Tally(ledger, self._clock)
        self._sight = Sight(ledger, self._batch, self._clock, workflow, self._patience)
        self._ender = Ender(self._batch, self._sight, self._clock)
        self._on_demand = OnDemand(ledger, self._batch, self._clock, workflow)
        self._told_callback_failure = False
        self._poll_seconds = workflow.timing.poll_seconds
        self._held: Run | None = None

        self._rate = Rate()
        self._needed = True
        self._empty_polls = 0
        self._empty_since: float | None = None
        self._unclaimable_polls = 0
        self._ending_since: float | None = None
        self._top_up_at: float | None = None
        self._top_up_mark = (0, 0)
        self._rounds = 0
        self._refusals = 0
        self._busy_rounds = 0
        self._hole_rounds = 0
        self._hole_mark = (0, 0)
        """Fruitless ends before the last top-up, and its pilots."""
        self._batch_seen = False
        self._silent_since: float | None = None
        self._ask_batch_at = -math.inf
        self._silences = 0
        self._stuck_since: float | None = None
        self._explained: tuple[float, str] | None = None
        self._notes: list[str] = []

    # ------------------------------------------------------------------------------------------ all of it

    def until_end(self) -> Outcome:
        """Poll until the run has ended, or `stop` is set.

        Raises:
            PyAnamoError: what no patience mends (credentials, permissions, a missing table), AWS unreachable from the
                start, or the ledger silent for 15 minutes.
        """
        seen, failures = False, 0
        blind_since: float | None = None
        try:
            while True:
                began = self._clock.monotonic()
                try:
                    outcome = self.poll()
                    seen, blind_since, failures = True, None, 0
                except RunConflict as error:
                    log.info("another watcher has taken run %s over: %s", self._run_id, error)
                    self._held, outcome = None, None
                except (OutcomeUnknown, AwsFailed, EndpointDown) as error:
                    now, failures = self._clock.monotonic(), failures + 1
                    blind_since = blind_since if blind_since is not None else now
                    log.warning("poll of run %s failed: %s", self._run_id, error)
                    if not seen or now - blind_since >= BLIND_SECONDS:
                        raise
                    outcome = None
                if outcome is not None:
                    return outcome
                # Where polls take long (a busy local cloud), the watcher must not be the load.
                took = min(self._clock.monotonic() - began, 2 * self._poll_seconds)
                if self._pause(max(self._poll_seconds, took, self._backed_off(failures))):
                    return self._stopped()
        finally:
            self.release()

    def fan_out(self) -> Run:
        """Settle what is open, top up once, and wait until the outcome of the submission is known (≤ some minutes).

        Returns:
            The run's row: unchanged if another watcher holds it, the run has ended, or nothing is claimable.

        Raises:
            SubmitRefused, QueueClosed, DefinitionMissing …: nothing was submitted, and why.
        """
        try:
            run = self._take()
            while run is not None and run.ended is None and self._submitter.is_open(run):
                run = self._submitter.settle(run)
                if self._submitter.is_open(run) and self._pause(self._poll_seconds):
                    return run
                run = self._take()
            if run is None or run.ended is not None or run.mode is not Mode.RUN:
                return run or self._ledger.run(self._run_id)
            self._sight.look_at_jobs(run)
            self._sight.refresh_pilots(run, force=True)
            claimable = self._tally.claimable(within_seconds=plan.DUE_SOON_SECONDS)
            marked = 0 if run.only else self._on_demand.marked()
            run = self._top_up(run, claimable, marked, refused=None)
            while self._submitter.is_open(run) and not self._pause(self._poll_seconds):
                renewed = self._take()
                if renewed is None:
                    break
                run = self._submitter.settle(renewed)
            return self._ledger.run(self._run_id)
        finally:
            self.release()

    def release(self) -> None:
        """Give the lease back, so that the next watcher need not wait for its end (best effort)."""
        held, self._held = self._held, None
        if held is None:
            return
        try:
            self._ledger.release_watch(held)
        except PyAnamoError as error:
            log.warning("the watch of run %s was not given back: %s", self._run_id, error)

    def _stopped(self) -> Outcome:
        reason = f"the watch was stopped, the run goes on; see it again with: pyanamo watch {self._run_id}"
        return Outcome(self._ledger.run(self._run_id), self._ledger.counts(), "", reason)

    def _pause(self, seconds: float) -> bool:
        """Sleep; True as soon as the watch shall stop."""
        left = seconds
        while left > 0 and not self._stop.is_set():
            part = min(SLICE_SECONDS, left)
            self._clock.sleep(part)
            left -= part
        return self._stop.is_set()

    def _backed_off(self, failures: int) -> float:
        """Seconds before the next try: 1, 2, 4 … polls, at most two minutes; 0 after none that failed."""
        return min(BACK_OFF_SECONDS, plan.backed_off(self._poll_seconds, failures))

    def _take(self) -> Run | None:
        lease = max(LEASE_MIN_SECONDS, LEASE_POLLS * self._poll_seconds)
        self._held = self._ledger.take_watch(self._run_id, self._watcher, lease)
        if self._held is not None:
            self._count_for(self._held)
        return self._held

    def _count_for(self, run: Run) -> None:
        """A canary's watcher counts the items that it was given."""
        if run.only and isinstance(self._tally, Tally):
            self._tally = ChosenTally(self._ledger, self._clock, run.only)

    # ------------------------------------------------------------------------------------------ one poll

    def poll(self) -> Outcome | None:
        """One look and what follows from it; the outcome once the run has ended."""
        self._notes = []
        run = self._take()
        if run is None:
            return self._look_on()
        if run.ended is not None:
            self._held = None
            return self._outcome(run, self._tally.whole())
        run, heard = self._look_at_batch(run)
        self._sight.refresh_pilots(run)
        counts = self._tally.counts()
        if self._sight.mark_progress(counts):
            self._rounds = 0
        run = self._keep_to_dollars(run, counts)
        if not heard:
            self._rate.see(self._clock.monotonic(), counts.done + counts.failed)
            self._tell(run, counts)
            return None
        self._sight.take_back()
        if run.mode is Mode.RUN:
            run, ended = self._go_on(run, counts)
        else:
            ended = self._wind_up(run, counts)
        self._rate.see(self._clock.monotonic(), counts.done + counts.failed)
        self._tell(run, counts)
        if not ended:
            return None
        counts = self._tally.whole()
        if counts.open and run.mode is Mode.RUN:
            return None  # items came just now
        outcome, reason = plan.outcome_of(run, counts, self._sight.pilots)
        run = self._ledger.end_run(self._run_id, outcome, reason)
        self._held = None
        return self._outcome(run, counts)

    def _look_at_batch(self, run: Run) -> tuple[Run, bool]:
        """Settle what is open and describe the run's jobs. Says whether Batch answered: without it nothing is decided.

        Pilots need no Batch. While it is silent or too busy for us, the ledger is watched, and Batch asked less and less.
        """
        now = self._clock.monotonic()
        if now < self._ask_batch_at:
            self._note_silence(now)
            return run, False
        try:
            run = self._submitter.settle(run, needed=self._needed)
            self._sight.look_at_jobs(run)
        except (AwsFailed, EndpointDown) as error:
            if not self._batch_seen or not passes(error):
                raise
            self._silences += 1
            self._silent_since = now if self._silent_since is None else self._silent_since
            self._ask_batch_at = now + self._backed_off(self._silences)
            log.warning("Batch does not answer: %s", error)
            self._note_silence(now)
            return run, False
        self._batch_seen, self._silences, self._silent_since = True, 0, None
        if hole := self._sight.hole():
            self._notes.append(hole)
        for name in self._sight.doubted.values():
            self._notes.append(f"DescribeJobs does not know job {name}, ListJobs does: it counts as last seen")
        return run, True

    def _note_silence(self, now: float) -> None:
        seconds = now - (self._silent_since if self._silent_since is not None else now)
        self._notes.append(
            f"Batch does not answer since {seconds:.0f} s: pilots work on, nothing is submitted or ended meanwhile"
        )

    def _look_on(self) -> Outcome | None:
        """Another watcher holds the run."""
        run = self._ledger.run(self._run_id)
        self._count_for(run)
        if run.ended is not None:
            return self._outcome(run, self._tally.whole())
        counts = self._tally.counts()
        self._rate.see(self._clock.monotonic(), counts.done + counts.failed)
        self._notes.append(f"watcher {run.watcher} holds this run, we look on")
        self._sight.look_at_jobs(run)
        self._tell(run, counts)
        return None

    def _outcome(self, run: Run, counts: Counts) -> Outcome:
        return Outcome(run, counts, run.outcome, run.reason)

    def _tell(self, run: Run, counts: Counts) -> None:
        if self._on_progress is None:
            return
        progress = Progress(
            counts=counts,
            run=run,
            live_pilots=self._sight.live(run),
            jobs=self._sight.by_status(),
            rate_per_second=self._rate.per_second,
            eta_seconds=self._rate.eta_seconds(counts.open),
            note="; ".join(self._notes),
            spending=self._spending(run),
        )
        try:
            self._on_progress(progress)
        except Exception:  # a display that fails must not end the watch
            if not self._told_callback_failure:
                log.exception("showing the progress failed; the watch goes on")
            self._told_callback_failure = True

    # ------------------------------------------------------------------------------------------ acting

    def _go_on(self, run: Run, counts: Counts) -> tuple[Run, bool]:
        """A run in mode `run`: stop it, end it, or top it up. Says whether it has ended."""
        live = self._sight.live(run)
        if plan.stop_for_failures(counts, run.limits.max_failures):
            counts = self._tally.whole()  # failed items may have been retried since the last whole count
        reason = (
            plan.stop_for_failures(counts, run.limits.max_failures)
            or plan.stop_for_set_up(self._sight.pilots, live - len(self._sight.pilots.fresh))
            or (plan.stop_for_fruitless(self._sight.fruitless, live=live) if counts.open else "")
        )
        if reason and counts.open:
            return self._halt(reason), False
        if counts.open == 0:
            return run, self._end_game(run, live)
        self._empty_polls, self._empty_since, self._ending_since = 0, None, None

        wanted = plan.most_claimable(run.limits, live, min(live, self._sight.pilots.leaving))
        marked = 0 if run.only else self._on_demand.marked()  # a canary's items are its own, wherever they run
        claimable = (
            counts.todo - marked
            if counts.todo - marked >= wanted
            else self._tally.claimable(within_seconds=plan.DUE_SOON_SECONDS)
        )
        self._needed = claimable + marked > 0
        if self._needed and (reason := stop_for_dollars(run, self._spending(run))):
            return self._halt(reason), False
        self._unclaimable_polls = 0 if self._needed else self._unclaimable_polls + 1
        if self._unclaimable_polls >= EMPTY_POLLS:
            self._ender.cancel_waiting(run, "nothing is left to claim")
            if reason := self._for_nobody(counts, live):
                return self._halt(reason), False
        elif self._needed and not self._submitter.is_open(run):
            run = self._top_up(run, claimable, marked, refused=self._refused, counts=counts)
        self._explain_if_stuck(run, counts, claimable)
        return run, False

    def _for_nobody(self, counts: Counts, live: int) -> str:
        """Why nobody will ever claim what is left, or "": it is for on-demand pilots, and there is no queue for them."""
        if self._on_demand.name or live or counts.waiting or counts.locked or not counts.todo:
            return ""
        marked = self._on_demand.marked(now=True)
        if marked < counts.todo:
            return ""
        return f"{marked} items are for on-demand pilots only, and the workflow names no on_demand_queue"

    def _split(self, run: Run, claimable: int, marked: int, counts: Counts | None) -> Split:
        """How many pilots the work asks for and the limit leaves, on each queue."""
        name = self._on_demand.name
        spot, on_demand = self._sight.sides(run, name)
        stuck = self._sight.waited_seconds(spot.waiting) >= STUCK_SECONDS
        tried = any(each.queue != name and each.outcome != "failed" for each in run.submissions)
        end_game = bool(name) and counts is not None and tried and is_end_game(counts, run.limits)
        fits = self._on_demand.fits(run, on_demand.live) if name and (marked or end_game) else 0
        split = split_top_up(
            claimable=claimable,
            marked=marked,
            limits=run.limits,
            spot=spot,
            on_demand=on_demand,
            fits=fits,
            end_game=end_game,
            stuck=stuck,
        )
        if marked > on_demand.live * run.limits.items_per_pilot and not split.on_demand and self._on_demand.obstacle:
            self._notes.append(f"{marked} items are for on-demand pilots only; {self._on_demand.obstacle}")
        return split

    def _top_up(
        self,
        run: Run,
        claimable: int,
        marked: int,
        *,
        refused: Callable[[Run, SubmitRefused], Run] | None,
        counts: Counts | None = None,
    ) -> Run:
        """Submit what the work asks for and the limit leaves. `refused` None lets a refusal pass to the caller."""
        live = self._sight.live(run)
        split = self._split(run, claimable, marked, counts)
        if split.make_room:
            self._notes.append("the last items go on demand: Spot pilots that wait in vain are cancelled")
            self._ender.cancel_waiting(run, "the last items go on demand", spared=self._on_demand.name)
        if not (split.spot or split.on_demand) or stop_for_dollars(run, self._spending(run)):
            return run
        now = self._clock.monotonic()
        rounds = self._rounds + 1 if live == 0 and self._top_up_mark == self._sight.progress_mark else 0
        if self._top_up_at is not None:
            hole = self._hole_round()
            wait = self._top_up_at + plan.backed_off(self._poll_seconds, max(rounds, hole, self._busy_rounds)) - now
            if wait > 0:
                busy = self._busy_rounds > max(rounds, hole)
                why = "Batch was too busy" if busy else "the last pilots ended without a claim"
                self._notes.append(f"{why}; new ones in {wait:.0f} s")
                return run
        held = self._ledger.take_watch(self._run_id, self._watcher, self._patience.submit_lease_seconds)
        if held is None or held.watcher_fence != run.watcher_fence:
            return run
        self._rounds = rounds if self._top_up_at is not None else 0
        self._hole_rounds = self._hole_round()
        self._hole_mark = self._sight.fruitless_ever, split.spot + split.on_demand
        self._top_up_at, self._top_up_mark = now, self._sight.progress_mark
        log.info(
            "run %s: %d items claimable, %d more on demand only, %d pilots live: submitting %d, and %d on demand",
            *(run.run_id, claimable, marked, live, split.spot, split.on_demand),
        )
        run = held
        if split.on_demand:
            run = self._add_on_demand(run, split.on_demand)
            if run.mode is not Mode.RUN or self._submitter.is_open(run) or not split.spot:
                return run
        try:
            run = self._submitter.add(run, split.spot)
            self._refusals = 0
            self._busy_rounds = self._busy_rounds + 1 if self._submitter.was_busy else 0
        except SubmitRefused as error:
            if refused is None:
                raise
            return refused(self._ledger.run(self._run_id), error)
        return run

    def _hole_round(self) -> int:
        """How many top-ups in a row have mostly ended without a claim: a host swallows them, though others work."""
        before, pilots = self._hole_mark
        ended = self._sight.fruitless_ever - before
        return self._hole_rounds + 1 if pilots and ended >= min(50, max(1, pilots / 2)) else 0

    def _add_on_demand(self, run: Run, pilots: int) -> Run:
        """Submit to the on-demand queue. If that is refused, the run goes on with Spot alone."""
        try:
            return self._submitter.add(run, pilots, queue=self._on_demand.name)
        except RunConflict:
            raise
        except PyAnamoError as error:
            self._on_demand.refused(error)
            self._notes.append(self._on_demand.obstacle)
            return self._ledger.run(self._run_id)

    def _refused(self, run: Run, error: SubmitRefused) -> Run:
        self._refusals += 1
        self._notes.append(str(error))
        log.warning("%s", error)
        return self._halt(str(error.facts.get("reason", error))) if self._refusals >= REFUSALS else run

    def _spending(self, run: Run) -> Spending | None:
        return spending(
            run,
            self._sight.pilots,
            vcpus=self._workflow.vcpus,
            now=self._clock.now(),
            on_demand_queue=self._workflow.on_demand_queue,
        )

    def _keep_to_dollars(self, run: Run, counts: Counts) -> Run:
        """When what was spent has reached the limit, pilots hand back: whether or not anything is left to begin."""
        if run.mode is Mode.CANCEL or run.hand_back or not counts.open:
            return run
        reason = hand_back_for_dollars(run, self._spending(run))
        return self._halt(reason, hand_back=True) if reason else run

    def _halt(self, reason: str, *, hand_back: bool = False) -> Run:
        """Stop the run: its pilots finish what they hold (or hand it back at once), no new ones come."""
        log.error("run %s stops: %s", self._run_id, reason)
        self._notes.append(f"the run stops: {reason}")
        try:
            return self._ledger.set_mode(self._run_id, Mode.DRAIN, plan.STOPPED + reason, hand_back=hand_back)
        except RunConflict:  # cancelled meanwhile
            return self._ledger.run(self._run_id)

    def _end_game(self, run: Run, live: int) -> bool:
        """Nothing is left. Pilots leave by themselves; those that do not are terminated after a while."""
        now = self._clock.monotonic()
        self._needed = False
        self._empty_polls += 1
        if self._empty_polls < EMPTY_POLLS:
            return False
        self._empty_since = now if self._empty_since is None else self._empty_since
        if live == 0:
            return True
        self._notes.append(f"nothing is left to do; {live} {'pilot is' if live == 1 else 'pilots are'} leaving")
        if now - self._empty_since < self._patience.leave_seconds:
            self._ender.cancel_waiting(run, "nothing is left to do")
            return False
        return self._terminate_all(run, "nothing is left to do")

    def _wind_up(self, run: Run, counts: Counts) -> bool:
        """A run in mode drain or cancel: has it ended?"""
        self._needed = False
        if run.mode is Mode.CANCEL:
            self._notes.append("the run is being cancelled")
            return self._terminate_all(run, run.reason or "the run was cancelled")
        what = "hand back" if run.hand_back else "finish"
        self._notes.append(f"the run drains: pilots {what} what they hold" + (f" ({run.reason})" if run.reason else ""))
        if counts.open == 0:
            return self._end_game(run, self._sight.live(run))
        self._ender.cancel_waiting(run, "the run drains")
        return self._sight.live(run) == 0

    def _terminate_all(self, run: Run, reason: str) -> bool:
        """Terminate every job that has not ended; True when none is left, or when waiting longer is of no use."""
        now = self._clock.monotonic()
        self._ending_since = now if self._ending_since is None else self._ending_since
        if self._sight.live(run) == 0:
            return True
        self._ender.terminate_all(run, reason)
        return now - self._ending_since >= self._patience.end_seconds and not self._submitter.is_open(run)

    # ------------------------------------------------------------------------------------------ explaining

    def _explain_if_stuck(self, run: Run, counts: Counts, claimable: int) -> None:
        """Pilots are submitted and none starts: say why, at most once a minute."""
        now = self._clock.monotonic()
        if not self._sight.not_started():
            self._stuck_since, self._explained = None, None
            return
        self._stuck_since = now if self._stuck_since is None else self._stuck_since
        if now - self._stuck_since < LEASE_POLLS * self._poll_seconds:
            return
        if self._explained is None or now - self._explained[0] >= REPEAT_SECONDS:
            self._explained = now, self._explanation(run, counts, claimable)
        if self._explained[1]:
            self._notes.append(self._explained[1])

    def _explanation(self, run: Run, counts: Counts, claimable: int) -> str:
        """Why pilots do not start, in a line. Whoever may not ask for it (a role without that permission) watches on."""
        try:
            seen = explain.look(
                self._batch,
                run,
                counts,
                claimable,
                [job for job in self._sight.jobs.values() if not job.ended],
                queue=self._workflow.queue,
                definition=self._workflow.job_definition,
                pilots=self._sight.pilots,
                now=self._clock.now(),
            )
        except PyAnamoError as error:
            return explain.guarded(error).told
        return explain.told(replace(seen, missing=()))
