"""A stack's life on a CloudFormation that plays what moto does not: failures, waiting, what a killed deploy leaves."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from botocore.exceptions import ClientError

from pyanamo_core.clock import FakeClock
from pyanamo_core.stack.life import Change, Event, Stack, StackFailed, StackLeftOver, StackMissing, StackNameInvalid

TEMPLATE = """
Parameters:
  Name: {Type: String, Default: HC}
  SpotVcpus: {Type: Number, Default: 256}
  Added: {Type: String, Default: new}
Resources: {}
"""
ID = "arn:aws:cloudformation:eu-west-1:111122223333:stack/HC/0a1b"


def refused(code: str, message: str = "no") -> ClientError:
    return ClientError({"Error": {"Code": code, "Message": message}}, "Call")


class Formation:
    """CloudFormation with one stack, whose statuses come one by one."""

    def __init__(self, *statuses: str, parameters: dict[str, str] | None = None) -> None:
        self.statuses = list(statuses)
        self.parameters = parameters or {}
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self.events: list[list[tuple[str, str, str]]] = []
        """Name, status, reason: what is new at each look, oldest first."""
        self.told: list[dict[str, Any]] = []
        self.change_sets: list[dict[str, Any]] = [{"Status": "CREATE_COMPLETE", "Changes": []}]

    def client(self, service: str) -> Formation:
        assert service == "cloudformation"
        return self

    def names(self) -> list[str]:
        return [name for name, _ in self.asked]

    def describe_stacks(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        if not self.statuses:
            raise refused("ValidationError", "does not exist")
        status = self.statuses[0] if len(self.statuses) == 1 else self.statuses.pop(0)
        if status == "GONE":
            raise refused("ValidationError", "does not exist")
        told = [{"ParameterKey": name, "ParameterValue": value} for name, value in self.parameters.items()]
        return {"Stacks": [{"StackId": ID, "StackStatus": status, "Parameters": told}]}

    def describe_stack_events(self, StackName: str) -> dict[str, Any]:  # noqa: N803
        for name, status, reason in self.events.pop(0) if self.events else []:
            self.told.insert(
                0,
                {
                    "EventId": str(len(self.told)),
                    "Timestamp": datetime(2026, 1, 1, tzinfo=UTC),
                    "LogicalResourceId": name,
                    "ResourceType": "AWS::Batch::JobQueue",
                    "ResourceStatus": status,
                    "ResourceStatusReason": reason,
                },
            )
        return {"StackEvents": list(self.told)}

    def create_change_set(self, **asked: Any) -> dict[str, str]:
        self.asked.append(("create_change_set", asked))
        return {"Id": "change-set", "StackId": ID}

    def describe_change_set(self, **asked: Any) -> dict[str, Any]:
        self.asked.append(("describe_change_set", asked))
        return self.change_sets.pop(0) if len(self.change_sets) > 1 else self.change_sets[0]

    def delete_change_set(self, **asked: Any) -> None:
        self.asked.append(("delete_change_set", asked))

    def execute_change_set(self, **asked: Any) -> None:
        self.asked.append(("execute_change_set", asked))

    def delete_stack(self, **asked: Any) -> None:
        self.asked.append(("delete_stack", asked))


def stack(formation: Formation) -> Stack:
    return Stack(formation, "HC", clock=FakeClock())  # type: ignore[arg-type]


def nothing(event: Event) -> None:
    """Nobody looks on."""


def test_the_first_cause_of_a_failure_is_told_and_not_what_it_cancelled() -> None:
    # Given a change that fails in one place, whereupon all else is cancelled and rolled back
    formation = Formation("UPDATE_COMPLETE")
    formation.events = [[("HC", "UPDATE_COMPLETE", "")]]
    one = stack(formation)
    plan = one.plan(TEMPLATE, {})
    formation.statuses = ["UPDATE_IN_PROGRESS", "UPDATE_ROLLBACK_IN_PROGRESS", "UPDATE_ROLLBACK_COMPLETE"]
    formation.events = [
        [],
        [("Queue", "UPDATE_IN_PROGRESS", "")],
        [
            ("Roles", "CREATE_FAILED", "Resource creation cancelled"),
            ("Queue", "UPDATE_FAILED", "vCPU limit exceeded"),
            ("Other", "UPDATE_FAILED", "later"),
        ],
    ]
    # When it is executed
    seen: list[Event] = []
    with pytest.raises(StackFailed, match=r"UPDATE_ROLLBACK_COMPLETE.*Queue.*vCPU limit exceeded") as caught:
        one.apply(plan, seen.append)
    # Then the reason is the first one that is no echo, and each event was shown once, in order
    assert "cancelled" not in str(caught.value)
    assert [event.name for event in seen] == ["Queue", "Roles", "Queue", "Other"]


def test_parameters_that_are_not_given_stay_as_they_are_in_the_stack() -> None:
    # Given a stack with a ceiling of its own, of a template that had no `Added` yet
    formation = Formation("UPDATE_COMPLETE", parameters={"SpotVcpus": "64", "Name": "HC", "Dropped": "x"})
    stack(formation).plan(TEMPLATE, {"Name": "Other"})
    # Then a new plan keeps it, takes the default of what is new, and leaves out what the template no longer has
    (asked,) = [told for name, told in formation.asked if name == "create_change_set"]
    values = {one["ParameterKey"]: one["ParameterValue"] for one in asked["Parameters"]}
    assert values == {"Name": "Other", "SpotVcpus": "64", "Added": "new"}
    assert asked["ChangeSetType"] == "UPDATE"


def test_a_change_set_is_waited_for_and_read_to_its_last_page() -> None:
    def changes(*names: str) -> list[dict[str, Any]]:
        return [
            {
                "ResourceChange": {
                    "Action": "Modify",
                    "LogicalResourceId": name,
                    "ResourceType": "T",
                    "Replacement": "True" if name == "B" else "False",
                }
            }
            for name in names
        ]

    formation = Formation("UPDATE_COMPLETE")
    formation.change_sets = [
        {"Status": "CREATE_IN_PROGRESS"},
        {"Status": "CREATE_COMPLETE", "Changes": changes("A"), "NextToken": "more"},
        {"Status": "CREATE_COMPLETE", "Changes": changes("B")},
    ]
    plan = stack(formation).plan(TEMPLATE, {})
    assert [(change.name, change.loses) for change in plan.changes] == [("A", False), ("B", True)]


@pytest.mark.parametrize(
    ("change", "loses"),
    [
        (Change("Remove", "Queue", "T"), True),
        (Change("Modify", "Queue", "T", "True"), True),
        (Change("Modify", "Queue", "T", "Conditional"), False),
        (Change("Add", "Queue", "T"), False),
    ],
)
def test_only_what_is_removed_or_replaced_is_lost(change: Change, loses: bool) -> None:
    assert change.loses is loses


def test_no_change_is_no_failure_and_leaves_no_change_set() -> None:
    formation = Formation("UPDATE_COMPLETE")
    formation.change_sets = [
        {"Status": "FAILED", "StatusReason": "The submitted information didn't contain changes. Submit different"}
    ]
    plan = stack(formation).plan(TEMPLATE, {})
    assert (plan.change_set, plan.changes) == ("", ())
    assert formation.names()[-1] == "delete_change_set"


def test_a_template_that_cloudformation_refuses_changes_nothing() -> None:
    formation = Formation("UPDATE_COMPLETE")
    formation.change_sets = [{"Status": "FAILED", "StatusReason": "Circular dependency"}]
    with pytest.raises(StackFailed, match="Circular dependency"):
        stack(formation).plan(TEMPLATE, {})
    assert "execute_change_set" not in formation.names()


def test_what_a_failed_creation_left_is_removed_and_made_anew() -> None:
    # Given a stack that was rolled back when it was made
    formation = Formation("ROLLBACK_COMPLETE", "DELETE_IN_PROGRESS", "GONE")
    # When it is only shown, then that is said, and it stays
    with pytest.raises(StackLeftOver, match="ROLLBACK_COMPLETE"):
        stack(Formation("ROLLBACK_COMPLETE")).plan(TEMPLATE, {}, dry_run=True)
    # When it is deployed, then it is deleted first, and made
    plan = stack(formation).plan(TEMPLATE, {})
    assert formation.names()[:2] == ["delete_stack", "create_change_set"]
    assert plan.kind == "CREATE"


def test_what_goes_on_already_is_waited_for() -> None:
    # Given a deploy that was killed while CloudFormation worked on
    formation = Formation("CREATE_IN_PROGRESS", "CREATE_IN_PROGRESS", "CREATE_IN_PROGRESS", "CREATE_COMPLETE")
    formation.events = [[("HC", "CREATE_IN_PROGRESS", "")], [("Queue", "CREATE_COMPLETE", "")]]
    seen: list[Event] = []
    # When the same command comes again
    state = stack(formation).settle(seen.append)
    # Then it follows what goes on to its end, and asks for nothing
    assert state is not None
    assert state.status == "CREATE_COMPLETE"
    assert [event.name for event in seen] == ["Queue"]
    assert formation.asked == []


def test_destroying_what_is_not_there_is_told() -> None:
    with pytest.raises(StackMissing, match="HC"):
        stack(Formation()).destroy(nothing)


def test_a_deletion_that_fails_tells_what_could_not_go() -> None:
    formation = Formation("UPDATE_COMPLETE", "DELETE_IN_PROGRESS", "DELETE_FAILED")
    formation.events = [[], [("Wall", "DELETE_FAILED", "has a dependent object")]]
    with pytest.raises(StackFailed, match=r"Wall.*dependent object"):
        stack(formation).destroy(nothing)


@pytest.mark.parametrize("name", ["", "1st", "under_score", "a" * 37, "-x"])
def test_a_name_by_which_kept_data_could_not_be_found_is_refused(name: str) -> None:
    with pytest.raises(StackNameInvalid):
        Stack(Formation(), name)  # type: ignore[arg-type]
