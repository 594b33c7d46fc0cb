"""Makes a FASTA's .fai (and .gzi) and .dict, repacking what is gzip but not BGZF: `python -m pyanamo_core.staging.index FASTA`.

A program of its own, because htslib reads whole contigs into memory, and a pilot shall not keep that.
"""

from __future__ import annotations

import gzip
import shutil
import sys
from pathlib import Path

from pyanamo_core.staging.reference import companions, dictionary_name, is_plain_gzip


def make_index(path: Path) -> None:
    """Make what is missing beside the FASTA.

    A file in plain gzip, as Ensembl and UCSC have theirs, is replaced by the same in BGZF, in which any base can be found.

    Raises:
        pysam.SamtoolsError, OSError, EOFError: it is no FASTA, or damaged.
    """
    import pysam

    if is_plain_gzip(path):
        packed = path.with_name(f".{path.name}.part")
        with gzip.open(path) as plain, pysam.BGZFile(str(packed), "wb", None) as out:
            shutil.copyfileobj(plain, out, 1 << 20)
        packed.replace(path)
        for index in (f"{path.name}.fai", f"{path.name}.gzi"):
            (path.parent / index).unlink(missing_ok=True)
    if not all((path.parent / each).exists() for each in companions(path.name) if each.endswith("i")):
        pysam.faidx(str(path))
    dictionary = path.parent / dictionary_name(path.name)
    if not dictionary.exists():
        pysam.dict("-u", path.name, "-o", str(dictionary), str(path))  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    make_index(Path(sys.argv[1]))
