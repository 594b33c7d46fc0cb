"""The account of an item and of a nest: its state, its attempts with their causes, who holds it and what Batch says of
that job, what it waits for, and the mend for a known cause (`pyanamo explain ITEM [NEST]`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import PyAnamoError, RunMissing
from pyanamo_core.fleet.account import NEXT, Account, sentence
from pyanamo_core.fleet.batch import Batch
from pyanamo_core.fleet.explain import Finding, findings, guarded, observe
from pyanamo_core.fleet.jobs import Job
from pyanamo_core.fleet.mends import mend_of
from pyanamo_core.fleet.on_demand import room_of
from pyanamo_core.fleet.plan import fresh_seconds
from pyanamo_core.fleet.recover import attempt_end, owners_of
from pyanamo_core.model import Attempt, Definition, Item, Nest, NestStatus, PilotRecord, Run, State
from pyanamo_core.protocols import Clock, Ledger
from pyanamo_core.words import listed, number_of, quoted, span, when
from pyanamo_core.workflow import Workflow

ATTEMPTS_TOLD: Final = 4
NESTS_TOLD: Final = 3
VALUE_SHOWN: Final = 60


@dataclass(frozen=True)
class Known:
    """What is read of an item before it is told."""

    item: Item
    definition: Definition
    nests: dict[int, Nest]
    attempts: list[Attempt]
    now: float

    def name_of(self, number: int) -> str:
        """`nest 3 (chr1:1-100)`, or `its script` where there is one nest without a value."""
        value = self.definition.value(number)
        shown = value if len(value) <= VALUE_SHOWN else f"{value[: VALUE_SHOWN - 1]}…"
        return f"nest {number} ({shown})" if value else f"nest {number}"

    @property
    def failed(self) -> list[Nest]:
        return [nest for _, nest in sorted(self.nests.items()) if nest.status is NestStatus.FAILED]


def of_item(batch: Batch, ledger: Ledger, item_id: str, workflow: Workflow, *, clock: Clock | None = None) -> Account:
    """An item; its budgets and limits are told as `workflow` has them.

    Raises:
        ItemMissing: there is none of that name.
    """
    known = read(ledger, item_id, clock)
    facts = [_state(known, workflow), *_nests(known), *_attempts(known)]
    more, found = _why(batch, ledger, known, workflow, clock)
    return Account("item", item_id, (*facts, *more), tuple(found), _next(known, found))


def of_nest(
    batch: Batch, ledger: Ledger, item_id: str, number: int, workflow: Workflow, *, clock: Clock | None = None
) -> Account:
    """A nest of an item, by its number (from 0)."""
    known = read(ledger, item_id, clock)
    item, nest, name = known.item, known.nests.get(number), f"{item_id} {number}"
    what = sentence(known.name_of(number)).rstrip(".") + f" of item {item_id}"
    if nest is None or nest.status is NestStatus.RESET:
        was = "was reset and is to be done again" if nest else "has no result yet"
        more, found = _why(batch, ledger, known, workflow, clock, number)
        return Account(
            "nest", name, (f"{what} {was}.", _state(known, workflow), *more), tuple(found), _next(known, found)
        )
    facts = [f"{what} {_result(nest)}", *_ran(known, nest)]
    if nest.status is NestStatus.DONE:
        return Account("nest", name, tuple(facts), (), f"pyanamo results list {quoted(item_id)}")
    if tail := ledger.tail(item, nest).strip():
        facts.append(f"Its log ends with: {tail.splitlines()[-1].strip()[:200]!r}.")
    facts.append(_state(known, workflow))
    more, found = _why(batch, ledger, known, workflow, clock, number)
    return Account("nest", name, (*facts, *more), tuple(found), f"pyanamo logs {quoted(item_id)} {number}")


def read(ledger: Ledger, item_id: str, clock: Clock | None = None) -> Known:
    """All that the ledger knows of an item."""
    item = ledger.item(item_id)
    now = (clock or SystemClock()).now()
    return Known(item, ledger.definition(item), ledger.nests(item), ledger.attempts(item_id), now)


# ---------------------------------------------------------------------------------------------------- facts


def _state(known: Known, workflow: Workflow) -> str:
    item, now = known.item, known.now
    what = f"Item {item.item_id}"
    told_below = any(nest.message and nest.message in item.message for nest in known.failed)
    message = f", {item.message}" if item.message and not told_below else ""
    why = f": {item.cause}{message}" if item.cause else ""
    budget = f"{item.tries} of {workflow.budgets.tries} tries {'is' if item.tries == 1 else 'are'} used"
    if item.interruptions:
        budget += (
            f", {number_of(item.interruptions, 'interruption')} in a row of at most {workflow.budgets.interruptions}"
        )
    told = {
        State.TODO: f"{what} is to do; {budget}{f' (last{why})' if why else ''}",
        State.WAITING: f"{what} waits for its next try, {_from_now(item.due, now)}; {budget}{why}",
        State.LOCKED: f"{what} is being worked on since {when(item.locked_at)} (UTC); {budget}",
        State.DONE: f"{what} is done since {when(item.finished_at)} (UTC)",
        State.FAILED: f"{what} failed at {when(item.finished_at)} (UTC){why}; {budget}",
        State.CANCELLED: f"{what} was cancelled at {when(item.finished_at)} (UTC)",
    }[item.state]
    return sentence(told)


def _from_now(due: float | None, now: float) -> str:
    if due is None:
        return "now"
    return f"in {span(due - now)}" if due > now else f"due since {span(now - due)}"


def _nests(known: Known) -> list[str]:
    item = known.item
    if item.state is State.DONE and not known.failed:
        return [f"{number_of(item.nests, 'nest')} recorded."]
    done = sum(nest.status is NestStatus.DONE for nest in known.nests.values())
    told = [f"{done} of {number_of(item.nests, 'nest')} {'is' if 1 in (done, item.nests) else 'are'} done."]
    for nest in known.failed[:NESTS_TOLD]:
        told.append(sentence(f"{known.name_of(nest.index)} {_result(nest)}"))
    if len(known.failed) > NESTS_TOLD:
        told.append(f"{len(known.failed) - NESTS_TOLD} more nests failed.")
    return told


def _result(nest: Nest) -> str:
    """`failed after 4.0s in attempt 2: task_error, exit code 1: no such file.`"""
    took = f" after {span(nest.ended - nest.started)}" if nest.ended else ""
    memory = f", with {nest.peak_memory_mb:,.0f} MB at its peak" if nest.peak_memory_mb >= 1 else ""
    if nest.status is NestStatus.DONE:
        return f"was done{took} in attempt {nest.fence}{memory}."
    code = f"exit code {nest.exit_code}" if nest.exit_code is not None else ""
    # The message begins with the exit code, where it is the script's own words.
    said = nest.message if code and nest.message.startswith(code) else ", ".join(filter(None, (code, nest.message)))
    why = ": ".join(filter(None, (str(nest.cause or ""), said)))
    return f"failed{took} in attempt {nest.fence}{memory}{': ' if why else ''}{why or ''}".rstrip(".") + "."


def _ran(known: Known, nest: Nest) -> list[str]:
    """Where the attempt that recorded a nest ran."""
    found = [each for each in known.attempts if each.fence == nest.fence]
    return [sentence(f"It ran {_where(found[0])}")] if found and _where(found[0]) else []


def _where(attempt: Attempt) -> str:
    kind = ", ".join(filter(None, (attempt.instance_type, attempt.lifecycle)))
    host = f"on {attempt.host}" + (f" ({kind})" if kind else "") if attempt.host else ""
    job = f"in Batch job {attempt.batch_job}" if attempt.batch_job else ""
    return " ".join(filter(None, (host, job)))


def _attempts(known: Known) -> list[str]:
    attempts = known.attempts
    if not attempts:
        return ["No pilot has claimed it yet."] if known.item.state is State.TODO else []
    parts: list[str] = []
    for each in attempts[-ATTEMPTS_TOLD:]:
        took = f" after {span(each.ended - each.started)}" if each.ended and each.started else ""
        where = f" on {each.host}" if each.host else ""
        said = f" ({each.evidence})" if each.evidence and each.cause else ""
        goes_on = known.item.state is State.LOCKED and each.fence == known.item.fence
        ended = f"ended with {each.cause}" if each.cause else "goes on" if goes_on else "ended unseen"
        parts.append(f"number {each.fence} {ended}{took}{where}{said}")
    more = len(attempts) - len(parts)
    told = "; ".join(parts)
    return [sentence(f"{number_of(len(attempts), 'attempt')}{', the last ones' if more else ''}: {told}")]


# ---------------------------------------------------------------------------------------------------- why


def _why(
    batch: Batch, ledger: Ledger, known: Known, workflow: Workflow, clock: Clock | None, number: int | None = None
) -> tuple[list[str], list[Finding]]:
    """What keeps an item (or one nest of it) from being done: more facts, and findings."""
    item = known.item
    if item.state is State.DONE:
        return [], []
    if item.state in (State.FAILED, State.CANCELLED):
        mend = mend_of(item, [nest for nest in known.failed if number in (None, nest.index)] or known.failed, workflow)
        fact = f"it failed with {item.cause}" if item.state is State.FAILED and item.cause else f"it is {item.state}"
        return [], [Finding(f"item {item.item_id}", fact, mend, _code(item))]
    if item.state is State.LOCKED:
        return _held(batch, ledger, known, workflow)
    return _free(batch, ledger, known, workflow, clock)


def _code(item: Item) -> str:
    return str(item.cause) if item.cause and item.state is State.FAILED else str(item.state)


def _held(batch: Batch, ledger: Ledger, known: Known, workflow: Workflow) -> tuple[list[str], list[Finding]]:
    """Of a locked item: its pilot, the pilot's beats, and what Batch says of its job."""
    item, now = known.item, known.now
    records = owners_of(ledger, [item])
    record = records[0] if records else PilotRecord(pilot_id=item.owner or "")
    left = (item.lease_end or 0.0) - now
    lease = f"its lease lasts for another {span(left)}" if left > 0 else f"its lease ended {span(-left)} ago"
    timing = workflow.timing
    beats = record.last_beat > 0
    beat = f", last beat {span(now - record.last_beat)} ago" if beats else ""
    where = f" on {record.host}" if record.host else ""
    facts = [sentence(f"Pilot {record.pilot_id}{where} holds it{beat}; {lease}")]
    facts += [sentence(f"It says: {line}") for line in record.last_lines if line.startswith(f"{item.item_id} ")][:2]
    subject = f"pilot {record.pilot_id}"
    wait = (
        "The next pilot that claims takes it." if left <= 0 else f"It comes back in {span(left)}, when the lease ends."
    )
    mend = f"{wait} At once: pyanamo recover"
    if record.ended is not None:
        fact = f"it left {span(now - record.ended)} ago ({record.leaving or f'exit code {record.exit_code}'}) without giving the item back"
        return facts, [Finding(subject, fact, wait, "pilot_left")]
    try:
        job = batch.describe([record.batch_job]).get(record.batch_job) if record.batch_job else None
    except PyAnamoError as error:
        return facts, [guarded(error)]
    facts += _job(record, job)
    ended = attempt_end(job, record.batch_attempt or 1) if job else None
    silent = beats and now - record.last_beat > fresh_seconds(timing.beat_seconds, timing.lease_seconds)
    if job is not None and ended is not None:
        fact = f"it is gone: Batch says that its attempt ended {span(now - ended.ended)} ago ({ended.told})"
        return facts, [Finding(subject, fact, mend, "pilot_gone")]
    if left <= 0 or silent:
        fact = "it no longer beats" if beats else "it never wrote its row, or was removed"
        unsaid = "" if job else ", and Batch does not know its job"
        return facts, [Finding(subject, fact + unsaid, wait, "lease_over" if left <= 0 else "pilot_silent")]
    if item.cancelled:
        return facts, [
            Finding(f"item {item.item_id}", "it is being cancelled", "Its pilot stops at its next beat.", "cancelling")
        ]
    return [*facts, "Nothing keeps it from going on."], []


