"""Loci and interval lists planned: borders of PAR, 200,000 targets, time learnt from an earlier run, tables in and out."""

from __future__ import annotations

import gzip
import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from pyanamo.commands.sheet import read_list
from pyanamo.main import app
from pyanamo_core.genomics.genomes import genome, genome_of, ploidy
from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, Locus, merge, pad_and_merge, read_targets
from pyanamo_core.genomics.loci_file import (
    ListsThere,
    LociInvalid,
    LociUnreadable,
    check_loci,
    read_values,
    write_lists,
    write_planned,
)
from pyanamo_core.genomics.planning import plan_loci, plan_targets, planned_loci
from pyanamo_core.genomics.regions import cut_regions
from pyanamo_core.genomics.speed import NothingLearnt, Observation, Speed, TimeTooShort, learn

HG = genome("GRCh38")
SMALL = Dictionary("ref.dict", {"a": ContigEntry("a", 100_000), "b": ContigEntry("b", 50_000)})


def exome(count: int) -> list[Locus]:
    """So many targets spread over all chromosomes of GRCh38, in its order; disjoint."""
    rng = random.Random(1)
    contigs = [c for c in HG.lengths if c != "chrM"]
    whole = sum(HG.lengths[c] for c in contigs)
    loci: list[Locus] = []
    for contig in contigs:
        length = HG.lengths[contig]
        starts = rng.sample(range(20_000, length - 20_000), count * length // whole + 1)
        loci += [Locus(contig, start, start + rng.randrange(60, 300)) for start in starts]
    return merge(loci, HG.dictionary)


# ------------------------------------------------------------------------------------------------------------- borders


@pytest.mark.parametrize("name", ["GRCh38", "GRCh37", "hg19", "hg38"])
def test_no_locus_of_a_genome_lies_across_a_border_of_par(name: str) -> None:
    known = genome(name)
    loci = plan_loci(known.dictionary, gaps=known.gaps, borders=known.borders, target_bases=50_000_000)
    assert any(x.contig.endswith("X") for x in loci)
    assert {ploidy(x, "male", known).single for x in loci} == {1, 2}
    assert {x.bases for x in loci if ploidy(x, "male", known).single is None} == set()


@pytest.mark.parametrize(("name", "prefix"), [("GRCh38", ""), ("GRCh37", "chr"), ("GRCh38", "chr"), ("GRCh37", "")])
def test_a_genome_is_recognised_with_and_without_chr_before_its_names(name: str, prefix: str) -> None:
    # Given a reference with the genome's lengths under these names
    entries = {f"{prefix}{c.removeprefix('chr')}": n for c, n in genome(name).lengths.items()}
    reference = Dictionary("x.dict", {c: ContigEntry(c, n) for c, n in entries.items()})
    # Then it is that genome, and a male's X has one copy outside PAR
    found = genome_of(reference)
    assert found is not None
    assert found.name == name
    assert ploidy(Locus(f"{prefix}X", 10_000_001, 10_000_100), "male", found).single == 1
    # And with a Y of another genome's length it is none
    entries[f"{prefix}Y"] += 1
    assert genome_of(Dictionary("x.dict", {c: ContigEntry(c, n) for c, n in entries.items()})) is None


# ------------------------------------------------------------------------------------------------------------- targets


def test_two_hundred_thousand_targets_are_at_most_two_hundred_nests() -> None:
    # Given an exome of 200,000 targets
    targets = exome(200_000)
    assert len(targets) > 195_000
    # When it is planned
    planned = plan_targets(targets, HG.dictionary, borders=HG.borders)
    # Then it is 87 lists of about one size, and each target is in one of them, in order
    assert len(planned) == 87
    assert [x for one in planned for x in one.loci] == targets
    assert max(x.called for x in planned) < 5_100_000
    assert sum(x.called for x in planned) > 400_000_000
    # And the regions of its joint call hold them in order, too
    assert [x for one in cut_regions(targets, 5_000_000) for x in one.loci] == targets


def test_there_are_never_more_lists_than_asked_for_and_each_has_one_ploidy() -> None:
    # Given targets, and a size that would make thousands of lists
    targets = exome(5000)
    planned = plan_targets(targets, HG.dictionary, borders=HG.borders, target_bases=2000)
    assert 150 < len(planned) <= 200
    assert [x for one in planned for x in one.loci] == targets
    # And each list has one ploidy in everybody
    for one in planned:
        for sex in ("male", "female"):
            assert len({ploidy(x, sex, HG).single for x in one.loci}) == 1


@given(
    st.lists(st.tuples(st.sampled_from("ab"), st.integers(1, 45_000), st.integers(0, 900)), min_size=1, max_size=60),
    st.integers(0, 1500),
    st.integers(500, 60_000),
)
def test_lists_together_call_what_one_call_of_all_targets_calls(
    drawn: list[tuple[str, int, int]], padding: int, size: int
) -> None:
    # Given targets, planned into lists
    targets = merge((Locus(c, start, start + more) for c, start, more in drawn), SMALL)
    lists = plan_targets(targets, SMALL, target_bases=size, padding=padding)
    # Then their bases are those of the targets, each once
    assert merge((x for one in lists for x in one.loci), SMALL) == targets
    assert sum(one.bases for one in lists) == sum(x.bases for x in targets)
    # And where no cluster of targets is bigger than a list, no two lists call a base twice
    called = [pad_and_merge(one.loci, padding, SMALL) for one in lists]
    whole = pad_and_merge(targets, padding, SMALL)
    if max(x.bases for x in whole) <= size:
        assert [x for one in called for x in one] == whole
        assert [one.called for one in lists] == [sum(x.bases for x in own) for own in called]


def test_a_target_as_big_as_a_chromosome_is_cut_and_one_across_par_is_split() -> None:
    whole = [Locus("chr21", 1, HG.lengths["chr21"]), Locus("chrX", 2_781_000, 2_782_000)]
    lists = plan_targets(whole, HG.dictionary, borders=HG.borders, target_bases=5_000_000)
    assert [x.targets for x in lists] == [1] * 12
    assert [str(x.loci[0]) for x in lists[-2:]] == ["chrX:2781000-2781479", "chrX:2781480-2782000"]
    # Padding stops at the border, where ploidy changes
    assert [x.called for x in lists[-2:]] == [480 + 1000, 521 + 1000]


# ---------------------------------------------------------------------------------------------------------------- time


def test_loci_by_time_are_small_where_an_earlier_run_was_slow() -> None:
    # Given an earlier run in which the second quarter of a contig took ten times as long, in two samples
    run = [
        Observation(f"a:{start + 1}-{start + 25_000}", 27_000, seconds, Locus("a", start + 1, start + 25_000))
        for start, seconds in ((0, 27.0), (25_000, 270.0), (50_000, 27.0), (75_000, 27.0))
        for _ in range(2)
    ]
    speed = learn(run, "Earlier")
    assert (speed.nests, speed.fixed) == (8, 0.0)
    # When loci of 60 s are planned
    loci = plan_loci(SMALL, contigs=["a"], speed=speed, target_seconds=60.0)
    # Then they cover the contig, take about one time, and are smaller in the slow quarter
    assert merge(loci, SMALL) == [Locus("a", 1, 100_000)]
    times = [x.seconds or 0 for x in planned_loci(loci, SMALL, speed)]
    assert max(times) <= 60.0
    assert max(times) < 1.1 * min(times)
    slow = [x for x in loci if x.start > 25_000 and x.end <= 50_000]
    fast = [x for x in loci if x.start > 50_000]
    assert max(x.bases for x in slow) * 8 < min(x.bases for x in fast)


def test_start_up_is_told_from_speed_and_a_time_below_it_is_refused() -> None:
    # Given nests that take 10 s and a second per 1,000 bases more
    run = [Observation(f"@targets/{n}.bed", n * 10_000, 10 + n * 10.0) for n in range(1, 9)]
    speed = learn(run, "results.tsv")
    assert speed.fixed == pytest.approx(10)
    assert speed.rate == pytest.approx(0.001)
    # Then targets are planned by it, and less than start-up is refused with what to give
    targets = [Locus("a", at, at + 99) for at in range(2000, 90_000, 4000)]
    lists = plan_targets(targets, SMALL, speed=speed, target_seconds=20.0)
    assert len(lists) > 3
    assert max(x.seconds or 0 for x in lists) < 22
    with pytest.raises(TimeTooShort, match=r"10\.0 s before its first base. Give at least --time 12s"):
        plan_targets(targets, SMALL, speed=speed, target_seconds=5.0)
    with pytest.raises(NothingLearnt, match="none is done"):
        learn([], "results.tsv")


@given(
    st.lists(st.tuples(st.integers(0, 99_000), st.integers(1, 9000), st.floats(1e-5, 1.0)), max_size=20),
    st.integers(0, 50_000),
    st.integers(1, 50_000),
    st.floats(0.5, 500),
)
def test_edges_by_time_grow_from_end_to_end_and_no_part_costs_more(
    places: list[tuple[int, int, float]], begin: int, bases: int, target: float
) -> None:
    local: list[tuple[int, int, float]] = []
    for start, size, rate in sorted(places):
        if not local or start >= local[-1][1]:
            local.append((start, start + size, rate))
    speed = Speed(0.0, 0.01, {"a": local})
    edges = speed.edges("a", begin, begin + bases, target)
    assert (edges[0], edges[-1]) == (begin, begin + bases)
    assert all(one < two for one, two in itertools.pairwise(edges))
    costs = [speed.cost("a", one, two) for one, two in itertools.pairwise(edges)]
    assert sum(costs) == pytest.approx(speed.cost("a", begin, begin + bases))
    assert max(costs) <= target + 2.0  # a base is not cut in two


# -------------------------------------------------------------------------------------------------- tables, in and out


def test_a_table_is_edited_checked_and_made_into_a_sheet(tmp_path: Path) -> None:
    # Given a planned table
    table = tmp_path / "loci.tsv"
    write_planned(table, planned_loci(plan_loci(SMALL, target_bases=25_000), SMALL))
    assert table.read_text().splitlines()[:2] == ["locus\tbases\tcalled_bases", "a:1-25000\t25000\t26000"]
    # When somebody moves an edge, takes a locus out, puts one first and notes why
    lines = table.read_text().splitlines()
    lines[1], lines[2] = "a:1-30000\t25000", "a:30001-50000"
    edited = [lines[0], lines[-1], "# the rest of b is of no interest", *lines[1:-2]]
    table.write_text("\n".join(edited) + "\n")
    # Then that is what counts, in the reference's order, and what is not covered is told
    checked = check_loci(table, SMALL)
    assert [v for v, _ in checked.nests] == [
        "a:1-30000",
        "a:30001-50000",
        "a:50001-75000",
        "a:75001-100000",
        "b:25001-50000",
    ]
    assert checked.uncovered == [Locus("b", 1, 25_000)]
    # And a sheet is made of the same values
    assert list(read_list(str(table)))[:2] == ["b:25001-50000", "a:1-30000"]


def test_all_faults_of_edited_loci_are_told_with_their_lines(tmp_path: Path) -> None:
    table = tmp_path / "loci.tsv"
    table.write_text(
        "locus\tbases\na:1-100\t\nb:1-10\t\na:1-100\t\nc:1-5\t\na:50-200\t\nb:90-50001\t\n@targets/1.bed\t\n"
    )
    with pytest.raises(LociInvalid) as told:
        check_loci(table, SMALL)
    text = str(told.value)
    assert told.value.facts["count"] == 5
    for fault in (
        "line 4: a:1-100 stands already in line 2",
        "line 5: Locus c:1-5: the reference has no contig c",
        "line 6: a:50-200 overlaps a:1-100 (line 2)",
        "line 7: Locus b:90-50001: contig b ends at 50000",
        "line 8: Locus @targets/1.bed: an interval list: say with --scripts",
    ):
        assert fault in text


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("chr1\t0\t100\nchr1\t200\t300\n", "it is a BED file; make loci of it with: pyanamo loci plan --bed"),
        ("name\tsize\nx\t5\n", "no column is called locus or value or nest"),
    ],
)
def test_a_file_that_is_no_list_of_loci_is_refused_with_what_to_do(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "x.bed").write_text(text)
    with pytest.raises(LociUnreadable, match=reason):
        list(read_values(tmp_path / "x.bed"))


