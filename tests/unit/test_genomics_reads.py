"""Reads: simulated, listed, resolved, opened with their index, checked against the reference, sliced."""

from __future__ import annotations

import gzip
import hashlib
import os
import shutil
import struct
from pathlib import Path

import pysam
import pytest
from genomics_support import DATA, copy_reference

from pyanamo_core.errors import ParameterInvalid, ReadsInvalid, SampleMissing
from pyanamo_core.genomics.inputs import Access, Inputs, redact
from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, Locus, read_dictionary
from pyanamo_core.genomics.parameters import Parameters, heap_megabytes
from pyanamo_core.genomics.reads import OpenReads, check_reference, open_reads, slice_reads
from pyanamo_core.genomics.samples import (
    Checked,
    Reads,
    check_reads,
    choose,
    duplicates,
    list_reads,
    parse_argument,
    resolve,
)
from pyanamo_core.genomics.simulate import Cohort, Contig, Planted, place_cohort, simulate_cohort

EXOME = DATA / "na12878-exome" / "htsnexus_test_NA12878.cram"


@pytest.fixture(autouse=True)
def _reference_variables_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REF_PATH", os.environ.get("REF_PATH", ""))
    monkeypatch.setenv("REF_CACHE", os.environ.get("REF_CACHE", ""))


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    return simulate_cohort(tmp_path_factory.mktemp("cohort"), contigs=[("a", 9000)], samples=["S1", "S2"], depth=10)


