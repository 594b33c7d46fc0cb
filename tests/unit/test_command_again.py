"""`items extend` and `items redo` for many items at once, as typed, over the ledger in memory."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from pyanamo.context import Context, Opened
from pyanamo.main import app
from pyanamo.new_values import HOOK
from pyanamo_core.clock import FakeClock
from pyanamo_core.ledger.memory import MemoryLedger
from pyanamo_core.model import Cause, Definition, Nest, NestStatus, Output, State
from pyanamo_core.workflow import Buckets, Reference, Workflow

WORKFLOW = Workflow(name="Count", queue="Q", job_definition="D", buckets=Buckets(results="s3://bucket/prefix"))
LOCI = ("c:1-100", "c:101-200", "d:1-100")


@pytest.fixture
def ledger(monkeypatch: pytest.MonkeyPatch) -> MemoryLedger:
    made = MemoryLedger(rules=WORKFLOW.rules, clock=FakeClock())
    monkeypatch.setattr(Context, "opened", property(lambda _: Opened(made, 1, WORKFLOW)))
    monkeypatch.setenv("PYANAMO_TABLE", "Count")
    return made


def typed(*words: str) -> Any:
    return CliRunner(env={"COLUMNS": "200"}).invoke(app, ["items", *words])


def add(ledger: MemoryLedger, item_id: str, *values: str) -> None:
    ledger.import_item(item_id, "task", Definition(script="seq", arguments=values))


def done(ledger: MemoryLedger, item_id: str, *values: str, outputs: tuple[Output, ...] = ()) -> None:
    """An item whose nests are all done."""
    add(ledger, item_id, *values)
    claim = ledger.claim(item_id, "pilot-1")
    assert claim is not None
    for index in range(len(values)):
        nest = Nest(item_id=item_id, epoch=claim.epoch, index=index, status=NestStatus.DONE, fence=claim.fence)
        ledger.record_nest(claim, nest.model_copy(update={"outputs": outputs}))
    ledger.finish(claim, nests_done=len(values))


def statuses(ledger: MemoryLedger, item_id: str) -> dict[int, str]:
    return {number: nest.status.value for number, nest in ledger.nests(ledger.item(item_id)).items()}


def values(ledger: MemoryLedger, item_id: str) -> tuple[str, ...]:
    return ledger.definition(ledger.item(item_id)).arguments


# -------------------------------------------------------------------------------------------------------------- extend


def test_every_item_is_extended_from_a_file_of_loci_and_its_old_nests_stay(ledger: MemoryLedger, tmp_path: Path):
    # Given two done items and a cancelled one, and a file with two loci more
    done(ledger, "A", *LOCI)
    done(ledger, "B", *LOCI)
    add(ledger, "C", *LOCI)
    ledger.cancel(ledger.item("C"))
    before = ledger.nests(ledger.item("A"))
    file = tmp_path / "more.txt"
    file.write_text("# loci\nd:101-200\n\ne:1-50\n")
    # When the table is extended
    told = typed("extend", "--loci", str(file), "--yes")
    # Then both have them under new numbers, what they had is as it was, and nobody revived the cancelled one
    assert told.exit_code == 0, told.stderr
    assert "A: extend (2 nests more), now todo" in told.stdout
    assert values(ledger, "A") == values(ledger, "B") == (*LOCI, "d:101-200", "e:1-50")
    assert ledger.nests(ledger.item("A")) == before
    assert (ledger.item("C").state, values(ledger, "C")) == (State.CANCELLED, LOCI)


def test_an_extension_that_was_stopped_is_completed_by_the_same_command(ledger: MemoryLedger):
    # Given three items, of which one has the new locus already and one half of them
    add(ledger, "A", *LOCI, "e:1-50", "e:51-99")
    add(ledger, "B", *LOCI, "e:1-50")
    add(ledger, "C", *LOCI)
    fence = ledger.item("A").fence
    # When the command is given again
    told = typed("extend", "A", "B", "C", "--loci", "e:1-50,e:51-99")
    # Then only what lacked something was moved
    assert told.exit_code == 0, told.stderr
    assert "A: left as it is: it has these nests already" in told.stdout
    assert {values(ledger, name) for name in "ABC"} == {(*LOCI, "e:1-50", "e:51-99")}
    assert ledger.item("A").fence == fence


def test_an_item_that_a_pilot_holds_is_told_and_the_others_are_extended(ledger: MemoryLedger):
    # Given an item at work and one that is not
    add(ledger, "A", *LOCI)
    add(ledger, "B", *LOCI)
    ledger.claim("A", "pilot-1")
    # When both are to be extended
    told = typed("extend", "--loci", "e:1-50", "--yes")
    # Then the exit code says that not all went, and the held one is as it was
    assert told.exit_code == 5
    assert "extend of item A was refused: it is locked by pilot pilot-1" in told.stderr
    assert values(ledger, "A") == LOCI
    assert values(ledger, "B") == (*LOCI, "e:1-50")


@pytest.mark.parametrize(
    ("loci", "what"),
    [
        ("e:1-9,c:150-300", "c:150-300 overlaps c:101-200 of item B"),
        ("e:1-9,d:100-100", "d:100-100 overlaps d:1-100 of item B"),
        ("e:1-9,e:9-20", "e:9-20 overlaps e:1-9:"),
        ("f:1-1000,f:5-6,f:900-901", "f:5-6 overlaps f:1-1000:"),
    ],
)
def test_loci_that_overlap_are_refused_before_any_item_is_moved(ledger: MemoryLedger, loci: str, what: str):
    # Given an item that could take them and one that could not
    add(ledger, "A", "x:1-10")
    add(ledger, "B", *LOCI)
    # When both are to be extended
    told = typed("extend", "A", "B", "--loci", loci)
    # Then neither is, and the message says which locus of which item
    assert (told.exit_code, what in told.stderr) == (3, True), told.stderr
    assert (values(ledger, "A"), values(ledger, "B")) == (("x:1-10",), LOCI)


def test_values_that_only_look_like_overlapping_loci_can_be_taken(ledger: MemoryLedger):
    # Given somebody whose values are no loci to gather, when that is said, then they are taken
    add(ledger, "A", *LOCI)
    assert typed("extend", "A", "c:1-50", "--overlapping").exit_code == 0
    assert values(ledger, "A") == (*LOCI, "c:1-50")


@pytest.mark.parametrize(
    ("words", "code", "what"),
    [
        (["extend"], 2, "Name items"),
        (["extend", "A"], 2, "Give the values of the new nests"),
        (["extend", "A", "--loci", "e:1-9", "--state", "todo"], 2, "Name items"),
        (["extend", "Z", "--loci", "e:1-9"], 4, "holds no item Z"),
        (["extend", "--loci", "e:1-9"], 5, "nobody is there to answer 'Extend every item of table Count (1)"),
        (["extend", "--loci", "nothing.txt", "--yes"], 3, "There is no file nothing.txt"),
        (["redo"], 2, "Name items"),
        (["redo", "A"], 2, "Name the nests of item A that are to be done again, or give --region or --nest."),
        (["redo", "A", "9"], 4, "Item A has no nest 9"),
        (["redo", "--region", "c:9-3", "--yes"], 3, "Region c:9-3: it ends before it starts"),
        (["redo", "--region", "a b", "--yes"], 3, "Region 'a b': it is none"),
        (["redo", "--region", "c:1-5,d:1-5", "--yes"], 3, "these are several; give --region for each"),
        (["redo", "--region", "zz", "--yes"], 4, "No item of table Count has a recorded nest that overlaps zz"),
        (["redo", "--region", "c:1-5"], 5, "nobody is there to answer 'Do a nest of item A of table Count again"),
    ],
)
def test_what_cannot_be_meant_is_said_and_changes_nothing(ledger: MemoryLedger, words: list[str], code: int, what: str):
    # Given a done item
    done(ledger, "A", *LOCI)
    before = ledger.item("A")
    # When something is typed that cannot be meant, then it is told in words, and nothing has moved
    told = typed(*words)
    assert (told.exit_code, what in told.stderr) == (code, True), told.stderr
    assert ledger.item("A") == before


@pytest.fixture
def exome(ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A table of loci with a reference of three contigs and task scripts with two interval lists; gives its folder."""
    lengths = {"chr1": 60000, "chr2": 50000, "chr3": 40000}
    (tmp_path / "genome.dict").write_text("".join(f"@SQ\tSN:{name}\tLN:{bases}\n" for name, bases in lengths.items()))
    targets = tmp_path / "scripts" / "targets"
    targets.mkdir(parents=True)
    (targets / "0001.bed").write_text("chr1\t1621\t1910\nchr1\t7216\t7460\n")
    (targets / "0002.bed").write_text("chr2\t100\t200\n")
    (targets / "0003.bed").write_text("chr2\t150\t300\n")
    (targets / "0004.bed").write_text("chr3\t150\t300\n")
    told = WORKFLOW.model_copy(
        update={
            "references": (Reference(name="ref", uri=str(tmp_path / "genome.fa")),),
            "scripts": str(tmp_path / "scripts"),
            "verify": HOOK,
        }
    )
    monkeypatch.setattr(Context, "opened", property(lambda _: Opened(ledger, 1, told)))
    add(ledger, "A", "@targets/0001.bed", "@targets/0002.bed")
    add(ledger, "B", "@targets/0001.bed", "@targets/0002.bed")
    return tmp_path