def _job(record: PilotRecord, job: Job | None) -> list[str]:
    if not record.batch_job:
        return ["That pilot is no job of Batch."]
    if job is None:
        return [f"Batch does not know its job {record.batch_job} (any more)."]
    reason = f" ({job.status_reason})" if job.status_reason else ""
    return [f"Its Batch job {record.batch_job}, attempt {record.batch_attempt or 1}, is {job.status}{reason}."]


def _free(
    batch: Batch, ledger: Ledger, known: Known, workflow: Workflow, clock: Clock | None
) -> tuple[list[str], list[Finding]]:
    """Of an item that nobody holds: who could claim it, and what keeps them."""
    run = _live_run(ledger, known.item)
    if run is None:
        found = Finding("table", "no run is live, so that nobody claims it", "Start one with: pyanamo run", "no_run")
        return [], [found]
    if run.only and known.item.item_id not in run.only:
        fact = f"run {run.run_id} is live, but a canary: it works on {listed(list(run.only))} only"
        advice = "It is claimed by the run that follows: pyanamo run"
        return [], [Finding("table", fact, advice, "not_chosen")]
    try:
        pinned = ledger.workflow(run.workflow_version)[1]
        seen = observe(batch, ledger, run, pinned, clock=clock)
    except PyAnamoError as error:
        return [f"Run {run.run_id} is live."], [guarded(error)]
    if known.item.on_demand:
        return _on_demand(batch, known, run, pinned)
    working = len(seen.pilots.fresh) if seen.pilots else 0
    facts = [f"Run {run.run_id} is live; {number_of(working, 'pilot')} at work claim items in random order."]
    if not working:
        facts = [f"Run {run.run_id} is live, and no pilot works for it."]
    found = findings(seen)
    if not found:
        facts.append("Nothing keeps it from being claimed." if known.item.state is State.TODO else "Nothing keeps it.")
    return facts, found


