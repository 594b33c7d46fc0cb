"""Concatenation: regions in their order become one VCF, or a refusal that names the region."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pysam
import pytest
from genomics_support import write_reference

from pyanamo_core.errors import CohortRefused
from pyanamo_core.genomics.bgzf import pack
from pyanamo_core.genomics.concat import Concatenating, concat, read_stats
from pyanamo_core.genomics.inputs import Inputs
from pyanamo_core.genomics.intervals import Locus
from pyanamo_core.genomics.joint import call_region, check_vcf, joint_calling, kept_region
from pyanamo_core.genomics.plan_files import canonical, plan_name, put_plan
from pyanamo_core.genomics.plan_task import code_of, run, verify_outputs
from pyanamo_core.genomics.records import BGZF_EOF

HEADER = (
    "##fileformat=VCFv4.2\n##contig=<ID=c,length=1000>\n##contig=<ID=d,length=500>\n"
    '##FORMAT=<ID=GT,Number=1,Type=String,Description="Genotype">\n'
    "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\tFORMAT\tA\tB\n"
)


def line(place: str) -> str:
    contig, position = place.split(":")
    return f"{contig}\t{position}\t.\tA\tG\t50\t.\t.\tGT\t0/1\t1/1\n"


class Regions:
    """Called regions on disk, and the plan of their concatenation."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.regions: list[dict[str, Any]] = []
        self.covered = ["c:1-300", "d:1-100"]
        members = {"kind": "members", "members": [self.member("A"), self.member("B")], "loci_sets": {}}
        self.members = put_plan(None, str(folder / "plans"), "members", members)

    def member(self, sample: str) -> dict[str, Any]:
        return {"sample": sample, "gvcf": f"/{sample}.g.vcf.gz", "sha256": "", "adopted": False}

    def called(self, locus: str, *places: str, header: str = HEADER, samples: tuple[str, ...] = ("A", "B")) -> Regions:
        item = f"region{len(self.regions)}"
        path = self.folder / f"{item}.vcf.gz"
        # As GATK packs it: header and first records share a block, the others have their own
        lines = [line(place) for place in places]
        head = (header + "".join(lines[:2])).encode()
        path.write_bytes(pack(head) + b"".join(pack(one.encode()) for one in lines[2:]) + BGZF_EOF)
        plan = f"/plans/{item}.json"
        told = {"kind": "region", "plan": plan, "regions": [locus], "samples": list(samples), "variants": len(places)}
        told |= {"method": "CombineGVCFs", "commands": [], "caller": "gatk"}
        (self.folder / f"{item}.manifest.json").write_text(json.dumps(told))
        content = path.read_bytes()
        digest = hashlib.sha256(content).hexdigest()
        self.regions.append(
            {"item": item, "attempt": 1, "plan": plan, "vcf": str(path), "bytes": len(content), "sha256": digest}
        )
        return self

    def concat(self, **changes: Any) -> Any:
        told = {"name": "all", "regions": self.regions, "members": self.members, "covered": self.covered}
        told |= {"samples": 2, "partial": False, "lead_in": 1000, **changes}
        work = self.folder / f"work{len(list(self.folder.glob('work*')))}"
        work.mkdir()
        return concat(told, str(self.folder / "out"), work, inputs=Inputs())

    def refused(self, message: str, **changes: Any) -> None:
        with pytest.raises(CohortRefused, match=message):
            self.concat(**changes)
        assert not list(self.folder.glob("out/*"))


@pytest.fixture
def regions(tmp_path: Path) -> Regions:
    made = Regions(tmp_path)
    made.called("c:1-150", "c:5", "c:9", "c:12", "c:150").called("c:151-300").called("d:1-100", "d:7")
    return made