def test_a_locus_across_par_is_told_and_allowed(tmp_path: Path) -> None:
    (tmp_path / "loci.txt").write_text("chrX:2000000-3000000\n")
    checked = check_loci(tmp_path / "loci.txt", HG.dictionary, gaps=HG.gaps, borders=HG.borders)
    assert checked.crossing == ["chrX:2000000-3000000"]


def test_the_same_targets_change_no_list_and_others_are_refused_until_forced(tmp_path: Path) -> None:
    # Given lists in the folder of the task scripts
    scripts = tmp_path / "scripts"
    targets = [Locus("a", at, at + 99) for at in range(2000, 90_000, 4000)]
    planned = plan_targets(targets, SMALL, target_bases=20_000)
    assert write_lists(planned, scripts, about="A.\n")
    files = {x.name: x.read_bytes() for x in (scripts / "targets").iterdir()}
    assert read_targets(scripts / "targets" / "0001.bed", SMALL) == list(planned[0].loci)
    # When the same are planned again, then nothing is written
    assert not write_lists(planned, scripts, about="B.\n")
    assert (scripts / "targets.txt").read_text() == "A.\n"
    # When others are planned, then they are refused with what follows, and nothing has changed
    others = plan_targets(targets[:5], SMALL, target_bases=20_000)
    with pytest.raises(ListsThere, match=r"part of the task scripts.*--new-revision"):
        write_lists(others, scripts, about="C.\n")
    assert {x.name: x.read_bytes() for x in (scripts / "targets").iterdir()} == files
    # When a forced one was killed between its two renames, then the next one finds the old lists and goes on
    (scripts / "targets").replace(scripts / ".targets.old")
    (scripts / ".targets.new").mkdir()
    assert write_lists(others, scripts, about="C.\n", force=True)
    assert sorted(x.name for x in (scripts / "targets").iterdir()) == [x.value[9:] for x in others]
    assert sorted(x.name for x in scripts.iterdir()) == ["targets", "targets.txt"]


