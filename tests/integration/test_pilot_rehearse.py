"""Rehearsals: what a pilot would run, on this machine, without a ledger."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from pilot_support import eventually, make_workflow

from pyanamo_core.model import Cause, Definition, NestCall, NestResult
from pyanamo_core.pilot.rehearse import rehearse

SEQ = Definition(script="seq", arguments=("8", "2", "1"))


def test_every_nest_is_run_and_its_log_stays(tmp_path: Path) -> None:
    done = rehearse(make_workflow(), [("a", "T", SEQ), ("b", "T", SEQ)], folder=tmp_path)

    assert [(each.call.item_id, each.call.value) for each in done] == [(i, v) for i in "ab" for v in ("8", "2", "1")]
    assert {each.result.cause for each in done} == {Cause.DONE}
    assert Path(done[0].log).read_text().split() == [str(n) for n in range(1, 9)]
    assert len({each.log for each in done}) == 6


def test_the_environment_is_a_pilots_except_for_the_prefix(tmp_path: Path) -> None:
    # Given a script that shows its environment
    definition = Definition(script="env", arguments=())

    done = rehearse(
        make_workflow(parameters={"PADDING": "7"}),
        [("a b", "T", definition)],
        folder=tmp_path,
        environ={"PATH": os.environ["PATH"], "PREFECT_API_KEY": "secret"},
    )

    told = dict(line.partition("=")[::2] for line in Path(done[0].log).read_text().splitlines())
    assert told["PYANAMO_OUTPUT"] == "s3://results/prefix/Seq/rehearsal/a%20b/00000/0/"
    assert told["PYANAMO_MEMORY_MB"] == "512"
    assert told["PADDING"] == "7"
    assert "PREFECT_API_KEY" not in told


def test_failures_are_told_with_their_cause(tmp_path: Path) -> None:
    definition = Definition(script="bash -c 'echo no such sample; exit $1' _", arguments=("0", "65", "78"))
    seen: list[tuple[str, int, Cause | None]] = []

    def note(what: str, call: NestCall, result: NestResult | None) -> None:
        seen.append((what, call.index, result.cause if result else None))

    done = rehearse(make_workflow(), [("a", "T", definition)], folder=tmp_path, on_event=note)

    assert [each.result.cause for each in done] == [Cause.DONE, Cause.PERMANENT, Cause.SET_UP]
    assert done[1].result.message == "exit code 65: no such sample"
    assert sorted(seen) == sorted(
        [
            ("started", 0, None),
            ("started", 1, None),
            ("started", 2, None),
            ("finished", 0, Cause.DONE),
            ("finished", 1, Cause.PERMANENT),
            ("finished", 2, Cause.SET_UP),
        ]
    )


def test_ctrl_c_ends_what_runs(tmp_path: Path) -> None:
    # Given a rehearsal in a process of its own
    program = (
        "import sys\n"
        "from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[2])\n"
        "from pilot_support import make_workflow\n"
        "from pyanamo_core.model import Definition\n"
        "from pyanamo_core.pilot.rehearse import rehearse\n"
        'd = Definition(script="bash -c \'echo $$ > " + sys.argv[1] + "/pid; sleep 300\'")\n'
        "rehearse(make_workflow(), [('a', 'T', d)], folder=Path(sys.argv[1]))\n"
    )
    support = str(Path(__file__).parents[1])
    process = subprocess.Popen([sys.executable, "-c", program, str(tmp_path), support], stderr=subprocess.PIPE)
    pid = tmp_path / "pid"
    assert eventually(lambda: pid.exists() and pid.read_text().strip())

    # When the user presses Ctrl-C
    process.send_signal(2)
    process.communicate(timeout=60)

    # Then the task is gone
    give_up = time.monotonic() + 60
    while Path(f"/proc/{pid.read_text().strip()}").exists() and time.monotonic() < give_up:
        time.sleep(0.02)
    assert not Path(f"/proc/{pid.read_text().strip()}").exists()
    assert process.returncode != 0
