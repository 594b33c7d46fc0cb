"""Artifacts and events: what they hold, and that their failures stay theirs."""

from __future__ import annotations

import logging
import re
from types import SimpleNamespace

from pyanamo_flows import publish
from qc_support import gvcf, nest

from pyanamo_core.model import Cause, Counts, Item, Run, State
from pyanamo_core.report.qc import QcFold
from pyanamo_core.report.quality import quality


def progress(**counts):
    return SimpleNamespace(counts=Counts(**counts), live_pilots=0, note="", jobs={}, eta_seconds=None)


def test_keys_of_artifacts_hold_only_what_prefect_takes():
    for table in ("HaplotypeCaller", "my_table.v2", "ÄÖ--x"):
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", publish.key(table, "progress"))


def test_a_call_that_fails_is_said_once_and_swallowed(caplog):
    guard = publish.Guard("an artifact")

    def fails() -> None:
        raise ConnectionError("no route")

    with caplog.at_level(logging.WARNING, "pyanamo.prefect"):
        assert guard(fails) is None
        assert guard(fails) is None
    assert guard.failures == 2
    assert len(caplog.records) == 1
    assert "no route" in caplog.text


def test_the_state_table_has_each_state_with_its_share():
    rows = publish.state_rows(Counts(todo=1, done=3))
    assert {row["state"]: (row["items"], row["share"]) for row in rows} == {
        "todo": (1, "25.0 %"),
        "waiting": (0, "0.0 %"),
        "locked": (0, "0.0 %"),
        "done": (3, "75.0 %"),
        "failed": (0, "0.0 %"),
        "cancelled": (0, "0.0 %"),
    }


def test_failed_and_cancelled_items_count_as_finished_progress():
    assert publish.percent(Counts(todo=1, done=1, failed=1, cancelled=1)) == 75.0
    assert publish.percent(Counts()) == 100.0


def test_a_standstill_without_pilots_is_told_once_and_again_only_after_a_change():
    now = [0.0]
    watch = publish.StallWatch(600, clock=lambda: now[0])
    assert watch.see(progress(todo=2)) == ""
    now[0] = 599
    assert watch.see(progress(todo=2)) == ""
    now[0] = 601
    assert "2 items are open" in watch.see(progress(todo=2))
    now[0] = 2000
    assert watch.see(progress(todo=2)) == ""
    assert watch.see(progress(todo=1, done=1)) == ""
    now[0] = 2700
    assert "1 items are open" in watch.see(progress(todo=1, done=1))


def test_a_run_with_nothing_open_never_stalls():
    now = [0.0]
    watch = publish.StallWatch(600, clock=lambda: now[0])
    watch.see(progress(done=2))
    now[0] = 10_000
    assert watch.see(progress(done=2)) == ""


def test_the_summary_names_failed_items_with_cause_and_what_to_do_next():
    run = Run(run_id="r1", workflow_version=2, token="t", started=0.0, ended=7200.0, outcome="failed")
    item = Item(
        item_id="S|1", task_id="S1", state=State.FAILED, cause=Cause.TASK_ERROR, message="exit 1\nboom | x", tries=3
    )
    text = publish.summary(run, Counts(done=1, failed=1), "T", [item], 4, {"results": "s3://b/p"})
    assert "## T: failed" in text
    assert "2.00 h" in text
    assert "| `S|1` | task_error | 3 | exit 1 boom \\| x |" in text
    assert "and 4 more" in text
    assert "pyanamo items retry" in text
    assert "s3://b/p" in text


def test_the_summary_names_samples_with_a_figure_out_of_its_bounds():
    # Given twelve samples that were called too shallowly, and one that was not
    fold = QcFold()
    for number in range(13):
        fold.take(nest(f"S{number:02}", 0, gvcf("chr1:1-9", 30 if number == 12 else 10)))
    run = Run(run_id="r1", workflow_version=1, token="t", started=0.0, ended=60.0, outcome="completed")
    text = publish.summary(run, Counts(done=13), "T", [], 0, {}, quality=quality(fold))
    # Then it says how many, names the first with why, and where the others are told
    assert "12 of 13 samples have a figure out of its bounds" in text
    assert "- `S00`: depth 10 is below 20" in text
    assert "S12" not in text
    assert "pyanamo results qc --flagged --table T" in text
    # And nothing where there is nothing to say
    assert "Quality" not in publish.summary(run, Counts(done=13), "T", [], 0, {}, quality=quality(QcFold()))


def test_what_a_stopped_service_cannot_send_is_dropped_but_for_the_mark_that_ends_it():
    import queue

    waiting = queue.Queue()
    for each in ("event", "event", None):
        waiting.put(each)
    assert publish._drop(SimpleNamespace(_queue=waiting)) == 2
    assert waiting.get_nowait() is None
    assert publish._drop(SimpleNamespace(_queue=waiting)) == 0
    assert waiting.empty()
