"""GATK's own expected gVCFs, made by GATK 3.7 at another place: adopted after the checks, and called jointly."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pysam
import pytest
from genomics_support import DATA

from pyanamo_core.genomics.adopt import NotAdopted, adopt
from pyanamo_core.genomics.cohort import Gathered
from pyanamo_core.genomics.gatk import prepare
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.joint import joint

EXPECTED = DATA / "gatk-expected"
LENGTH = 63_025_520
SNIPPET = Locus("20", 10_433_000, 10_437_000)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Chromosome 20 as far as the gVCFs tell it: their REF bases, N elsewhere."""
    bases = bytearray(b"N" * LENGTH)
    for name in ("NA12878.AS.chr20snippet.g.vcf", "NA12891.AS.chr20snippet.g.vcf"):
        for line in (EXPECTED / name).read_text().splitlines():
            if not line.startswith("#"):
                fields = line.split("\t")
                start = int(fields[1]) - 1
                bases[start : start + len(fields[3])] = fields[3].encode()
    fasta = tmp_path_factory.mktemp("b37") / "20.fa"
    lines = (bytes(bases[at : at + 100_000]) + b"\n" for at in range(0, LENGTH, 100_000))
    fasta.write_bytes(b">20\n" + b"".join(lines))
    pysam.faidx(str(fasta))
    md5 = hashlib.md5(bytes(bases), usedforsecurity=False).hexdigest()
    fasta.with_suffix(".dict").write_text(f"@HD\tVN:1.6\n@SQ\tSN:20\tLN:{LENGTH}\tM5:{md5}\n")
    return fasta


def adopted(name: str, reference: Path, folder: Path, locus: Locus = SNIPPET) -> Gathered:
    work = folder / f"work-{name}"
    work.mkdir(parents=True)
    return adopt(str(EXPECTED / name), str(folder / "gathered"), work, reference=reference, loci=[locus])


def test_gatks_own_gvcfs_of_two_samples_are_adopted_and_called_jointly(reference: Path, tmp_path: Path) -> None:
    # Given NA12878 and NA12891 as GATK 3.7 called them
    prepare()
    made = [adopted(f"{name}.AS.chr20snippet.g.vcf", reference, tmp_path) for name in ("NA12878", "NA12891")]
    assert [(one.sample, one.manifest["caller"], one.manifest["caller_version"]) for one in made] == [
        ("NA12878", "gatk", "3.7-43-gc7dbd4f"),
        ("NA12891", "gatk", "3.7-43-gc7dbd4f"),
    ]
    # When they are called jointly
    (tmp_path / "work").mkdir()
    called = joint([one.gvcf.uri for one in made], reference, str(tmp_path / "joint"), tmp_path / "work")
    # Then each variant that a sample's gVCF holds there is a site, and the manifest says who was adopted
    assert called.manifest["adopted"] == ["NA12878", "NA12891"]
    with pysam.VariantFile(called.vcf.uri) as found:
        assert list(found.header.samples) == ["NA12878", "NA12891"]
        sites = {record.pos: [sample.alleles for sample in record.samples.values()] for record in found}
    own = [variants(EXPECTED / f"{name}.AS.chr20snippet.g.vcf") for name in ("NA12878", "NA12891")]
    assert len(sites) >= 10
    assert set(sites) <= {position for one in own for position in one}
    for number, one in enumerate(own):
        for position, alleles in one.items():
            if position in sites and "*" not in str(sites[position]):
                assert sorted(sites[position][number]) == alleles
    shutil.rmtree(tmp_path)


def variants(path: Path) -> dict[int, list[str]]:
    """Position to the sorted alleles of the genotype, of heterozygous or homozygous variants in the snippet."""
    found: dict[int, list[str]] = {}
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if line.startswith("#") or fields[4] == "<NON_REF>" or not SNIPPET.start <= int(fields[1]) <= SNIPPET.end:
            continue
        alleles = [fields[3], *fields[4].split(",")]
        genotype = fields[9].split(":")[0].replace("|", "/").split("/")
        found[int(fields[1])] = sorted(alleles[int(one)] for one in genotype)
    return found


@pytest.mark.parametrize(
    ("name", "locus", "message"),
    [
        ("NA12891.AS.chr20snippet.BAD_MISSING_NON_REF", SNIPPET, "20:10436908 does not list <NON_REF>"),
        ("NA12891.AS.chr20snippet.missingrefblock", SNIPPET, "no record covers 20:10435060-10435066: a hole"),
        (
            "NA12891.AS.chr20snippet_BAD_INCOMPLETE_REGION",
            Locus("20", 10_433_000, 10_437_100),
            "no record covers 20:10437001-10437100: a hole",
        ),
    ],
)
def test_gatks_deliberately_broken_gvcfs_are_not_adopted(
    reference: Path, tmp_path: Path, name: str, locus: Locus, message: str
) -> None:
    with pytest.raises(NotAdopted, match=message):
        adopted(f"{name}.g.vcf", reference, tmp_path, locus)
    assert not list(tmp_path.glob("gathered/*"))