@pytest.fixture(scope="module")
def folder(cohort: Cohort, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("bucket")
    place_cohort(cohort, place)
    return place


def opened(uri: Path, work: Path, index: Path | None = None, reference: Path | None = None) -> OpenReads:
    return open_reads(Inputs(), str(uri), str(index) if index else None, work, reference)


# ----------------------------------------------------------------------------------------------------------- simulation


def test_the_same_seed_gives_the_same_reference_truth_and_reads(cohort: Cohort, tmp_path: Path) -> None:
    again = simulate_cohort(tmp_path, contigs=[("a", 9000)], samples=["S1", "S2"], depth=10)
    assert again.reference.read_bytes() == cohort.reference.read_bytes()
    assert gzip.decompress(again.truth.read_bytes()) == gzip.decompress(cohort.truth.read_bytes())
    reads = [pysam.view("-T", str(c.reference), str(c.reads["S2"])) for c in (again, cohort)]
    assert reads[0] == reads[1]
    assert reads[0]


def test_a_contig_padded_with_n_has_the_coordinates_of_a_real_genome(tmp_path: Path) -> None:
    # Given SOD1's place on a chromosome 21 that is N everywhere else
    sod1 = Contig("chr21", 46_709_983, (31_659_001, 31_670_000), gap=False)
    planted = [Planted("chr21", 31_660_000, ((1, 1),)), Planted("chr21", 31_661_000, ((0, 1),), deleted=20)]
    made = simulate_cohort(tmp_path, contigs=[sod1], samples=["S"], depth=5, planted=planted, random_variants=False)
    # Then reference, .fai and .dict agree, and truth and reads lie where they were asked for
    with pysam.FastaFile(str(made.reference)) as fasta:
        bases = fasta.fetch("chr21")
    assert len(bases) == 46_709_983
    assert (
        read_dictionary(made.reference)["chr21"].md5 == hashlib.md5(bases.encode(), usedforsecurity=False).hexdigest()
    )
    assert bases.count("N") == 46_709_983 - 11_000
    truth = [
        line.split("\t") for line in gzip.decompress(made.truth.read_bytes()).decode().splitlines() if line[0] != "#"
    ]
    assert truth[0][1] == "31660000"
    assert len(truth[1][3]) == 21
    assert truth[1][3] == bases[int(truth[1][1]) - 1 : int(truth[1][1]) + 20]


def test_a_child_inherits_one_haplotype_of_each_parent(tmp_path: Path) -> None:
    made = simulate_cohort(tmp_path, contigs=[("a", 20_000)], samples=["child", "father", "mother"], depth=1)
    rows = [
        line.split("\t") for line in gzip.decompress(made.truth.read_bytes()).decode().splitlines() if line[0] != "#"
    ]
    child, father, mother = ([row[9 + i].split("|") for row in rows] for i in range(3))
    assert [g[0] for g in child] in ([g[0] for g in father], [g[1] for g in father])
    assert [g[1] for g in child] in ([g[0] for g in mother], [g[1] for g in mother])


# ------------------------------------------------------------------------------------------------------------- samples


def test_a_sample_is_found_by_its_run_and_by_its_name(folder: Path) -> None:
    by_run = resolve(Inputs(), "ERR3239334", str(folder))
    assert (by_run.stem, by_run.name) == ("S2", "")  # the run is no sample's name: SM decides
    by_name = resolve(Inputs(), "S1", str(folder))
    assert (by_name.run, by_name.name) == ("ERR3239276", "S1")
    assert by_name.index == f"{by_name.uri}.crai"


def test_a_sample_that_is_not_there_is_refused_with_the_nearest_names(folder: Path) -> None:
    with pytest.raises(SampleMissing, match=r"Sample ERR3239335 is not in .*did you mean ERR32393"):
        resolve(Inputs(), "ERR3239335", str(folder))
    with pytest.raises(SampleMissing, match=r"Sample X is not in .*, which has 2 others, e.g. S1"):
        resolve(Inputs(), "X", str(folder))
    with pytest.raises(ReadsInvalid, match="no such folder"):
        resolve(Inputs(), "S9", str(folder / "nowhere"))


def test_a_name_that_fits_several_files_is_refused(folder: Path, tmp_path: Path) -> None:
    for place in ("one", "two"):
        shutil.copytree(folder, tmp_path / place)
    with pytest.raises(ReadsInvalid, match="2 files fit"):
        resolve(Inputs(), "S1", str(tmp_path))


@pytest.mark.parametrize(
    ("text", "reads"),
    [
        ("NA12878", None),
        ("ERR3239334", None),
        ("s3://b/k/x.cram", Reads("s3://b/k/x.cram", run="k")),
        ("s3://b/k=1/x.cram,s3://b/i.crai", Reads("s3://b/k=1/x.cram", "s3://b/i.crai", run="k=1")),
        ("NA12878=s3://b/k/x.cram", Reads("s3://b/k/x.cram", name="NA12878", run="k")),
        ("NA12878:1=/d/x.bam,/d/x.bai", Reads("/d/x.bam", "/d/x.bai", "NA12878", "1", "d")),
    ],
)
def test_the_scripts_first_argument_is_a_name_or_reads(text: str, reads: Reads | None) -> None:
    assert parse_argument(text) == reads
    assert reads is None or reads.argument == text


def test_another_sample_than_expected_is_refused_unless_an_alias_is_declared() -> None:
    with pytest.raises(ReadsInvalid, match=r"is 1, not NA12878; .*NA12878:1=x.bam"):
        Reads("x.bam", name="NA12878").settle("1")
    assert Reads("x.bam", name="NA12878", read_group_sample="1").settle("1") == "NA12878"
    with pytest.raises(ReadsInvalid, match="is declared for 1"):
        Reads("x.bam", name="NA12878", read_group_sample="1").settle("2")
    assert Reads("x.bam").settle("1") == "1"


def test_a_random_choice_is_the_same_for_the_same_seed() -> None:
    listed = [Reads(f"{i}.bam") for i in range(100)]
    assert choose(listed, 10, 7) == choose(listed, 10, 7) != choose(listed, 10, 8)
    assert choose(listed, 10, 7) == sorted(choose(listed, 10, 7), key=listed.index)
    assert choose(listed[:3], 10, 7) == listed[:3]


def test_two_files_of_one_sample_are_noticed(folder: Path) -> None:
    checked = [check_reads(Inputs(), reads) for reads in list_reads(Inputs(), str(folder))]
    assert [c.sample for c in checked] == ["S1", "S2"]
    assert duplicates(checked) == {}
    again = Checked(Reads("other.cram"), "S1")
    assert duplicates([*checked, again]) == {"S1": [checked[0].reads.uri, "other.cram"]}


def test_a_bad_file_is_told_and_does_not_hide_the_others(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "b")
    bad = next((tmp_path / "b").rglob("S1.final.cram"))
    bad.write_bytes(bad.read_bytes()[:-100])
    checked = [check_reads(Inputs(), reads) for reads in list_reads(Inputs(), str(tmp_path / "b"))]
    assert ["truncated" in c.problem for c in checked] == [True, False]


# --------------------------------------------------------------------------------------------------- opening and checks


def test_real_files_of_all_kinds_are_opened_with_their_sample(tmp_path: Path) -> None:
    for name, sample in (
        ("na12878-chr22/NA12878.chr22.tiny.bam", "1"),
        ("1kg-chr17/mpileup.1.bam", "HG00100"),
        ("1kg-chr17/mpileup.2.cram", "HG00101"),
        ("na12878-exome/htsnexus_test_NA12878.cram", "NA12878"),
    ):
        with opened(DATA / name, tmp_path) as reads:
            assert reads.sample == sample


def test_truncated_reads_are_refused_at_any_length(cohort: Cohort, tmp_path: Path) -> None:
    whole = cohort.reads["S1"].read_bytes()
    cut = tmp_path / "cut.cram"
    shutil.copy(f"{cohort.reads['S1']}.crai", f"{cut}.crai")
    for length in (len(whole) - 1, len(whole) - 38, len(whole) // 2, 100, 0):
        cut.write_bytes(whole[:length])
        with pytest.raises(ReadsInvalid, match="truncated"):
            opened(cut, tmp_path)


def test_a_missing_or_foreign_index_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    alone = tmp_path / "alone.cram"
    shutil.copy(cohort.reads["S1"], alone)
    with pytest.raises(ReadsInvalid, match=r"index .*alone\.cram\.crai is missing; make it with: samtools index"):
        opened(alone, tmp_path)
    with pytest.raises(ReadsInvalid, match="its index is stale"):
        opened(alone, tmp_path, Path(f"{cohort.reads['S2']}.crai"))
    Path(f"{alone}.crai").write_bytes(b"no index")
    with pytest.raises(ReadsInvalid, match=r"cannot be read|stale"):
        opened(alone, tmp_path)


@pytest.mark.parametrize(("reads", "index"), [("1", "2"), ("2", "1"), ("1", "3")])
def test_the_index_of_another_bam_is_refused(reads: str, index: str, tmp_path: Path) -> None:
    with pytest.raises(ReadsInvalid, match="its index is stale"):
        opened(DATA / f"1kg-chr17/mpileup.{reads}.bam", tmp_path, DATA / f"1kg-chr17/mpileup.{index}.bam.bai")


def test_the_index_of_an_older_version_is_refused(cohort: Cohort, tmp_path: Path) -> None:
    # Given reads that were replaced by a longer version after they were indexed
    older = simulate_cohort(tmp_path / "older", contigs=[("a", 9000)], samples=["S1", "S2"], depth=8)
    with pytest.raises(ReadsInvalid, match="its index is stale"):
        opened(cohort.reads["S1"], tmp_path, Path(f"{older.reads['S1']}.crai"))


@pytest.mark.parametrize("version", ["3.1", "3.0", "2.1"])
@pytest.mark.parametrize("option", ["seqs_per_slice=10000", "seqs_per_slice=50", "multi_seq_per_slice=1"])
def test_every_version_and_layout_of_cram_is_read_and_its_stale_index_refused(
    cohort: Cohort, tmp_path: Path, version: str, option: str
) -> None:
    # Given the same reads in another version of CRAM, unplaced reads at the end, and a version without the first reads
    options = [f"version={version}".encode(), option.encode()]
    with pysam.AlignmentFile(str(cohort.reads["S1"]), reference_filename=str(cohort.reference)) as source:
        reads, header = list(source.fetch(until_eof=True)), source.header
    unplaced = pysam.AlignedSegment(header)
    unplaced.query_name, unplaced.flag, unplaced.query_sequence = "u", 4, "ACGT"
    for name, content in (("whole", [*reads, unplaced]), ("later", [*reads[20:], unplaced])):
        with pysam.AlignmentFile(
            str(tmp_path / f"{name}.cram"),
            "wc",
            header=header,
            reference_filename=str(cohort.reference),
            format_options=options,
        ) as out:
            for read in content:
                out.write(read)
        pysam.index(str(tmp_path / f"{name}.cram"))
    # Then it is read with its own index only
    with opened(tmp_path / "whole.cram", tmp_path, reference=cohort.reference) as whole:
        assert slice_reads(whole, [Locus("a", 1000, 2000)], tmp_path / "slice.bam", "S1") > 50
    with pytest.raises(ReadsInvalid, match="its index is stale"):
        opened(tmp_path / "later.cram", tmp_path, tmp_path / "whole.cram.crai")


def test_a_csi_index_is_judged_as_a_bai_is(tmp_path: Path) -> None:
    for number in (1, 2):
        shutil.copy(DATA / f"1kg-chr17/mpileup.{number}.bam", tmp_path / f"{number}.bam")
        pysam.index("-c", str(tmp_path / f"{number}.bam"))
    with opened(tmp_path / "1.bam", tmp_path, tmp_path / "1.bam.csi") as reads:
        assert reads.sample == "HG00100"
    with pytest.raises(ReadsInvalid, match="its index is stale"):
        opened(tmp_path / "1.bam", tmp_path, tmp_path / "2.bam.csi")


def test_a_bin_without_chunks_is_no_damage(tmp_path: Path) -> None:
    # Given an index of each kind to which a bin without chunks has been added
    source = tmp_path / "1.bam"
    shutil.copy(DATA / "1kg-chr17/mpileup.1.bam", source)
    for option, bins_at, empty in (("-b", 8, struct.pack("<Ii", 1, 0)), ("-c", 0, struct.pack("<IQi", 1, 0, 0))):
        pysam.index(option, str(source))
        index = tmp_path / ("1.bam.bai" if option == "-b" else "1.bam.csi")
        packed = index.read_bytes()
        data = packed if option == "-b" else gzip.decompress(packed)
        # of the first contig that has bins
        at = bins_at or 20 + struct.unpack_from("<i", data, 12)[0]
        while not (count := struct.unpack_from("<i", data, at)[0]):
            at += 8 if option == "-b" else 4
        data = data[:at] + struct.pack("<i", count + 1) + empty + data[at + 4 :]
        index.write_bytes(data if option == "-b" else gzip.compress(data))
        # Then the reads are opened
        with opened(source, tmp_path, index) as reads:
            assert reads.sample == "HG00100"


def test_several_samples_or_none_in_one_file_are_refused(tmp_path: Path) -> None:
    for groups, reason in (
        ([{"ID": "1", "SM": "A"}, {"ID": "2", "SM": "B"}], r"several samples \(A, B\)"),
        ([{"ID": "1"}], "no read group names a sample"),
        ([], "no read group names a sample"),
    ):
        path = tmp_path / "x.bam"
        header = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "a", "LN": 100}], "RG": groups}
        with pysam.AlignmentFile(str(path), "wb", header=header):
            pass
        pysam.index(str(path))
        with pytest.raises(ReadsInvalid, match=reason):
            opened(path, tmp_path)


