"""The steps of a cohort: call → gather → joint → concat → report, with workflows made from the call's.

A step's table is named after the call's (`<table>-gather`, `<table>-joint`); `concat` is the last item of the joint table.
What such a table has of its own stands in the section `cohort` of the workflow file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

from pyanamo_core.aws import Clients, code_of
from pyanamo_core.chain.chain import standing_of
from pyanamo_core.chain.report import put_report, report_uri
from pyanamo_core.chain.steps import Plan, Step
from pyanamo_core.errors import BadInput, Refused, TableMissing
from pyanamo_core.model import NestStatus, State
from pyanamo_core.protocols import Ledger
from pyanamo_core.sheet import Sheet, SheetRow
from pyanamo_core.workflow import CohortSection, Reference, StepTable, Workflow

if TYPE_CHECKING:
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.genomics.intervals import Dictionary
    from pyanamo_core.genomics.members import GatheredGvcf

STEPS: Final = ("call", "gather", "joint", "concat", "report")
GATHER_MB: Final = 512
"""Memory of a nest that streams locus files into one."""
JOINT_MB: Final = 4096
"""Memory of a nest that calls a region: GATK's heap and GenomicsDB beside it."""


class ReferenceUnnamed(BadInput):
    """The workflow of table {table} names no reference `ref`, without which nothing can be called jointly. Add it to `references` in the workflow file."""


class GatheredOutdated(Refused):
    """{count:,} items of table {table}, the first {item_id}, are not gathered as they are now: they are new, or were called again since, and their gVCFs in table {table}-gather are of what was before. Bring them up with: pyanamo cohort run --from gather --table {table}      (or leave them out: --partial)"""


def cohort_steps(
    clients: Clients,
    workflow: Workflow,
    *,
    sheet: Sheet | None = None,
    update: bool = False,
    partial: bool = False,
    also: Sequence[str] = (),
) -> list[Step]:
    """The steps of a cohort whose call is this workflow.

    Args:
        sheet: samples to import into the call's table first.
        update: edit items of the sheet that stand with another definition.
        partial: gather and call samples that lack loci, too.
        also: call tables of earlier cohorts (their ledgers say what was gathered), or prefixes with gathered gVCFs;
            beside those that the workflow names.
    """
    gather, joint = gather_workflow(workflow), joint_workflow(workflow)
    section = workflow.cohort
    plans = Plans(clients, workflow, gather, joint, partial, (*section.also, *also))
    return [
        Step("call", workflow, sheet=sheet, update=update),
        Step("gather", gather, plans.gather),
        Step("joint", joint, plans.joint, owns=lambda one: one != COHORT_ITEM, whole=True),
        Step("concat", joint, plans.concat, owns=lambda one: one == COHORT_ITEM),
        Step(
            "report",
            joint,
            act=lambda: put_report(clients, workflow, (gather, joint)),
            made=lambda: changed_at(clients, report_uri(workflow)),
        ),
    ]


COHORT_ITEM: Final = "cohort"


def tables_of(table: str) -> dict[str, str]:
    """Step → its table, of the steps that have one, for the call's table."""
    gather, joint = f"{table}-gather", f"{table}-joint"
    return {"call": table, "gather": gather, "joint": joint, "concat": joint}


def gather_workflow(workflow: Workflow) -> Workflow:
    """The workflow of `<table>-gather`: an item per sample, as many at a time as the container has processors and memory."""
    # Only ReblockGVCF, a program of GATK, needs the reference.
    own = workflow.cohort.gather
    references, least_mb = (_reference(workflow), JOINT_MB) if own.reblock else ((), GATHER_MB)
    return _derived(workflow, own, "gather", least_mb, references=references)


def joint_workflow(workflow: Workflow) -> Workflow:
    """The workflow of `<table>-joint`: an item per region, as many at a time as the container has processors and memory.

    Raises:
        ReferenceUnnamed: there is no reference `ref`.
    """
    return _derived(workflow, workflow.cohort.joint, "joint", JOINT_MB, references=_reference(workflow))


def _reference(workflow: Workflow) -> tuple[Reference, ...]:
    references = tuple(one for one in workflow.references if one.name == "ref")
    if not references:
        raise ReferenceUnnamed(table=workflow.table_name)
    return references


