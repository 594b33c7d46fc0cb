"""Makes a FASTA's .fai (and .gzi) and .dict: `python -m pyanamo_core.staging.index FASTA`.

A program of its own, because htslib reads whole contigs into memory, and a pilot shall not keep that.
"""

from __future__ import annotations

import sys
from pathlib import Path

from pyanamo_core.staging.reference import dictionary_name


def make_index(path: Path) -> None:
    """Make what is missing beside the FASTA.

    Raises:
        pysam.SamtoolsError: it is no FASTA, or compressed with plain gzip.
    """
    import pysam

    if not (path.parent / f"{path.name}.fai").exists():
        pysam.faidx(str(path))
    dictionary = path.parent / dictionary_name(path.name)
    if not dictionary.exists():
        pysam.dict("-u", path.name, "-o", str(dictionary), str(path))  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    make_index(Path(sys.argv[1]))
