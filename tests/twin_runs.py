"""The second machine of twin_machine.py: runs, pilots' rows and versions of the workflow."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import precondition, rule
from twin_machine import FLAG, PILOTS, RUNS, Both, workflow

from pyanamo_core.model import Limits, Mode, PilotRecord, Run


class Runs(Both):
    """Runs, pilots and versions. Runs are remembered as they were seen, and old ones are used again."""

    def begin(self) -> None:
        self.runs: list[Run] = []
        self.begin_run("r1", "v", None)

    @rule(pilot=st.sampled_from(PILOTS), run=st.sampled_from(RUNS), ended=FLAG)
    def pilot_row(self, pilot: str, run: str, ended: bool) -> None:
        now = self.clock.now()
        record = PilotRecord(pilot_id=pilot, run_id=run, started=now, last_beat=now, ended=now if ended else None)
        self.both("pilot", lambda ledger: ledger.put_pilot(record))

    @rule(pilots=st.sampled_from([1, 2]))
    def version(self, pilots: int) -> None:
        self.both("version", lambda ledger: ledger.add_workflow(workflow(pilots)))

    @rule(
        run_id=st.sampled_from([*RUNS, "r3", ""]),
        revision=st.sampled_from(["v", "v", "w"]),
        failures=st.sampled_from([None, 5]),
    )
    def begin_run(self, run_id: str, revision: str, failures: int | None) -> None:
        run = Run(
            run_id=run_id,
            workflow_version=1,
            revision=revision,
            token=f"t-{run_id}",
            started=self.clock.now(),
            limits=Limits(max_failures=failures),
        )
        self._ran(self.both("begin run", lambda ledger: ledger.begin_run(run)))

    def _ran(self, run: Run | None) -> None:
        if run is not None:
            self.runs.append(run)

    @rule(run_id=st.sampled_from(RUNS), mode=st.sampled_from(Mode), reason=st.sampled_from(["", "lunch", "ü" * 100]))
    def mode(self, run_id: str, mode: Mode, reason: str) -> None:
        self._ran(self.both("mode", lambda ledger: ledger.set_mode(run_id, mode, reason)))

    @rule(run_id=st.sampled_from(RUNS), watcher=st.sampled_from(["w1", "w2"]))
    def watch(self, run_id: str, watcher: str) -> None:
        self._ran(self.both("watch", lambda ledger: ledger.take_watch(run_id, watcher, 60)))

    @precondition(lambda self: self.runs)
    @rule(data=st.data())
    def release(self, data: Any) -> None:
        run = data.draw(st.sampled_from(self.runs[-3:]))
        self.both("release", lambda ledger: ledger.release_watch(run))

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), queue=st.sampled_from(["q", "q2"]))
    def reserve(self, data: Any, queue: str) -> None:
        run = data.draw(st.sampled_from(self.runs[-3:]))
        made = self.both(
            "reserve", lambda ledger: ledger.reserve_submission(run, size=2, queue=queue, definition="d:1")
        )
        self._ran(made[0] if made else None)

    @precondition(lambda self: self.runs)
    @rule(data=st.data(), sequence=st.integers(0, 2), job=st.sampled_from(["", "j-1"]))
    def settle(self, data: Any, sequence: int, job: str) -> None:
        run = data.draw(st.sampled_from(self.runs[-3:]))
        told = {"job_id": job, "reason": "" if job else "refused | really"}
        self._ran(self.both("settle", lambda ledger: ledger.settle_submission(run, sequence, **told)))

    @rule(run_id=st.sampled_from(RUNS), outcome=st.sampled_from(["completed", "stopped"]))
    def end_run(self, run_id: str, outcome: str) -> None:
        self._ran(self.both("end run", lambda ledger: ledger.end_run(run_id, outcome, "because")))

    @rule()
    def listings(self) -> None:
        self.both("pilots", lambda ledger: (ledger.pilots(), ledger.pilots("r1"), ledger.pilot("p1")))
        since = self.clock.now() - 100
        self.both("pilots", lambda ledger: ledger.pilots(beaten_since=since))
        self.both("runs", lambda ledger: (ledger.runs(), ledger.live_runs()))
        self.both("versions", lambda ledger: (ledger.workflow(), ledger.workflow(1), ledger.workflow_versions()))
