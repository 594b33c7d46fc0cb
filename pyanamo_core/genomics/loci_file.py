"""Planned loci as files: a table that a person reads and edits, and the interval lists in the folder of the task scripts.

The table has a header; only its column `locus` counts when it is read again, the others tell. A file that does not end
in .tsv holds the values alone, one a line.
"""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pyanamo_core.errors import BadInput, LocusInvalid, Refused, TargetsInvalid
from pyanamo_core.genomics.intervals import Dictionary, Locus, in_order, merge, parse_locus, read_targets
from pyanamo_core.genomics.planning import Borders, Planned, outside, primary_contigs

COLUMN = "locus"
VALUE_COLUMNS = (COLUMN, "value", "nest")
"""Columns of a table that may hold the nests' values, the first that is there."""
SHOWN_FAULTS = 20
_LIST_LINE = "{}\t{}\t{}\n"


class LociInvalid(BadInput):
    """{count} faults in {path}; nothing was written:
    {faults}"""


class LociUnreadable(BadInput):
    """{path} cannot be read as loci: {reason}."""


class ListsThere(Refused):
    """{folder} holds other interval lists; nothing was written. They are part of the task scripts, and these of the workflow's revision: with others, nests that are done belong to another revision. Give --scripts another folder and a workflow of its own, or --force to replace them and then: pyanamo workflow create --new-revision"""


def read_values(path: Path) -> Iterator[tuple[int, str]]:
    """Line number and value of each nest: of a table's column `locus` (or value), or of a file with one a line.

    Blank lines and lines that start with # are left out.

    Raises:
        LociUnreadable: a BED file, a table without such a column, no text.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise LociUnreadable(path=path, reason=f"{error}") from error
    column: int | None = None
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        fields = [x.strip() for x in line.split("\t")]
        if column is None:
            column = _column(path, fields)
            if fields[column].lower() in (VALUE_COLUMNS if len(fields) > 1 else (COLUMN,)):
                continue
        if column < len(fields) and fields[column]:
            yield number, fields[column]


def _column(path: Path, first: Sequence[str]) -> int:
    """Which column of the file's first line holds the values."""
    named = [x.lower() for x in first]
    found = next((named.index(x) for x in VALUE_COLUMNS if x in named), None)
    if found is not None:
        return found
    if len(first) >= 3 and first[1].isdecimal() and first[2].isdecimal():
        raise LociUnreadable(
            path=path, reason=f"it is a BED file; make loci of it with: pyanamo loci plan --bed {path}"
        )
    if len(first) > 1:
        wanted = " or ".join(VALUE_COLUMNS)
        raise LociUnreadable(path=path, reason=f"its first line has tabs, and no column is called {wanted}")
    return 0


# ------------------------------------------------------------------------------------------------------------- writing


def table_lines(planned: Sequence[Planned]) -> Iterator[str]:
    """The table's lines: locus, bases, called bases, and targets and seconds where there are any."""
    targets, timed = any(x.targets for x in planned), any(x.seconds is not None for x in planned)
    yield "\t".join(
        [COLUMN, "bases", "called_bases", *(["targets", "place"] if targets else []), *(["seconds"] if timed else [])]
    )
    for one in planned:
        columns = [one.value, str(one.bases), str(one.called)]
        columns += [str(one.targets or len(one.loci)), one.place] if targets else []
        columns += ["" if one.seconds is None else f"{one.seconds:.0f}"] if timed else []
        yield "\t".join(columns)


def write_planned(path: Path, planned: Sequence[Planned]) -> None:
    """The table (.tsv), or the values alone; put in place only when it is whole."""
    lines = table_lines(planned) if path.suffix == ".tsv" else (x.value for x in planned)
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_text("".join(f"{x}\n" for x in lines), encoding="utf-8")
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def write_lists(planned: Sequence[Planned], scripts: Path, *, about: str, force: bool = False) -> bool:
    """Write each interval list of the plan below the folder of the task scripts, all or none; False: they are there.

    The same plan gives the same bytes, so planning again changes no revision. Beside the lists' folder a remark says
    where they come from (and keeps an archive from having one folder only, which unpacking would leave out).

    Raises:
        ListsThere: the folder holds others, and not `force`.
    """
    first = planned[0].value.removeprefix("@")
    folder = scripts / first.rpartition("/")[0]
    old, new = folder.with_name(f".{folder.name}.old"), folder.with_name(f".{folder.name}.new")
    if old.exists() and not folder.exists():  # ended between two renames: what was there comes back first
        old.replace(folder)
    lists = {x.value.rpartition("/")[2]: _list_text(x) for x in planned}
    if folder.exists():
        if {x.name: x.read_text() for x in sorted(folder.glob("*.bed"))} == lists:
            return False
        if not force:
            raise ListsThere(folder=folder)
    for stale in (old, new):
        shutil.rmtree(stale, ignore_errors=True)
    new.mkdir(parents=True)
    for name, text in lists.items():
        (new / name).write_text(text)
    remark = scripts / f"{folder.name}.txt"
    remark.write_text(about)
    if folder.exists():
        folder.replace(old)
    new.replace(folder)
    shutil.rmtree(old, ignore_errors=True)
    return True


