"""The image and its pilots for real: built from a bare Debian, run by a Docker engine as ECS would run them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from container_site import DEFINITION, QUEUE, Site, eventually
from container_support import IMAGE, build_folder, built_image, containers_of, running_engine, said_in

from pyanamo_core.genomics.compare import compare_with_truth, total
from pyanamo_core.genomics.simulate import simulate_cohort, upload_cohort
from pyanamo_core.local import LocalCloud, Options, down, up
from pyanamo_core.local.docker import connect
from pyanamo_core.local.provision import ensure_compute
from pyanamo_core.model import Cause, State

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

SAMPLES = ("S1", "S2", "S3")
# The first attempts at S2 and S3 never end by themselves: one is told to, one is killed.
SCRIPT = """#!/usr/bin/env bash
set -euo pipefail
case $PYANAMO_ITEM:$PYANAMO_ATTEMPT in
S2:1 | S3:1) exec sleep 3599 ;;
esac
exec "$PIPELINE/HaplotypeCaller-1KG.sh" "$@"
"""


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
    run = site.starts("run", "--yes")
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
    site.types("run", "--yes")
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


def test_the_container_that_fetches_for_its_host_is_killed_and_the_others_go_on(site: Site, tmp_path: Path) -> None:
    # Given a reference in three ranges, of which the first does not come, and four containers on one host
    body = b">one\n" + b"ACGT" * 17_000_000 + b"\n"
    site.s3.put_object(Bucket=site.name, Key="big.fa", Body=body)
    site.write_workflow(pilots=4, memory_mb=600, references=[{"name": "ref", "uri": f"s3://{site.name}/big.fa"}])
    lines = [f"item{number}|look|bash -c 'stat -c %s $ref && cut -f 1,2 $ref.fai'|" for number in range(4)]
    (tmp_path / "sheet.txt").write_text("\n".join(["itemID|TaskID|TaskScript|TaskArgs", *lines]) + "\n")
    site.types("workflow", "create")
    site.types("sheet", "import", "sheet.txt")
    site.cloud.delay("s3", "GetObject", 90)
    site.cloud.watch()
    run = site.starts("run", "--yes")

    # When the others have arrived, and the container that fetches is killed
    def fetching() -> str:
        for notes in site.cloud.home.glob("hosts/*/scratch/staging-1000/*.notes"):
            if notes.read_text().count("\n") >= 3:
                return site.holder_of(notes.parent)
        return ""

    killed = eventually(lambda: run.poll() is not None or fetching(), "nobody fetches")
    assert run.poll() is None, run.communicate()
    connect(site.engine).kill(killed, "SIGKILL")
    out, err = run.communicate(timeout=400)
    asked = [each for each in site.cloud.seen() if each["path"] == f"/{site.name}/big.fa"]
    site.cloud.behave()

    # Then another one fetched the one range that was missing, and all four items saw the whole file
    assert run.returncode == 0, f"{out}\n{err}"
    ranges = [each["range"] for each in asked if each["operation"] == "GetObject"]
    assert (len(ranges), len(set(ranges))) == (4, 3)
    assert {site.types("logs", f"item{number}").strip() for number in range(4)} == {f"{len(body)}\none\t68000000"}
    assert not list(site.cloud.home.glob("hosts/*/scratch/staging-1000/*.notes"))


def test_a_job_by_hand_needs_neither_our_command_nor_prefect_and_its_argument_overrides_the_scripts(
    site: Site, tmp_path: Path
) -> None:
    # Given a workflow with task scripts, and an archive with others
    for name in ("theirs", "ours"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "which.sh").write_text(f"#!/bin/sh\necho {name} $(ls /opt/pyanamo/bin/pyanamo)\n")
        (tmp_path / name / "which.sh").chmod(0o755)
    pushed = json.loads(site.types("scripts", "push", "ours", "--to", f"s3://{site.name}/scripts", "--json"))
    site.write_workflow(memory_mb=600, scripts="theirs")
    (tmp_path / "sheet.txt").write_text("itemID|TaskID|TaskScript|TaskArgs\none|which|which.sh|\ntwo|which|which.sh|\n")
    site.types("workflow", "create")
    batch = site.clients.client("batch")

    def ended(**more: Any) -> Any:
        told = {"environment": [{"name": "PYANAMO_TABLE", "value": site.name}], **more}
        asked = {"jobName": "by-hand", "jobQueue": QUEUE, "jobDefinition": DEFINITION, "containerOverrides": told}
        job = batch.submit_job(**asked)["jobId"]
        return eventually(lambda: (one := site.job(job))["status"] in ("SUCCEEDED", "FAILED") and one, "no end")

    # When jobs are submitted with nothing but the table's name, and with an archive as their argument
    assert ended()["status"] == "SUCCEEDED"
    site.types("sheet", "import", "sheet.txt")
    assert ended(command=[pushed["uri"]])["status"] == "SUCCEEDED"
    # Then the items are done with the argument's scripts, and the pilot's row says whose
    assert {item.state for item in site.ledger.items()} == {State.DONE}
    assert {site.types("logs", one).split()[0] for one in ("one", "two")} == {"ours"}
    said = [json.dumps(row.model_dump(mode="json")) for row in site.ledger.pilots()]
    assert any(pushed["uri"] in one for one in said), said
    # And a table that is not there ends a job with 78, once
    (attempt,) = ended(environment=[{"name": "PYANAMO_TABLE", "value": f"{site.name}-none"}])["attempts"]
    assert attempt["container"]["exitCode"] == 78


def test_a_doctor_in_a_real_container_sees_what_a_pilot_would(site: Site, tmp_path: Path) -> None:
    # Given a workflow that pins GATK's version, and the stack's definition: unprivileged, a read-only root
    site.write_workflow(memory_mb=600, parameters={"HC_CALLER": "gatk"}, caller_version="4.6.2.0")
    site.types("workflow", "create")
    # When the doctor sends a job
    told = json.loads(site.types("doctor", "--as-job", "--json"))
    inside = {line["check"]: line for line in told["lines"] if line["where"] == "container"}
    # Then it wrote below its scratch folder only, found the caller, and read and wrote with its own keys
    print("\n".join(f"{line['state']} {check} {line['subject']}: {line['fact']}" for check, line in inside.items()))
    assert (inside["scratch"]["subject"], inside["scratch"]["state"]) == ("/scratch", "ok")
    assert "user 1000" in inside["PyAnamo"]["fact"]
    assert inside["caller"]["fact"] == "version 4.6.2.0, as pinned"
    assert inside["instance metadata"]["state"] == "ok"
    for check in ("table rights", "memory", "bucket of results: write", "bucket of results: delete"):
        assert inside[check]["state"] == "ok", inside[check]
    # And the log group that nobody has made yet is a word, no fault
    assert inside["log rights"]["state"] == "warning"


def test_an_image_of_ones_own_runs_the_pages_workflow_from_its_text(engine: str, tmp_path: Path) -> None:
    # Given the image without GATK, and the page's own image from it
    small = built_image(engine, tag="pyanamo:small", GATK="0")
    whole = connect(engine).inspect_image(IMAGE)
    print(f"image without GATK {small['Size'] / 1e6:.0f} MB, with it {whole['Size'] / 1e6:.0f} MB")
    assert small["Size"] < 0.75 * whole["Size"]
    page = (Path(__file__).parents[2] / "docs" / "own-workflow.md").read_text()
    script, workflow, objects, sheet, run, _, _, image, _ = re.findall(r"```\n(.*?)```", page, re.S)
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("AWS_", "PYANAMO_", "PREFECT_"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    shell = {**kept, "PATH": path, "XDG_STATE_HOME": str(tmp_path / "state")}

    def types(commands: str) -> str:
        told = {"env": shell, "cwd": tmp_path, "capture_output": True, "text": True}
        done = subprocess.run(["bash", "-e", "-c", commands], check=False, **told)
        assert done.returncode == 0, f"{commands}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    types(script + workflow + image.replace("docker build", ": docker build"))
    build_folder(engine, tmp_path, "copy-logs:1")
    # When the page's chapters 3 to 5 are typed, with containers of that image as pilots
    here = 'eval "$(pyanamo local env)"\n'
    try:
        types(objects.replace("local up workflow.yaml", f"local up workflow.yaml --docker {engine}"))
        types(here + sheet.replace("pyanamo rehearse sheet.txt", ""))
        said = types(here + run)
    finally:
        types("pyanamo local down")
    # Then everything was copied and counted, by the scripts in the image and the tool that it brought along
    assert "\n870 bytes copied\n" in said
    rows = (tmp_path / "results.tsv").read_text().splitlines()
    assert len(rows) == 13
    assert all("text/plain" in row for row in rows[1:])


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
