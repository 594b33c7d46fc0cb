"""`pyanamo samples …`: which samples lie in a bucket or folder, and are their reads fit for calling."""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pyanamo.context import Context, check_endpoint, command
from pyanamo.progress import Bar
from pyanamo.render import Told, size, table
from pyanamo_core.errors import BadInput, NotFound

if TYPE_CHECKING:
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.genomics.samples import Checked, Reads

COLUMNS = ("sample", "run", "sex", "reads", "index", "bytes", "argument")
"""Columns of the file that --out writes; `argument` is what HaplotypeCaller-1KG.sh takes as its sample."""

CHECKS_AT_A_TIME = 8
SHOWN_PROBLEMS = 20


class Access(StrEnum):
    """How a bucket is read."""

    ROLE = "role"
    ANONYMOUS = "anonymous"
    REQUESTER_PAYS = "requester_pays"


class Named(StrEnum):
    """What an item is called: by its sample, or by its folder, which is an ENA run in 1000 Genomes' layout."""

    SAMPLE = "sample"
    RUN = "run"


class NoReads(NotFound):
    """There are no BAM or CRAM files below {where}. Check the address; a prefix of a bucket needs its whole first part."""


class AliasMalformed(BadInput):
    """Alias {alias} is not of the form NAME:SM, e.g. NA12878:1."""


class SamplesRefused(BadInput):
    """{count} of {total} files below {where} cannot be used:
    {problems}"""


@dataclass(frozen=True)
class Sample:
    """A sample's reads: `sample` is their @RG SM; `problem` says why they cannot be used."""

    sample: str
    run: str
    reads: str
    index: str
    bytes: int
    argument: str
    sex: str = "unknown"
    problem: str = ""


