"""Records of single-sample gVCFs, of GATK's and of bcftools' dialect, read as they stream."""

from __future__ import annotations

import contextlib
import gzip
import zlib
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from pyanamo_core.errors import GvcfInvalid

BGZF_EOF = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")
REFERENCE_ALLELES = frozenset({"<NON_REF>", "<*>", "."})  # ALT of a block: GATK, bcftools mpileup, bcftools call


@dataclass(frozen=True, slots=True)
class Record:
    """One line of a single-sample gVCF, split as far as it is needed; `position` and `end` are 1-based, closed."""

    contig: str
    position: int
    end: int
    block: bool
    fields: list[str]

    @property
    def ref(self) -> str:
        return self.fields[3]

    @property
    def alts(self) -> list[str]:
        return self.fields[4].split(",")

    def sample(self) -> dict[str, str]:
        """FORMAT to value of the only sample."""
        return dict(zip(self.fields[8].split(":"), self.fields[9].split(":"), strict=False))


def read_record(line: str) -> Record:
    """Split one line.

    Raises:
        ValueError: not a record with one sample.
    """
    fields = line.rstrip("\n").split("\t")
    if len(fields) != 10:
        raise ValueError(f"a record has {len(fields)} columns, not 10")
    position = int(fields[1])
    if fields[4] not in REFERENCE_ALLELES:
        return Record(fields[0], position, position + len(fields[3]) - 1, False, fields)
    info = fields[7]
    if info.startswith("END="):
        end = int(info[4:].split(";", 1)[0])
    elif ";END=" in info:
        end = int(info.split(";END=", 1)[1].split(";", 1)[0])
    else:
        end = position + len(fields[3]) - 1
    return Record(fields[0], position, end, True, fields)


@contextlib.contextmanager
def open_gvcf(path: Path) -> Generator[tuple[list[str], Iterator[str]]]:
    """The header's lines, and an iterator over the records' lines.

    Raises:
        GvcfInvalid: truncated, or no gVCF; also while iterating.
    """
    with contextlib.ExitStack() as stack:
        try:
            packed = stack.enter_context(path.open("rb")).read(2) == b"\x1f\x8b"
            stream = stack.enter_context(gzip.open(path, "rt") if packed else path.open())  # noqa: SIM115
        except OSError as error:
            raise GvcfInvalid(path=path, reason=f"it cannot be read ({error})") from error
        lines = _guarded(path, cast("Iterator[str]", stream))
        header: list[str] = []
        for line in lines:
            header.append(line)
            if not line.startswith("##"):
                break
        if not header or not header[-1].startswith("#CHROM"):
            raise GvcfInvalid(path=path, reason="it has no header")
        yield header, lines


def _guarded(path: Path, lines: Iterator[str]) -> Iterator[str]:
    try:
        yield from lines
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise GvcfInvalid(path=path, reason=f"it is truncated or damaged ({error})") from error


def has_bgzf_eof(path: Path) -> bool:
    """Does the file end with BGZF's empty block?"""
    with path.open("rb") as file:
        file.seek(0, 2)
        if file.tell() < len(BGZF_EOF):
            return False
        file.seek(-len(BGZF_EOF), 2)
        return file.read() == BGZF_EOF
