"""`pyanamo deploy` and `pyanamo destroy`: the CloudFormation stack that owns a workflow's compute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pyanamo.context import Context, command
from pyanamo.render import Told, fields, size, table
from pyanamo_core.errors import BadInput, PyAnamoError
from pyanamo_core.settings import WORKFLOW_FILE

if TYPE_CHECKING:
    from rich.console import RenderableType

    from pyanamo_core.stack.life import Event, Plan, Stack
    from pyanamo_core.workflow import Workflow

DEFAULT_STACK = "HaplotypeCaller"
STACK = Annotated[
    str | None, typer.Option("--stack", metavar="NAME", help="The stack's name; default: by the workflow's.")
]
FILE = Annotated[
    Path | None,
    typer.Argument(metavar="FILE", help=f"The workflow file; default: {WORKFLOW_FILE} here, if there is one."),
]


class SettingInvalid(BadInput):
    """--set takes NAME=VALUE, not {given!r}. The names stand in deployments/cloudformation.yaml under Parameters."""


class OutputThere(PyAnamoError):
    """{folder} holds files already ({names}); nothing was written. Name another folder."""

    exit_code = 5


class NothingToWrite(BadInput):
    """--write puts the stack's lines into a workflow file, and there is none. Name it: pyanamo deploy FILE --write"""


@dataclass(frozen=True)
class Deployed:
    """What `deploy` did, or would do."""

    stack: str
    region: str
    status: str
    changes: tuple[dict[str, str], ...] = ()
    given: Mapping[str, str] = field(default_factory=dict[str, str])
    outputs: Mapping[str, str] = field(default_factory=dict[str, str])
    workflow_file: str = ""


@dataclass(frozen=True)
class Destroyed:
    """What `destroy` did."""

    stack: str
    deleted: bool
    kept: Mapping[str, str]
    data_deleted: bool = False