# ------------------------------------------------------------------------------------------------------------- command


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    lines = [f"@SQ\tSN:{name}\tLN:{n}" for name, n in {**HG.lengths, "HLA-A*01:01:01:01": 3503}.items()]
    (tmp_path / "g.dict").write_text("\n".join(["@HD\tVN:1.6", *lines]) + "\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def pyanamo(*arguments: str, code: int = 0) -> str:
    told = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, ["loci", *arguments])
    assert told.exit_code == code, told.output
    return told.output


def test_targets_become_lists_a_table_and_a_word_on_revisions(folder: Path) -> None:
    (folder / "t.bed").write_text("chr2\t10000\t10200\tgene\nHLA-A*01:01:01:01\t5\t100\nchrX\t5000000\t5000100\n")
    # When targets are planned without --out, then nothing is written
    assert "Nothing is written" in pyanamo("plan", "g.dict", "--bed", "t.bed")
    assert not (folder / "scripts").exists()
    # When they are planned, then lists and table are there, HLA is left out, and what a change would mean is told
    told = pyanamo("plan", "g.dict", "--bed", "t.bed", "--out", "loci.tsv")
    assert "1 targets lie on contigs that are not called" in told
    assert "other targets are another revision" in told
    assert list(read_list("loci.tsv")) == ["@targets/0001.bed", "@targets/0002.bed"]
    assert (folder / "scripts/targets/0002.bed").read_text() == "chrX\t5000000\t5000100\n"
    assert "2 loci, 300 bases: no fault" in pyanamo("check", "loci.tsv", "g.dict")


