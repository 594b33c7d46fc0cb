"""gVCFs: GATK's own good and broken files, completeness, the trim at edges, the hook of the pilots."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from genomics_support import DATA, block, variant, write_gvcf, write_reference

from pyanamo_core.errors import GvcfInvalid
from pyanamo_core.genomics.gvcf import LeftDeletion, check, inspect, verify_outputs
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.records import BGZF_EOF
from pyanamo_core.genomics.trim import trim

EXPECTED = DATA / "gatk-expected"
SNIPPET = Locus("20", 10_433_000, 10_437_000)
FULL = Locus("20", 10_000_000, 10_100_000)


@pytest.mark.parametrize(
    ("name", "locus", "reason"),
    [
        ("NA12891.AS.chr20snippet.BAD_MISSING_NON_REF.g.vcf", SNIPPET, "1 records lack the allele <NON_REF>"),
        ("NA12891.AS.chr20snippet.missingrefblock.g.vcf", SNIPPET, "7 of 4001 bases .* the first at 10435060"),
        ("NA12891.AS.chr20snippet_BAD_INCOMPLETE_REGION.g.vcf", Locus("Y", 4_966_254, 4_967_190), "937 of 937 bases"),
        ("expected.testVCFMode.gatk4.vcf", FULL, "lack the allele <NON_REF>"),
    ],
)
def test_the_broken_gvcfs_of_gatk_are_refused(name: str, locus: Locus, reason: str) -> None:
    with pytest.raises(GvcfInvalid, match=reason):
        check(EXPECTED / name, [locus], binary=False)


@pytest.mark.parametrize(
    ("name", "locus", "variants"),
    [
        ("NA12878.AS.chr20snippet.g.vcf", SNIPPET, 23),
        ("NA12891.AS.chr20snippet.g.vcf", SNIPPET, 20),
        ("expected.testGVCFMode.gatk4.g.vcf", FULL, 253),
    ],
)
def test_the_good_gvcfs_of_gatk_pass(name: str, locus: Locus, variants: int) -> None:
    found = check(EXPECTED / name, [locus], binary=False).as_dict()
    assert (found["bases_missing"], found["variants"]) == (0, variants)


def test_the_figures_are_those_of_the_original_check() -> None:
    # Given GATK's NA12878 of 20:10.0-10.1 Mb; when it is inspected
    found = inspect(EXPECTED / "expected.testGVCFMode.gatk4.g.vcf", [FULL], binary=False).loci[0].as_dict()
    # Then the figures are those measured on this file: 201 SNVs, 58 indel alleles, Ti/Tv 1.91, het/hom 158/95
    assert (found["snv"], found["indel"], found["tstv"], found["het"], found["hom"]) == (201, 58, 1.91, 158, 95)
    assert found["callable_fraction"] == pytest.approx(0.994, abs=5e-4)
    assert sum(found["ref_bases_by_gq"].values()) + found["variants"] <= found["bases"] + 100


def test_a_file_with_header_end_block_and_index_but_no_record_is_refused(tmp_path: Path) -> None:
    # Given what HaplotypeCaller leaves when its reads are truncated: valid in every respect but one
    gvcf = write_gvcf(tmp_path / "x.g.vcf.gz", [])
    with pytest.raises(GvcfInvalid, match="100 of 100 bases of c:1-100 are under no record, the first at 1"):
        check(gvcf, [Locus("c", 1, 100)])


def test_a_deletion_left_of_the_locus_covers_it_and_is_named(tmp_path: Path) -> None:
    # Given a deletion of 10 bases that starts at 95, and a locus from 100
    records = [block(1, 94), variant(95, "A" * 11, "A"), block(106, 200)]
    gvcf = write_gvcf(tmp_path / "x.g.vcf.gz", records)
    # When the padded file is checked
    found = check(gvcf, [Locus("c", 100, 200)])
    # Then no base is missing, and the deletion is the left neighbour's
    assert found.loci[0].left_deletion == LeftDeletion(95, 11)
    assert found.loci[0].counts["variants"] == 0


def test_a_trimmed_file_passes_only_with_its_left_neighbours_deletion(tmp_path: Path) -> None:
    reference = write_reference(tmp_path, c="ACGT" * 250)
    raw = write_gvcf(tmp_path / "raw.g.vcf.gz", [block(1, 94), variant(95, "A" * 11, "A"), block(106, 300)])
    locus, deletion = Locus("c", 100, 200), LeftDeletion(95, 11)
    trim(raw, {tmp_path / "out.g.vcf.gz": [locus]}, reference)
    with pytest.raises(GvcfInvalid, match="6 of 101 bases"):
        check(tmp_path / "out.g.vcf.gz", [locus])
    assert check(tmp_path / "out.g.vcf.gz", [locus], left={locus: deletion}).bases_missing == 0
    with pytest.raises(GvcfInvalid, match="1 of 101 bases"):  # one base shorter does not cover it
        check(tmp_path / "out.g.vcf.gz", [locus], left={locus: LeftDeletion(95, 10)})


def test_the_trim_clips_blocks_and_keeps_variants_by_position(tmp_path: Path) -> None:
    reference = write_reference(tmp_path, c="ACGT" * 250)
    records = [block(1, 120), variant(121, "A", "C"), block(122, 149), variant(150, "AC", "A"), block(152, 400)]
    raw = write_gvcf(tmp_path / "raw.g.vcf.gz", records)
    # When it is cut into two loci, one edge inside a block, the other just behind a deletion's first base
    one, two = tmp_path / "one.g.vcf.gz", tmp_path / "two.g.vcf.gz"
    trim(raw, {one: [Locus("c", 50, 150)], two: [Locus("c", 151, 302)]}, reference, ["##note=x"])
    # Then blocks end at the edges with the reference's base, and the deletion stays with the locus it starts in
    lines = gzip.decompress(one.read_bytes()).decode().splitlines()
    assert "##note=x" in lines
    cut = [line.split("\t") for line in lines if not line.startswith("#")]
    assert [(x[1], x[3], x[7].split(";")[0]) for x in cut] == [
        ("50", "C", "END=120"),
        ("121", "A", "DP=30"),
        ("122", "A", "END=149"),
        ("150", "AC", "DP=30"),
    ]
    cut = [line.split("\t") for line in gzip.decompress(two.read_bytes()).decode().splitlines() if line[0] != "#"]
    assert [(x[1], x[7]) for x in cut] == [("152", "END=302")]


def test_many_targets_of_one_file_are_judged_one_by_one(tmp_path: Path) -> None:
    gvcf = write_gvcf(tmp_path / "x.g.vcf.gz", [block(1, 500), variant(501, "A", "G"), block(503, 900)])
    loci = [Locus("c", 10, 20), Locus("c", 400, 501), Locus("c", 502, 510), Locus("c", 890, 901)]
    found = inspect(gvcf, loci)
    assert [x.bases_missing for x in found.loci] == [0, 0, 1, 1]
    assert [x.counts["variants"] for x in found.loci] == [0, 1, 0, 0]


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([block(1, 60), block(50, 100)], "blocks overlap in c:1-100 by 11 bases"),
        ([block(1, 100, contig="d")], "100 of 100 bases"),
    ],
)
def test_files_with_other_faults_are_refused(tmp_path: Path, records: list[str], reason: str) -> None:
    gvcf = write_gvcf(tmp_path / "x.g.vcf.gz", records, contigs={"c": 1000, "d": 500})
    with pytest.raises(GvcfInvalid, match=reason):
        check(gvcf, [Locus("c", 1, 100)])


def test_records_out_of_order_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.g.vcf"
    path.write_text("##x\n#CHROM\tP\tI\tR\tA\tQ\tF\tI\tF\tS1\n" + block(51, 100) + block(1, 50))
    with pytest.raises(GvcfInvalid, match="1 records are out of order"):
        check(path, [Locus("c", 1, 100)], binary=False)


def test_truncation_another_sample_and_a_missing_index_are_refused(tmp_path: Path) -> None:
    gvcf = write_gvcf(tmp_path / "x.g.vcf.gz", [block(i, i) for i in range(1, 900)])
    locus = [Locus("c", 1, 899)]
    with pytest.raises(GvcfInvalid, match="its sample is S1, not S2"):
        check(gvcf, locus, sample="S2")
    whole = gvcf.read_bytes()
    gvcf.write_bytes(whole[:-28])
    with pytest.raises(GvcfInvalid, match="BGZF end is missing"):
        check(gvcf, locus)
    gvcf.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(GvcfInvalid, match="truncated or damaged"):
        check(gvcf, locus)
    gvcf.write_bytes(whole)
    Path(f"{gvcf}.tbi").unlink()
    with pytest.raises(GvcfInvalid, match="index is missing"):
        check(gvcf, locus)


def told(**changes: Any) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """A call and its outputs as the pilot hands them to the hook."""
    name = "S1.c_000000001_100.g.vcf.gz"
    gvcf = {
        "name": name,
        "value": "c:1-100",
        "sample": "S1",
        "expected_sample": "S1",
        "bases_missing": 0,
        "blocks_overlapping": 0,
        "bgzf_eof": True,
        "indexed": True,
        "loci": [{"locus": "c:1-100"}],
        **changes,
    }
    names = (name, f"{name}.tbi", "S1.c_000000001_100.qc.json", "S1.c_000000001_100.manifest.json")
    outputs = [{"uri": f"s3://b/k/{n}", "bytes": 10, "sha256": "0" * 64} for n in names]
    return {"value": "c:1-100", "figures": {"gvcfs": [gvcf]}}, outputs


def test_the_hook_accepts_a_complete_nest() -> None:
    assert verify_outputs(*told()) is None


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"bases_missing": 3}, "3 bases of its loci are under no record"),
        ({"blocks_overlapping": 2}, "reference blocks overlap by 2 bases"),
        ({"bgzf_eof": False}, "BGZF end"),
        ({"sample": "S2"}, "its sample is S2, not S1"),
        ({"loci": [{"locus": "c:1-99"}]}, "no gVCF was reported for c:1-100"),
    ],
)
def test_the_hook_refuses_bad_figures(changes: dict[str, Any], reason: str) -> None:
    assert reason in str(verify_outputs(*told(**changes)))


def test_the_hook_refuses_a_nest_without_figures_or_with_a_file_missing(tmp_path: Path) -> None:
    call, outputs = told()
    assert "no figures" in str(verify_outputs({"value": "c:1-100"}, outputs))
    assert "tbi is not among the outputs" in str(verify_outputs(call, [outputs[0], *outputs[2:]]))
    assert "manifest.json is not among the outputs" in str(verify_outputs(call, outputs[:3]))
    # and it looks at the file itself where it is still on this machine
    (tmp_path / "cut.g.vcf.gz").write_bytes(b"\x1f\x8b")
    assert "BGZF end is missing" in str(
        verify_outputs(call, [{**outputs[0], "path": str(tmp_path / "cut.g.vcf.gz")}, *outputs[1:]])
    )


def test_the_hook_reads_the_qc_records_where_the_pilot_hands_over_no_figures(tmp_path: Path) -> None:
    call, outputs = told(bases_missing=5)
    record = tmp_path / "S1.c_000000001_100.qc.json"
    record.write_text(json.dumps(call["figures"]["gvcfs"][0]))
    outputs[2]["path"] = str(record)
    assert "5 bases" in str(verify_outputs({"value": "c:1-100"}, outputs))


def test_the_hook_looks_at_the_end_of_what_was_put() -> None:
    # Given a nest whose figures are good, and a pilot that can read the end of its outputs
    call, outputs = told()
    asked: list[str] = []

    def read_end(uri: str, count: int) -> bytes:
        asked.append(uri)
        return BGZF_EOF[-count:] if len(asked) == 1 else b"cut off in the middle of a..."

    # Then the gVCF's own end decides
    assert verify_outputs({**call, "read_end": read_end}, outputs) is None
    assert "BGZF end" in str(verify_outputs({**call, "read_end": read_end}, outputs))
    assert asked == [outputs[0]["uri"]] * 2


def test_depth_in_par_is_kept_apart_from_the_rest_of_its_contig(tmp_path: Path) -> None:
    # Given a block of depth 30 over 1-500, of which PAR is 0-based 100-200, and two loci
    gvcf = write_gvcf(tmp_path / "x.g.vcf.gz", [block(1, 500)])
    loci = [Locus("c", 51, 150), Locus("c", 151, 400)]
    # When it is inspected
    found = inspect(gvcf, loci, par={"c": [(100, 200)]}).as_dict()
    # Then the contig's sums say what lies in PAR, and the bases are those of the loci
    sums = found["contigs"]["c"]
    assert (sums["bases"], sums["depth_bases"], sums["depth_sum"]) == (350, 350, 350 * 30)
    assert (sums["par_bases"], sums["par_depth_sum"]) == (100, 3000)
    assert (sums["block_bases"], sums["callable_bases"]) == (350, 350)


def test_a_haploid_call_counts_neither_as_het_nor_as_hom(tmp_path: Path) -> None:
    records = [block(1, 9), variant(10, "A", "C", genotype="1"), variant(11, "A", "C", genotype="1/1"), block(12, 20)]
    found = inspect(write_gvcf(tmp_path / "x.g.vcf.gz", records), [Locus("c", 1, 20)]).as_dict()
    assert (found["variants"], found["haploid"], found["hom"], found["het"]) == (2, 1, 1, 0)


def test_totals_hold_the_bands_of_quality_of_all_loci(tmp_path: Path) -> None:
    records = [block(1, 100, quality=15), variant(101, "A", "G"), block(102, 200, quality=50)]
    found = inspect(write_gvcf(tmp_path / "x.g.vcf.gz", records), [Locus("c", 1, 50), Locus("c", 61, 200)]).as_dict()
    assert found["ref_bases_by_gq"] == {"0": 0, "1-19": 90, "20-59": 99, "60-98": 0, "99": 0}
    assert found["variant_gq_over"] == {"20": 1, "60": 1, "90": 1}
