"""The pilot's own words in the container's log: what it claims, what becomes of it, why it leaves."""

from __future__ import annotations

import logging
import sys


def log_to_stderr(level: int = logging.INFO) -> None:
    """Let PyAnamo's loggers, and no other library's, write to standard error; again changes nothing."""
    logger = logging.getLogger("pyanamo")
    logger.setLevel(level)
    if not logger.handlers:
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        logger.addHandler(handler)
        logger.propagate = False
