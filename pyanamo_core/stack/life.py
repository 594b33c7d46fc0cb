"""A stack's life: a change set that is shown first, its execution event by event, its end.

Every step can be killed and given again: what goes on in CloudFormation is waited for, what a killed `deploy` left
unfinished is removed, and what an earlier stack kept is found by its name.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

from pyanamo_core.aws import Clients, code_of, explained, is_aws_error
from pyanamo_core.clock import SystemClock
from pyanamo_core.errors import BadInput, NotFound, Refused, Surroundings
from pyanamo_core.stack.template import parameters, read_template

POLL_SECONDS: Final = 4.0
STACK_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,35}")
"""Short enough that CloudFormation puts the whole name into those that it makes up, by which kept data are found."""
CAPABILITIES: Final = ("CAPABILITY_IAM",)

_NOTHING: Final = ("didn't contain changes", "No updates are to be performed")


class StackMissing(NotFound):
    """CloudFormation has no stack {stack} here. Make it with: pyanamo deploy"""


class StackNameInvalid(BadInput):
    """{name!r} cannot be a stack's name: letters, digits and '-', a letter first, at most 36. Give another with --stack."""


class StackFailed(Surroundings):
    """Stack {stack} ended as {status}. First cause: {reason}. {next}"""


class StackLeftOver(Refused):
    """Stack {stack} is {status}, what an earlier try left. Without --dry-run it is removed and made anew."""


class QueueBusy(Refused):
    """{jobs} jobs are in queue {queue}; nothing was deleted. End them first: pyanamo runs cancel RUN"""


class Clock(Protocol):
    def sleep(self, seconds: float) -> None: ...


@dataclass(frozen=True)
class Change:
    """One change of a change set.

    Args:
        action: Add, Modify, Remove, Import or Dynamic.
        replacement: "True", "False" or "Conditional" (CloudFormation does not know yet); empty where it does not apply.
    """

    action: str
    name: str
    kind: str
    replacement: str = ""

    @property
    def loses(self) -> bool:
        """Is a thing that exists taken away, or put by another in its place?"""
        return self.action == "Remove" or self.replacement == "True"


@dataclass(frozen=True)
class Plan:
    """A change set that waits to be executed; `change_set` is empty if there is nothing to change."""

    stack: str
    stack_id: str
    kind: str
    changes: tuple[Change, ...]
    change_set: str


@dataclass(frozen=True)
class Event:
    """One line of a stack's progress."""

    when: float
    name: str
    kind: str
    status: str
    reason: str = ""

    @property
    def failed(self) -> bool:
        return self.status.endswith("_FAILED")


@dataclass(frozen=True)
class State:
    """A stack as it is."""

    stack_id: str
    status: str
    parameters: Mapping[str, str]
    outputs: Mapping[str, str]
    reason: str = ""

    @property
    def busy(self) -> bool:
        return self.status.endswith("_IN_PROGRESS") and self.status != "REVIEW_IN_PROGRESS"


