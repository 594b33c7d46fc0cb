"""The evaluator that the tests of PyAnamo's policies stand on: each rule of IAM that it plays, both ways."""

from __future__ import annotations

from typing import Any

import pytest
from policy_support import Needed, allowed, like

READ = Needed("s3:GetObject", "arn:aws:s3:::lab/results/x")


def policy(*statements: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"Version": "2012-10-17", "Statement": list(statements)}]


def allow(**more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": "s3:GetObject", "Resource": "*"} | more


def test_nothing_said_is_no() -> None:
    assert not allowed(policy(), READ)
    assert allowed(policy(allow()), READ)


def test_a_deny_wins_over_every_allow_also_of_another_policy() -> None:
    deny = {"Effect": "Deny", "Action": "s3:*", "Resource": "arn:aws:s3:::lab/results/*"}
    assert not allowed([*policy(allow()), *policy(deny)], READ)
    assert allowed([*policy(allow()), *policy(deny)], Needed("s3:GetObject", "arn:aws:s3:::lab/other"))


@pytest.mark.parametrize(
    ("action", "yes"),
    [("s3:getobject", True), ("s3:Get*", True), ("*", True), ("s3:GetObjec?", True), ("s3:GetObjectTagging", False)],
)
def test_actions_are_matched_without_case_and_with_wildcards(action: str, yes: bool) -> None:
    assert allowed(policy(allow(Action=["batch:SubmitJob", action])), READ) is yes


@pytest.mark.parametrize(
    ("resource", "yes"),
    [
        ("arn:aws:s3:::lab/*", True),
        ("arn:aws:s3:::lab/results/?", True),
        ("arn:aws:s3:::lab", False),
        ("arn:aws:s3:::LAB/*", False),
        ("arn:aws:s3:::lab/results/", False),
        ("arn:aws:s3:::la", False),
    ],
)
def test_resources_are_matched_whole_and_with_case(resource: str, yes: bool) -> None:
    assert allowed(policy(allow(Resource=resource)), READ) is yes


def test_a_dot_or_bracket_in_a_pattern_is_itself() -> None:
    assert like("a.b[c]*", "a.b[c]d")
    assert not like("a.b", "axb")


def test_not_action_and_not_resource_turn_it_round() -> None:
    assert not allowed(policy({"Effect": "Allow", "NotAction": "s3:Get*", "Resource": "*"}), READ)
    assert allowed(policy({"Effect": "Allow", "NotAction": "batch:*", "Resource": "*"}), READ)
    assert not allowed(policy({"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:s3:::lab/*"}), READ)
    assert allowed(policy({"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:s3:::sea/*"}), READ)


@pytest.mark.parametrize(
    ("condition", "facts", "yes"),
    [
        ({"StringEquals": {"k": ["a", "b"]}}, {"K": "b"}, True),
        ({"StringEquals": {"k": "a"}}, {"k": "A"}, False),
        ({"StringEquals": {"k": "a"}}, {}, False),
        ({"StringEqualsIfExists": {"k": "a"}}, {}, True),
        ({"StringEqualsIfExists": {"k": "a"}}, {"k": "b"}, False),
        ({"StringLike": {"k": "a/*"}}, {"k": "a/b/c"}, True),
        ({"StringLike": {"k": "a/*"}}, {"k": "b/a/"}, False),
        ({"StringLikeIfExists": {"k": "a/*"}}, {}, True),
        ({"StringNotEquals": {"k": "a"}}, {}, True),
        ({"StringNotEquals": {"k": "a"}}, {"k": "a"}, False),
        ({"ArnEquals": {"k": "arn:aws:iam::aws:policy/x"}}, {"k": "arn:aws:iam::aws:policy/x"}, True),
        ({"Bool": {"k": "true"}}, {"k": "True"}, True),
        ({"Null": {"k": "true"}}, {}, True),
        ({"Null": {"k": "true"}}, {"k": "a"}, False),
        ({"StringEquals": {"k": "a"}, "StringLike": {"m": "*"}}, {"k": "a"}, False),
        ({"StringEquals": {"k": "a", "m": "b"}}, {"k": "a", "m": "b"}, True),
    ],
)
def test_conditions(condition: dict[str, Any], facts: dict[str, str], yes: bool) -> None:
    assert allowed(policy(allow(Condition=condition)), Needed(READ.action, READ.resource, facts)) is yes


@pytest.mark.parametrize(
    "statement",
    [
        allow(Condition={"DateLessThan": {"aws:CurrentTime": "2030-01-01T00:00:00Z"}}),
        allow(Resource="arn:aws:s3:::lab/${aws:username}/*"),
        allow(Principal="*"),
        allow(Effect="Perhaps"),
    ],
)
def test_what_it_does_not_play_is_an_error_and_no_guess(statement: dict[str, Any]) -> None:
    facts = {"aws:CurrentTime": "2026-01-01T00:00:00Z"}
    with pytest.raises(ValueError, match=r"unknown|not played"):
        allowed(policy(statement), Needed(READ.action, READ.resource, facts))