def _list_text(one: Planned) -> str:
    return "".join(_LIST_LINE.format(x.contig, x.start - 1, x.end) for x in one.loci)


# ------------------------------------------------------------------------------------------------------------ checking


@dataclass(frozen=True)
class CheckedLoci:
    """Loci that passed: nests in the reference's order, and what is worth knowing.

    Args:
        uncovered: stretches of the called contigs, outside gaps, in no nest.
        crossing: nests that lie across a border of ploidy.
    """

    nests: list[tuple[str, list[Locus]]]
    uncovered: list[Locus] = field(default_factory=list[Locus])
    crossing: list[str] = field(default_factory=list[str])


def check_loci(
    path: Path,
    dictionary: Dictionary,
    *,
    gaps: Mapping[str, Sequence[tuple[int, int]]] | None = None,
    borders: Borders | None = None,
    scripts: Path | None = None,
) -> CheckedLoci:
    """Read loci (a table or a list) and check them against the reference, all faults at once.

    Args:
        scripts: where `@targets/0001.bed` is looked for.

    Raises:
        LociInvalid: malformed, unknown or repeated values, overlaps; each with its line. LociUnreadable.
    """
    faults: list[str] = []
    lines: dict[str, int] = {}
    nests: list[tuple[str, list[Locus]]] = []
    for number, value in read_values(path):
        if value in lines:
            faults.append(f"line {number}: {value} stands already in line {lines[value]}")
            continue
        lines[value] = number
        try:
            nests.append((value, _loci_of(value, dictionary, scripts)))
        except (LocusInvalid, TargetsInvalid) as error:
            faults.append(f"line {number}: {error}")
    if not lines:
        faults.append("it holds no locus")
    rank = dictionary.rank()
    places = sorted((rank[x.contig], x.start, x.end, value) for value, loci in nests for x in loci)
    for one, two in itertools.pairwise(places):
        if one[0] == two[0] and two[1] <= one[2]:
            a, b = sorted((one[3], two[3]), key=lambda x: lines[x])
            faults.append(f"line {lines[b]}: {b} overlaps {a} (line {lines[a]})")
    if faults:
        shown = list(dict.fromkeys(faults))
        count = len(shown)
        if count > SHOWN_FAULTS:
            shown[SHOWN_FAULTS:] = [f"… and {count - SHOWN_FAULTS:,} more"]
        raise LociInvalid(path=path, count=count, faults="\n    ".join(shown))
    nests.sort(key=lambda x: (rank[x[1][0].contig], x[1][0].start))
    covered = merge((x for _, loci in nests for x in loci), dictionary)
    return CheckedLoci(nests, _uncovered(covered, dictionary, gaps or {}), _crossing(nests, borders or {}))


def _loci_of(value: str, dictionary: Dictionary, scripts: Path | None) -> list[Locus]:
    loci: list[Locus] = []
    for one in value.split(","):
        if one.startswith("@"):
            if scripts is None:
                raise LocusInvalid(locus=one, reason="an interval list: say with --scripts in which folder it lies")
            loci += read_targets(scripts / one[1:], dictionary)
        else:
            loci.append(parse_locus(one, dictionary))
    return in_order(loci, dictionary)


def _uncovered(
    covered: Sequence[Locus], dictionary: Dictionary, gaps: Mapping[str, Sequence[tuple[int, int]]]
) -> list[Locus]:
    found: list[Locus] = []
    for contig in primary_contigs(dictionary):
        taken = [(x.start - 1, x.end) for x in covered if x.contig == contig]
        taken += gaps.get(contig, ())
        found += [Locus(contig, a + 1, b) for a, b in outside(taken, dictionary.length(contig))]
    return found


def _crossing(nests: Sequence[tuple[str, list[Locus]]], borders: Borders) -> list[str]:
    return [
        value for value, loci in nests if any(x.start <= b < x.end for x in loci for b in borders.get(x.contig, ()))
    ]