@pytest.mark.parametrize(
    ("value", "what"),
    [
        (
            "@targets/0009.bed",
            "the task scripts hold no such interval list (they hold @targets/0001.bed, @targets/0002",
        ),
        ("chr9:1-100", "Locus chr9:1-100: the reference has no contig chr9"),
        ("chr1:60000-70000", "Locus chr1:60000-70000: contig chr1 ends at 60000"),
        ("chr1:1700-1800", "chr1:1700-1800 overlaps @targets/0001.bed of item "),
        ("@targets/0003.bed", "@targets/0003.bed overlaps @targets/0002.bed of item "),
        ("NA12878.bam", "Locus NA12878.bam: neither contig:start-end nor a contig of the reference"),
    ],
)
@pytest.mark.parametrize("whom", [("A",), ("A", "B", "--loci"), ("--yes", "--loci")])
def test_a_new_nest_that_nobody_could_call_is_refused_before_an_item_moves(
    ledger: MemoryLedger, exome: Path, whom: tuple[str, ...], value: str, what: str
):
    # Given a table of interval lists, when it shall have a place that its reference or its task scripts do not hold
    told = typed("extend", *whom, value)
    # Then the refusal says what and where, and no item has moved
    assert (told.exit_code, what in told.stderr, "Nothing was changed" in told.stderr) == (3, True, True), told.stderr
    assert values(ledger, "A") == values(ledger, "B") == ("@targets/0001.bed", "@targets/0002.bed")