class Stack:
    """One stack of this account and region.

    Args:
        name: at most 36 letters, digits and '-'.

    Raises:
        StackNameInvalid.
    """

    def __init__(self, clients: Clients, name: str, *, clock: Clock | None = None) -> None:
        if not STACK_NAME.fullmatch(name):
            raise StackNameInvalid(name=name)
        self.name = name
        self._clients = clients
        self._clock: Clock = clock or SystemClock()

    @property
    def _formation(self) -> Any:
        return self._clients.client("cloudformation")

    # ------------------------------------------------------------------------------------------------ looking

    def state(self, stack_id: str = "") -> State | None:
        """The stack as it is; None if there is none. With its id also one that is deleted."""
        with explained("cloudformation", "DescribeStacks"):
            try:
                told = self._formation.describe_stacks(StackName=stack_id or self.name)["Stacks"]
            except Exception as error:
                if is_aws_error(error) and code_of(error) == "ValidationError":
                    return None
                raise
        if not told or (not stack_id and told[0]["StackStatus"] == "DELETE_COMPLETE"):
            return None
        one = told[0]
        return State(
            one["StackId"],
            one["StackStatus"],
            {each["ParameterKey"]: str(each.get("ParameterValue", "")) for each in one.get("Parameters", ())},
            {each["OutputKey"]: str(each["OutputValue"]) for each in one.get("Outputs") or ()},
            str(one.get("StackStatusReason", "")),
        )

    def outputs(self) -> dict[str, str]:
        """What the stack tells. Raises StackMissing."""
        state = self.state()
        if state is None:
            raise StackMissing(stack=self.name)
        return dict(state.outputs)

    # ------------------------------------------------------------------------------------------------ changing

    def plan(self, text: str, given: Mapping[str, str], *, dry_run: bool = False) -> Plan:
        """A change set for this template and these parameters; others stay as they are in the stack.

        What an earlier try left unfinished is removed first (not in a dry run).

        Raises:
            StackLeftOver: in a dry run, where something would have to be removed first.
            StackFailed: CloudFormation refuses the template.
        """
        state = self.state()
        if state is not None and self._is_left_over(state):
            if dry_run and state.status != "REVIEW_IN_PROGRESS":
                raise StackLeftOver(stack=self.name, status=state.status)
            self._delete(state.stack_id)
            self._wait(state.stack_id, lambda event: None)
            state = None
        values = {name: one.default for name, one in parameters(read_template(text)).items()}
        if state is not None:
            values |= {name: value for name, value in state.parameters.items() if name in values}
        values |= given
        asked = [{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()]
        kind = "CREATE" if state is None else "UPDATE"
        with explained("cloudformation", "CreateChangeSet"):
            made = self._formation.create_change_set(
                StackName=self.name,
                ChangeSetName=f"pyanamo-{time.time_ns()}",
                ChangeSetType=kind,
                TemplateBody=text,
                Parameters=asked,
                Capabilities=list(CAPABILITIES),
                Description="pyanamo deploy",
            )
        plan = Plan(self.name, made["StackId"], kind, (), made["Id"])
        status, reason, changes = self._described(plan)
        if status == "FAILED":
            self.drop(plan)
            if any(words in reason for words in _NOTHING):
                return Plan(self.name, made["StackId"], kind, (), "")
            raise StackFailed(
                stack=self.name, status="a refused change set", reason=reason, next="Nothing was changed."
            )
        return Plan(self.name, made["StackId"], kind, changes, made["Id"])

    @staticmethod
    def _is_left_over(state: State) -> bool:
        return state.status in ("REVIEW_IN_PROGRESS", "ROLLBACK_COMPLETE", "ROLLBACK_FAILED", "CREATE_FAILED")

    def _described(self, plan: Plan) -> tuple[str, str, tuple[Change, ...]]:
        while True:
            changes: list[Change] = []
            token: dict[str, str] = {}
            while True:
                with explained("cloudformation", "DescribeChangeSet"):
                    told = self._formation.describe_change_set(
                        StackName=self.name, ChangeSetName=plan.change_set, **token
                    )
                changes += [_change(each["ResourceChange"]) for each in told.get("Changes", ())]
                if not told.get("NextToken"):
                    break
                token = {"NextToken": told["NextToken"]}
            if told["Status"] in ("CREATE_COMPLETE", "FAILED"):
                return told["Status"], str(told.get("StatusReason", "")), tuple(changes)
            self._clock.sleep(POLL_SECONDS)

    def drop(self, plan: Plan) -> None:
        """Forget a change set, and the empty stack that a first one makes."""
        if plan.change_set:
            with explained("cloudformation", "DeleteChangeSet"):
                self._formation.delete_change_set(StackName=self.name, ChangeSetName=plan.change_set)
        state = self.state(plan.stack_id)
        if state is not None and state.status == "REVIEW_IN_PROGRESS":
            self._delete(plan.stack_id)

    def apply(self, plan: Plan, on_event: Callable[[Event], None]) -> State:
        """Execute a change set and follow it to its end.

        Raises:
            StackFailed: with the first cause; CloudFormation has put back what was before.
        """
        seen = set(self._event_ids(plan.stack_id))
        with explained("cloudformation", "ExecuteChangeSet"):
            self._formation.execute_change_set(StackName=self.name, ChangeSetName=plan.change_set)
        return self._wait(plan.stack_id, on_event, seen)

    def settle(self, on_event: Callable[[Event], None]) -> State | None:
        """Wait for what goes on already, e.g. begun by a `deploy` that was killed. Returns the stack then, or None."""
        state = self.state()
        if state is None or not state.busy:
            return state
        try:
            return self._wait(state.stack_id, on_event)
        except StackFailed:
            return self.state()

    def destroy(self, on_event: Callable[[Event], None]) -> None:
        """Delete the stack, and follow it to its end. Data stay: bucket, log group, image repository, tables.

        Raises:
            StackMissing: there is none.
            QueueBusy: jobs are in one of its queues.
            StackFailed: something could not be deleted; the same again goes on.
        """
        state = self.state()
        if state is None:
            raise StackMissing(stack=self.name)
        for name in ("Queue", "OnDemandQueue"):
            if queue := state.outputs.get(name):
                self._refuse_busy(queue)
        seen = set(self._event_ids(state.stack_id))
        self._delete(state.stack_id)
        self._wait(state.stack_id, on_event, seen)

    def _refuse_busy(self, queue: str) -> None:
        batch = self._clients.client("batch")
        jobs = 0
        try:
            with explained("batch", "ListJobs"):
                for status in ("SUBMITTED", "PENDING", "RUNNABLE", "STARTING", "RUNNING"):
                    jobs += len(batch.list_jobs(jobQueue=queue, jobStatus=status)["jobSummaryList"])
        except Exception as error:
            # A queue that is gone already has no jobs; CloudFormation says the rest.
            if is_aws_error(error.__cause__ or error) and code_of(error.__cause__ or error) == "ClientException":
                return
            raise
        if jobs:
            raise QueueBusy(jobs=jobs, queue=queue)

    def _delete(self, stack_id: str) -> None:
        with explained("cloudformation", "DeleteStack"):
            self._formation.delete_stack(StackName=stack_id)

    # ------------------------------------------------------------------------------------------------ waiting

    def _wait(self, stack_id: str, on_event: Callable[[Event], None], seen: set[str] | None = None) -> State:
        seen = set(self._event_ids(stack_id)) if seen is None else seen
        first_cause = ""
        while True:
            state = self.state(stack_id)
            for number, event in self._events(stack_id, seen):
                seen.add(number)
                on_event(event)
                if event.failed and not first_cause and "cancelled" not in event.reason:
                    first_cause = f"{event.name} ({event.kind}): {event.reason}"
            if state is None:
                return State(stack_id, "DELETE_COMPLETE", {}, {})
            if not state.busy and state.status != "REVIEW_IN_PROGRESS":
                break
            self._clock.sleep(POLL_SECONDS)
        if state.status in ("CREATE_COMPLETE", "UPDATE_COMPLETE", "DELETE_COMPLETE"):
            return state
        told = "Put that right and give the same command again."
        raise StackFailed(
            stack=self.name, status=state.status, reason=first_cause or state.reason or "not told", next=told
        )

    def _raw_events(self, stack_id: str) -> list[dict[str, Any]]:
        """Newest first, of the last hundred or so: what belongs to one operation."""
        try:
            with explained("cloudformation", "DescribeStackEvents"):
                return list(self._formation.describe_stack_events(StackName=stack_id)["StackEvents"])
        except Exception as error:
            if code_of(error.__cause__ or error) == "ValidationError":
                return []
            raise

    def _event_ids(self, stack_id: str) -> Iterator[str]:
        yield from (str(each["EventId"]) for each in self._raw_events(stack_id))

    def _events(self, stack_id: str, seen: set[str]) -> list[tuple[str, Event]]:
        """What is new, oldest first."""
        told = [each for each in self._raw_events(stack_id) if str(each["EventId"]) not in seen]
        return [
            (
                str(each["EventId"]),
                Event(
                    each["Timestamp"].timestamp(),
                    str(each["LogicalResourceId"]),
                    str(each.get("ResourceType", "")),
                    str(each["ResourceStatus"]),
                    str(each.get("ResourceStatusReason", "")),
                ),
            )
            for each in reversed(told)
        ]


def _change(told: Mapping[str, Any]) -> Change:
    return Change(
        str(told["Action"]),
        str(told["LogicalResourceId"]),
        str(told["ResourceType"]),
        str(told.get("Replacement") or ""),
    )
