"""Lists of samples that people have: tables of their own, 1000 Genomes' sequence.index files, pedigrees.

Each gives the same values as a listing of a bucket (samples.Reads). All faults of a file are told at once, with lines.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import TypeVar

from pyanamo_core.errors import BadInput
from pyanamo_core.genomics.genomes import normal_sex
from pyanamo_core.genomics.samples import Reads

COLUMNS = ("sample", "reads", "index", "sex", "alias", "reference")
"""Columns of a table of samples; only `reads` must be there. Others are left aside."""
_ALSO_CALLED = {"gender": "sex", "bai": "index", "crai": "index", "csi": "index", "sm": "alias"}
ENDINGS = (".tsv", ".csv")
INDEX_ENDING = ".sequence.index"
SHOWN_FAULTS = 50
T = TypeVar("T")
_SEXES = {"1": "male", "2": "female", "0": "unknown", "-9": "unknown"}


class ListingInvalid(BadInput):
    """{path} cannot be used:
    {faults}"""


def is_listing(where: str) -> bool:
    """Is this a table or a sequence.index rather than a folder or a bucket's prefix?"""
    return where.lower().endswith((*ENDINGS, INDEX_ENDING))


def read_table(path: Path) -> list[Reads]:
    """A table of samples: tab- or comma-separated by its ending, with a header; columns as COLUMNS says.

    `alias` is the @RG SM that the file has, where it is not the sample. Addresses that are neither absolute nor s3:// are
    relative to the table's folder.

    Raises:
        ListingInvalid: no such columns, a line without reads, a sample or reads twice, several references.
    """
    text = _text(path)
    rows = csv.DictReader(text.splitlines(), delimiter="," if path.suffix.lower() == ".csv" else "\t")
    names = {(name or "").strip().lstrip("#").lower(): name for name in rows.fieldnames or ()}
    if "reads" not in names:
        told = ", ".join(names) or "it is empty"
        raise ListingInvalid(
            path=path, faults=f"  there is no column reads (columns: {told}); see {', '.join(COLUMNS)}"
        )
    found: list[Reads] = []
    faults = _nearly_columns(names)
    seen: dict[str, int] = {}
    references: dict[str, int] = {}
    for row in rows:
        line = rows.line_num
        cell = {name: (row.get(names[name]) or "").strip() for name in COLUMNS if name in names}
        if not any(cell.values()):
            continue
        fault = _fault_of(cell)
        if fault:
            faults.append(f"  line {line}: {fault}")
            continue
        uri = _placed(cell["reads"], path.parent)
        for what in (cell.get("sample") and f"sample {cell['sample']}", f"reads {uri}"):
            if what and seen.setdefault(what, line) != line:
                faults.append(f"  line {line}: {what} is on line {seen[what]} already")
        references.setdefault(cell.get("reference", ""), line)
        index = cell.get("index", "")
        found.append(
            Reads(
                uri,
                _placed(index, path.parent) if index else "",
                cell.get("sample", ""),
                cell.get("alias", ""),
                run=uri.rpartition("/")[0].rpartition("/")[2],
                sex=normal_sex(cell.get("sex", "")),
            )
        )
    if len(references) > 1:
        told = ", ".join(f"{name or 'none'} on line {line}" for name, line in references.items())
        faults.append(f"  samples of one table are called against one reference, not several: {told}")
    return _unless(faults, path, found)


def _nearly_columns(names: Iterable[str]) -> list[str]:
    """Columns that seem to be meant for one of ours: left unread, a man would be called as a diploid on X."""
    faults: list[str] = []
    given = set(names)
    for name in sorted(given.difference(COLUMNS)):
        meant = _ALSO_CALLED.get(name) or next(iter(get_close_matches(name, COLUMNS, n=1, cutoff=0.75)), "")
        if meant and meant not in given:
            faults.append(f"  line 1: column {name} is not read; if it is the {meant}, call it {meant}, else otherwise")
    return faults


def _fault_of(cell: Mapping[str, str]) -> str:
    if not cell["reads"]:
        return "there is no address in column reads"
    if not cell["reads"].endswith((".bam", ".cram")):
        return f"{cell['reads']} is neither a .bam nor a .cram"
    if cell.get("alias") and not cell.get("sample"):
        return f"alias {cell['alias']} is of no sample"
    sex = cell.get("sex", "").lower()
    if sex and sex not in {"unknown", "u", "0", "na", "."} and normal_sex(sex) == "unknown":
        return f"sex {cell['sex']!r} is none of male, female, unknown"
    return ""


