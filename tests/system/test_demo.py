"""The demo as a user runs it: right calls, honest exit codes, and nothing left behind however it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SMALL = ("--samples", "2", "--size", "30000")
QUICK = (*SMALL, "--parameter", "HC_CALLER=bcftools")
"""Without a JVM for each locus: half the work, where the caller is not what is asked for."""
WITH_JAVA = {"started DEMO0001", "pyanamo joint"}
"""Moments at which a JVM works or is about to."""
INTERRUPTED = {130, -signal.SIGINT}
"""A shell sees 130 in both. Python dies of the signal itself if that came within an `exec` of text, e.g. of a dataclass."""


class Running:
    """A demo that runs: what it says, as it says it."""

    def __init__(self, folder: Path, *arguments: str, environment: dict[str, str] | None = None) -> None:
        self.folder = folder
        self.process = subprocess.Popen(
            # Under nohup a demo rightly goes on after a hang-up; these are not to inherit that.
            [
                "env",
                "--default-signal=HUP",
                sys.executable,
                "-m",
                "pyanamo",
                "demo",
                "--folder",
                str(folder),
                *arguments,
            ],
            cwd=folder.parent,
            env=os.environ | (environment or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self.said: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.said.append(line)

    @property
    def text(self) -> str:
        return "".join(self.said)

    def wait_for(self, word: str) -> None:
        """Until it says this."""
        until(lambda: word in self.text or self.process.poll() is not None, f"the demo says {word!r}")
        assert word in self.text, self.text

    def ended(self) -> int:
        """Its exit code, once it and all that it said is there."""
        code = self.process.wait(600)
        self._reader.join(30)
        return code


def until(true: Callable[[], bool], what: str, seconds: float = 600) -> None:
    give_up = time.monotonic() + seconds
    while not true():
        if time.monotonic() > give_up:
            pytest.fail(f"in vain waited until {what}")
        time.sleep(0.1)


def belongs(process: psutil.Process, folder: Path) -> bool:
    try:
        told = [*process.cmdline(), process.cwd(), *process.environ().values()]
    except (psutil.Error, OSError):
        return False
    return any(str(folder) in one for one in told)


def processes_of(folder: Path) -> list[psutil.Process]:
    """Processes that have the demo's folder in their command line, directory or environment, this one left out."""
    return [one for one in psutil.process_iter() if one.pid != os.getpid() and belongs(one, folder)]


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "the-demo"
    yield place
    for one in processes_of(place):
        one.kill()


def test_a_trio_is_called_right_and_everything_is_where_the_demo_says(folder: Path):
    # Given a shell whose own AWS and Prefect settings would lead elsewhere
    elsewhere = {
        "AWS_PROFILE": "no-such-profile",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "PREFECT_API_URL": "http://127.0.0.1:9/api",
    }
    # When the demo runs
    done = subprocess.run(
        [sys.executable, "-m", "pyanamo", "demo", "--folder", str(folder), "--size", "60000", "--json"],
        cwd=folder.parent,
        env=os.environ | elsewhere,
        capture_output=True,
        text=True,
        check=False,
    )
    # Then its calls meet the truth, and its files are there
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert min(told["recall"], told["precision"]) >= 0.99
    assert told["states"] == {"done": 3}
    assert [one["sample"] for one in told["samples"]] == ["DEMO0001", "DEMO0002", "DEMO0003"]
    assert sorted(one.name for one in Path(told["gvcfs"]).glob("*.g.vcf.gz")) == [
        f"DEMO000{number}.g.vcf.gz" for number in (1, 2, 3)
    ]
    for name in ("joint", "results", "report"):
        assert Path(told[name]).stat().st_size > 1000
    page = Path(told["report"]).read_text()
    assert "Compared with the truth" in page
    assert "pilot 0" in page
    # And nothing of it runs any more
    assert processes_of(folder) == []


@pytest.mark.parametrize(
    "moment",
    [
        "Simulate",
        "simulated",
        "samples list",
        "started DEMO0001",
        "workflow create",
        "pyanamo run --pilots",
        "running as a flow of Prefect",
        "locked 2",
        "pyanamo gather",
        "pyanamo joint",
    ],
)
def test_ctrl_c_leaves_no_process_whenever_it_comes(folder: Path, moment: str):
    demo = Running(folder, *(SMALL if moment in WITH_JAVA else QUICK))
    demo.wait_for(moment)
    demo.process.send_signal(signal.SIGINT)
    assert demo.ended() in INTERRUPTED, demo.text
    assert processes_of(folder) == []


def test_a_second_ctrl_c_does_not_cut_the_cleaning_up_short(folder: Path):
    demo = Running(folder, *QUICK)
    demo.wait_for("locked 2")
    for _ in range(5):
        demo.process.send_signal(signal.SIGINT)
        time.sleep(0.2)
    demo.ended()
    assert processes_of(folder) == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_term_and_hang_up_end_it_in_order_too(folder: Path, number: signal.Signals):
    demo = Running(folder, *SMALL)
    demo.wait_for("locked 2")
    demo.process.send_signal(number)
    assert demo.ended() in INTERRUPTED
    assert processes_of(folder) == []


def test_a_killed_demo_takes_its_servers_and_pilots_with_it(folder: Path):
    demo = Running(folder, *QUICK)
    demo.wait_for("locked 2")
    demo.process.kill()
    demo.ended()
    until(lambda: not processes_of(folder), "all that it started is gone", 60)


def test_kept_servers_answer_until_they_are_stopped(folder: Path):
    # Given a demo that leaves its servers running
    demo = Running(folder, *QUICK, "--keep")
    assert demo.ended() == 0, demo.text
    assert len(processes_of(folder)) >= 2
    # Then its variables lead a shell to them
    line = f'. "{folder}/env.sh"; "{sys.executable}" -m pyanamo status --json'
    status = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True)
    assert json.loads(status.stdout)["counts"]["done"] == 2
    # And one command stops them
    subprocess.run([sys.executable, "-m", "pyanamo", "demo", "--stop", "--folder", str(folder)], check=True)
    assert processes_of(folder) == []


def test_a_folder_that_is_not_the_demos_is_left_alone(folder: Path):
    folder.mkdir()
    (folder / "thesis.txt").write_text("mine")
    demo = Running(folder)
    assert demo.ended() == 5
    assert "thesis.txt" in [one.name for one in folder.iterdir()]
    assert (folder / "thesis.txt").read_text() == "mine"


def test_calls_that_are_wrong_fail_the_demo(folder: Path):
    # Given a caller with which heterozygous variants cannot be found
    demo = Running(folder, *SMALL, "--parameter", "HC_PLOIDY=1")
    # Then the demo says what is wrong, and does not pass for a success
    assert demo.ended() == 7, demo.text
    assert "recall" in demo.text.splitlines()[-1]
