"""Imports of optional packages, with an error that names the extra when one is missing."""

from __future__ import annotations

import importlib
from typing import Any

from pyanamo_core.errors import ExtraMissing


def require_pysam() -> Any:
    """pysam, told to be quiet: what htslib prints on stderr may hold presigned addresses."""
    try:
        pysam: Any = importlib.import_module("pysam")
    except ImportError as error:
        raise ExtraMissing(what="Reading alignments and variants", extra="genomics") from error
    pysam.set_verbosity(0)
    return pysam