@command(
    example=(
        "pyanamo deploy --dry-run",
        "pyanamo deploy workflow.yaml --write",
        "pyanamo deploy workflow.yaml --set SpotVcpus=512",
        "pyanamo deploy --set VpcId=vpc-0a1b --set Subnets=subnet-0a,subnet-0b --set Bucket=lab-results",
        "pyanamo deploy --for-admin --out for-admin",
    )
)
def deploy(
    context: Context,
    file: FILE = None,
    stack: STACK = None,
    setting: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A parameter of the stack, e.g. JobRole=ARN, SpotVcpus=512."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show the change set, and change nothing.")] = False,
    for_admin: Annotated[
        bool,
        typer.Option("--for-admin", help="Change nothing; print template, policies and a letter for who may do it."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="With --for-admin: write them as files there.")
    ] = None,
    account: Annotated[
        str | None,
        typer.Option("--account", metavar="ID", help="With --for-admin: the account; default: the credentials'."),
    ] = None,
    write: Annotated[
        bool,
        typer.Option("--write", help="Put the lines that fit the stack into the workflow file; all else in it stays."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before a thing is removed or replaced.")] = False,
) -> Told:
    """Make or update the stack on AWS: queues, machines, roles, bucket, image repository. Shows the change set first."""
    from pyanamo_core.stack.data import service_roles
    from pyanamo_core.stack.given import given_by
    from pyanamo_core.stack.life import Stack
    from pyanamo_core.stack.template import checked, read_template, template_text

    workflow = _workflow(context, file)
    if write and workflow is None:
        raise NothingToWrite()
    name = _stack_name(stack, workflow)
    text = template_text()
    told = checked((given_by(workflow) if workflow else {}) | _settings(setting or ()), read_template(text))
    if for_admin:
        return _for_admin(context, name, told, out, account)
    one = Stack(context.clients, name)
    show = _shower(context)
    state = one.settle(show)
    if state is None or state.outputs.get("Bucket") is None:
        told |= _found(context, one, told, workflow)
    roles, missing = service_roles(context.clients, make=not dry_run)
    if "ServiceRole" not in told and (role := roles.get("batch.amazonaws.com")):
        told["ServiceRole"] = role
    for service in missing:
        context.say(f"AWS's own role for {service} is missing. {_say_role(service, dry_run)}")
    plan = one.plan(text, told, dry_run=dry_run)
    _show_plan(context, plan)
    region = context.clients.region or ""
    if dry_run:
        one.drop(plan)
        changes = tuple(_row(change) for change in plan.changes)
        return Told(
            Deployed(name, region, "dry run", changes, told), view=lambda _: _counted(plan), next="pyanamo deploy"
        )
    if plan.change_set:
        losing = [change.name for change in plan.changes if change.loses]
        if losing:
            try:
                context.confirm(f"Remove or replace {', '.join(losing)}", yes=yes)
            except BaseException:
                one.drop(plan)
                raise
        state = one.apply(plan, show)
    else:
        state = one.state()
    from pyanamo_core.stack.given import lines_for

    outputs = dict(state.outputs) if state else {}
    if write:
        workflow = _write(context, file or context.folder / WORKFLOW_FILE, lines_for(outputs))
    done = Deployed(
        name,
        region,
        state.status if state else "",
        tuple(_row(change) for change in plan.changes),
        told,
        outputs,
        lines_for(outputs),
    )
    return Told(
        done, view=_view, quiet=[f"{key}={value}" for key, value in outputs.items()], next=_after(done, workflow)
    )


def _workflow(context: Context, file: Path | None) -> Workflow | None:
    from pyanamo_core.workflow_file import read_workflow

    if file is None:
        file = context.folder / WORKFLOW_FILE
        if not file.is_file():
            return None
    workflow = read_workflow(file)
    return workflow.model_copy(update={"table": context.table}) if context.table else workflow


def _stack_name(stack: str | None, workflow: Workflow | None) -> str:
    from pyanamo_core.stack.given import stack_name

    return stack or (stack_name(workflow) if workflow else DEFAULT_STACK)


def _write(context: Context, file: Path, lines: str) -> Workflow:
    """The workflow file with the stack's lines, as it is then. It changes as a whole or not at all."""
    from pyanamo_core.stack.given import with_lines
    from pyanamo_core.workflow_file import parse_workflow

    before = file.read_text(encoding="utf-8-sig")
    after = with_lines(before, lines)
    workflow = parse_workflow(after, path=file)
    if after != before:
        beside = file.with_name(f".{file.name}.new")
        beside.write_text(after, encoding="utf-8")
        beside.chmod(file.stat().st_mode)
        beside.replace(file)
        context.say(f"put the stack's lines into {file}")
    return workflow


def _settings(told: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for one in told:
        name, sign, value = one.partition("=")
        if not sign or not name.strip():
            raise SettingInvalid(given=one)
        found[name.strip()] = value.strip()
    return found


def _found(context: Context, stack: Stack, told: Mapping[str, str], workflow: Workflow | None) -> dict[str, str]:
    """What exists already and is taken instead of made: the workflow's bucket, what an earlier stack kept."""
    from pyanamo_core.stack.data import bucket_exists, kept

    found: dict[str, str] = {}
    if workflow and "Bucket" not in told:
        named = workflow.buckets.results.removeprefix("s3://").partition("/")[0]
        if exists := bucket_exists(context.clients, named):
            found["Bucket"] = named
        elif exists is None:
            context.say(
                f"bucket {named} of the workflow file cannot be looked at (somebody else's, or s3:ListBucket is missing): "
                f"it is not used; --set Bucket={named} uses it"
            )
    found |= kept(context.clients, stack.name, {**told, **found})
    for name, value in found.items():
        context.say(f"{name} {value} exists and is used; nothing of that kind is made")
    return found


def _say_role(service: str, dry_run: bool) -> str:
    if dry_run:
        return "It would be made."
    return f"Have it made once: aws iam create-service-linked-role --aws-service-name {service}"


def _row(change: object) -> dict[str, str]:
    from pyanamo_core.stack.life import Change

    assert isinstance(change, Change)  # noqa: S101 - narrows the type; the import is kept out of the module's top
    return {"action": change.action, "thing": change.name, "kind": change.kind, "replaces": change.replacement}


def _counted(plan: Plan) -> str:
    return f"{len(plan.changes)} changes; nothing was changed" if plan.changes else "nothing to change"


def _show_plan(context: Context, plan: Plan) -> None:
    if not context.for_people:
        return
    from pyanamo.render import console

    if not plan.change_set:
        context.say(f"stack {plan.stack} is as it should be")
        return
    context.say(f"{'new stack' if plan.kind == 'CREATE' else 'changes of stack'} {plan.stack}:")
    rows = [list(_row(change).values()) for change in plan.changes]
    console(stderr=True).print(table(["action", "thing", "kind", "replaces"], rows))


def _shower(context: Context) -> _Shower:
    return _Shower(context)


class _Shower:
    """Prints a stack's events, a line each."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def __call__(self, event: Event) -> None:
        reason = f": {event.reason}" if event.reason and event.failed else ""
        self._context.say(f"{event.status:<28} {event.name} ({event.kind}){reason}")


def _view(done: Deployed) -> RenderableType:
    from rich.console import Group
    from rich.text import Text

    told = fields({"stack": f"{done.stack}, {done.status}", **done.outputs})
    return Group(told, Text(f"\nThe workflow file needs these lines:\n\n{done.workflow_file}"))


def _after(done: Deployed, workflow: Workflow | None) -> str:
    fits = workflow and (workflow.queue, workflow.buckets.results, workflow.log_group) == (
        done.outputs.get("Queue"),
        done.outputs.get("Results"),
        done.outputs.get("LogGroup"),
    )
    push = f"push the image to {done.outputs['Repository']}, then " if "Repository" in done.outputs else ""
    put = "" if fits else "put these lines into the workflow file, "
    return f"{put}{push}pyanamo workflow create"


def _for_admin(context: Context, name: str, told: Mapping[str, str], out: Path | None, account: str | None) -> Told:
    from pyanamo_core.stack.admin import account_of, packet

    made = packet(
        name, told, account or account_of(context.patient_clients), context.settings.get("region") or "us-east-1"
    )
    if out is not None:
        there = [file for file in made.files if (out / file).exists()]
        if there:
            raise OutputThere(folder=out, names=", ".join(there))
        out.mkdir(parents=True, exist_ok=True)
        for file, text in made.files.items():
            (out / file).write_text(text, encoding="utf-8")
        written = [str(out / file) for file in made.files]
        return Told(
            {"files": written},
            view=lambda told: "\n".join(f"wrote {file}" for file in told["files"]),
            quiet=written,
            next=f"send {out} to your administrator; {out / 'letter.md'} says what for",
        )
    text = "\n".join(f"{'=' * 20} {file} {'=' * 20}\n{text}" for file, text in made.files.items())
    return Told(made.files, view=lambda _: text, quiet=list(made.files))


@command(example=("pyanamo destroy", "pyanamo destroy --stack HaplotypeCaller --yes", "pyanamo destroy --with-data"))
def destroy(
    context: Context,
    file: FILE = None,
    stack: STACK = None,
    with_data: Annotated[
        bool,
        typer.Option("--with-data", help="Also delete the bucket with all results, the log group and the images."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> Told:
    """Delete the stack. Results, logs, images and every ledger stay, unless told otherwise; tables stay always."""
    from pyanamo_core.stack.data import bucket_size, delete_data, kept
    from pyanamo_core.stack.given import given_by
    from pyanamo_core.stack.life import Stack, StackMissing
    from pyanamo_core.stack.template import parameters, read_template

    workflow = _workflow(context, file)
    name = _stack_name(stack, workflow)
    one = Stack(context.clients, name)
    show = _shower(context)
    state = one.settle(show)
    by_default = {each.name: each.default for each in parameters(read_template()).values()}
    values = dict(state.parameters) if state else by_default | (given_by(workflow) if workflow else {})
    for thing in ("Bucket", "LogGroup"):
        # What the stack made it tells itself: by the name alone another one's might be found.
        if state and not values.get(thing) and (made := state.outputs.get(thing)):
            values[thing] = made
    if state is None and not with_data:
        raise StackMissing(stack=name)
    # Of what was given to the stack, only what an earlier one of this name made: all else belongs to somebody.
    stays = kept(context.clients, name, values, own=True)
    if state is None and not stays:
        raise StackMissing(stack=name)
    said = (
        f"Delete stack {name} (queues, machines, job definition, roles, network)" if state else f"Stack {name} is gone"
    )
    if with_data:
        objects, total = bucket_size(context.clients, stays["Bucket"]) if "Bucket" in stays else (0, 0)
        things = "; ".join(f"{key} {value}" for key, value in stays.items())
        said += f"; and for good its data: {things}, with {objects:,} objects, {size(total)}"
    elif stays:
        context.say("stays: " + ", ".join(f"{key} {value}" for key, value in stays.items()) + ", and every table")
    context.confirm(said, yes=yes)
    if state is not None:
        one.destroy(show)
    if with_data:
        delete_data(context.clients, stays, context.say)
    done = Destroyed(name, state is not None, {} if with_data else stays, with_data)
    return Told(
        done,
        view=lambda told: f"deleted stack {told.stack}" + (" and its data" if told.data_deleted else ""),
        quiet=[f"{key}={value}" for key, value in done.kept.items()],
        next="pyanamo deploy (finds what stayed)" if done.kept else "pyanamo workflow list",
    )
