"""Every error of PyAnamo. A class's docstring is its message: what happened, where, and what to do next.

Exit codes of the command (docs/exit-codes.md): 1 unexpected, 2 usage, 3 bad input, 4 not found, 5 refused by the
ledger or by a rule, 6 the surroundings (credentials, region, endpoint, extra, disk), 7 the watched run did not
end as completed.
"""

from __future__ import annotations

import inspect
from typing import Any, ClassVar


class PyAnamoError(Exception):
    """PyAnamo cannot go on."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str | None = None, **facts: Any) -> None:
        self.facts = facts
        template = message if message is not None else inspect.cleandoc(type(self).__doc__ or "")
        super().__init__(template.format(**facts) if facts else template)


# ---------------------------------------------------------------------------------------------------- families


class BadInput(PyAnamoError):
    """The input is wrong."""

    exit_code = 3


class NotFound(PyAnamoError):
    """It does not exist."""

    exit_code = 4


class Refused(PyAnamoError):
    """That is not allowed now."""

    exit_code = 5


class Surroundings(PyAnamoError):
    """Something around PyAnamo is missing or broken."""

    exit_code = 6


class ExtraMissing(Surroundings):
    """{what} needs the extra `{extra}`. Install it with: pip install 'pyanamo[{extra}]'"""


# ---------------------------------------------------------------------------------------------------- ledger


class OutcomeUnknown(PyAnamoError):
    """No try of {move} on {what} was answered. It may or may not have happened: read the row before you believe anything."""


class MoveRefused(Refused):
    """{move} of item {item_id} was refused: {reason}."""


class LeaseLost(Refused):
    """Item {item_id} is no longer held with fence {fence}: {reason}."""


class TableMissing(NotFound):
    """Table {table} does not exist{where}. Create it with: pyanamo workflow create FILE"""


class WorkflowMissing(NotFound):
    """Table {table} holds no workflow. Create it with: pyanamo workflow create FILE"""


class ForeignTable(Refused):
    """Table {table} is no ledger of PyAnamo: {reason}. Choose another name, or point --table at the right one."""


class SchemaNewer(Refused):
    """Table {table} has schema {found}, this PyAnamo knows up to {known}. Upgrade PyAnamo on this machine."""


class ItemMissing(NotFound):
    """Table {table} holds no item {item_id}. See them with: pyanamo items list"""


class RowUnreadable(Surroundings):
    """A row of item {item_id} in table {table} cannot be read ({reason}). See what is wrong with: pyanamo fsck"""


class NestMissing(NotFound):
    """Item {item_id} has no nest {nest}. See them with: pyanamo items show {item_id}"""


class RunMissing(NotFound):
    """Table {table} holds no run {run_id}. See them with: pyanamo runs list"""


class RunConflict(Refused):
    """Run {run_id} was refused: {reason}."""


# ---------------------------------------------------------------------------------------------------- pilot


class SetUpError(Surroundings):
    """The set-up is wrong: {reason}. Every host would fail alike; put it right, then run again."""


class HostFault(Surroundings):
    """This host cannot do it: {reason}. Another host may; nothing is lost."""


class ClockOff(Surroundings):
    """The clock of this machine is {offset_seconds:.0f} s off AWS's (at most {limit_seconds:.0f} s are borne). Its leases would mean nothing: set the clock."""


class PilotTooOld(Refused):
    """Run {run_id} needs pilots of version {needed} or newer, this one is {found}. Renew the image."""


class ScriptRefused(BadInput):
    """TaskScript {script!r} cannot be started: {reason}."""


# ---------------------------------------------------------------------------------------------------- fleet


class QueueMissing(NotFound):
    """Batch has no job queue {queue}. Create it (docs/aws.md; on this machine: pyanamo local up), or name another one in the workflow file's `queue`."""


class DefinitionMissing(NotFound):
    """Batch has no active job definition {definition}. Register it (docs/aws.md; on this machine: pyanamo local up), or name another one in the workflow file's `job_definition`."""


class BucketMissing(NotFound):
    """The bucket of {uri} does not exist. Create it, or name another one in the workflow file's `buckets: results:`."""


class SheetConflict(Refused):
    """{count} items of {path} stand in table {table} with another definition and were left alone, e.g. {example}. Import with --update to edit them, or give them other ids."""


class QueueClosed(Surroundings):
    """Job queue {queue} takes no jobs: state {state}, status {status}{reason}. Enable it with: aws batch update-job-queue --job-queue {queue} --state ENABLED"""


class OverridesTooBig(BadInput):
    """The overrides of job {name} have {size} bytes, Batch takes at most {limit}. Put big values into the workflow file's `parameters` instead."""


class SubmitRefused(Surroundings):
    """Batch refused job {name} on queue {queue}: {reason}. See why with: pyanamo explain"""


class SubmitThrottled(SubmitRefused):
    """Batch is too busy to take job {name} on queue {queue} ({reason}). It is tried again by itself."""