def test_no_reads_at_all_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ReadsInvalid, match="no such file"):
        opened(tmp_path / "none.cram", tmp_path)
    (tmp_path / "x.bam").write_text("no reads" * 10)
    (tmp_path / "x.bam.bai").write_text("no index")
    with pytest.raises(ReadsInvalid, match="truncated"):
        opened(tmp_path / "x.bam", tmp_path)


def entries(*contigs: ContigEntry) -> Dictionary:
    return Dictionary("ref.dict", {c.name: c for c in contigs})


def test_another_reference_is_refused_by_name_length_and_m5(cohort: Cohort, tmp_path: Path) -> None:
    with opened(cohort.reads["S1"], tmp_path, reference=cohort.reference) as reads:
        same = read_dictionary(cohort.reference)
        assert check_reference(reads, ["a"], same) == []
        for other, reason in (
            (ContigEntry("a", 9001, same["a"].md5), "9000 bases there, 9001"),
            (ContigEntry("a", 9000, "0" * 32), "has M5 .* there, 0000"),
            (ContigEntry("b", 9000, same["a"].md5), "no contig b"),
        ):
            with pytest.raises(ReadsInvalid, match=reason):
                check_reference(reads, [other.name], entries(other))
        # and contigs that are not used do not matter, nor does their order
        assert check_reference(reads, ["a"], entries(ContigEntry("z", 5), same["a"])) == []


