"""The image and its pilots for real: built from a bare Debian, run by a Docker engine as ECS would run them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from container_support import IMAGE, built_image, containers_of, running_engine, said_in

from pyanamo_core.aws import Clients
from pyanamo_core.genomics.compare import compare_with_truth, total
from pyanamo_core.genomics.simulate import simulate_cohort, upload_cohort
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.local.docker import connect
from pyanamo_core.local.provision import ensure_compute
from pyanamo_core.model import Cause, State

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

QUEUE, DEFINITION = "HaplotypeCaller_Queue", "HaplotypeCaller_JobDef"
SAMPLES = ("S1", "S2", "S3")
# The first attempts at S2 and S3 never end by themselves: one is told to, one is killed.
SCRIPT = """#!/usr/bin/env bash
set -euo pipefail
case $PYANAMO_ITEM:$PYANAMO_ATTEMPT in
S2:1 | S3:1) exec sleep 3599 ;;
esac
exec "$PIPELINE/HaplotypeCaller-1KG.sh" "$@"
"""
QUICK = {
    "lease_seconds": 60,
    "beat_seconds": 5,
    "sweep_seconds": 0.5,
    "poll_seconds": 1,
    "start_jitter_seconds": 0,
    "host_fault_wait_seconds": 2,
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of a Docker engine with the image built in it."""
    with running_engine(tmp_path_factory.mktemp("engine")) as socket:
        began = time.monotonic()
        told = built_image(socket)
        print(f"image of {told['Size'] / 1e6:.0f} MB built in {time.monotonic() - began:.0f} s")
        yield socket


@pytest.fixture(scope="module")
def cloud(engine: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalCloud]:
    """A local cloud whose jobs are containers on two hosts, with the stack's queue and definition."""
    home = tmp_path_factory.mktemp("cloud")
    made = up(Options(home=home, owner=os.getpid(), docker=engine))
    settings = {"Image": IMAGE, "Vcpus": "1", "MemoryMb": "2600", "SpotVcpus": "8"}
    deployed = subprocess.run(
        [sys.executable, "-m", "pyanamo", "deploy", "--yes", "--json"]
        + [word for name, value in settings.items() for word in ("--set", f"{name}={value}")],
        env={**{key: value for key, value in os.environ.items() if not key.startswith("AWS_")}, **made.environment()},
        cwd=home,
        capture_output=True,
        text=True,
        check=False,
    )
    assert deployed.returncode == 0, deployed.stderr
    outputs = json.loads(deployed.stdout)["outputs"]
    assert (outputs["Queue"], outputs["JobDefinition"]) == (QUEUE, DEFINITION)
    made.set_hosts(QUEUE, [{"vcpus": 4}, {"vcpus": 4}])
    yield made
    down(home)
    left = connect(engine).containers(all=True, filters={"label": f"pyanamo.cloud={home}"})
    assert left == []


def eventually(look: Callable[[], Any], what: str, seconds: float = 240) -> Any:
    """What `look` finds, as soon as it finds something."""
    give_up = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < give_up, what
        time.sleep(0.3)
    return found