@command(
    example=(
        "pyanamo samples list s3://1000genomes/1000G_2504_high_coverage/data --access anonymous --random 10 --seed 1 --out samples.tsv",
        "pyanamo samples list crams/ --name NA12878 --ped family.ped",
        "pyanamo samples list own.tsv --out samples.tsv",
        "pyanamo samples list s3://theirs/crams --access requester_pays --bucket-region eu-west-1 --out samples.tsv",
        "pyanamo samples list s3://1000genomes/1000G_2504_high_coverage/1000G_2504_high_coverage.sequence.index --access anonymous --no-check",
    )
)
def list_samples(
    context: Context,
    where: Annotated[
        str,
        typer.Argument(
            metavar="WHERE",
            help="s3://bucket/prefix, a folder, a table of samples (.tsv, .csv: sample, reads, index, sex, alias,"
            " reference), or a sequence.index of 1000 Genomes.",
        ),
    ],
    random: Annotated[int | None, typer.Option("--random", min=1, help="Choose so many at random.")] = None,
    seed: Annotated[int, typer.Option("--seed", help="The same seed chooses the same samples.")] = 1,
    name: Annotated[
        list[str] | None, typer.Option("--name", help="Only this sample or ENA run (may be repeated).")
    ] = None,
    alias: Annotated[
        list[str] | None,
        typer.Option(
            "--alias", metavar="NAME:SM", help="Reads whose @RG SM is SM are of sample NAME (may be repeated)."
        ),
    ] = None,
    access: Annotated[Access, typer.Option("--access", help="How the bucket is read.")] = Access.ROLE,
    bucket_region: Annotated[
        str, typer.Option("--bucket-region", metavar="REGION", help="The bucket's region, if it is another one.")
    ] = "",
    bucket_endpoint: Annotated[
        str, typer.Option("--bucket-endpoint", metavar="URL", help="Where the bucket is, if it is outside AWS.")
    ] = "",
    ped: Annotated[
        Path | None, typer.Option("--ped", exists=True, dir_okay=False, help="A pedigree that tells the samples' sex.")
    ] = None,
    data: Annotated[
        str | None,
        typer.Option("--data", help="Where the runs of a sequence.index lie; default: the folder data beside it."),
    ] = None,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Look into each file: sample, index, end.")] = True,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Write a table of the samples there.")] = None,
    by: Annotated[Named, typer.Option("--by", help="What the items of a sheet shall be called.")] = Named.SAMPLE,
) -> Told:
    """List samples: one per BAM or CRAM file, with its index, named by @RG SM."""
    from pyanamo_core.genomics.inputs import Access as BucketAccess
    from pyanamo_core.genomics.inputs import Inputs
    from pyanamo_core.genomics.samples import choose

    if not where.startswith("s3://"):
        where = str(Path(where).resolve())  # pilots run elsewhere: what they are told must not depend on this folder
    aliases = _aliases(alias or ())

    def declared(bucket: str) -> BucketAccess:
        return BucketAccess(bucket, access.value, bucket_region, bucket_endpoint)

    buckets = [declared(one) for one in _buckets(where, data or "")]
    if bucket_endpoint:
        check_endpoint(bucket_endpoint)
    clients = context.patient_clients if bucket_endpoint else context.clients if buckets else None
    inputs = Inputs(buckets, clients)
    listed = _listed(inputs, where, data)
    more = {one for entry in listed for one in _buckets(entry.uri)}.difference(one.bucket for one in buckets)
    if more:  # a table names buckets of its own
        inputs = Inputs([*buckets, *(declared(one) for one in sorted(more))], clients or context.clients)
    if not listed:
        raise NoReads(where=where)
    if ped is not None:
        from pyanamo_core.genomics.listings import read_ped, with_sexes

        listed = with_sexes(listed, read_ped(ped), ped)
    chosen = _named(listed, name, where, aliases) if name else _renamed(listed, aliases)
    if random is not None:
        chosen = choose(chosen, random, seed)
    samples = _looked_into(context, inputs, chosen, aliases) if check else [_unchecked(one) for one in chosen]
    bad = [one for one in samples if one.problem]
    if bad:
        lines = [one.problem if one.problem.startswith(one.reads) else f"{one.reads}: {one.problem}" for one in bad]
        if len(lines) > SHOWN_PROBLEMS:
            lines[SHOWN_PROBLEMS:] = [f"… and {len(lines) - SHOWN_PROBLEMS} more"]
        problems = "\n".join(lines)
        raise SamplesRefused(count=len(bad), total=len(samples), where=where, problems=problems)
    if out:
        write_samples(out, samples, by)
    return Told(
        samples,
        view=lambda rows: _view(rows, len(listed), out),
        quiet=[getattr(one, by.value) or one.reads for one in samples],
        next="pyanamo loci plan REFERENCE.fa --out loci.txt"
        + (f"; then: pyanamo sheet make --samples {out} --loci loci.txt" if out else ""),
    )


def _buckets(*addresses: str) -> list[str]:
    found = (one.removeprefix("s3://").partition("/")[0] for one in addresses if one.startswith("s3://"))
    return list(dict.fromkeys(found))


def _listed(inputs: Inputs, where: str, data: str | None) -> list[Reads]:
    """The reads that lie there, or that a list there names."""
    from pyanamo_core.genomics import listings
    from pyanamo_core.genomics.samples import list_reads

    if not listings.is_listing(where):
        return list_reads(inputs, where)
    with tempfile.TemporaryDirectory(prefix="pyanamo-") as folder:
        path = Path(where)
        if where.startswith("s3://"):
            path = Path(folder) / where.rpartition("/")[2]
            try:
                inputs.fetch(where, path)
            except FileNotFoundError:
                raise NoReads(where=where) from None
        if where.lower().endswith(listings.INDEX_ENDING):
            return listings.read_sequence_index(path, data or listings.data_beside(where))
        return listings.read_table(path)


def write_samples(path: Path, samples: Iterable[Sample], by: Named = Named.SAMPLE) -> None:
    """Write the table that `sheet make --items` reads: tab-separated, with a header; `item` is the itemID."""
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(("item", *COLUMNS))
        writer.writerows([getattr(one, by.value), *(getattr(one, column) for column in COLUMNS)] for one in samples)
    part.replace(path)


