"""`samples list` and `loci plan` as they are typed, on a simulated cohort laid out like 1000 Genomes'."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pyanamo_core.genomics.simulate import Cohort, place_cohort, simulate_cohort

SAMPLES = ("DEMO0001", "DEMO0002", "DEMO0003")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return simulate_cohort(
        tmp_path_factory.mktemp("cohort"), depth=5, contigs=(("demo1", 20_000), ("demo2", 10_000)), samples=SAMPLES
    )


@pytest.fixture
def reads(cohort: Cohort, tmp_path: Path) -> Path:
    """A folder of one's own with the cohort's reads."""
    place_cohort(cohort, tmp_path / "reads")
    return tmp_path / "reads"


def pyanamo(folder: Path, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", "pyanamo", *arguments], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == code, done.stderr
    return done


def listed(folder: Path, *arguments: str) -> list[dict[str, str]]:
    return json.loads(pyanamo(folder, "samples", "list", *arguments, "--json").stdout)


def test_samples_are_named_by_their_read_group_and_found_by_run_or_sample(reads: Path):
    # Given reads in folders named after ENA runs
    # When they are listed, whole or by either name
    found = listed(reads, str(reads))
    by_run = listed(reads, str(reads), "--name", found[1]["run"])
    by_sample = listed(reads, str(reads), "--name", "DEMO0002")
    # Then each has the sample of its read group, and both names lead to the same reads
    assert [one["sample"] for one in found] == list(SAMPLES)
    assert [one["run"] for one in found] == ["ERR3239276", "ERR3239334", "ERR3239392"]
    assert by_run == by_sample == [found[1]]


def test_the_same_seed_chooses_the_same_samples_and_another_one_others(reads: Path):
    chosen = [
        [one["sample"] for one in listed(reads, str(reads), "--random", "2", "--seed", seed)]
        for seed in ("1", "1", "2", "3", "4")
    ]
    assert chosen[0] == chosen[1]
    assert all(len(one) == 2 for one in chosen)
    assert len({tuple(one) for one in chosen}) > 1


def test_the_file_of_samples_holds_what_the_task_script_takes(reads: Path):
    pyanamo(reads, "samples", "list", str(reads), "--out", "samples.tsv")
    with (reads / "samples.tsv").open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    assert [one["sample"] for one in rows] == list(SAMPLES)
    for one in rows:
        assert one["item"] == one["sample"]
        assert one["argument"] == f"{one['sample']}={one['reads']},{one['index']}"


def test_items_are_called_by_ena_run_when_asked(reads: Path):
    pyanamo(reads, "samples", "list", str(reads), "--by", "run", "--out", "runs.tsv")
    pyanamo(reads, "sheet", "make", "--items", "runs.tsv", "--script", "HC.sh {sample}", "--args", "demo1,demo2")
    assert (reads / "sheet.txt").read_text().splitlines()[1] == "ERR3239276|HC|HC.sh DEMO0001|demo1,demo2"


def test_reads_without_index_a_cut_file_and_a_sample_that_comes_twice_are_refused_together(reads: Path):
    # Given three faults
    crams = sorted(reads.rglob("*.cram"))
    crams[0].with_name(crams[0].name + ".crai").unlink()
    crams[1].write_bytes(crams[1].read_bytes()[:-100])
    shutil.copytree(crams[2].parent, reads / "again")
    # When the samples are listed
    refused = pyanamo(reads, "samples", "list", str(reads), "--out", "samples.tsv", code=3)
    # Then each is told with its file, and no table is written
    for told in (str(crams[0]), "truncated", "DEMO0003 is also in"):
        assert told in refused.stderr
    assert not (reads / "samples.tsv").exists()


def test_another_sample_than_its_name_says_is_refused_unless_an_alias_is_declared(reads: Path):
    cram = next(reads.rglob("DEMO0001.final.cram"))
    (reads / "own").mkdir()
    for suffix in ("", ".crai"):
        shutil.copy(f"{cram}{suffix}", reads / "own" / f"NA12878.cram{suffix}")
    refused = pyanamo(reads, "samples", "list", "own", "--name", "NA12878", code=3)
    assert "DEMO0001, not NA12878" in refused.stderr
    (renamed,) = listed(reads, "own", "--name", "NA12878", "--alias", "NA12878:DEMO0001")
    assert (renamed["sample"], renamed["argument"].split("=")[0]) == ("NA12878", "NA12878:DEMO0001")


def test_an_unknown_sample_and_an_empty_folder_are_told_as_such(reads: Path):
    assert "NA00001" in pyanamo(reads, "samples", "list", str(reads), "--name", "NA00001", code=4).stderr
    (reads / "empty").mkdir()
    assert "no BAM or CRAM" in pyanamo(reads, "samples", "list", "empty", code=4).stderr


def test_samples_of_a_public_bucket_are_listed_without_credentials(
    cohort: Cohort, local_cloud, monkeypatch, tmp_path: Path
):
    # Given a public bucket, and a shell that has an endpoint but no keys
    from pyanamo_core.genomics.simulate import bucket_layout

    s3 = local_cloud.clients().client("s3")
    s3.create_bucket(Bucket="public-reads")
    for key, path in bucket_layout(cohort, prefix="set/data").items():
        s3.upload_file(str(path), "public-reads", key, ExtraArgs={"ACL": "public-read"})
    monkeypatch.setenv("AWS_ENDPOINT_URL", local_cloud.endpoint)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    # Then they are listed, looked into, and named by address
    found = listed(tmp_path, "s3://public-reads/set/data", "--access", "anonymous")
    assert [one["sample"] for one in found] == list(SAMPLES)
    assert found[0]["reads"] == "s3://public-reads/set/data/ERR3239276/DEMO0001.final.cram"
    assert list(tmp_path.iterdir()) == []


def test_loci_cover_every_base_but_the_gaps(cohort: Cohort, tmp_path: Path):
    pyanamo(tmp_path, "loci", "plan", str(cohort.reference), "--size", "3000", "--out", "loci.txt")
    loci = [line.rpartition(":") for line in (tmp_path / "loci.txt").read_text().split()]
    spans = [(contig, *map(int, places.split("-"))) for contig, _, places in loci]
    import pysam

    with pysam.FastaFile(str(cohort.reference)) as fasta:
        for name in fasta.references:
            bases = fasta.fetch(name)
            covered = bytearray(len(bases))
            for contig, start, end in spans:
                if contig == name:
                    assert end - start + 1 <= 3000
                    assert not any(covered[start - 1 : end])
                    covered[start - 1 : end] = b"\1" * (end - start + 1)
            assert all(bool(covered[at]) == (base != "N") for at, base in enumerate(bases))


def test_loci_of_a_shipped_genome_and_of_a_dict_with_its_gaps_are_the_same(tmp_path: Path):
    from pyanamo_core.genomics.genomes import TABLES, genome

    lines = [f"@SQ\tSN:{name}\tLN:{length}" for name, length in genome("GRCh38").lengths.items()]
    (tmp_path / "g.dict").write_text("\n".join(["@HD\tVN:1.6", *lines]) + "\n")
    shipped = pyanamo(tmp_path, "loci", "plan", "--genome", "GRCh38", "--quiet").stdout
    own = pyanamo(tmp_path, "loci", "plan", "g.dict", "--gaps", str(TABLES / "GRCh38.gaps.bed"), "--quiet").stdout
    assert shipped == own
    assert len(shipped.splitlines()) > 500


def test_a_reference_without_dict_is_planned_too_and_two_sources_are_refused(cohort: Cohort, tmp_path: Path):
    shutil.copy(cohort.reference, tmp_path / "own.fa")
    with_dict = pyanamo(tmp_path, "loci", "plan", str(cohort.reference), "--quiet").stdout
    assert pyanamo(tmp_path, "loci", "plan", "own.fa", "--quiet").stdout == with_dict
    assert "not both" in pyanamo(tmp_path, "loci", "plan", "own.fa", "--genome", "GRCh38", code=2).stderr
    assert "not neither" in pyanamo(tmp_path, "loci", "plan", code=2).stderr
    assert "did you mean demo1" in pyanamo(tmp_path, "loci", "plan", "own.fa", "--contig", "chrdemo1", code=3).stderr


def test_a_table_of_ones_own_becomes_a_sheet_that_says_each_samples_sex(reads: Path):
    # Given a table beside the reads, with an index for one of them, and a pedigree
    crams = sorted(reads.rglob("*.cram"))
    lines = [f"DEMO000{n}\t{cram.relative_to(reads)}" for n, cram in enumerate(crams, 1)]
    (reads / "own.tsv").write_text("sample\treads\n" + "\n".join(lines) + "\n")
    (reads / "family.ped").write_text("F DEMO0001 DEMO0002 DEMO0003 2 0\nF DEMO0002 0 0 1 0\n")
    # When the samples are looked into and a sheet is made
    found = listed(reads, "own.tsv", "--ped", "family.ped", "--out", "samples.tsv")
    script = "HaplotypeCaller-1KG.sh --sex {sex} {argument}"
    pyanamo(reads, "sheet", "make", "--items", "samples.tsv", "--script", script, "--args", "demo1", "--out", "s.txt")
    # Then the index beside was found, and each item's script says the sex
    assert [one["sex"] for one in found] == ["female", "male", "unknown"]
    assert [one["index"] for one in found] == [f"{cram}.crai" for cram in crams]
    scripts = [line.split("|")[2] for line in (reads / "s.txt").read_text().splitlines()[1:]]
    assert scripts[1] == f"HaplotypeCaller-1KG.sh --sex male DEMO0002={crams[1]},{crams[1]}.crai"
    # and a sample that is not what the table says is refused
    (reads / "own.tsv").write_text(f"sample\treads\nDEMO0009\t{crams[0].relative_to(reads)}\n")
    assert "is DEMO0001, not DEMO0009" in pyanamo(reads, "samples", "list", "own.tsv", code=3).stderr
    # until the alias is declared, as the refusal says
    assert [one["sample"] for one in listed(reads, "own.tsv", "--alias", "DEMO0009:DEMO0001")] == ["DEMO0009"]