class Site:
    """A bucket, a folder and a shell that leads to the cloud."""

    def __init__(self, cloud: LocalCloud, engine: str, name: str, folder: Path) -> None:
        self.cloud, self.engine, self.name, self.folder = cloud, engine, name, folder
        self.clients: Clients = cloud.clients()
        self.s3 = self.clients.client("s3")
        self.s3.create_bucket(Bucket=name)
        self.started: list[subprocess.Popen[str]] = []
        self.environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("AWS_")},
            **cloud.environment(),
        }

    def starts(self, *words: str) -> subprocess.Popen[str]:
        self.started.append(
            subprocess.Popen(
                [sys.executable, "-m", "pyanamo", *words],
                cwd=self.folder,
                env=self.environment,
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return self.started[-1]

    def types(self, *words: str, code: int = 0) -> str:
        with self.starts(*words) as running:
            out, err = running.communicate(timeout=600)
        assert running.returncode == code, f"{words}: {running.returncode}\n{out}\n{err}"
        return out

    def write_workflow(self, **more: Any) -> None:
        told = {
            "name": self.name,
            "queue": QUEUE,
            "job_definition": DEFINITION,
            "image": IMAGE,
            "timing": QUICK,
            "vcpus": 1,
            "memory_mb": 2600,
            "buckets": {"results": f"s3://{self.name}/results", "inputs": [{"bucket": self.name}]},
        }
        (self.folder / "workflow.yaml").write_text(yaml.safe_dump(told | more))

    @property
    def ledger(self) -> Ledger:
        return open_ledger(self.clients, self.name)[0]

    def pilot_of(self, item: str) -> str:
        """Batch's job of the pilot that holds an item, "" if none does."""
        held = self.ledger.item(item)
        if held.state is not State.LOCKED or not held.owner:
            return ""
        pilot = self.ledger.pilot(held.owner)
        return pilot.batch_job if pilot else ""

    def hanging_in(self, item: str) -> str:
        """The container in which the item's first attempt sleeps, "" if it does not yet."""
        container = containers_of(self.engine).get(self.pilot_of(item), "")
        if container and "sleep 3599" in json.dumps(connect(self.engine).top(container)):
            return container
        return ""

    def job(self, job_id: str) -> Any:
        return self.clients.client("batch").describe_jobs(jobs=[job_id])["jobs"][0]


@pytest.fixture
def site(cloud: LocalCloud, engine: str, unique_name: str, tmp_path: Path) -> Iterator[Site]:
    made = Site(cloud, engine, unique_name, tmp_path)
    yield made
    for each in made.started:
        each.kill()
        each.wait()


def test_the_image_holds_what_pilots_need_and_nothing_more(engine: str) -> None:
    # Given the image's settings: unprivileged, an init first
    told = connect(engine).inspect_image(IMAGE)["Config"]
    assert told["User"] == "1000:1000"
    assert told["Entrypoint"] == ["/usr/bin/tini", "-s", "--", "/usr/local/bin/fetch_and_run.sh"]
    # Then it has no compiler, no pip, no moto; and nothing outside /scratch can be written
    look = """
cat /proc/1/comm; id -u
for each in gcc cc c++ make pip pip3 uv; do type -P $each; done
python -c 'import moto' 2>&1 | tail -n 1
touch /opt/pyanamo/x /usr/x /tmp/x 2>&1 | grep -c 'Read-only file system'
"""
    lines = said_in(engine, "bash", "-c", look).splitlines()
    assert lines == ["tini", "1000", "ModuleNotFoundError: No module named 'moto'", "3"]
    # And GATK starts from its cache, or not at all
    gatk = """
import subprocess
from pyanamo_core.genomics.gatk import find_gatk
found = find_gatk()
command = found.java_command("HaplotypeCaller", ["--version"], 512, True, "/scratch")
command.insert(1, "-XX:AOTMode=on")
print(found.aot_cache is not None, subprocess.run(command, capture_output=True, text=True).stdout)
"""
    assert "True The Genome Analysis Toolkit (GATK) v4" in said_in(engine, "python", "-c", gatk)


def test_a_cohort_is_called_in_containers_of_which_one_is_told_to_leave_and_one_is_killed(
    site: Site, tmp_path: Path
) -> None:
    # Given reads and reference in a bucket, scripts pushed as an archive, and a sheet of three samples with two loci each
    cohort = simulate_cohort(tmp_path / "cohort", contigs=[("c1", 30_000), ("c2", 20_000)], samples=SAMPLES)
    upload_cohort(cohort, site.s3, site.name, prefix="reads")
    site.s3.upload_file(str(cohort.reference), site.name, "reference/demo.fa")
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    packaged = Path(__file__).parents[2] / "task_scripts" / "HaplotypeCaller-1KG.sh"
    (scripts / packaged.name).write_text(packaged.read_text())
    (scripts / "call.sh").write_text(SCRIPT)
    for each in scripts.iterdir():
        each.chmod(0o755)
    pushed = json.loads(site.types("scripts", "push", "scripts", "--to", f"s3://{site.name}/scripts", "--json"))
    site.write_workflow(
        pilots=3,
        scripts=pushed["uri"],
        scripts_sha256=pushed["sha256"],
        references=[{"name": "ref", "uri": f"s3://{site.name}/reference/demo.fa"}],
        verify="pyanamo_core.genomics.gvcf:verify_outputs",
    )
    reads = {
        sample: f"s3://{site.name}/reads/ERR{3_239_276 + 58 * n}/{sample}.final.cram"
        for n, sample in enumerate(SAMPLES)
    }
    lines = [f"{sample}|HC|call.sh {uri}|c1:1-30000,c2:1-20000" for sample, uri in reads.items()]
    (tmp_path / "sheet.txt").write_text("\n".join(["itemID|TaskID|TaskScript|TaskArgs", *lines]) + "\n")
    site.types("workflow", "create")
    site.types("sheet", "import", "sheet.txt")

    # When it is run by an array of three containers
    began = time.monotonic()
    run = site.starts("run")
    eventually(lambda: run.poll() is not None or site.pilot_of("S2") or site.pilot_of("S3"), "no pilot claims")
    print(f"first claim {time.monotonic() - began:.0f} s after `pyanamo run`")
    told, killed = hanging(site, run, "S2"), hanging(site, run, "S3")
    told_job, killed_job = site.pilot_of("S2"), site.pilot_of("S3")
    engine = connect(site.engine)
    for each in (told, killed):
        about = engine.inspect_container(each)
        assert about["HostConfig"]["ReadonlyRootfs"] is True
        status = Path(f"/proc/{about['State']['Pid']}/status").read_text()
        assert "\nUid:\t1000\t1000\t1000\t1000\n" in status

    # And in the middle of their nests one is told to leave and one is killed
    leaves = time.monotonic()
    engine.kill(told, "SIGTERM")
    engine.kill(killed, "SIGKILL")
    eventually(lambda: told not in containers_of(site.engine).values(), "the container told to leave is there")
    print(f"told to leave: gone after {time.monotonic() - leaves:.1f} s")
    out, err = run.communicate(timeout=400)
    assert run.returncode == 0, f"{out}\n{err}"

    claimed = site.ledger.attempts("S2")[0].started - site.job(told_job)["attempts"][0]["startedAt"] / 1000
    print(f"from the container's start to its pilot's first claim, scripts and reference staged: {claimed:.1f} s")

    # Then the one told handed back and ended with 75, and Batch tried it again; the killed one's item was done elsewhere
    first, *more = site.job(told_job)["attempts"]
    assert first["container"]["exitCode"] == 75
    assert site.job(told_job)["status"] == "SUCCEEDED"
    assert len(more) == 1
    assert [(a["container"]["exitCode"]) for a in site.job(killed_job)["attempts"]] == [137]
    ledger = site.ledger
    assert {item.state for item in ledger.items()} == {State.DONE}
    assert [a.cause for a in ledger.attempts("S2")] == [Cause.DRAINED, Cause.DONE]
    assert [a.cause for a in ledger.attempts("S3")] == [Cause.LOST, Cause.DONE]
    assert ledger.attempts("S3")[0].pilot_id != ledger.attempts("S3")[1].pilot_id
    # And the calls are those that were planted
    agreement = called(site, cohort, tmp_path)
    print(f"recall {agreement.recall:.3f}, precision {agreement.precision:.3f} of {agreement.truth} genotypes")
    assert agreement.recall > 0.95
    assert agreement.precision > 0.95


def hanging(site: Site, run: subprocess.Popen[str], item: str) -> str:
    """The container in which an item's first attempt sleeps."""
    found = eventually(lambda: run.poll() is not None or site.hanging_in(item), f"{item} does not begin")
    assert run.poll() is None, run.communicate()
    return found


def called(site: Site, cohort: Any, folder: Path) -> Any:
    """The agreement with the truth of the joint VCF of what the containers made."""
    from pyanamo.cohort import recorded_nests
    from pyanamo_core.genomics.cohort import gather
    from pyanamo_core.genomics.joint import joint

    gathered: list[str] = []
    for sample in SAMPLES:
        work = folder / f"gather-{sample}"
        work.mkdir()
        nests, expected = recorded_nests(site.ledger, site.ledger.item(sample), site.clients, partial=False)
        gathered.append(gather(nests, str(folder / "gathered"), work, expected=expected, clients=site.clients).gvcf.uri)
    (folder / "joint").mkdir()
    vcf = joint(gathered, cohort.reference, str(folder / "vcf"), folder / "joint").vcf.uri
    return total(compare_with_truth(Path(vcf), cohort.truth, cohort.callable_bed, cohort.reference))


def test_four_containers_on_a_host_fetch_the_reference_once(site: Site, tmp_path: Path) -> None:
    # Given a reference without index, and four items that each look at it for a while
    site.s3.put_object(Bucket=site.name, Key="big.fa", Body=b">one\n" + b"ACGT" * 3_000_000 + b"\n")
    site.write_workflow(pilots=4, memory_mb=600, references=[{"name": "ref", "uri": f"s3://{site.name}/big.fa"}])
    look = "bash -c 'stat -c %i $ref && cut -f 1,2 $ref.fai && sleep 4'"
    lines = [f"item{number}|look|{look}|" for number in range(4)]
    (tmp_path / "sheet.txt").write_text("\n".join(["itemID|TaskID|TaskScript|TaskArgs", *lines]) + "\n")
    site.types("workflow", "create")
    site.types("sheet", "import", "sheet.txt")
    site.cloud.watch()

    # When four containers start at once on one host
    site.types("run")
    asked = [each for each in site.cloud.seen() if each["path"] == f"/{site.name}/big.fa"]
    site.cloud.behave()

    # Then its bytes came once, and all four saw the same file with the index that was made
    pilots = site.ledger.pilots()
    assert len({pilot.host for pilot in pilots}) == 1
    assert len(pilots) == 4
    ranges = [each["range"] for each in asked if each["operation"] == "GetObject"]
    assert len(ranges) == len(set(ranges)) > 0
    seen = {site.types("logs", f"item{number}") for number in range(4)}
    assert len(seen) == 1
    assert "one\t12000000" in seen.pop()


def test_what_the_engine_and_the_kernel_say_is_told_as_batch_tells_it(cloud: LocalCloud) -> None:
    # Given jobs that overflow their memory, and an image that nobody has
    batch = cloud.clients().client("batch")
    ensure_compute(cloud.clients(), QUEUE, "NoImage", image="nobody.invalid/none:1", command=(), memory=200)
    ensure_compute(
        cloud.clients(), QUEUE, "Small", image=IMAGE, command=("python", "-c", "bytearray(2**30)"), memory=200
    )

    def ended(definition: str, **more: Any) -> Any:
        job = batch.submit_job(jobName="j", jobQueue=QUEUE, jobDefinition=definition, **more)["jobId"]

        def look() -> Any:
            told = batch.describe_jobs(jobs=[job])["jobs"][0]
            return told if told["status"] in ("SUCCEEDED", "FAILED") else None

        return eventually(look, f"{definition} does not end")

    # Then their attempts say so, and a job without a table ends with 78
    small = ended("Small")["attempts"][-1]["container"]
    assert (small["exitCode"], small["reason"]) == (137, "OutOfMemoryError: Container killed due to memory usage")
    [attempt, *_] = ended("NoImage", retryStrategy={"attempts": 1})["attempts"]
    assert attempt["container"]["reason"].startswith("CannotPullContainerError: ")
    assert attempt["statusReason"] == "Task failed to start"
    bare = ended(DEFINITION)["attempts"]
    assert [each["container"]["exitCode"] for each in bare] == [78]