def test_regions_become_one_indexed_vcf_with_the_header_once_and_a_summary(regions: Regions) -> None:
    # When three regions, one of them without a record, are put together
    vcf, manifest, outputs = regions.concat()
    # Then every record stands there once, in order, under one header
    text = gzip.decompress(Path(vcf.uri).read_bytes()).decode()
    assert text == HEADER + "".join(map(line, ["c:5", "c:9", "c:12", "c:150", "d:7"]))
    assert [one.name for one in outputs] == ["all.vcf.gz", "all.vcf.gz.tbi", "all.stats.txt", "all.manifest.json"]
    with pysam.TabixFile(vcf.uri) as indexed:
        assert [found.split("\t")[1] for found in indexed.fetch("d", 0, 100)] == ["7"]
    # And bcftools stats has counted it under the file's own name
    assert manifest["variants"] == manifest["stats"]["records"] == manifest["stats"]["snps"] == 5
    stats = Path(outputs[2].uri)
    assert "ID\t0\tall.vcf.gz" in stats.read_text()
    assert read_stats(stats)["samples"] == 2


def test_a_gap_a_duplicate_and_a_wrong_order_are_refused_with_the_region(regions: Regions) -> None:
    one, two, three = regions.regions
    regions.refused(r"region2 \(d:1-100\) is out of order, or a gap: c:151 comes next", regions=[one, three])
    regions.refused("no region covers d:1-100: a gap", regions=[one, two])
    regions.refused("c:1-150 is called twice: in region0 and in region0", regions=[one, one, two, three])
    regions.refused(r"region1 \(c:151-300\) is out of order, or a gap: c:1 comes next", regions=[two, one, three])
    regions.called("c:100-200")
    regions.refused("region3", regions=[one, regions.regions[3], three])
    regions.refused("there is no region", regions=[])


def test_other_samples_or_another_order_of_them_are_refused(regions: Regions) -> None:
    regions.regions.pop()
    regions.called("d:1-100", header=HEADER.replace("A\tB\n", "B\tA\n"))
    regions.refused("region2 holds other samples, or in another order")
    regions.regions.pop()
    regions.called("d:1-100", samples=("A", "C"))
    regions.refused("region2 holds other samples")


def test_a_region_that_changed_is_gone_or_truncated_is_refused(regions: Regions) -> None:
    path = Path(regions.regions[1]["vcf"])
    whole = path.read_bytes()
    path.write_bytes(pack(HEADER.encode()) + pack(line("c:151").encode()) + BGZF_EOF)
    regions.refused("region1: .* it was recorded with")
    path.write_bytes(whole.removesuffix(BGZF_EOF))
    regions.refused("region1: .* has no BGZF end: it is truncated")
    path.unlink()
    regions.refused("region1: .* is gone")


def test_a_region_without_a_recorded_digest_is_compared_with_its_manifests(regions: Regions) -> None:
    # Given a region whose digest the ledger does not have, nor its manifest
    one = regions.regions[1]
    recorded, one["sha256"] = one["sha256"], ""
    regions.refused("region1: neither the ledger nor its manifest has a SHA-256")
    # When the manifest has another one, then it is refused, too
    manifest = regions.folder / "region1.manifest.json"
    told = json.loads(manifest.read_text())
    for digest in ("0" * 64, recorded):
        manifest.write_text(json.dumps({**told, "files": [{"name": "region1.vcf.gz", "sha256": digest}]}))
        if digest != recorded:
            regions.refused("region1: .* it was recorded with 000")
    # And with the right one it is taken
    assert regions.concat()[1]["variants"] == 5


@pytest.mark.parametrize("other", [{"joint_version": "4.7"}, {"method": "GenomicsDBImport"}])
def test_regions_called_in_two_ways_are_not_mixed(regions: Regions, other: dict[str, str]) -> None:
    manifest = regions.folder / "region2.manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **other}))
    regions.refused("region2 was called by .*, region region0 by CombineGVCFs: call all regions again")


def test_a_kept_region_is_whole_and_called_as_it_would_be_called_now(tmp_path: Path) -> None:
    # Given a region that was called
    calling = joint_calling("bcftools", 2)
    assert calling["joint_version"]
    vcf, told = tmp_path / "r.vcf.gz", {"kind": "region", "plan": "p", **calling}
    vcf.write_bytes(b"x" * 9)
    manifest = {**told, "files": [{"name": "r.vcf.gz", "bytes": 9, "sha256": "d"}]}
    (tmp_path / "r.manifest.json").write_text(json.dumps(manifest))

    def kept(**changes: str) -> bool:
        return kept_region(str(tmp_path), "r", "p", Inputs(), {**calling, **changes}) is not None

    # Then it is kept by the same program and method, and where the program's version is not known
    assert kept()
    assert kept(joint_version="")
    # And not by another, nor if it is shorter than it was
    assert not kept(joint_version="1.0")
    assert not kept(method="CombineGVCFs")
    vcf.write_bytes(b"x" * 8)
    assert not kept()


