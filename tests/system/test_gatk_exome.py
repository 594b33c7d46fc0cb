"""An exome of 2,000 targets in three samples, in lists: on its targets what one plain GATK call of a sample gives."""

from __future__ import annotations

import random
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from genomics_support import run_task

from pyanamo_core.genomics.cohort import RecordedNest, gather
from pyanamo_core.genomics.compare import compare_with_truth, total
from pyanamo_core.genomics.gatk import find_gatk, prepare
from pyanamo_core.genomics.intervals import Locus, pad_and_merge, read_dictionary, read_targets
from pyanamo_core.genomics.joint import joint
from pyanamo_core.genomics.loci_file import write_lists
from pyanamo_core.genomics.planning import plan_targets
from pyanamo_core.genomics.records import open_gvcf, read_record
from pyanamo_core.genomics.simulate import Cohort, simulate_cohort

pytestmark = [pytest.mark.system, pytest.mark.timeout(900)]

CONTIGS = (("exome1", 190_000), ("exome2", 150_000), ("exome3", 110_000))
GENES, EXONS = 40, 50
TARGETS = GENES * EXONS


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Cohort:
    prepare()
    return simulate_cohort(
        tmp_path_factory.mktemp("exome"), seed=5, depth=16, contigs=CONTIGS, samples=["E1", "E2", "E3"]
    )


def write_bed(path: Path) -> None:
    """40 genes of 50 exons of 40 to 120 bases, in no order; some genes lie closer to each other than the padding."""
    rng = random.Random(7)
    lines: list[str] = []
    whole = sum(length for _, length in CONTIGS)
    for contig, length in CONTIGS:
        genes = round(GENES * length / whole)
        for gene in range(genes):
            at = 1500 + gene * (length - 3000) // genes + rng.randrange(500)
            for exon in range(EXONS):
                bases = rng.randrange(40, 120)
                lines.append(f"{contig}\t{at}\t{at + bases}\t{contig}.{gene}.{exon}\n")
                at += bases + rng.randrange(5, 100)
    rng.shuffle(lines)
    path.write_text("track name=exome\n" + "".join(lines))


def plain_call(cram: Path, reference: Path, bed: Path, work: Path) -> Path:
    """HaplotypeCaller as a person types it: one call of the whole BED with padding."""
    work.mkdir()
    target = work / "plain.g.vcf.gz"
    arguments = [
        "-R",
        str(reference),
        "-I",
        str(cram),
        "-O",
        str(target),
        "-L",
        str(bed),
        "-ip",
        "1000",
        "-ERC",
        "GVCF",
    ]
    for group in ("StandardAnnotation", "StandardHCAnnotation", "AS_StandardAnnotation"):
        arguments += ["-G", group]
    for band in range(10, 100, 10):
        arguments += ["-GQB", str(band)]
    command = find_gatk().java_command("HaplotypeCaller", arguments, 1500, False, work)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return target


def on_targets(gvcf: Path, targets: list[Locus]) -> dict[tuple[str, int, str], str]:
    """What a gVCF says of each base of the targets: of a block its values, of a variant all of its record's."""
    said: dict[tuple[str, int, str], str] = {}
    inside = {(x.contig, at) for x in targets for at in range(x.start, x.end + 1)}
    with open_gvcf(gvcf) as (_, lines):
        for record in map(read_record, lines):
            fields = record.fields
            if record.block:
                for at in range(record.position, record.end + 1):
                    if (record.contig, at) in inside:
                        said[record.contig, at, "block"] = f"{fields[8]} {fields[9]}"
            elif (record.contig, record.position) in inside:
                said[record.contig, record.position, f"{record.ref}>{fields[4]}"] = " ".join(fields[5:])
    return said


def test_lists_of_targets_give_on_targets_what_one_plain_call_gives(cohort: Cohort, tmp_path: Path) -> None:
    # Given 2,000 targets, planned into lists of 70 kb of called bases in the folder of the task scripts
    bed, scripts = tmp_path / "exome.bed", tmp_path / "scripts"
    write_bed(bed)
    dictionary = read_dictionary(cohort.reference)
    targets = read_targets(bed, dictionary)
    assert len(targets) == TARGETS
    planned = plan_targets(targets, dictionary, target_bases=70_000)
    write_lists(planned, scripts, about="Targets of a test.\n")
    assert 4 <= len(planned) <= 8
    assert sum(x.called for x in planned) == sum(x.bases for x in pad_and_merge(targets, 1000, dictionary))

    def call(sample: str, value: str) -> tuple[str, ...]:
        place = tmp_path / sample / value.rpartition("/")[2]
        done = run_task(
            cohort.reads[sample], value, cohort.reference, place / "out", place / "work", PIPELINE=str(scripts)
        )
        assert done.code == 0, done.stderr
        [figures] = done.result["figures"]["gvcfs"]
        assert figures["bases_missing"] == 0
        return done.recorded(value, planned_values.index(value)).outputs

    planned_values = [x.value for x in planned]
    gathered: list[str] = []
    for sample, cram in cohort.reads.items():
        # When a sample is called list by list and gathered, and once plainly
        with ThreadPoolExecutor(2) as pool:
            plainly = pool.submit(plain_call, cram, cohort.reference, bed, tmp_path / f"plain-{sample}")
            recorded = list(pool.map(lambda value, sample=sample: call(sample, value), planned_values))
        nests = [RecordedNest(sample, n, 1, v, recorded[n]) for n, v in enumerate(planned_values)]
        (tmp_path / f"gather-{sample}").mkdir()
        made = gather(nests, str(tmp_path / "gathered"), tmp_path / f"gather-{sample}")
        gathered.append(made.gvcf.uri)
        # Then every base of the targets, and every variant that starts in one, has the same values to the last
        ours, plain = (on_targets(Path(x), targets) for x in (made.gvcf.uri, plainly.result()))
        assert ours == plain
        blocks = sum(kind == "block" for _, _, kind in ours)
        assert blocks > 0.99 * sum(x.bases for x in targets)
        assert len(ours) - blocks > 60
        assert made.manifest["loci"] == [str(x) for x in targets]
    # And the cohort's calls on targets are the truth
    (tmp_path / "joint").mkdir()
    vcf = Path(joint(gathered, cohort.reference, str(tmp_path), tmp_path / "joint").vcf.uri)
    agreement = total(compare_with_truth(vcf, cohort.truth, bed_of(targets, tmp_path / "merged.bed"), cohort.reference))
    assert agreement.truth > 150
    assert agreement.recall >= 0.99
    assert agreement.precision >= 0.99


def bed_of(targets: list[Locus], path: Path) -> Path:
    path.write_text("".join(f"{x.contig}\t{x.start - 1}\t{x.end}\n" for x in targets))
    return path
