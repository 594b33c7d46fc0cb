"""The task script with real GATK, from a bucket to a bucket: what it leaves when it works and when it does not."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pysam
import pytest
from genomics_support import ROOT, SCRIPT, TaskRun, run_task

from pyanamo_core.errors import CohortRefused
from pyanamo_core.genomics.cohort import gather
from pyanamo_core.genomics.compare import compare_with_truth, total
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.gvcf import check, verify_outputs
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.joint import joint
from pyanamo_core.genomics.simulate import Cohort, Contig, Planted, bucket_layout, simulate_cohort, upload_cohort

if TYPE_CHECKING:
    from pyanamo_core.local import LocalCloud

LOCUS = "demo1:2000-7000"


@pytest.fixture(scope="module", autouse=True)
def gatk() -> None:
    """GATK's jars and AOT cache: fetched once per machine."""
    prepare()


@dataclass
class Bucket:
    """A cohort in a bucket laid out like 1000 Genomes', and an empty bucket for results."""

    cloud: LocalCloud
    cohort: Cohort
    reads: str
    results: str
    keys: list[str]

    def __post_init__(self) -> None:
        self.s3: Any = self.cloud.clients().client("s3")

    def environment(self) -> dict[str, str]:
        return {**self.cloud.environment(), "READS": f"s3://{self.reads}/1000G_2504_high_coverage"}

    def uri(self, sample: str) -> str:
        return next(f"s3://{self.reads}/{k}" for k in self.keys if k.endswith(f"/{sample}.final.cram"))

    def objects(self, prefix: str = "") -> dict[str, int]:
        listed = self.s3.list_objects_v2(Bucket=self.results, Prefix=prefix).get("Contents", [])
        return {entry["Key"]: entry["Size"] for entry in listed}


@pytest.fixture(scope="module")
def bucket(local_cloud: LocalCloud, tmp_path_factory: pytest.TempPathFactory) -> Bucket:
    contigs = [("demo1", 16_000), Contig("demo2", 9_000)]
    cohort = simulate_cohort(tmp_path_factory.mktemp("cohort"), contigs=contigs, samples=["S1", "S2", "S3"])
    s3 = local_cloud.clients().client("s3")
    for name in ("calling-reads", "calling-results"):
        s3.create_bucket(Bucket=name)
    return Bucket(local_cloud, cohort, "calling-reads", "calling-results", upload_cohort(cohort, s3, "calling-reads"))


@pytest.fixture
def call(bucket: Bucket, tmp_path: Path, request: pytest.FixtureRequest) -> Any:
    """Run the task for a sample and loci; results go under a prefix of this test's own."""
    prefix = f"work/{request.node.name.split('[')[0]}-{abs(hash(request.node.name)) % 10**6}"

    def run(
        sample: str, loci: str = LOCUS, *, output: str = "", options: tuple[str, ...] = (), **environment: str
    ) -> TaskRun:
        where = output or f"s3://{bucket.results}/{prefix}/"
        reference = Path(environment.pop("reference", str(bucket.cohort.reference)))
        told = bucket.environment() | environment
        return run_task(sample, loci, reference, where, tmp_path / "work", options=options, **told)

    run.prefix = prefix  # type: ignore[attr-defined]
    return run


def nothing_left(bucket: Bucket, tmp_path: Path, prefix: str) -> bool:
    return not bucket.objects(prefix) and not list((tmp_path / "work").iterdir())


# ------------------------------------------------------------------------------------------------------- when it works


def test_a_sample_of_a_bucket_becomes_a_verified_gvcf_with_its_manifest_last(
    bucket: Bucket, call: Any, tmp_path: Path
) -> None:
    # When a sample is called by its ENA run, as in PyAnamo 1's sheets
    done = call("ERR3239334", PYANAMO_ITEM="i", PYANAMO_TABLE="t", PYANAMO_ATTEMPT="3", PYANAMO_MEMORY_MB="1500")
    assert done.code == 0, done.stderr
    # Then the four objects are there, as told, and nothing is on this machine
    stem = f"{call.prefix}/S2.demo1_000002000_7000"
    names = [f"{stem}{x}" for x in (".g.vcf.gz", ".g.vcf.gz.tbi", ".qc.json", ".manifest.json")]
    assert list(done.uris) == [f"s3://{bucket.results}/{n}" for n in names]
    assert bucket.objects(call.prefix) == {o["uri"].split("/", 3)[3]: o["bytes"] for o in done.result["outputs"]}
    assert list((tmp_path / "work").iterdir()) == []
    # And the manifest says what made them
    manifest = json.loads(bucket.s3.get_object(Bucket=bucket.results, Key=names[3])["Body"].read())
    assert (manifest["sample"], manifest["attempt"], manifest["caller_version"]) == ("S2", "3", "4.6.2.0")
    assert manifest["called"] == ["demo1:1000-8000"]
    assert [f["sha256"] for f in manifest["files"]] == [o["sha256"] for o in done.result["outputs"][:3]]
    assert "-Xmx" not in manifest["command"]
    # And the pilot's hook accepts it, and the result line is what a pilot records
    call_fields = {"value": LOCUS, "figures": done.result["figures"]}
    assert verify_outputs(call_fields, done.result["outputs"]) is None
    line = done.stdout.splitlines()[0].split("\t")
    assert line[:3] == ["PyAnamo:", "S2", LOCUS]
    # And no address with a signature was printed or stored
    everything = done.stdout + done.stderr + json.dumps(done.result) + json.dumps(manifest)
    assert "X-Amz" not in everything