def test_the_method_goes_by_the_number_of_samples() -> None:
    assert [joint_calling("gatk", n)["method"] for n in (100, 101)] == ["CombineGVCFs", "GenomicsDBImport"]


def test_a_called_region_must_hold_its_samples_in_order_and_records_that_start_in_it(regions: Regions) -> None:
    vcf = Path(regions.regions[0]["vcf"])
    assert check_vcf(vcf, [Locus("c", 1, 150)], ["A", "B"]) == 4
    with pytest.raises(CohortRefused, match="other samples than were given"):
        check_vcf(vcf, [Locus("c", 1, 150)], ["B", "A"])
    with pytest.raises(CohortRefused, match="a record at c:150, out of order or region"):
        check_vcf(vcf, [Locus("c", 1, 149)], ["A", "B"])


def test_a_region_whose_plan_is_outdated_is_not_called(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Given a plan whose region has been planned anew since
    pointer = tmp_path / "joint.json"
    pointer.write_bytes(canonical({"kind": "joint", "contents": {"r": "new"}, "members": "m"}))
    told = {
        "kind": "region",
        "item": "r",
        "regions": ["c:1-4"],
        "content": "old",
        "pointer": str(pointer),
        "lead_in": 1,
    }
    plan = put_plan(None, str(tmp_path), "r", told)
    fasta = write_reference(tmp_path, c="ACGT")
    with pytest.raises(CohortRefused, match="is outdated: its region has been planned anew"):
        call_region(plan, str(tmp_path / "out"), tmp_path, reference=fasta, inputs=Inputs())
    # Then its nest fails for good, and says so
    assert run(["region", plan], {"ref": str(fasta), "PYANAMO_OUTPUT": str(tmp_path / "out")}) == 65
    assert "planned anew" in capsys.readouterr().err


def test_a_nest_says_what_is_wrong_with_its_plan(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["gather"], {}) == 64
    assert run(["gather", str(tmp_path / "none.json")], {}) == 65
    wrong = put_plan(None, str(tmp_path), "x", {"kind": "concat"})
    assert run(["gather", wrong], {}) == 65
    assert run(["region", put_plan(None, str(tmp_path), "x", {"kind": "region"})], {}) == 78  # no reference
    said = capsys.readouterr().err
    for part in ("usage: plan_task", "it does not exist", "it is a plan of concat, not of gather", "names no FASTA"):
        assert part in said
    assert code_of(OSError(5, "input/output")) == 75
    assert plan_name("x", b"").startswith("x.e3b0c44298fc.")


def test_the_hook_of_pilots_looks_for_each_file_and_for_the_end_of_the_vcf() -> None:
    figures = {"kind": "region", "plan": "p"}
    outputs = [{"uri": f"s3://b/r{ending}", "bytes": 9} for ending in (".vcf.gz", ".vcf.gz.tbi", ".manifest.json")]
    call = {"figures": figures, "value": "p", "read_end": lambda *_: BGZF_EOF}
    assert verify_outputs(call, outputs) is None
    assert "its BGZF end is missing" in str(verify_outputs({**call, "read_end": lambda *_: b"x"}, outputs))
    assert "no .vcf.gz.tbi is among" in str(verify_outputs(call, [*outputs[:1], *outputs[2:]]))
    assert "followed p, not q" in str(verify_outputs({**call, "value": "q"}, outputs))
    assert "no figures" in str(verify_outputs({**call, "figures": {}}, outputs))


def test_a_concatenation_can_be_gone_on_with_behind_any_block(regions: Regions) -> None:
    source = Concatenating(regions.regions, ["A", "B"], Inputs())
    for unit in range(source.units):
        whole = list(source.stream(unit, 0))
        for _, position in whole:
            rest = [one for one in whole if one[1] > position]
            assert position == 0 or list(source.stream(unit, position)) == rest
    assert [position for _, position in source.stream(0, 0)] == [0, 1, 2, 3]
