"""Adopting gVCFs that were made elsewhere: what is checked, what is refused, what is kept of where they came from."""

from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import pytest
from genomics_support import block, variant, write_gvcf, write_reference

from pyanamo_core.genomics.adopt import NotAdopted, adopt
from pyanamo_core.genomics.cohort import Gathered
from pyanamo_core.genomics.intervals import Locus

GATK = '##GATKCommandLine=<ID=HaplotypeCaller,CommandLine="HaplotypeCaller -L c",Version="4.1.0.0",Date="x">\n'
RECORDS = [block(1, 49), variant(50, "A", "G"), block(51, 100)]


@pytest.fixture
def reference(tmp_path: Path) -> Path:
    return write_reference(tmp_path, c="A" * 1000)


def adopted(source: Path, reference: Path, **options: Any) -> Gathered:
    work = source.parent / f"work{len(list(source.parent.glob('work*')))}"
    work.mkdir()
    return adopt(str(source), str(source.parent / "out"), work, reference=reference, **options)


def plain(source: Path, *, head: str = GATK, change: tuple[str, str] = ("", "")) -> Path:
    """The gVCF as text, with a line of GATK in its header, and something changed."""
    text = head + gzip.decompress(source.read_bytes()).decode().replace(*change)
    path = source.with_name(f"plain{len(list(source.parent.glob('plain*')))}.g.vcf")
    path.write_text("##fileformat=VCFv4.2\n" + text.replace("##fileformat=VCFv4.2\n", ""))
    return path


def test_a_gvcf_is_adopted_with_an_index_of_its_own_and_a_manifest_that_says_where_it_is_from(
    tmp_path: Path, reference: Path
) -> None:
    source = plain(write_gvcf(tmp_path / "x.g.vcf.gz", RECORDS))
    made = adopted(source, reference, loci=[Locus("c", 1, 100)])
    assert [one.name for one in made.outputs] == ["S1.g.vcf.gz", "S1.g.vcf.gz.tbi", "S1.manifest.json"]
    kept = {
        key: made.manifest[key] for key in ("sample", "caller", "caller_version", "parameters_hash", "loci", "records")
    }
    assert kept == {
        "sample": "S1",
        "caller": "gatk",
        "caller_version": "4.1.0.0",
        "parameters_hash": "",
        "loci": ["c:1-100"],
        "records": 3,
    }
    assert made.manifest["adopted"]["from"] == str(source)
    assert len(made.manifest["reference"]["c"]["md5"]) == 32
    # And again gives the same
    assert adopted(source, reference, loci=[Locus("c", 1, 100)]).gvcf.sha256 == made.gvcf.sha256


def test_without_loci_the_manifest_lists_what_the_records_cover(tmp_path: Path, reference: Path) -> None:
    records = [block(1, 49), variant(50, "A" * 20, "A"), block(70, 80), block(90, 95)]
    made = adopted(write_gvcf(tmp_path / "x.g.vcf.gz", records, contigs={"c": 1000}), reference)
    assert made.manifest["loci"] == ["c:1-80", "c:90-95"]
    assert made.manifest["longest_reference_span"] == 20
    assert (made.manifest["caller"], made.manifest["caller_version"]) == ("", "")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("c\t51\t.\tA", "c\t51\t.\tC"), "REF at c:51 is C, the reference has A: another reference"),
        (("END=100", "END=1100"), "ends behind the contig's end"),
        (("A\tG,<NON_REF>", "A\tG"), "c:50 does not list <NON_REF>"),
        (("END=49", "END=45"), "no record covers c:46-49: a hole"),
        (("c\t51\t", "c\t40\t"), "not sorted: c:40 comes after c:50"),
        (("c\t51\t", "e\t51\t"), "contig e is not in the reference"),
        (("END=49", "END=60"), "the reference block at c:51 overlaps the one before it"),
        (("length=1000", "length=999"), "c has 999 bases"),
        (("FORMAT\tS1", "FORMAT\tS1\tS2"), "it holds 2 samples, not one"),
        (("#CHROM", "##CHROM"), "has no header"),
        (("c\t51\t.\tA\t<NON_REF>", "c 51"), "a line is no record"),
    ],
)
def test_what_is_wrong_with_it_is_said_and_nothing_is_left(
    tmp_path: Path, reference: Path, change: tuple[str, str], message: str
) -> None:
    source = plain(write_gvcf(tmp_path / "x.g.vcf.gz", RECORDS, contigs={"c": 1000}), change=change)
    with pytest.raises(NotAdopted, match=message):
        adopted(source, reference, loci=[Locus("c", 1, 100)])
    assert not list(tmp_path.glob("out/*"))


def test_a_truncated_file_gzip_another_sample_and_no_file_are_refused(tmp_path: Path, reference: Path) -> None:
    source = write_gvcf(tmp_path / "x.g.vcf.gz", RECORDS, contigs={"c": 1000})
    with pytest.raises(NotAdopted, match="its sample is S1, not NA12878"):
        adopted(source, reference, sample="NA12878")
    whole = source.read_bytes()
    source.write_bytes(whole[:-28])
    with pytest.raises(NotAdopted, match="no BGZF end"):
        adopted(source, reference)
    source.write_bytes(gzip.compress(gzip.decompress(whole)))
    with pytest.raises(NotAdopted, match="packed with gzip"):
        adopted(source, reference)
    with pytest.raises(NotAdopted, match="does not exist"):
        adopted(tmp_path / "none", reference)
