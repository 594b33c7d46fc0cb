"""The template, and what it says for given parameters: conditions decided, names filled in, policies as plain JSON.

CloudFormation itself works the template out when it makes a stack. This is for those who need to know before, or
without an account: the letter to an administrator, and the tests of the policies.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final, cast

import yaml

from pyanamo_core.errors import BadInput
from pyanamo_core.resources import resource

TEMPLATE: Final = "deployments/cloudformation.yaml"
MAX_BYTES: Final = 51_200
"""CloudFormation takes a template of so many bytes in the request itself; a bigger one would need a bucket first."""

_LEFT_OUT: Final = object()
_COMMENT: Final = re.compile(r"(?m)^ *#.*\n")
_VARIABLE: Final = re.compile(r"\$\{([^!}][^}]*)\}")


class ParameterUnknown(BadInput):
    """The stack has no parameter {name}. It has: {known}"""


class ParameterMalformed(BadInput):
    """Parameter {name} of the stack cannot be {value!r}: {reason}."""


class _Loader(yaml.SafeLoader):
    """YAML with CloudFormation's short forms: `!Ref x` is {"Ref": "x"}, `!Sub x` is {"Fn::Sub": "x"}."""


def _short_form(loader: yaml.SafeLoader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = "Ref" if suffix == "Ref" else "Condition" if suffix == "Condition" else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        value: Any = loader.construct_scalar(node)
        if suffix == "GetAtt":
            value = str(value).split(".", 1)
    elif isinstance(node, yaml.SequenceNode):
        value = loader.construct_sequence(node, deep=True)
    else:
        value = loader.construct_mapping(cast("yaml.MappingNode", node), deep=True)
    return {name: value}


_Loader.add_multi_constructor("!", _short_form)  # pyright: ignore[reportUnknownMemberType]


@dataclass(frozen=True)
class Parameter:
    """One parameter of the template."""

    name: str
    default: str
    about: str
    pattern: str = ""
    number: bool = False
    allowed: tuple[str, ...] = ()


def template_text(*, comments: bool = False) -> str:
    """The template as it is sent to CloudFormation: without its comments, which a request has little room for.

    Args:
        comments: with them, for people.
    """
    text = resource(TEMPLATE).read_text(encoding="utf-8")
    if comments:
        return text
    # A machine's user data have lines of their own that look so.
    before, block, rest = text.partition("Fn::Sub: |\n")
    data = re.match(r"(?: {14}.*\n|\n)*", rest)
    kept = data[0] if data else ""
    return _COMMENT.sub("", before) + block + kept + _COMMENT.sub("", rest[len(kept) :])


def read_template(text: str | None = None) -> dict[str, Any]:
    """The template with long forms of all functions."""
    told = yaml.load(template_text() if text is None else text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    return cast("dict[str, Any]", told)


def parameters(template: Mapping[str, Any]) -> dict[str, Parameter]:
    """The template's parameters by name, in its order."""
    return {
        name: Parameter(
            name,
            str(told.get("Default", "")),
            str(told.get("Description", "")),
            str(told.get("AllowedPattern", "")),
            told.get("Type") == "Number",
            tuple(str(value) for value in told.get("AllowedValues", ())),
        )
        for name, told in template["Parameters"].items()
    }


def checked(given: Mapping[str, str], template: Mapping[str, Any]) -> dict[str, str]:
    """The given parameters, if the template knows them and takes their values.

    Raises:
        ParameterUnknown, ParameterMalformed.
    """
    known = parameters(template)
    for name, value in given.items():
        one = known.get(name)
        if one is None:
            raise ParameterUnknown(name=name, known=", ".join(known))
        if one.number and not re.fullmatch(r"\d+(\.\d+)?", value):
            raise ParameterMalformed(name=name, value=value, reason="it must be a number")
        if one.pattern and not re.fullmatch(one.pattern, value):
            raise ParameterMalformed(name=name, value=value, reason=f"it must look like {one.pattern}")
        if one.allowed and value not in one.allowed:
            raise ParameterMalformed(name=name, value=value, reason=f"it must be one of {', '.join(one.allowed)}")
    return dict(given)


@dataclass(frozen=True)
class Role:
    """A role that the stack makes.

    Args:
        trust: who may assume it.
        policies: by name.
        managed: ARNs of AWS's own policies.
    """

    name: str
    trust: dict[str, Any]
    policies: dict[str, dict[str, Any]] = field(default_factory=dict[str, "dict[str, Any]"])
    managed: tuple[str, ...] = ()

    @property
    def document(self) -> dict[str, Any]:
        """All its policies as one."""
        statements = [one for policy in self.policies.values() for one in policy["Statement"]]
        return {"Version": "2012-10-17", "Statement": statements}


@dataclass(frozen=True)
class Resolved:
    """What the template says for these parameters.

    A name that CloudFormation makes up is `<stack>-<logical id>`, in small letters for a bucket.

    Args:
        given: parameters that are not as their defaults.
        account, region, partition: where the stack would be.
    """

    template: Mapping[str, Any]
    given: Mapping[str, str]
    stack: str
    account: str
    region: str
    partition: str = "aws"

    @cached_property
    def values(self) -> dict[str, str]:
        """All parameters."""
        return {name: one.default for name, one in parameters(self.template).items()} | dict(self.given)

    def holds(self, condition: str) -> bool:
        """Is the template's condition of this name met?"""
        return bool(self._work_out(self.template["Conditions"][condition]))

    @cached_property
    def resources(self) -> dict[str, dict[str, Any]]:
        """What would be made: properties by logical id, worked out."""
        made: dict[str, dict[str, Any]] = {}
        for name, told in self.template["Resources"].items():
            if "Condition" not in told or self.holds(told["Condition"]):
                made[name] = {"Type": told["Type"], "Properties": self._work_out(told.get("Properties", {}))}
        return made

    @cached_property
    def roles(self) -> dict[str, Role]:
        """The roles that would be made, by logical id, with inline policies and those attached to them."""
        found: dict[str, Role] = {}
        for name, told in self.resources.items():
            properties = told["Properties"]
            if told["Type"] == "AWS::IAM::Role":
                policies = {one["PolicyName"]: one["PolicyDocument"] for one in properties.get("Policies", ())}
                managed = tuple(properties.get("ManagedPolicyArns", ()))
                found[name] = Role(name, properties["AssumeRolePolicyDocument"], policies, managed)
        for told in self.resources.values():
            if told["Type"] == "AWS::IAM::Policy":
                properties = told["Properties"]
                for role in found.values():
                    if self._name(role.name) in properties["Roles"]:
                        role.policies[properties["PolicyName"]] = properties["PolicyDocument"]
        return found

    # ------------------------------------------------------------------------------------------------ functions

    def _work_out(self, told: Any) -> Any:
        if isinstance(told, list):
            worked = [self._work_out(one) for one in cast("list[Any]", told)]
            return [one for one in worked if one is not _LEFT_OUT]
        if not isinstance(told, dict):
            return told
        known = cast("dict[str, Any]", told)
        if len(known) == 1:
            name, value = next(iter(known.items()))
            if name == "Ref" or name.startswith("Fn::") or (name == "Condition" and isinstance(value, str)):
                return self._function(name, value)
        worked_out = {name: self._work_out(value) for name, value in known.items()}
        return {name: value for name, value in worked_out.items() if value is not _LEFT_OUT}

    def _function(self, name: str, value: Any) -> Any:
        if name == "Ref":
            return self._ref(str(value))
        if name == "Condition":
            return self.holds(value)
        if name == "Fn::If":
            return self._work_out(value[1] if self.holds(value[0]) else value[2])
        if name == "Fn::GetAtt":
            return self._attribute(value[0], value[1])
        if name == "Fn::Sub":
            return self._sub(value)
        if name == "Fn::GetAZs":
            return [f"{self.region}{letter}" for letter in "abc"]
        told = self._work_out(value)
        if name == "Fn::Equals":
            return str(told[0]) == str(told[1])
        if name == "Fn::Not":
            return not told[0]
        if name == "Fn::And":
            return all(told)
        if name == "Fn::Or":
            return any(told)
        if name == "Fn::Join":
            return str(told[0]).join(str(one) for one in told[1])
        if name == "Fn::Split":
            return str(told[1]).split(str(told[0]))
        if name == "Fn::Select":
            return told[1][int(told[0])]
        if name == "Fn::Base64":
            return told  # read by people here, by nobody's machine
        raise NotImplementedError(name)

    def _sub(self, value: Any) -> str:
        pattern = str(value) if isinstance(value, str) else str(value[0])
        own: dict[str, Any] = {} if isinstance(value, str) else value[1]
        local = {name: str(self._work_out(one)) for name, one in own.items()}

        def fill(found: re.Match[str]) -> str:
            name = found[1]
            if name in local:
                return local[name]
            logical, dot, attribute = name.partition(".")
            return str(self._attribute(logical, attribute) if dot else self._ref(name))

        return _VARIABLE.sub(fill, pattern)

    def _ref(self, name: str) -> Any:
        if name == "AWS::NoValue":
            return _LEFT_OUT
        pseudo = {
            "AWS::AccountId": self.account,
            "AWS::Region": self.region,
            "AWS::Partition": self.partition,
            "AWS::StackName": self.stack,
            "AWS::URLSuffix": "amazonaws.com",
        }
        if name in pseudo:
            return pseudo[name]
        return self.values[name] if name in self.values else self._name(name)

    def _name(self, logical: str) -> str:
        told = self.template["Resources"][logical]
        if told["Type"] == "AWS::ECR::Repository":
            return self.values["RepositoryName"]
        name = f"{self.stack}-{logical}"
        return name.lower() if told["Type"] == "AWS::S3::Bucket" else name

    def _attribute(self, logical: str, attribute: str) -> str:
        kind = self.template["Resources"][logical]["Type"]
        name = self._name(logical)
        if attribute == "Arn" and kind == "AWS::IAM::Role":
            return f"arn:{self.partition}:iam::{self.account}:role/{name}"
        if attribute == "Arn" and kind == "AWS::IAM::InstanceProfile":
            return f"arn:{self.partition}:iam::{self.account}:instance-profile/{name}"
        if attribute == "RepositoryUri":
            return f"{self.account}.dkr.ecr.{self.region}.amazonaws.com/{name}"
        return f"{name}.{attribute}"