def read_sequence_index(path: Path, data: str) -> list[Reads]:
    """A sequence.index of 1000 Genomes' 30x set: one line per CRAM, of which only the last two folders count.

    Args:
        path: the file; lines starting with ## are about it, the one starting with # names the columns.
        data: where the runs' folders lie, e.g. s3://1000genomes/1000G_2504_high_coverage/data.

    Raises:
        ListingInvalid: no such columns, a line that is too short, a sample twice.
    """
    lines = [(n, line) for n, line in enumerate(_text(path).splitlines(), 1) if line.strip() and line[:2] != "##"]
    header = lines[0][1].lstrip("#").rstrip("\r").split("\t") if lines else []
    wanted = ("ENA_FILE_PATH", "RUN_ID", "SAMPLE_NAME")
    missing = [name for name in wanted if name not in header]
    if missing:
        raise ListingInvalid(path=path, faults=f"  there is no column {', '.join(missing)}: it is no sequence.index")
    place = {name: header.index(name) for name in wanted}
    found: list[Reads] = []
    faults: list[str] = []
    seen: dict[str, int] = {}
    for number, line in lines[1:]:
        cells = line.rstrip("\r").split("\t")
        if len(cells) <= max(place.values()):
            faults.append(f"  line {number}: it has {len(cells)} columns, the header {len(header)}")
            continue
        file, run, sample = (cells[place[name]].strip() for name in wanted)
        if not file.endswith((".bam", ".cram")):
            faults.append(f"  line {number}: {file} is neither a .bam nor a .cram")
            continue
        if seen.setdefault(sample, number) != number:
            faults.append(f"  line {number}: sample {sample} is on line {seen[sample]} already")
        uri = f"{data.rstrip('/')}/{run}/{file.rpartition('/')[2]}"
        found.append(Reads(uri, f"{uri}.{'crai' if uri.endswith('.cram') else 'bai'}", sample, run=run))
    return _unless(faults, path, found)


def data_beside(uri: str) -> str:
    """Where the runs of a sequence.index lie in 1000 Genomes' layout: the folder `data` beside it."""
    return f"{uri.rpartition('/')[0]}/data"


def read_ped(path: Path) -> dict[str, str]:
    """Sex by sample (male, female, unknown) from a pedigree: family, individual, father, mother, sex, …, by any blanks.

    A header line is left out, as are lines starting with #. 1000 Genomes' own has further columns.

    Raises:
        ListingInvalid: a line with fewer than five columns or another sex than 0, 1, 2; a sample with two sexes.
    """
    sexes: dict[str, str] = {}
    lines: dict[str, int] = {}
    faults: list[str] = []
    for number, line in enumerate(_text(path).splitlines(), 1):
        cells = line.split()
        if not cells or cells[0].startswith("#") or (number == 1 and len(cells) > 4 and cells[4].lower() == "sex"):
            continue
        if len(cells) < 5 or cells[4].lower() not in {*_SEXES, "male", "female", "unknown"}:
            told = f"sex {cells[4]!r} is none of 1, 2, 0" if len(cells) > 4 else f"it has {len(cells)} columns, not 5"
            faults.append(f"  line {number}: {told}")
            continue
        sample, sex = cells[1], _SEXES.get(cells[4], cells[4].lower())
        if sexes.setdefault(sample, sex) != sex:
            faults.append(f"  line {number}: {sample} is {sex} here, {sexes[sample]} on line {lines[sample]}")
        lines.setdefault(sample, number)
    return _unless(faults, path, sexes)


def with_sexes(reads: Iterable[Reads], sexes: Mapping[str, str], path: Path) -> list[Reads]:
    """The reads with the pedigree's sexes, by sample (else by the file's name).

    Raises:
        ListingInvalid: a table says something else of a sample than the pedigree.
    """
    told: list[Reads] = []
    faults: list[str] = []
    for one in reads:
        name = one.name or one.stem
        sex = sexes.get(name, "unknown")
        if "unknown" not in {sex, one.sex} and one.sex and sex != one.sex:
            faults.append(f"  {name} is {sex} there, {one.sex} in the table of samples")
        told.append(one if sex == "unknown" else replace(one, sex=sex))
    return _unless(faults, path, told)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ListingInvalid(path=path, faults=f"  {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ListingInvalid(path=path, faults=f"  it is no text in UTF-8 (byte {error.start})") from error


def _placed(address: str, folder: Path) -> str:
    if "://" in address or address.startswith("/"):
        return address
    return str((folder / address).resolve())


def _unless(faults: list[str], path: Path, found: T) -> T:
    if faults:
        more = [f"  … and {len(faults) - SHOWN_FAULTS} more"] if len(faults) > SHOWN_FAULTS else []
        raise ListingInvalid(path=path, faults="\n".join([*faults[:SHOWN_FAULTS], *more]))
    return found