def test_loci_and_lists_beside_those_that_are_there_are_taken(ledger: MemoryLedger, exome: Path):
    # Given a table of interval lists, when places beside them are added, one of them a whole contig's end
    assert typed("extend", "A", "@targets/0004.bed", "chr1:1911-7216", "chr1:59999-60000").exit_code == 0
    # Then they are there
    assert values(ledger, "A")[2:] == ("@targets/0004.bed", "chr1:1911-7216", "chr1:59999-60000")


def test_a_list_that_the_scripts_no_longer_hold_is_known_by_what_its_nest_recorded(ledger: MemoryLedger, exome: Path):
    # Given an item whose list has gone from the task scripts, and the manifest of what was called with it
    manifest = exome / "0.manifest.json"
    manifest.write_text(json.dumps({"loci": ["chr3:1000-2000"]}))
    done(ledger, "C", "@gone/1.bed", outputs=(Output(uri=str(manifest), bytes=manifest.stat().st_size),))
    # When a locus within it is given, then it is refused, and one beside it is not
    told = typed("extend", "C", "chr3:1500-1600")
    assert (told.exit_code, "chr3:1500-1600 overlaps @gone/1.bed of item C" in told.stderr) == (3, True), told.stderr
    assert typed("extend", "C", "chr3:2001-2100").exit_code == 0


def test_a_reference_that_cannot_be_read_here_is_said_and_holds_nothing_up(ledger: MemoryLedger, exome: Path):
    # Given a table whose reference is not on this machine
    (exome / "genome.dict").unlink()
    # When it is extended, then it is, with a word about what was not checked
    told = typed("extend", "A", "chr9:1-100")
    assert told.exit_code == 0, told.stderr
    assert "genome.fa cannot be read from here (neither a .dict nor a .fai lies beside it)" in told.stderr
    assert values(ledger, "A")[-1] == "chr9:1-100"


