"""Writes tests/seconds.txt anew from JUnit reports: seconds of each test file, the longest first.

    make test system PYTEST=--junitxml=...      then      python .ci/seconds.py REPORT.xml...

Files with several workers begin in this order (tests/conftest.py). Only the order matters: reports of any machine do,
and a file that is not in the reports keeps its line. With --show nothing is written: the 25 longest are printed.
"""

from __future__ import annotations

import argparse
import sys
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

TESTS = Path(__file__).parent.parent / "tests"
LIST = TESTS / "seconds.txt"
WORTH_A_LINE = 1.0


def of_reports(reports: list[Path]) -> Counter[str]:
    """Seconds of each file's tests, fixtures included; by the file's name, which is unique in all folders."""
    found: Counter[str] = Counter()
    for report in reports:
        for case in ElementTree.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it here
            name = next((part for part in case.get("classname", "").split(".") if part.startswith("test_")), "")
            found[f"{name}.py"] += float(case.get("time", 0))
    return found


def main() -> int:
    """Write the list, or show it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("reports", nargs="+", type=Path, metavar="REPORT.xml")
    parser.add_argument("--show", action="store_true", help="print the 25 longest files and write nothing")
    options = parser.parse_args()
    found = of_reports([report for report in options.reports if report.exists()])
    if options.show:
        for name, seconds in found.most_common(25):
            print(f"{seconds:7.0f} s  {name}")
        return 0
    known = {name: float(seconds) for seconds, name in map(str.split, LIST.read_text().splitlines())}
    there = {file.name for file in TESTS.glob("*/test_*.py")}
    merged = {name: seconds for name, seconds in {**known, **found}.items() if name in there}
    lines = sorted(merged.items(), key=lambda each: (-each[1], each[0]))
    LIST.write_text("".join(f"{seconds:.0f} {name}\n" for name, seconds in lines if seconds >= WORTH_A_LINE))
    return 0


if __name__ == "__main__":
    sys.exit(main())
