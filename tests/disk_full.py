"""One step of a pilot on a disk that is full: run inside a mount namespace of its own (`python disk_full.py STEP FOLDER`).

A small tmpfs, limited in bytes and in inodes, is mounted for scratch or for staging; the kernel says ENOSPC, nobody
else. A first pilot works there; a second one, with room, takes what it handed back. Prints what came of it as JSON.
"""

from __future__ import annotations

import functools
import http.server
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pilot_support import World, make_workflow

from pyanamo_core.pilot import Pilot, PilotOptions

MIB = 1 << 20
FILL = "head -c 9M /dev/zero > $PYANAMO_WORK/../../fill"


@dataclass(frozen=True)
class Step:
    """Where the disk is full and when: what is mounted (bytes, inodes) for scratch or staging, and what the task does.

    tmpfs counts its own root as one inode. A pilot takes two more for its folder and lock, below a folder for all
    pilots; a nest takes three folders and a log.
    """

    script: str = "echo fine"
    scratch: tuple[str, int] | None = None
    staging: tuple[str, int] | None = None
    workflow: dict[str, Any] = field(default_factory=dict[str, Any])


STEPS = {
    "scratch": Step(scratch=("4m", 2)),
    "scripts": Step(staging=("256k", 100)),
    "reference": Step(staging=("256k", 100)),
    "index": Step(staging=("4m", 5)),
    "work": Step(scratch=("4m", 5)),
    "log": Step(scratch=("4m", 7)),
    "write": Step("head -c 9M /dev/zero > big", scratch=("4m", 100)),
    "silent write": Step("head -c 9M /dev/zero > big 2> /dev/null || exit 3", scratch=("4m", 100)),
    "standard output": Step("head -c 9M /dev/zero | tr '\\0' x", scratch=("4m", 100)),
    "standard error": Step("head -c 9M /dev/zero | tr '\\0' x >&2", scratch=("4m", 100)),
    "result": Step(f"{FILL}; echo {{}} > $PYANAMO_RESULT; exit 0", scratch=("4m", 100)),
    "kept folder": Step("exit 65", scratch=("4m", 9), workflow={"keep_work_on_failure": True}),
    "upload": Step(f"seq 100000; {FILL}; exit 0", scratch=("4m", 100), workflow={"logs": "s3"}),
}


class Bucket:
    """Stands for boto3's clients: takes objects."""

    def __init__(self) -> None:
        self.sizes: dict[str, int] = {}

    def client(self, service: str, region: str | None = None) -> Any:
        return self

    def upload_fileobj(self, file: Any, bucket: str, key: str, **_: Any) -> None:
        self.sizes[key] = len(file.read())


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """Serve a folder over HTTP; its address."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def mount(place: Path, size: str, inodes: int) -> None:
    """A small file system that is all there is."""
    place.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes},mode=0700", "tmpfs", str(place)], check=True
    )


def material(step: str, folder: Path, address: str) -> dict[str, Any]:
    """What of the workflow is to be staged in a step."""
    noise = b"".join(number.to_bytes(3, "big") * 7 for number in range(MIB // 8))  # does not shrink by much
    if step == "scripts":
        scripts = folder / "tools"
        scripts.mkdir()
        (scripts / "tool.sh").write_bytes(noise)
        subprocess.run(["tar", "-C", str(folder), "-czf", str(folder / "tools.tar.gz"), "tools"], check=True)
        return {"scripts": str(folder / "tools.tar.gz")}
    if step == "reference":
        (folder / "ref.bin").write_bytes(noise)
        return {"references": [{"name": "ref", "uri": f"{address}/ref.bin"}]}
    if step == "index":
        (folder / "ref.fa").write_text(">chr1\n" + "ACGT" * 100 + "\n")
        return {"references": [{"name": "ref", "uri": str(folder / "ref.fa")}]}
    return {}


def main(name: str, folder: Path) -> dict[str, Any]:
    """Run the step; what came of it."""
    step = STEPS[name]
    bucket = Bucket()
    with served(folder) as address:
        told = {"nests": 1, "min_free_disk_mb": 0, **step.workflow, **material(name, folder, address)}
        world = World(folder, make_workflow(**told))
        world.begin_run(max_pilots=5)
        world.shell("a", step.script)
        small = {"scratch": folder / "small-scratch", "staging": folder / "small-staging"}
        if step.scratch:
            mount(small["scratch"], *step.scratch)
        if step.staging:
            mount(small["staging"], *step.staging)
        codes: list[int] = []
        leavings: list[str] = []
        after: dict[str, Any] = {}
        for places in (
            {"scratch": small["scratch"] / "pilots", "staging": small["staging"]},
            {"scratch": folder / "scratch", "staging": folder / "staging"},
        ):
            options = PilotOptions(table="Seq", run_id="r1", array_index=7, **places)
            pilot = Pilot(options, bucket, ledger=world.ledger, environ={"PATH": "/usr/bin:/bin"})
            pilot.prepare()
            codes.append(pilot.work())
            leavings.append(pilot.record.leaving)
            item = world.ledger.item("a")
            if not after:
                after = {
                    "state": item.state,
                    "tries": item.tries,
                    "interruptions": item.interruptions,
                    "message": item.message,
                    "half": sorted(path.name for path in small["staging"].glob("*") if not path.name.endswith(".lock")),
                    "left": sorted(str(path.relative_to(small["scratch"])) for path in small["scratch"].rglob("*")),
                    "run": world.ledger.run("r1").mode,
                }
            if item.state == "done":
                break
            # The second host has room for what filled the first, and a task that does not fill it.
            (folder / "fine").touch()
    return {
        "codes": codes,
        "leavings": leavings,
        "first": after,
        "state": world.ledger.item("a").state,
        "attempts": [(each.cause, each.evidence) for each in world.ledger.attempts("a")],
        "objects": bucket.sizes,
    }


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], Path(sys.argv[2]))))