def test_a_missing_m5_is_recorded_as_a_warning(cohort: Cohort, tmp_path: Path) -> None:
    with opened(cohort.reads["S1"], tmp_path) as reads:
        assert "M5 missing in ref.dict" in check_reference(reads, ["a"], entries(ContigEntry("a", 9000)))[0]


def test_a_bam_without_m5_is_accepted_with_a_warning_and_by_length_only(cohort: Cohort, tmp_path: Path) -> None:
    # Given a BAM whose header names contigs without M5, as most aligners write it
    path, same = tmp_path / "x.bam", read_dictionary(cohort.reference)
    header = {"SQ": [{"SN": "a", "LN": 9000}, {"SN": "unused", "LN": 5}], "RG": [{"ID": "1", "SM": "S1"}]}
    with pysam.AlignmentFile(str(path), "wb", header=header):
        pass
    pysam.index(str(path))
    with opened(path, tmp_path) as reads:
        assert check_reference(reads, ["a"], same) == [
            "contig a: M5 missing in the reads' header; only name and length were compared"
        ]
        with pytest.raises(ReadsInvalid, match="9000 bases there, 9001"):
            check_reference(reads, ["a"], entries(ContigEntry("a", 9001, same["a"].md5)))


def test_published_reads_with_a_wrong_m5_are_refused_until_that_is_declared(tmp_path: Path) -> None:
    reference = copy_reference(DATA / "1kg-chr17/mpileup.ref.fa", tmp_path)
    with opened(DATA / "1kg-chr17/mpileup.1.cram", tmp_path) as reads:
        with pytest.raises(ReadsInvalid, match="another reference"):
            check_reference(reads, ["17"], read_dictionary(reference))
        assert "ignored as declared" in check_reference(reads, ["17"], read_dictionary(reference), by_length=True)[0]