def test_an_index_serves_where_there_is_no_dict(ledger: MemoryLedger, exome: Path):
    # Given a reference with its .fai alone, when a place beyond a contig is given, then it is refused
    (exome / "genome.dict").unlink()
    (exome / "genome.fa.fai").write_text("chr1\t60000\t6\t60\t61\n")
    told = typed("extend", "A", "chr1:60000-70000")
    assert (told.exit_code, "contig chr1 ends at 60000" in told.stderr) == (3, True), told.stderr


@pytest.mark.parametrize("hook", ["", "own.module:hook"])
def test_values_that_are_no_loci_are_not_looked_up_in_a_reference(
    ledger: MemoryLedger, exome: Path, monkeypatch: pytest.MonkeyPatch, hook: str
):
    # Given a table of somebody's own, whose values are words, with a reference
    told = Opened(ledger, 1, Context().workflow.model_copy(update={"verify": hook}))
    monkeypatch.setattr(Context, "opened", property(lambda _: told))
    add(ledger, "W", "one", "two")
    # When it gets another, then it does; an item of loci is looked at all the same
    assert typed("extend", "W", "three").exit_code == 0
    add(ledger, "L", "chr1:1-100")
    assert typed("extend", "L", "chr9:1-100").exit_code == 3


# ---------------------------------------------------------------------------------------------------------------- redo


def test_a_region_is_done_again_in_every_item_that_has_a_base_in_it(ledger: MemoryLedger):
    # Given three done items, one of which has nothing there, and one that nobody has done yet
    done(ledger, "A", *LOCI)
    done(ledger, "B", "c:1-1000", "d:1-9")
    done(ledger, "C", "d:1-9")
    add(ledger, "D", *LOCI)
    # When a region that touches one base of a second locus is to be done again
    told = typed("redo", "--region", "c:40-101", "--yes")
    # Then those nests are, and no other
    assert told.exit_code == 0, told.stderr
    assert statuses(ledger, "A") == {0: "reset", 1: "reset", 2: "done"}
    assert statuses(ledger, "B") == {0: "reset", 1: "done"}
    assert (ledger.item("C").state, ledger.item("D").state) == (State.DONE, State.TODO)
    assert ledger.item("D").fence == 0


def test_a_region_of_aws_is_not_taken_for_one_of_the_genome(ledger: MemoryLedger):
    # Given a done item, when AWS's region is given where it stands elsewhere, then it is no region to do again
    done(ledger, "A", *LOCI)
    assert typed("redo", "A", "0", "--region", "us-east-1", "--yes").exit_code == 0
    assert statuses(ledger, "A") == {0: "reset", 1: "done", 2: "done"}


def test_a_whole_contig_is_a_region(ledger: MemoryLedger):
    # Given a done item, when a contig is named, then its loci are done again
    done(ledger, "A", *LOCI, "c2:1-9")
    assert typed("redo", "--region", "c", "--yes").exit_code == 0
    assert statuses(ledger, "A") == {0: "reset", 1: "reset", 2: "done", 3: "done"}


def test_one_nest_of_many_items_is_named_by_its_value_and_again_changes_nothing(ledger: MemoryLedger):
    # Given done items, when one value is named for all of them
    for name in "ABC":
        done(ledger, name, *LOCI)
    assert typed("redo", "--nest", "d:1-100", "--yes").exit_code == 0
    assert all(statuses(ledger, name) == {0: "done", 1: "done", 2: "reset"} for name in "ABC")
    fences = [ledger.item(name).fence for name in "ABC"]
    # Then the same command, given again after a kill, finds nothing recorded and moves nothing
    told = typed("redo", "--nest", "d:1-100", "--yes")
    assert told.exit_code == 4
    assert [ledger.item(name).fence for name in "ABC"] == fences


