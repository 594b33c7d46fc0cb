"""Ploidy by contig, region and sex: what is called in one go, one's own table, what is left out."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from pyanamo_core.errors import ParameterInvalid, PloidiesInvalid
from pyanamo_core.genomics.genomes import PloidyRule, call_rounds, genome, ploidy, read_ploidies
from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, Locus, parse_locus
from pyanamo_core.genomics.parameters import Parameters
from pyanamo_core.genomics.simfamily import Sexes, genotypes
from pyanamo_core.genomics.simreads import Variant

HG = genome("GRCh38")
PLAIN = Dictionary("ref.dict", {"a": ContigEntry("a", 10_000), "b": ContigEntry("b", 5000)})
BORDER = 2_781_479  # the last base of PAR1


def rounds(*loci: str, sex: str = "male") -> list[list[tuple[str, int]]]:
    found = call_rounds(
        [parse_locus(x, HG.dictionary) for x in loci], 1000, HG.dictionary, lambda x: ploidy(x, sex, HG)
    )
    return [[(str(x), value) for x, value in one] for one in found]


def test_padding_stops_where_ploidy_changes() -> None:
    # A male's locus that ends, or begins, at the border of PAR1
    assert rounds(f"chrX:2700000-{BORDER}") == [[(f"chrX:2699000-{BORDER}", 2)]]
    assert rounds(f"chrX:{BORDER + 1}-2800000") == [[(f"chrX:{BORDER + 1}-2801000", 1)]]
    # Of a female there is no border
    assert rounds(f"chrX:2700000-{BORDER}", sex="female") == [[(f"chrX:2699000-{BORDER + 1000}", 2)]]


def test_a_locus_across_the_border_is_called_in_two_rounds_and_all_else_in_one() -> None:
    # Given a male's loci on an autosome, across PAR1's border and far from it
    found = rounds("chr2:5000-6000", "chr2:7000-8000", "chrX:2780000-2783000", "chrX:9000000-9000100")
    # Then intervals that touch with two ploidies are never in one call
    assert found == [
        [("chr2:4000-9000", 2), (f"chrX:2779000-{BORDER}", 2), ("chrX:8999000-9001100", 1)],
        [(f"chrX:{BORDER + 1}-2784000", 1)],
    ]


def test_what_a_sample_does_not_have_is_not_called() -> None:
    assert rounds("chrY:5000000-5001000", sex="female") == []
    assert ploidy(Locus("chrY", 5_000_000, 5_001_000), "female", HG).present == []
    across = Locus("chrX", BORDER - 9, BORDER + 10)
    assert ploidy(across, "male", HG).present == [across]


def test_a_table_of_ones_own_goes_before_what_is_known_of_x_and_y(tmp_path: Path) -> None:
    # Given a table for a reference that is no known genome: b is haploid in males and absent in females
    table = tmp_path / "ploidy.tsv"
    table.write_text("# contig begin end ploidy sex\nb\t0\t5000\t1\tmale\nb\t0\t5000\t0\tF\na\t100\t200\t4\n")
    rules = read_ploidies(table, PLAIN)
    locus = Locus("b", 1, 5000)
    assert ploidy(locus, "male", None, rules).pieces == ((locus, 1),)
    assert ploidy(locus, "female", None, rules).present == []
    assert [(str(x), v) for x, v in ploidy(Locus("a", 50, 250), "female", None, rules).pieces] == [
        ("a:50-100", 2),
        ("a:101-200", 4),
        ("a:201-250", 2),
    ]
    # And an unknown sex is warned of where the table asks for it, and only there
    assert "sex is unknown" in str(ploidy(locus, "unknown", None, rules).warning)
    assert ploidy(Locus("a", 1, 90), "unknown", None, rules).warning is None
    assert ploidy(Locus("b", 1, 9), "male", None, [PloidyRule(locus, 3)]).single == 3


def test_all_faults_of_a_table_of_ploidies_are_told(tmp_path: Path) -> None:
    table = tmp_path / "p.tsv"
    table.write_text("b\t0\t50\t1\tx\nb\t0\t5001\t1\nb\t0\nb\t0\t50\t21\nb\t0\t60\t1\nb\t50\t70\t2\tmale\n")
    with pytest.raises(
        PloidiesInvalid, match=r"line 1.*line 2: .*ends at 5000.*line 3.*line 4.*b:1-60 and b:51-70 overlap"
    ):
        read_ploidies(table, PLAIN)


def test_results_of_two_tables_of_ploidies_have_different_hashes(tmp_path: Path) -> None:
    environ = {"HC_PLOIDY": "p.tsv", "PIPELINE": str(tmp_path)}
    with pytest.raises(ParameterInvalid, match=r"neither auto nor 1 to 20, and as a table .*p\.tsv cannot be read"):
        Parameters.from_environ(environ)
    hashes: set[str] = set()
    for value in (1, 2, 1):
        (tmp_path / "p.tsv").write_text(f"b\t0\t50\t{value}\n")
        found = Parameters.from_environ(environ)
        assert found.ploidy_table(str(tmp_path)) == tmp_path / "p.tsv"
        hashes.add(found.hash("4.6.2.0"))
    assert len(hashes) == 2
    with pytest.raises(ParameterInvalid, match="HC_PLOIDY"):
        Parameters.from_environ({"HC_PLOIDY": "21"})


@pytest.mark.parametrize("child", ["male", "female"])
def test_a_simulated_child_has_its_x_and_y_from_whom_it_should(child: str) -> None:
    # Given a family over the border of PAR1 on X, and over a stretch of Y, with a variant every 100 bases
    windows = {"chrX": (BORDER - 4999, BORDER + 5000), "chrY": (6_000_001, 6_010_000)}
    sexes = Sexes(
        {c: (HG.lengths[c], window) for c, window in windows.items()}, {"C": child, "F": "male", "M": "female"}
    )
    variants = {c: [Variant(at, "A", "C", 0.5) for at in range(0, 10_000, 100)] for c in windows}
    carried = genotypes(random.Random(1), variants, ["C", "F", "M"], sexes)

    def of(sample: str, contig: str, *, par: bool) -> list[tuple[int, ...]]:
        return [g for v, g in carried[sample][contig] if (v.offset < 5000) == par or contig == "chrY"]

    # Then on Y a son has what his father has, and a daughter and her mother have nothing
    father = of("F", "chrY", par=False)
    assert {len(g) for g in father} == {1}
    assert of("C", "chrY", par=False) == (father if child == "male" else [()] * 100)
    assert of("M", "chrY", par=False) == [()] * 100
    # And on X a son has one allele of his mother's outside PAR, and in PAR his father's Y beside it
    for par in (True, False):
        mine, one, two = (of(sample, "chrX", par=par) for sample in ("C", "F", "M"))
        haplotype = next(h for h in (0, 1) if all(g[h] in m for g, m in zip(two, mine, strict=True)))
        if child == "male":
            fathers = [g[1:] for g in one]
            assert mine == [(m[haplotype], *f) for m, f in zip(two, fathers, strict=True)]
            assert {len(g) for g in mine} == ({2} if par else {1})
        else:
            assert mine == [(f[0], m[haplotype]) for m, f in zip(two, one, strict=True)] or par
            assert {len(g) for g in mine} == {2}
    # And reads come of each haplotype where it is, and of none where there is nothing
    assert sexes.present("chrX", "M") is None
    assert sexes.present("chrX", "F") == [[(0, 10_000)], [(0, 5000)]]
    assert sexes.present("chrY", "M") == [[], []]