def test_a_reference_that_cannot_be_read_says_what_to_do(folder: Path) -> None:
    (folder / "x.fa.gz").write_bytes(gzip.compress(b">a\nACGT\n"))
    assert "packed with bgzip" in pyanamo("plan", "x.fa.gz", code=3)
    assert "No such file" in pyanamo("plan", "none.fa", code=3)
    assert "neither" in pyanamo("plan", code=2)
    assert "both" in pyanamo("plan", "g.dict", "--genome", "GRCh38", code=2)
    assert "hg19" in pyanamo("plan", "--genome", "mm10", code=3)
    assert "did you mean chr21" in pyanamo("plan", "g.dict", "--contig", "21", code=3)


def test_an_exported_table_of_results_tells_the_speed(folder: Path) -> None:
    # Given exported results: 5 Mb took 1,000 s, a failed nest and another reference's are of no use
    rows = [
        ("chr21:10000001-15000000", "done", 1000.0),
        ("chr21:15000001-20000000", "failed", 5.0),
        ("other:1-5", "done", 5.0),
        ("", "done", 7.0),
    ]
    lines = ["\t".join(map(str, row)) for row in [("value", "status", "seconds"), *rows]]
    (folder / "results.tsv").write_text("\n".join(lines) + "\n")
    exported = [{"value": v, "status": s, "seconds": t, "figures": {"called_bases": 5_002_000}} for v, s, t in rows]
    (folder / "results.json").write_text(json.dumps(exported))
    for name in ("results.tsv", "results.json"):
        words = ("plan", "--genome", "GRCh38", "--contig", "chr21", "--time", "10m", "--learn", name)
        planned = json.loads(pyanamo(*words, "--json"))
        # Then loci of at most 10 minutes are of at most 3 Mb
        assert 550 < max(x["seconds"] for x in planned) <= 600
        assert 2_700_000 < max(x["bases"] for x in planned) <= 3_000_000
    # And what cannot be is refused before anything is done
    assert "--time needs --learn" in pyanamo("plan", "--genome", "GRCh38", "--time", "10m", code=2)
    (folder / "bad.tsv").write_text("a\tb\n")
    assert "no column seconds, status, value" in pyanamo("plan", "g.dict", "--learn", "bad.tsv", code=3)
    assert "give a number" in pyanamo("plan", "g.dict", "--learn", "results.tsv", "--time", "soon", code=3)