def test_several_loci_and_an_interval_list_of_one_invocation_are_called_in_one_jvm(
    call: Any, bucket: Bucket, tmp_path: Path
) -> None:
    # Given an interval list of the workflow's archive with targets on two contigs
    (tmp_path / "targets").mkdir()
    (tmp_path / "targets" / "0007.bed").write_text("demo2\t100\t250\ndemo1\t12000\t12150\ndemo1\t12900\t13000\n")
    # When it is called beside two loci
    value = f"demo2:2000-3000,{LOCUS},@targets/0007.bed"
    done = call(bucket.uri("S1"), value, PIPELINE=str(tmp_path), output=str(tmp_path / "out"))
    assert done.code == 0, done.stderr
    # Then each locus has a gVCF, the list has one, and each holds its own bases only
    targets = [Locus("demo1", 12_001, 12_150), Locus("demo1", 12_901, 13_000), Locus("demo2", 101, 250)]
    assert check(tmp_path / "out" / "S1.targets_0007.g.vcf.gz", targets, sample="S1").bases_missing == 0
    check(tmp_path / "out" / "S1.demo2_000002000_3000.g.vcf.gz", [Locus("demo2", 2000, 3000)])
    lines = gzip.decompress((tmp_path / "out" / "S1.targets_0007.g.vcf.gz").read_bytes()).decode().splitlines()
    inside = [(x[0], int(x[1])) for x in (line.split("\t") for line in lines if line[0] != "#")]
    assert all(any(t.contig == c and t.start <= p <= t.end for t in targets) for c, p in inside)
    assert len([u for u in done.uris if u.endswith(".manifest.json")]) == 3