def _aliases(given: Iterable[str]) -> dict[str, str]:
    """Name of a sample by the SM that its reads have."""
    names: dict[str, str] = {}
    for one in given:
        new, colon, read_group_sample = one.partition(":")
        if not (new and colon and read_group_sample):
            raise AliasMalformed(alias=one)
        names[read_group_sample] = new
    return names


def _named(listed: Sequence[Reads], names: Sequence[str], where: str, aliases: Mapping[str, str]) -> list[Reads]:
    from dataclasses import replace

    from pyanamo_core.errors import SampleMissing
    from pyanamo_core.genomics.samples import match

    found: list[Reads] = []
    for one in names:
        fitting = match(listed, one)
        if not fitting:
            raise SampleMissing(sample=one, place=where, hint=f", which has {len(listed)} others")
        # A sample's name must be its SM; an ENA run says nothing about the sample.
        renamed = next((sm for sm, new in aliases.items() if new == one), "")
        found += [each if each.run == one else replace(each, name=one, read_group_sample=renamed) for each in fitting]
    return found


def _renamed(listed: Sequence[Reads], aliases: Mapping[str, str]) -> list[Reads]:
    """Entries of a table of samples whose names were given as aliases, with the SM that goes with them."""
    from dataclasses import replace

    known_as = {new: sm for sm, new in aliases.items()}
    return [
        replace(one, read_group_sample=known_as[one.name])
        if one.name in known_as and not one.read_group_sample
        else one
        for one in listed
    ]


def _looked_into(context: Context, inputs: Inputs, chosen: Sequence[Reads], aliases: Mapping[str, str]) -> list[Sample]:
    from dataclasses import replace

    from pyanamo_core.genomics.samples import check_reads, duplicates

    checked: list[Checked] = []
    pool = ThreadPoolExecutor(CHECKS_AT_A_TIME)
    try:
        with Bar(context, "check", unit="samples") as bar:
            for one in pool.map(lambda one: check_reads(inputs, one), chosen):
                checked.append(one)
                bar.update(len(checked), len(chosen))
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C nobody waits for thousands of checks
    for place, one in enumerate(checked):
        if one.sample in aliases and not one.reads.read_group_sample:
            new = aliases[one.sample]
            reads = replace(one.reads, name=new, read_group_sample=one.sample)
            checked[place] = replace(one, reads=reads, sample=new)
    double = duplicates(checked)
    return [_sample(one, double) for one in checked]


def _sample(one: Checked, double: dict[str, list[str]]) -> Sample:
    reads, problem = one.reads, one.problem
    if not problem and not reads.index:
        problem = "it has no index beside it"
    if not problem and one.sample in double:
        others = ", ".join(uri for uri in double[one.sample] if uri != reads.uri)
        problem = f"sample {one.sample} is also in {others}"
    sex = reads.sex or "unknown"
    return Sample(one.sample, reads.run, reads.uri, reads.index, reads.size, reads.argument, sex, problem)


def _unchecked(reads: Reads) -> Sample:
    """Named after its file: only a look into it could tell its sample, which the task then does."""
    name, sex = reads.name or reads.stem, reads.sex or "unknown"
    return Sample(name, reads.run, reads.uri, reads.index, reads.size, reads.argument, sex)


def _view(rows: list[Sample], listed: int, out: Path | None) -> Any:
    from rich.console import Group

    columns = ["sample", "run", "sex", "size", "reads"]
    cells: list[list[Any]] = [
        [one.sample, one.run, one.sex, size(one.bytes) if one.bytes else "", one.reads] for one in rows
    ]
    if not any(one.sex != "unknown" for one in rows):
        columns.remove("sex")
        cells = [[*line[:2], *line[3:]] for line in cells]
    shown = table(columns, cells, right=["size"])
    of = f" of {listed:,}" if listed != len(rows) else ""
    return Group(shown, f"{len(rows):,}{of} samples" + (f", written to {out}" if out else ""))