def _derived(workflow: Workflow, own: StepTable, step: str, least_mb: int, **told: Any) -> Workflow:
    from pyanamo_core.genomics.plans import VERIFY

    vcpus, memory_mb = own.vcpus or workflow.vcpus, own.memory_mb or workflow.memory_mb
    changes: dict[str, Any] = {
        "name": f"{workflow.name[:120]}-{step}",
        "table": tables_of(workflow.table_name)[step],
        "queue": own.queue or workflow.queue,
        "on_demand_queue": own.on_demand_queue or workflow.on_demand_queue,
        "job_definition": own.job_definition or workflow.job_definition,
        "pilots": own.pilots or workflow.pilots,
        "items": own.items or max(1, min(int(vcpus), memory_mb // least_mb)),
        "nests": 1,
        "vcpus": vcpus,
        "memory_mb": memory_mb,
        "nest_time_seconds": own.nest_time_seconds or workflow.nest_time_seconds,
        "scripts": "",
        "scripts_sha256": "",
        "verify": VERIFY,
        # That of HaplotypeCaller: a change of it makes other loci, which are other plans.
        "caller_version": "",
        "parameters": own.parameters,
        "cohort": CohortSection(),
        **told,
    }
    return workflow.model_copy(update=changes)


class Plans:
    """What each step wants, by the ledgers of those before it."""

    def __init__(
        self,
        clients: Clients,
        call: Workflow,
        gather: Workflow,
        joint: Workflow,
        partial: bool,
        also: Sequence[str],
    ) -> None:
        self._clients, self._partial, self._also = clients, partial, tuple(dict.fromkeys(also))
        self._call, self._gather, self._joint = call, gather, joint
        self._rows: Sequence[SheetRow] = ()
        """Of the plan of gather that was made last, until a plan of joint has used it."""

    def gather(self, store: bool) -> Plan:
        """An item per sample of the call's table."""
        from pyanamo_core.genomics import plans

        ledger = _ledger(self._clients, self._call)
        rows = plans.gather_rows(
            ledger,
            _writing(self._clients, store),
            place_of(self._gather),
            items=self._samples(ledger) if self._partial else None,
            partial=self._partial,
            reblock=self._call.cohort.gather.reblock,
        )
        self._rows = _sheet_rows(rows)
        return Plan(self._rows)

    def joint(self, store: bool) -> Plan:
        """An item per region of what is gathered, here and earlier."""
        from pyanamo_core.genomics import plans
        from pyanamo_core.genomics.inputs import Inputs
        from pyanamo_core.genomics.intervals import parse_locus

        own = self._call.cohort.joint
        dictionary = self._dictionary()
        inputs = Inputs(clients=self._clients)
        gathered = self._gathered()
        earlier = [one for where in self._also for one in self._earlier(where, inputs)]
        made = plans.joint_rows(
            [*gathered, *earlier],
            dictionary,
            place_of(self._joint),
            clients=_writing(self._clients, store),
            inputs=inputs,
            regions=[parse_locus(one, dictionary) for one in own.regions] or None,
            region_bases=own.region_bases,
            partial=self._partial,
        )
        told = f"{len(made.samples):,} samples in {len(made.rows):,} regions"
        if earlier:
            told += f", {len(earlier):,} of them gathered earlier"
        return Plan(_sheet_rows(made.rows), told)

    def concat(self, store: bool) -> Plan:
        """The one item that makes a VCF of all regions."""
        from pyanamo_core.genomics import plans

        ledger = _ledger(self._clients, self._joint)
        name = self._call.cohort.joint.name
        row = plans.concat_row(ledger, _writing(self._clients, store), place_of(self._joint), name=name)
        return Plan(_sheet_rows([row]))

    def _samples(self, ledger: Ledger) -> list[str]:
        """Items of the call's table. With `partial`, samples that a user cancelled are left out, whatever they have."""
        items = ledger.items()
        return sorted(one.item_id for one in items if not (self._partial and one.state is State.CANCELLED))

    def _gathered(self) -> list[GatheredGvcf]:
        """What the gather table holds of the samples of the call's table, each as that table holds it now."""
        rows = self._rows or self.gather(False).rows
        # Once only: a joint call may take hours, and then what was planned before it is old.
        self._rows = ()
        return self._present(_ledger(self._clients, self._gather), rows, self._call.table_name)

    def _earlier(self, where: str, inputs: Inputs) -> list[GatheredGvcf]:
        """What was gathered earlier: of another cohort's call table, by its ledgers, or whatever lies below a prefix."""
        from pyanamo_core.genomics import plans
        from pyanamo_core.ledger import open_ledger

        if "/" in where:
            return plans.gathered_below(inputs, where.rstrip("/"))
        gathers = open_ledger(self._clients, tables_of(where)["gather"])[0]
        try:
            ledger, _, workflow = open_ledger(self._clients, where)
        except TableMissing:  # Only its gVCFs are left, and nothing that they could contradict.
            return plans.gathered_of(gathers, self._clients)
        chosen = self._samples(ledger)
        rows = plans.gather_rows(
            ledger,
            _writing(self._clients, store=False),
            place_of(gather_workflow(workflow)),
            items=chosen,
            partial=True,
            reblock=workflow.cohort.gather.reblock,
        )
        standing = {item.item_id: item.state for item in gathers.items()}
        lost = sorted(standing.keys() - {row.item_id for row in rows})
        lost = [one for one in lost if standing[one] is State.DONE]
        if lost and not self._partial:
            raise GatheredOutdated(count=len(lost), item_id=lost[0], table=where)
        return self._present(gathers, _sheet_rows(row for row in rows if row.item_id in standing), where)

    def _present(self, gathers: Ledger, rows: Sequence[SheetRow], table: str) -> list[GatheredGvcf]:
        """The gathered gVCFs of these rows of a plan of gather, made as it says. With `partial` the others are left out.

        Raises:
            GatheredOutdated: some were made of something else, or not at all.
        """
        from pyanamo_core.genomics import plans

        present: list[str] = []
        outdated: list[str] = []
        for row, item in standing_of(gathers, rows):
            same = item is not None and item.definition_hash == row.definition.hash
            done = same and item is not None and item.state is State.DONE
            (present if done or (same and not self._partial) else outdated).append(row.item_id)
        if outdated and not self._partial:
            raise GatheredOutdated(count=len(outdated), item_id=outdated[0], table=table)
        # Not all there are: those that this plan does not want are of samples that were taken away.
        return plans.gathered_of(gathers, self._clients, items=present) if present else []

    def _dictionary(self) -> Dictionary:
        """The reference's .dict; where none lies beside it, that of the reference as this machine stages it."""
        from pyanamo_core.errors import DictInvalid
        from pyanamo_core.genomics import plans
        from pyanamo_core.genomics.intervals import read_dictionary

        uri = self._joint.references[0].uri
        try:
            return plans.reference_dictionary(self._clients, uri)
        except (FileNotFoundError, DictInvalid):  # in a bucket, in a folder
            from pyanamo_core.staging import stage

            return read_dictionary(stage(self._joint, self._clients).references["ref"])


def place_of(workflow: Workflow) -> str:
    """Where the plans of a step's table lie."""
    return f"{workflow.buckets.results}/{workflow.table_name}/plans"


def _ledger(clients: Clients, workflow: Workflow) -> Ledger:
    from pyanamo_core.ledger import open_ledger

    return open_ledger(clients, workflow.table_name)[0]


def _sheet_rows(rows: Iterable[Any]) -> list[SheetRow]:
    return [
        SheetRow(item_id=row.item_id, task_id=row.task_id, definition=row.definition, line=line)
        for line, row in enumerate(rows, start=1)
    ]


def _writing(clients: Clients, store: bool) -> Any:
    return clients if store else _ReadOnly(clients)


class _ReadOnly:
    """Clients with which plans are made and not stored: for a plan that shall only be looked at (see plan_files)."""

    keeps_nothing = True

    def __init__(self, clients: Clients) -> None:
        self._clients = clients

    def __getattr__(self, name: str) -> Any:
        return getattr(self._clients, name)


# ---------------------------------------------------------------------------------------------------- results


def changed_at(clients: Clients, uri: str) -> float | None:
    """When an object was put, in seconds since 1970; None: it is not there."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    try:
        found = clients.client("s3").head_object(Bucket=bucket, Key=key)
    except Exception as error:
        if code_of(error) in ("404", "NoSuchKey", "NotFound"):
            return None
        raise
    return float(found["LastModified"].timestamp())


def cohort_vcf(ledger: Ledger) -> str:
    """Address of the VCF that the joint table's item `cohort` made last; empty: there is none yet."""
    from pyanamo_core.errors import ItemMissing

    try:
        nest = ledger.nests(ledger.item(COHORT_ITEM)).get(0)
    except ItemMissing:
        return ""
    if nest is None or nest.status is not NestStatus.DONE:
        return ""
    return next((one.uri for one in nest.outputs if one.uri.endswith(".vcf.gz")), "")