def test_a_slice_holds_each_overlapping_read_once_under_the_samples_name(cohort: Cohort, tmp_path: Path) -> None:
    # Given two intervals so close that reads overlap both
    intervals = [Locus("a", 1000, 1500), Locus("a", 1550, 2000)]
    with opened(cohort.reads["S1"], tmp_path, reference=cohort.reference) as reads:
        count = slice_reads(reads, intervals, tmp_path / "slice.bam", "renamed")
        wanted = {(r.query_name, r.flag) for i in intervals for r in reads.file.fetch(i.contig, i.start - 1, i.end)}
    with pysam.AlignmentFile(str(tmp_path / "slice.bam")) as made:
        found = [(r.query_name, r.flag) for r in made.fetch()]
        assert {g["SM"] for g in made.header.to_dict()["RG"]} == {"renamed"}
    assert sorted(found) == sorted(wanted)
    assert count == len(wanted) > 50


def test_reads_of_another_reference_are_refused_where_no_m5_tells(cohort: Cohort, tmp_path: Path) -> None:
    # Given a reference of the right name and length with other bases: a CRAM cannot be decoded with it
    other = simulate_cohort(tmp_path / "other", seed=9, contigs=[("a", 9000)], samples=["x"], depth=1)
    with (
        opened(cohort.reads["S1"], tmp_path, reference=other.reference) as reads,
        pytest.raises(ReadsInvalid, match="another reference"),
    ):
        slice_reads(reads, [Locus("a", 1000, 2000)], tmp_path / "slice.bam", "S1")