class SubmitUnknown(PyAnamoError):
    """Nobody answered whether job {name} was submitted to queue {queue} ({reason}). It is looked for by its name before another try."""


# ---------------------------------------------------------------------------------------------------- input


class SheetInvalid(BadInput):
    """The sheet {path} has {count} fault(s); nothing was imported:
    {faults}"""


class WorkflowInvalid(BadInput):
    """The workflow file {path} has {count} fault(s):
    {faults}"""


class FolderMissing(NotFound):
    """The folder {folder} does not exist. Make it, or name another file."""


class DefinitionTooBig(BadInput):
    """{what} {start!r}… has {bytes} bytes, at most {limit} are possible: no process could be started with it."""


class LocusInvalid(BadInput):
    """Locus {locus}: {reason}."""


class DictInvalid(BadInput):
    """The sequence dictionary {path} is of no use: {reason}."""


class TargetsInvalid(BadInput):
    """The interval list {path} (BED, 0-based, half-open) is of no use: {faults}."""


class PloidiesInvalid(BadInput):
    """The table of ploidies {path} (contig, begin, end, ploidy, perhaps male or female) is of no use: {faults}."""


class GenomeUnknown(BadInput):
    """PyAnamo ships no tables of the genome {name}; it has {known}. Give the reference's FASTA, or its .dict with --gaps BED."""


class GvcfInvalid(BadInput):
    """{path} is no complete gVCF: {reason}."""


class ReadsInvalid(BadInput):
    """{reads}: {reason}."""


class ReadsInterrupted(Surroundings):
    """{reads}: reading over the network stopped ({reason}). Try again; if it stays so, the file is damaged or of another reference."""


class SampleMissing(NotFound):
    """Sample {sample} is not in {place}{hint}."""


class CohortRefused(Refused):
    """Not gathered: {reason}."""


class ParameterInvalid(BadInput):
    """Parameter {name}: {reason}."""


# ---------------------------------------------------------------------------------------------------- surroundings


class NoCredentials(Surroundings):
    """AWS credentials are missing or no longer valid ({reason}). Set AWS_PROFILE, or renew the login, and try again."""


class NoRegion(Surroundings):
    """No AWS region is set. Give --region, or set AWS_REGION. (For the local cloud of this machine: pyanamo local up, then eval "$(pyanamo local env)".)"""


class EndpointDown(Surroundings):
    """{endpoint} cannot be reached ({reason}). Check --endpoint-url and the network; the local cloud is started with: pyanamo local up"""


class AccessDenied(Surroundings):
    """AWS refused {operation}: {reason}. Ask for that permission; docs/iam.md lists what PyAnamo needs."""


class WrongRegion(Surroundings):
    """AWS {service} refused {operation}: it lies in another region ({right}): {reason}. Give that region."""


class AwsMissing(NotFound):
    """AWS {service} does not have what {operation} asked for: {reason}. Check the name, --region and --endpoint-url."""


class LocalCloudBroken(Surroundings):
    """The local cloud does not work: {what}: {reason} {log}"""


class LocalCloudMissing(NotFound):
    """No local cloud runs in {home}. Start it with: pyanamo local up"""


class LocalCloudDiffers(Refused):
    """The local cloud in {home} already runs with {found}, not with {asked}. End it first with: pyanamo local down"""


class AwsFailed(Surroundings):
    """AWS {service} refused {operation} with {code}: {reason} (request {request_id})."""

    @property
    def code(self) -> str:
        return str(self.facts.get("code", ""))


class OverflowBroken(Surroundings):
    """The object {uri}, which holds the results of item {item_id}, nest {nest}, cannot be read: {reason}."""


class DownloadFailed(Surroundings):
    """{name} could not be fetched: {reason}. Check the network, then run the same command again: it goes on from what is already in {folder}."""


class WrongHash(Surroundings):
    """{name} came with {bytes} bytes and SHA-256 {got}, but docker/gatk/jars.lock expects {expected}. It was not kept. Run the same command again; if it stays so, something between here and the Maven repository changes files."""


class GatkMissing(Surroundings):
    """GATK is not in {folder} yet. Fetch it with: python -m pyanamo_core.genomics.gatk"""


class GatkPairRefused(Surroundings):
    """{gatk} cannot run on {java}: {reason}. Set GATK_JAR and JAVA to a pair that fits, or unset both to use PyAnamo's own."""


class CallerRefused(Surroundings):
    """{caller} is version {found} here, the workflow pins {pinned} (`caller_version`). Nothing was called. Renew the image, or pin {found} and have what is done done again with: pyanamo workflow create FILE --new-revision"""


class CallerFailed(PyAnamoError):
    """{caller} failed with exit code {code}: {reason}"""


class OutOfMemory(Surroundings):
    """{what} ran out of memory: {reason}"""


class OutputRefused(Surroundings):
    """Results cannot be put into {where}: {reason}. Check that the bucket or folder exists and may be written to."""
