"""New nests of a table of loci, looked at before any item has them: is there such a place, is there such a list?

A value that no pilot can call would fail its item for good, and no move takes a nest away again.
"""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Callable, Sequence
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pyanamo.addressing import value_loci
from pyanamo.context import Context
from pyanamo_core.errors import BadInput, LocusInvalid, PyAnamoError, TargetsInvalid

if TYPE_CHECKING:
    from pyanamo_core.genomics.intervals import Dictionary, Locus
    from pyanamo_core.model import Definition, Item, Nest

HOOK: Final = "pyanamo_core.genomics.gvcf:verify_outputs"
"""The verify hook of a table whose nests are loci and interval lists, whatever they look like."""
SHOWN: Final = 20


class ValuesRefused(BadInput):
    """{count} of the new values cannot be called:
    {faults}
    Nothing was changed. Give loci of the reference {reference}, or interval lists that the task scripts hold ({scripts}); they are put there by: pyanamo loci plan --bed FILE --scripts FOLDER"""


class LociOverlap(BadInput):
    """{new} overlaps {old}{of}: gather refuses loci that overlap. Nothing was changed. Give loci beside those that are there, or say --overlapping if these values are no loci to gather."""


class NewValues:
    """What can be said of new values of a table: against its workflow's reference and task scripts, read once each.

    What cannot be read from here is said once, and then not checked.

    Args:
        of_nest: the loci of an interval list from what a recorded nest tells (its manifest).
        overlapping: take loci that overlap those that are there.
    """

    def __init__(
        self, context: Context, *, of_nest: Callable[[Nest, str], Sequence[Locus]], overlapping: bool = False
    ) -> None:
        self._context, self._of_nest, self._overlapping = context, of_nest, overlapping
        self._lock = threading.RLock()
        self._lists: dict[str, tuple[Locus, ...]] = {}
        self._asked: set[str] = set()
        self._good: set[tuple[tuple[str, ...], tuple[str, ...]]] = set()
        self._reference = next((one for one in context.workflow.references if one.name == "ref"), None)

    def refuse_twice(self, values: tuple[str, ...]) -> None:
        """Refuse new values that overlap one another. Raises LociOverlap."""
        self._refuse_overlap((), values, "")

    def refuse(self, item: Item, definition: Definition, values: tuple[str, ...]) -> None:
        """Refuse what of these values an item cannot have; those that it has already are not looked at.

        Raises:
            ValuesRefused: no such contig, beyond its end, no such list. LociOverlap: with what is there.
        """
        there = definition.arguments
        known = frozenset(there)
        new = tuple(value for value in values if value not in known)
        with self._lock:
            # Items mostly have the same values: one look does for all.
            if not new or (there, new) in self._good:
                return
            if self._are_loci(there):
                self._refuse_places(new)
                if not self._overlapping:
                    self._ask_nests(item, definition)
            self._refuse_overlap(there, new, item.item_id)
            self._good.add((there, new))

    # ------------------------------------------------------------------------------------------------- what it is

    def _are_loci(self, there: tuple[str, ...]) -> bool:
        """Are the values of an item places of the reference? By the table's hook, or by all that it has."""
        if self._reference is None:
            return False
        if self._context.workflow.verify == HOOK:
            return True
        known = (
            self._dictionary if any(there) and all(one.startswith("@") or value_loci(one) for one in there) else None
        )
        return known is not None and all(locus.contig in known for one in there for locus in value_loci(one))

    def _refuse_places(self, new: tuple[str, ...]) -> None:
        faults: list[str] = []
        for value in new:
            try:
                self._loci(value)
            except (LocusInvalid, TargetsInvalid) as fault:
                faults.append(str(fault))
        if faults:
            assert self._reference is not None  # noqa: S101 - only then places are looked at
            more = [f"… and {len(faults) - SHOWN:,} more"] if len(faults) > SHOWN else []
            raise ValuesRefused(
                count=f"{len(faults):,}",
                faults="\n    ".join([*faults[:SHOWN], *more]),
                reference=self._reference.uri,
                scripts=self._context.workflow.scripts or "those that PyAnamo ships",
            )

    def _loci(self, value: str) -> list[Locus]:
        """The loci of a value, as far as they can be known from here.

        Raises:
            LocusInvalid, TargetsInvalid: there is no such place or list.
        """
        found: list[Locus] = []
        for part in value.split(","):
            found += self._targets(part) if part.startswith("@") else self._places(part)
        return found

    def _places(self, part: str) -> list[Locus]:
        from pyanamo_core.genomics.intervals import parse_locus

        if self._reference is None or self._dictionary is None:
            return value_loci(part)
        return [parse_locus(part, self._dictionary)]

    def _targets(self, value: str) -> Sequence[Locus]:
        if value in self._lists:
            return self._lists[value]
        path = Path(value[1:])
        # An absolute path is one of the pilots' machines.
        if self._reference is None or path.is_absolute() or self._scripts is None or self._dictionary is None:
            return ()
        from pyanamo_core.genomics.intervals import read_targets

        if not (self._scripts / path).is_file():
            others = sorted(f"@{one.relative_to(self._scripts)}" for one in self._scripts.rglob("*.bed"))
            there = f"they hold {', '.join(others[:5])}{' …' if others[5:] else ''}" if others else "they hold none"
            raise LocusInvalid(locus=value, reason=f"the task scripts hold no such interval list ({there})")
        self._lists[value] = tuple(read_targets(self._scripts / path, self._dictionary))
        return self._lists[value]

    def _ask_nests(self, item: Item, definition: Definition) -> None:
        """Lists that an item has and that the scripts no longer hold, or cannot be read here: by what is recorded."""
        numbers: list[int] = []
        for number, value in enumerate(definition.arguments):
            if not value.startswith("@") or value in self._asked:
                continue
            try:
                known = bool(self._loci(value))
            except (LocusInvalid, TargetsInvalid):
                known = False
            if not known:
                numbers.append(number)
        recorded = self._context.ledger.nests(item) if numbers else {}
        for number in numbers:
            value = definition.arguments[number]
            self._asked.add(value)
            try:
                self._lists[value] = tuple(self._of_nest(recorded[number], value)) if number in recorded else ()
            except (PyAnamoError, FileNotFoundError):
                self._lists[value] = ()
            if not self._lists[value]:
                self._context.say(f"which loci {value} holds is not known here: not compared with the new ones")

    # ------------------------------------------------------------------------------------------------- overlaps

    def _refuse_overlap(self, there: tuple[str, ...], new: tuple[str, ...], item_id: str) -> None:
        if self._overlapping:
            return
        places = sorted(
            (locus, fresh, value)
            for fresh, values in ((False, there), (True, new))
            for value in values
            for locus in self._known(value)
        )
        reach = places[0] if places else None
        for one, two in pairwise(places):
            reach = one if reach is None or one[0].contig != reach[0].contig or one[0].end > reach[0].end else reach
            if reach[0].overlaps(two[0]) and (reach[1] or two[1]):
                old, fresh = (reach[2], two[2]) if two[1] else (two[2], reach[2])
                raise LociOverlap(old=old, new=fresh, of=f" of item {item_id}" if item_id else "")

    def _known(self, value: str) -> Sequence[Locus]:
        """The loci of a value without a word about those that are none."""
        if value in self._lists:
            return self._lists[value]
        if "@" not in value:
            return value_loci(value)
        try:
            return self._loci(value)
        except (LocusInvalid, TargetsInvalid):
            return ()

    # ------------------------------------------------------------------------------------------------- reading

    @cached_property
    def _dictionary(self) -> Dictionary | None:
        """The reference's contigs, from the .dict or .fai beside it; the FASTA itself is not fetched."""
        from pyanamo_core.staging.reference import dictionary_name, is_fasta

        assert self._reference is not None  # noqa: S101 - asked by the callers
        uri = self._reference.uri
        reason = "neither a .dict nor a .fai lies beside it"
        for beside in (dictionary_name(uri), f"{uri}.fai") if is_fasta(uri) else ():
            try:
                found = self._contigs(beside)
            except (PyAnamoError, OSError, ValueError, IndexError) as error:
                reason = str(error)
                continue
            if found is not None and found.contigs:
                return found
        self._context.say(
            f"the reference {uri} cannot be read from here ({reason}): the new values are not checked by it"
        )
        return None

    def _contigs(self, uri: str) -> Dictionary | None:
        from pyanamo_core.genomics.intervals import ContigEntry, Dictionary, read_dictionary
        from pyanamo_core.staging.fetch import Fetcher, is_remote, local_path

        with tempfile.TemporaryDirectory(prefix="pyanamo-contigs-") as folder:
            path = Path(folder) / uri.rpartition("/")[2] if is_remote(uri) else local_path(uri)
            if is_remote(uri):
                clients = self._context.clients if uri.startswith("s3://") else None
                Fetcher(clients, self._context.workflow.buckets.inputs).fetch(uri, path)
            elif not path.is_file():
                return None
            if path.suffix == ".dict":
                return read_dictionary(path)
            lines = (line.split("\t") for line in path.read_text().splitlines() if line)
            return Dictionary(str(path), {one[0]: ContigEntry(one[0], int(one[1])) for one in lines})

    @cached_property
    def _scripts(self) -> Path | None:
        """The folder of the task scripts as this machine stages it; None: it cannot be read from here."""
        from pyanamo_core.staging.fetch import Fetcher
        from pyanamo_core.staging.stage import stage_scripts
        from pyanamo_core.store import Store, default_root, host_faults

        workflow = self._context.workflow
        try:
            with host_faults("reading the task scripts"):
                clients = self._context.clients if workflow.scripts.startswith("s3://") else None
                fetcher = Fetcher(clients, workflow.buckets.inputs)
                return stage_scripts(workflow.scripts, workflow.scripts_sha256, Store(default_root()), fetcher)
        except (PyAnamoError, OSError) as error:
            self._context.say(f"the task scripts cannot be read from here ({error}): interval lists are not looked at")
            return None