def _on_demand(batch: Batch, known: Known, run: Run, workflow: Workflow) -> tuple[list[str], list[Finding]]:
    """Of an item that only pilots on machines of their own may claim: is there a queue for them, with room?"""
    facts = [f"It is for on-demand pilots only; run {run.run_id} is live."]
    subject = f"item {known.item.item_id}"
    if not workflow.on_demand_queue:
        advice = (
            "Put the line that pyanamo deploy prints into the workflow file, then: pyanamo workflow create FILE; the next"
            " run has it."
        )
        return facts, [Finding(subject, "the workflow names no on_demand_queue", advice, "no_on_demand_queue")]
    try:
        room, obstacle = room_of(batch, workflow.on_demand_queue, workflow.job_definition)
    except PyAnamoError as error:
        return facts, [Finding(subject, str(error), "", "on_demand_obstacle")]
    if not room:
        return facts, [Finding(subject, obstacle, "", "on_demand_obstacle")]
    beyond = f"{number_of(room, 'pilot')} fit on queue {workflow.on_demand_queue}; its watcher submits them first."
    return [*facts, beyond], []


def _live_run(ledger: Ledger, item: Item) -> Run | None:
    runs = sorted(ledger.live_runs(), key=lambda run: (item.item_id in run.only or not run.only, run.started))
    if item.run_id:
        try:
            own = ledger.run(item.run_id)
        except RunMissing:
            own = None
        if own is not None and own.ended is None:
            return own
    return runs[-1] if runs else None


def _next(known: Known, found: Sequence[Finding]) -> str:
    item, name = known.item, quoted(known.item.item_id)
    for one in found:
        if one.code in ("pilot_gone", "pilots_silent"):
            return "pyanamo recover"
        if one.code in NEXT:
            return NEXT[one.code]
    if item.state is State.FAILED:
        nest = f" {known.failed[0].index}" if known.failed else ""
        return f"pyanamo logs {name}{nest}" if known.nests else f"pyanamo items show {name}"
    if item.state is State.CANCELLED:
        return f"pyanamo items retry {name}"
    return f"pyanamo results list {name}" if item.state is State.DONE else "pyanamo watch"
