"""A second pass over what was stored: its SHA-256, its index, and bcftools stats, from one streamed read."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from pyanamo_core.errors import GvcfInvalid, OutputRefused
from pyanamo_core.genomics.bgzf import RangedReader
from pyanamo_core.genomics.inputs import Inputs

INDEX = "import sys, pysam.bcftools as b; b.index('-t', '-f', '-o', sys.argv[1], '-', catch_stdout=False)"
STATS = "import sys, pysam.bcftools as b; sys.stdout.write(b.stats('-s', '-', '-'))"


def read_back(
    inputs: Inputs, uri: str, index: Path, *, sha256: str = "", stats: Path | None = None, name: str = ""
) -> str:
    """Read a BGZF VCF once from where it was put; returns its SHA-256 (hex).

    Args:
        index: where the .tbi goes.
        sha256: what it must be; empty: not known (a part was put by an earlier attempt).
        stats: where the output of bcftools stats goes.
        name: what stands in it as the file's name; from a pipe every file would be called <STDIN>.

    Raises:
        OutputRefused: it is not what was put. GvcfInvalid: it cannot be indexed.
    """
    reader = RangedReader(inputs, uri)
    with tempfile.TemporaryFile() as told:
        children = [_child([INDEX, str(index)])]
        if stats is not None:
            children.append(_child([STATS], told))
        try:
            for chunk in reader.chunks():
                for child in children:
                    _give(child, chunk)
            for child in children:
                _end(child, uri)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
        found = reader.whole_digest()
        if sha256 and found != sha256:
            raise OutputRefused(where=uri, reason="what is stored there is not what was sent")
        if stats is not None:
            told.seek(0)
            stats.write_text(told.read().decode().replace("<STDIN>", name or uri.rpartition("/")[2]))
    return found


def _child(arguments: Sequence[str], out: IO[bytes] | None = None) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", *arguments]
    errors = subprocess.DEVNULL if out is not None else subprocess.PIPE
    # bcftools says on stderr, record by record, what it misses in a header: only the end of it is of use.
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=out or subprocess.DEVNULL, stderr=errors)


def _give(child: subprocess.Popen[bytes], chunk: bytes) -> None:
    pipe: Any = child.stdin
    try:
        pipe.write(chunk)
    except BrokenPipeError:
        child.wait()  # `_end` says why


def _end(child: subprocess.Popen[bytes], uri: str) -> None:
    _, said = child.communicate() if child.poll() is None else (b"", child.stderr.read() if child.stderr else b"")
    if child.returncode:
        lines = (said or b"").decode(errors="replace").strip().splitlines()
        raise GvcfInvalid(path=uri, reason=f"it cannot be indexed or counted ({' | '.join(lines[-2:])[:500]})")