def test_more_nests_than_one_transaction_takes_are_done_again_and_the_others_kept(ledger: MemoryLedger):
    # Given an item with 250 done nests
    done(ledger, "A", *(f"c:{start}-{start + 9}" for start in range(1, 2501, 10)))
    # When 220 of them are done again
    told = typed("redo", "A", "--region", "c:1-2200", "--yes")
    # Then these are, and 30 keep their results
    assert told.stdout == "A: redo (220 nests), now todo\n"
    assert sorted(statuses(ledger, "A").values()).count("done") == 30
    assert ledger.item("A").nests_done == 30


def test_a_big_redo_among_pilots_reaches_every_nest_when_it_is_given_again(
    ledger: MemoryLedger, monkeypatch: pytest.MonkeyPatch
):
    # Given an item with 250 done nests, and a pilot that takes it between the two steps of a redo and does them
    done(ledger, "A", *(f"c:{start}-{start + 9}" for start in range(1, 2501, 10)))
    really = ledger.redo

    def redo(item: Any, nests: Any) -> Any:
        after = really(item, nests)
        claim = ledger.claim("A", "pilot-2")
        assert claim is not None
        for index in nests:
            ledger.record_nest(
                claim, Nest(item_id="A", epoch=claim.epoch, index=index, status=NestStatus.DONE, fence=claim.fence)
            )
        claims.append(claim)
        return after

    claims: list[Any] = []
    monkeypatch.setattr(ledger, "redo", redo)
    # When the same redo of 150 nests is given twice
    for how in (["--region", "c:1-1500"], [str(number) for number in range(150)]):
        told = typed("redo", "A", *how, "--yes")
        assert (told.exit_code, "99 of 150 nests are to do again; then:" in told.stderr) == (5, True), told.stderr
        ledger.finish(claims[-1], nests_done=250)
    # Then the second begins with those that the first did not reach: all have been done again
    fences = [ledger.nests(ledger.item("A"))[number].fence for number in range(250)]
    assert all(fence > 1 for fence in fences[:150])
    assert set(fences[150:]) == {1}


def test_interval_lists_are_found_by_the_loci_of_their_manifest(ledger: MemoryLedger, tmp_path: Path):
    # Given an item whose nests are interval lists, with the manifests of their results
    add(ledger, "A", "@targets/1.bed", "@targets/2.bed")
    claim = ledger.claim("A", "pilot-1")
    assert claim is not None
    for index, loci in enumerate((["c:1-10", "c:100-110"], ["d:1-10"])):
        manifest = tmp_path / f"{index}.manifest.json"
        manifest.write_text(json.dumps({"loci": loci}))
        nest = Nest(item_id="A", epoch=0, index=index, status=NestStatus.DONE, fence=claim.fence)
        output = Output(uri=str(manifest), bytes=manifest.stat().st_size)
        ledger.record_nest(claim, nest.model_copy(update={"outputs": (output,)}))
    ledger.finish(claim, nests_done=2)
    # When a region between two targets is named, nothing is found; when one of a target is, its list is done again
    assert typed("redo", "--region", "c:50-60", "--yes").exit_code == 4
    assert typed("redo", "--region", "c:105-120", "--yes").exit_code == 0
    assert statuses(ledger, "A") == {0: "reset", 1: "done"}


def test_an_interval_list_without_a_manifest_is_not_guessed(ledger: MemoryLedger):
    # Given a done nest of an interval list that recorded nothing
    done(ledger, "A", "@targets/1.bed")
    # When a region is named, then the command says that it cannot know
    told = typed("redo", "--region", "c:1-5", "--yes")
    assert told.exit_code == 3
    assert "which loci @targets/1.bed holds is not known" in told.stderr
    assert ledger.item("A").state is State.DONE


def test_a_failed_nest_of_a_region_is_done_again_too(ledger: MemoryLedger):
    # Given a failed item
    add(ledger, "A", *LOCI)
    claim = ledger.claim("A", "pilot-1")
    assert claim is not None
    ledger.record_nest(claim, Nest(item_id="A", epoch=0, index=0, status=NestStatus.FAILED, fence=claim.fence))
    ledger.fail(claim, Cause.PERMANENT, "no", nests_failed=1)
    # When its region is named, then it is to do
    assert typed("redo", "--region", "c:1-5", "--yes").exit_code == 0
    assert (ledger.item("A").state, statuses(ledger, "A")) == (State.TODO, {0: "reset"})