# ---------------------------------------------------------------------------------------------- access and parameters


def test_addresses_are_redacted_wherever_they_stand() -> None:
    text = "failed to open 'https://b.s3.amazonaws.com/k.cram?X-Amz-Signature=abc&X-Amz-Security-Token=def' (403)"
    assert redact(text) == "failed to open 'https://b.s3.amazonaws.com/k.cram?…' (403)"


@pytest.mark.parametrize(
    ("access", "has", "lacks"),
    [
        ("role", "X-Amz-Signature", "x-amz-request-payer"),
        ("anonymous", "https://1000genomes.s3", "Signature"),
        ("requester_pays", "x-amz-request-payer=requester", "anonymous"),
    ],
)
def test_each_bucket_is_addressed_as_its_access_says(
    access: str, has: str, lacks: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
    address = Inputs([Access("1000genomes", access, "us-east-1")]).address("s3://1000genomes/a/x.cram")
    assert has in address
    assert lacks not in address


@pytest.fixture
def listed_buckets(monkeypatch: pytest.MonkeyPatch) -> Inputs:
    monkeypatch.setenv(
        "PYANAMO_INPUT_BUCKETS",
        '[{"bucket": "b", "access": "anonymous", "endpoint": "http://127.0.0.1:9", "region": ""}]',
    )
    return Inputs.from_environ()


def test_a_bucket_may_have_an_endpoint_of_its_own(listed_buckets: Inputs) -> None:
    assert listed_buckets.address("s3://b/x.cram") == "http://127.0.0.1:9/b/x.cram"


def test_parameters_come_from_the_environment_and_speed_is_not_part_of_their_hash() -> None:
    plain = Parameters.from_environ({})
    assert (plain.padding, plain.slack, plain.bands()[0]) == (1000, 300, 10)
    faster = Parameters.from_environ({"HC_SHORT_BASES": "1", "HC_HEAP_MB": "99", "HC_PADDING": ""})
    assert faster.hash("4.6") == plain.hash("4.6") != plain.hash("4.7")
    assert Parameters.from_environ({"HC_PADDING": "500"}).hash("4.6") != plain.hash("4.6")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HC_PADING", "1"),
        ("HC_PADDING", "-1"),
        ("HC_CALLER", "freebayes"),
        ("HC_PLOIDY", "0"),
        ("HC_PCR_MODEL", "none"),
        ("HC_GQ_BANDS", "20,10"),
        ("HC_GQ_BANDS", "10,x"),
        ("HC_REFERENCE_CHECK", "no"),
    ],
)
def test_a_parameter_that_cannot_be_is_refused_by_its_name(name: str, value: str) -> None:
    with pytest.raises(ParameterInvalid, match=name):
        Parameters.from_environ({name: value})


def test_the_sex_of_a_sample_is_looked_up_in_the_table_that_the_workflow_names(tmp_path: Path) -> None:
    (tmp_path / "sexes.tsv").write_text("S1\tmale\nS2\tfemale\n")
    parameters = Parameters(sex="sexes.tsv")
    assert [parameters.sex_of(s, str(tmp_path)) for s in ("S1", "S2", "S3")] == ["male", "female", "unknown"]
    with pytest.raises(ParameterInvalid, match="HC_SEX"):
        Parameters(sex="none.tsv").sex_of("S1", str(tmp_path))


def test_the_heap_leaves_room_for_what_lies_outside_it() -> None:
    assert heap_megabytes(Parameters(), 2000) == 1600
    assert heap_megabytes(Parameters(), 64_000) == 3072
    assert heap_megabytes(Parameters(), 100) == 128
    assert heap_megabytes(Parameters(heap_mb=500), 100) == 500