@pytest.fixture(scope="module")
def gathered(bucket: Bucket, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Each sample called in two loci of the first contig and one of the second, and gathered."""
    folder = tmp_path_factory.mktemp("trio")
    value = "demo1:1-7500,demo1:7501-16000,demo2:1-9000"
    found: list[str] = []
    for sample, cram in bucket.cohort.reads.items():
        done = run_task(cram, value, bucket.cohort.reference, folder / sample, folder / f"work-{sample}")
        (folder / f"gather-{sample}").mkdir()
        found.append(gather([done.recorded(value)], str(folder / "gathered"), folder / f"gather-{sample}").gvcf.uri)
    return found


@pytest.mark.parametrize(
    ("tool", "limit"), [("CombineGVCFs", 100), pytest.param("GenomicsDBImport", 2, marks=pytest.mark.system)]
)
def test_a_trio_gathered_and_called_jointly_meets_the_truth(
    bucket: Bucket, gathered: list[str], tmp_path: Path, tool: str, limit: int
) -> None:
    # When the gathered cohort is called, combined or, as above 100 samples, through GenomicsDB
    work = tmp_path / "work"
    work.mkdir()
    made = joint(gathered, bucket.cohort.reference, str(tmp_path / "joint"), work, combine_up_to=limit)
    assert made.manifest["commands"][0].startswith(tool)
    # Then every variant is found with its genotype, and nothing else is
    truth = (bucket.cohort.truth, bucket.cohort.callable_bed, bucket.cohort.reference)
    agreement = total(compare_with_truth(Path(made.vcf.uri), *truth))
    assert agreement.truth > 40
    assert (agreement.recall, agreement.precision) == (1.0, 1.0)


def test_a_locus_file_or_a_sample_twice_is_not_called_jointly(
    bucket: Bucket, gathered: list[str], tmp_path: Path
) -> None:
    work = tmp_path / "work"
    work.mkdir()
    with pytest.raises(CohortRefused, match="second gVCF of sample S1"):
        joint([*gathered, gathered[0]], bucket.cohort.reference, str(tmp_path / "joint"), work)
    locus = next(Path(gathered[0]).parent.parent.joinpath("S1").glob("*.g.vcf.gz"))
    with pytest.raises(CohortRefused, match="joint genotypes at its edges would be wrong"):
        joint([str(locus)], bucket.cohort.reference, str(tmp_path / "joint"), work)
    assert not (tmp_path / "joint").exists()


def test_bcftools_is_a_second_caller_for_the_same_way(bucket: Bucket, call: Any, tmp_path: Path) -> None:
    files: list[str] = []
    for sample in bucket.cohort.samples:
        done = call(bucket.uri(sample), "demo1,demo2:1-9000", output=str(tmp_path / sample), HC_CALLER="bcftools")
        (tmp_path / f"w{sample}").mkdir()
        nest = done.recorded("demo1,demo2:1-9000")
        files.append(gather([nest], str(tmp_path / "gathered"), tmp_path / f"w{sample}").gvcf.uri)
    (tmp_path / "j").mkdir()
    made = joint(files, bucket.cohort.reference, str(tmp_path / "joint"), tmp_path / "j")
    truth = (bucket.cohort.truth, bucket.cohort.callable_bed, bucket.cohort.reference)
    agreement = total(compare_with_truth(Path(made.vcf.uri), *truth))
    assert min(agreement.recall, agreement.precision) >= 0.95


def test_the_script_works_by_hand_with_a_folder_and_no_pilot(bucket: Bucket, tmp_path: Path) -> None:
    # Given nothing but the reference and a file of reads, in an empty folder
    environ = {k: v for k, v in os.environ.items() if not k.startswith(("PYANAMO_", "AWS_"))}
    environ |= {"ref": str(bucket.cohort.reference), "PYANAMO_PYTHON": sys.executable}
    if "PYANAMO_GATK_CACHE" in os.environ:
        environ["PYANAMO_GATK_CACHE"] = os.environ["PYANAMO_GATK_CACHE"]
    command = [str(SCRIPT), str(bucket.cohort.reads["S3"]), "demo2:1000-3000"]
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["gvcf"]
    assert sorted(p.name for p in (tmp_path / "gvcf").iterdir())[0] == "S3.demo2_000001000_3000.g.vcf.gz"


def test_without_arguments_the_script_explains_itself() -> None:
    environ = {**os.environ, "PYANAMO_PYTHON": sys.executable}
    done = subprocess.run([str(SCRIPT)], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 64
    assert "usage: HaplotypeCaller-1KG.sh [--sex male|female|unknown] SAMPLE LOCUS" in done.stderr


def test_a_womans_y_is_left_out_and_recorded_as_such(call: Any, tmp_path: Path) -> None:
    y = simulate_cohort(tmp_path / "y", contigs=[Contig("chrY", 9000, gap=False)], samples=["W"], depth=5)
    done = call(
        str(y.reads["W"]), "chrY:1-9000", reference=str(y.reference), output=str(tmp_path / "out"), HC_SEX="female"
    )
    assert done.code == 0, done.stderr
    assert [Path(u).name for u in done.uris] == ["W.chrY_000000001_9000.manifest.json"]
    assert json.loads(Path(done.uris[0]).read_text())["left_out"] is True
    assert verify_outputs({"value": "chrY:1-9000", "figures": done.result["figures"]}, done.result["outputs"]) is None


def test_the_definition_says_a_samples_sex_before_the_workflow_does(call: Any, tmp_path: Path) -> None:
    y = simulate_cohort(tmp_path / "y", contigs=[Contig("chrY", 9000, gap=False)], samples=["W"], depth=5)
    reads, common = str(y.reads["W"]), {"reference": str(y.reference), "HC_SEX": "male"}
    done = call(reads, "chrY:1-9000", output=str(tmp_path / "out"), options=("--sex", "female"), **common)
    manifest = json.loads(Path(done.uris[0]).read_text())
    assert (manifest["left_out"], manifest["sex"], manifest["parameters"]["sex"]) == (True, "female", "male")
    refused = call(reads, "chrY:1-9000", options=("--sex", "girl"), **common)
    assert refused.code == 64
    assert "--sex girl: it is none of male, female, unknown" in refused.stderr


@pytest.mark.system
def test_a_mans_x_is_called_diploid_inside_the_pseudoautosomal_region_and_haploid_outside(
    call: Any, tmp_path: Path
) -> None:
    # Given variants on both sides of PAR1's end (2,781,479) on a chromosome X of GRCh38's length
    chromosome = Contig("chrX", 156_040_895, (2_776_000, 2_787_000), gap=False)
    planted = [Planted("chrX", p, ((1, 1),)) for p in (2_779_000, 2_781_000, 2_782_000, 2_784_000)]
    x = simulate_cohort(tmp_path / "x", contigs=[chromosome], samples=["M"], planted=planted, random_variants=False)
    locus = "chrX:2778000-2785000"
    done = call(str(x.reads["M"]), locus, reference=str(x.reference), output=str(tmp_path / "out"), HC_SEX="male")
    assert done.code == 0, done.stderr
    # Then genotypes have two alleles before the end, one behind it
    with pysam.VariantFile(done.uris[0]) as gvcf:
        found = {r.pos: r.samples["M"]["GT"] for r in gvcf if r.alts and len(r.alts) > 1}
    assert found == {2_779_000: (1, 1), 2_781_000: (1, 1), 2_782_000: (1,), 2_784_000: (1,)}


# --------------------------------------------------------------------------------------------------- when it does not


@pytest.mark.parametrize(
    ("loci", "message"),
    [
        ("2:1-5", "no contig 2"),
        ("demo1:1-16001", "ends at 16000"),
        ("demo1:5", "not of the form"),
        ("demo1:1-9,demo1:9-20", "overlaps"),
        ("@none.bed", "cannot be read"),
    ],
)
def test_bad_loci_are_refused_before_anything_is_read(
    bucket: Bucket, call: Any, tmp_path: Path, loci: str, message: str
) -> None:
    done = call("S1", loci)
    assert (done.code, message in done.stderr) == (64, True), done.stderr
    assert done.result == {}
    assert nothing_left(bucket, tmp_path, call.prefix)


def test_a_sample_that_is_not_in_the_bucket_is_refused(bucket: Bucket, call: Any, tmp_path: Path) -> None:
    done = call("S4")
    assert done.code == 65
    assert "Sample S4 is not in s3://calling-reads/1000G_2504_high_coverage" in done.stderr
    assert nothing_left(bucket, tmp_path, call.prefix)


@pytest.mark.parametrize("fault", ["missing index", "stale index", "truncated", "several samples", "no such object"])
def test_bad_reads_are_refused_and_nothing_is_left(bucket: Bucket, call: Any, tmp_path: Path, fault: str) -> None:
    # Given reads in the bucket with one fault
    key = f"faulty/{fault.replace(' ', '-')}/S1.final.cram"
    layout = bucket_layout(bucket.cohort)
    local = {k.rpartition("/")[2]: v for k, v in layout.items()}
    body = local["S1.final.cram"].read_bytes()
    index = local["S2.final.cram.crai" if fault == "stale index" else "S1.final.cram.crai"].read_bytes()
    message = {"missing index": "is missing", "stale index": "stale", "truncated": "truncated"}.get(fault, fault)
    if fault == "several samples":
        body, index = merged(bucket.cohort, tmp_path)
    elif fault == "no such object":
        body, message = b"", "no such file"
    if body:
        bucket.s3.put_object(Bucket=bucket.reads, Key=key, Body=body[:-200] if fault == "truncated" else body)
    if fault != "missing index":
        bucket.s3.put_object(Bucket=bucket.reads, Key=f"{key}.crai", Body=index)
    # When it is called
    done = call(f"s3://{bucket.reads}/{key}")
    # Then it is refused for good, with the reason
    assert done.code == 65, done.stderr
    assert message in done.stderr
    assert nothing_left(bucket, tmp_path, call.prefix)


def merged(cohort: Cohort, folder: Path) -> tuple[bytes, bytes]:
    """A CRAM of two samples and its index."""
    path = folder / "two.cram"
    pysam.merge(
        "-f",
        "-O",
        "cram,version=3.0",
        "--reference",
        str(cohort.reference),
        str(path),
        *map(str, list(cohort.reads.values())[:2]),
    )
    pysam.index(str(path))
    return path.read_bytes(), Path(f"{path}.crai").read_bytes()


def test_reads_of_another_reference_are_refused_with_both_m5s(bucket: Bucket, call: Any, tmp_path: Path) -> None:
    other = simulate_cohort(tmp_path / "other", seed=2, contigs=[("demo1", 16_000)], samples=["x"], depth=1)
    done = call("S1", reference=str(other.reference))
    assert done.code == 65
    assert "has M5" in done.stderr
    assert nothing_left(bucket, tmp_path, call.prefix)


def test_a_missing_dictionary_or_reference_is_a_fault_of_the_set_up(bucket: Bucket, call: Any, tmp_path: Path) -> None:
    shutil.copy(bucket.cohort.reference, tmp_path / "bare.fa")
    shutil.copy(f"{bucket.cohort.reference}.fai", tmp_path / "bare.fa.fai")
    assert call("S1", reference=str(tmp_path / "bare.fa")).code == 78
    assert call("S1", reference=str(tmp_path / "none.fa")).code == 78
    assert call("S1", HC_CALLER="freebayes").code == 78
    assert call("S1", PYANAMO_GATK_CACHE=str(tmp_path / "empty")).code == 78


def test_a_missing_output_bucket_is_found_before_anything_is_computed(call: Any, tmp_path: Path) -> None:
    done = call("S1", output="s3://no-such-bucket-for-results/x/")
    assert done.code == 78
    assert "there is no bucket no-such-bucket-for-results" in done.stderr
    assert "transform" not in done.stderr
    assert list((tmp_path / "work").iterdir()) == []


def test_a_bucket_that_turns_read_only_in_mid_upload_keeps_nothing(
    bucket: Bucket, misbehaving_cloud: LocalCloud, call: Any, tmp_path: Path
) -> None:
    # Given a bucket that takes gVCF, index and QC record, but not the manifest
    misbehaving_cloud.answer("s3", "PutObject", "access_denied", path="manifest.json", times=-1)
    done = call("S1", "demo2:1000-2000")
    # Then the set-up is at fault, and what was put is taken back
    assert done.code == 78, done.stderr
    assert "cannot be put into" in done.stderr
    assert done.result == {}
    assert nothing_left(bucket, tmp_path, call.prefix)


def test_denied_reads_are_a_fault_of_the_set_up(
    bucket: Bucket, misbehaving_cloud: LocalCloud, call: Any, tmp_path: Path
) -> None:
    misbehaving_cloud.answer("s3", "GetObject", "access_denied", times=-1)
    done = call(bucket.uri("S1"))
    assert done.code == 78
    assert nothing_left(bucket, tmp_path, call.prefix)


def test_a_full_disk_is_reported_as_one_and_may_be_tried_again(bucket: Bucket, tmp_path: Path) -> None:
    # Given a work folder on a file system of 300 KB, in a mount namespace of its own
    work = tmp_path / "work"
    work.mkdir()
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "--user", "--map-root-user", "--mount"]
    mount = f"mount -t tmpfs -o size=300k tmpfs {work}"
    if subprocess.run([*unshare, "sh", "-c", mount], capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a file system")
    environ = {**os.environ, "ref": str(bucket.cohort.reference), "PYANAMO_WORK": str(work)}
    environ |= {"PYANAMO_OUTPUT": str(tmp_path / "out"), "PYANAMO_PYTHON": sys.executable}
    script = f"{mount} && {SCRIPT} {bucket.cohort.reads['S1']} demo1; code=$?; ls {work}; exit $code"
    done = subprocess.run([*unshare, "sh", "-c", script], env=environ, capture_output=True, text=True, check=False)
    # Then the exit code says try again, the reason is named, and neither place holds anything
    assert (done.returncode, done.stdout) == (75, ""), done.stderr
    assert "No space left on device" in done.stderr
    assert not (tmp_path / "out").exists()


def test_too_little_memory_is_told_apart_from_other_failures(bucket: Bucket, call: Any, tmp_path: Path) -> None:
    done = call("S1", "demo1", HC_HEAP_MB="16")
    assert done.code == 137, done.stderr
    assert "ran out of memory" in done.stderr
    assert nothing_left(bucket, tmp_path, call.prefix)


def test_a_term_in_mid_call_ends_the_jvm_and_leaves_nothing(bucket: Bucket, tmp_path: Path) -> None:
    # Given a task whose JVM runs
    work = tmp_path / "work"
    work.mkdir()
    environ = {
        **os.environ,
        "ref": str(bucket.cohort.reference),
        "PYANAMO_WORK": str(work),
        "PYANAMO_PYTHON": sys.executable,
    }
    environ["PYANAMO_OUTPUT"] = str(tmp_path / "out")
    task = subprocess.Popen([str(SCRIPT), str(bucket.cohort.reads["S1"]), "demo1"], env=environ, cwd=ROOT)
    give_up = time.monotonic() + 30
    while not list(work.glob("hc-*/caller.log")) and time.monotonic() < give_up:
        time.sleep(0.02)
    # When it gets a TERM
    task.send_signal(signal.SIGTERM)
    # Then it ends with TERM's code, and its JVM with it (the fixture no_process_left watches)
    assert task.wait(timeout=20) == 128 + signal.SIGTERM
    assert list(work.iterdir()) == []
    assert list((tmp_path / "out").glob("*")) == []
