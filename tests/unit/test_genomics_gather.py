"""Gather: what it accepts, and that each refusal names the nest and its attempt."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from genomics_support import Nest, block, variant

from pyanamo_core.errors import CohortRefused
from pyanamo_core.genomics.cohort import Gathered, RecordedNest, gather
from pyanamo_core.genomics.compare import canonical_calls, canonical_gvcf

FIRST = [block(1, 94), variant(95, "A" * 11, "A")]
SECOND = [block(106, 200)]
LEFT = {"c:100-200": {"position": 95, "reference_length": 11}}


def nests(folder: Path, *wanted: Nest) -> list[RecordedNest]:
    for number, nest in enumerate(wanted):
        nest.nest = number
    return [nest.record(folder / "recorded") for nest in wanted]


def gathered(folder: Path, recorded: list[RecordedNest], **options: Any) -> Gathered:
    work = folder / "work"
    work.mkdir()
    return gather(recorded, str(folder / "out"), work, **options)


def records(result: Gathered) -> list[str]:
    lines = gzip.decompress(Path(result.gvcf.uri).read_bytes()).decode().splitlines()
    return [":".join(line.split("\t")[:2]) for line in lines if not line.startswith("#")]


def test_loci_are_gathered_in_the_order_of_the_reference_whatever_the_order_of_the_sheet(tmp_path: Path) -> None:
    # Given three loci in the wrong order, one of which begins below its left neighbour's deletion
    recorded = nests(
        tmp_path, Nest("d:1-50", [block(1, 50, "d")]), Nest("c:100-200", SECOND, left=LEFT), Nest("c:1-99", FIRST)
    )
    # When they are gathered
    result = gathered(tmp_path, recorded)
    # Then the file is in order, and the manifest says what it was made of
    assert records(result) == ["c:1", "c:95", "c:106", "d:1"]
    assert result.manifest["loci"] == ["c:1-99", "c:100-200", "d:1-50"]
    assert [n["attempt"] for n in result.manifest["nests"]] == [7, 7, 7]
    assert result.manifest["longest_reference_span"] == 11
    assert not result.manifest["partial"]
    # And the manifest was put last, beside gVCF and index
    assert [o.name for o in result.outputs] == ["S1.g.vcf.gz", "S1.g.vcf.gz.tbi", "S1.manifest.json"]


def test_a_hole_is_refused_unless_partial_which_is_recorded(tmp_path: Path) -> None:
    recorded = nests(tmp_path, Nest("c:1-99", FIRST))
    with pytest.raises(CohortRefused, match=r"1 of the loci are not recorded, the first is c:100-200: a hole"):
        gathered(tmp_path, recorded, expected=["c:1-99", "c:100-200"])
    result = gather(recorded, str(tmp_path / "out"), tmp_path, expected=["c:1-99", "c:100-200"], partial=True)
    assert result.missing == ["c:100-200"]
    assert json.loads(Path(result.outputs[-1].uri).read_text())["partial"] is True


def refused(folder: Path, message: str, *wanted: Nest) -> None:
    recorded = nests(folder, *wanted)
    with pytest.raises(CohortRefused, match=message):
        gathered(folder, recorded)
    assert not list(folder.glob("out/*"))


def test_overlapping_loci_are_refused_with_both_nests(tmp_path: Path) -> None:
    message = r"nest 1 \(c:99-200\), attempt 7 is an overlap with the locus of item S1 nest 0"
    refused(tmp_path, message, Nest("c:1-99", FIRST), Nest("c:99-200", SECOND))


def test_a_duplicate_locus_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "nest 1 .* is a duplicate", Nest("c:1-99", FIRST), Nest("c:1-99", FIRST))


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"sample": "S2"}, "another sample"),
        ({"caller": "bcftools"}, "another caller"),
        ({"caller_version": "4.5.0.0"}, "another version of the caller"),
        ({"parameters_hash": "def"}, "another parameters"),
        ({"reference": {"c": {"length": 1000, "md5": "1" * 32}}}, "another reference for c"),
    ],
)
def test_strangers_are_refused(tmp_path: Path, change: dict[str, Any], what: str) -> None:
    second = Nest("c:100-200", SECOND, left=LEFT, changes=change, attempt=9)
    refused(tmp_path, rf"nest 1 \(c:100-200\), attempt 9 has {what}", Nest("c:1-99", FIRST), second)


def test_a_hole_inside_a_file_is_refused(tmp_path: Path) -> None:
    refused(
        tmp_path,
        "nest 1 .*no record covers c:151-160: a hole",
        Nest("c:1-99", [block(1, 99)]),
        Nest("c:100-200", [block(100, 150), block(161, 200)]),
    )


def test_bases_left_to_a_deletion_that_the_left_neighbour_lacks_are_a_hole(tmp_path: Path) -> None:
    # Given a right locus that counts on a deletion, and a left one that was called without it
    refused(
        tmp_path, "no record covers c:100-105", Nest("c:1-99", [block(1, 99)]), Nest("c:100-200", SECOND, left=LEFT)
    )


def test_a_deletion_outside_all_loci_may_cover_the_first_bases(tmp_path: Path) -> None:
    result = gathered(tmp_path, nests(tmp_path, Nest("c:100-200", SECOND, left=LEFT)))
    assert result.manifest["outside_deletions"] == ["c:95+11"]


def test_a_file_that_ends_early_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "no record covers c:151-200", Nest("c:100-200", [block(100, 150)]))


def test_a_record_outside_its_locus_is_refused(tmp_path: Path) -> None:
    refused(tmp_path, "leaves its locus", Nest("c:100-200", [block(100, 201)]))


def test_a_gvcf_that_changed_after_it_was_recorded_is_refused(tmp_path: Path) -> None:
    recorded = nests(tmp_path, Nest("c:1-99", FIRST))
    with Path(recorded[0].outputs[0]).open("ab") as file:
        file.write(b"x")
    with pytest.raises(CohortRefused, match="its manifest says"):
        gathered(tmp_path, recorded)


def test_a_nest_without_manifest_or_with_its_file_gone_is_refused(tmp_path: Path) -> None:
    recorded = nests(tmp_path, Nest("c:1-99", FIRST))
    bare = RecordedNest("S1", 0, 7, "c:1-99", recorded[0].outputs[:2])
    with pytest.raises(CohortRefused, match="recorded no manifest"):
        gather([bare], str(tmp_path / "out"), tmp_path)
    Path(recorded[0].outputs[0]).unlink()
    with pytest.raises(CohortRefused, match="is gone"):
        gather(recorded, str(tmp_path / "out"), tmp_path)


def test_merging_split_blocks_makes_gathered_and_whole_equal(tmp_path: Path) -> None:
    whole = Nest("c:1-200", [block(1, 200, quality=45)], nest=5).record(tmp_path)
    split = gathered(
        tmp_path,
        nests(tmp_path, Nest("c:1-99", [block(1, 99, quality=45)]), Nest("c:100-200", [block(100, 200, quality=48)])),
    )
    assert list(canonical_gvcf(Path(split.gvcf.uri))) == list(canonical_gvcf(Path(whole.outputs[0])))


def test_the_order_of_alternative_alleles_does_not_make_cohorts_differ(tmp_path: Path) -> None:
    one, two = tmp_path / "one.vcf", tmp_path / "two.vcf"
    header = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA\tB\n"
    one.write_text(header + "c\t9\t.\tA\t*,G\t50\t.\t.\tGT\t1|2\t0/2\n")
    two.write_text(header + "c\t9\t.\tA\tG,*\t50\t.\t.\tGT\t1/2\t0/1\n")
    assert list(canonical_calls(one)) == list(canonical_calls(two))
    two.write_text(header + "c\t9\t.\tA\tG,*\t50\t.\t.\tGT\t1/1\t0/1\n")
    assert list(canonical_calls(one)) != list(canonical_calls(two))
