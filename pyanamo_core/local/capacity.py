"""Where a job runs: the ceilings of compute environments, and their hosts where somebody has named them.

Without named hosts each attempt has a made-up instance of its own, as if every job got a machine. With them, attempts share
hosts, the first of the list with room being taken: a host that gives its slots back quickly gets the next jobs, which is how
a bad one swallows an array.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from pyanamo_core.local.compute import Environment, Queue

TOO_BIG: Final = (
    "MISCONFIGURATION:JOB_RESOURCE_REQUIREMENT - The job resource requirement (vCPU/memory/GPU)"
    " is higher than that can be met by the CE(s) attached to the job queue."
)


def new_instance() -> str:
    """An instance id."""
    return f"i-{uuid.uuid4().hex[:17]}"


@dataclass
class Host:
    """A machine of a compute environment.

    Attributes:
        vcpus: what it has.
        environment: variables that jobs on this host find besides their own (e.g. a scratch folder that is full).
        instance: its id; another one after it was terminated, and then without the variables: a new machine.
    """

    vcpus: float
    environment: Mapping[str, str] = field(default_factory=dict[str, str])
    instance: str = field(default_factory=new_instance)
    used: float = 0.0


@dataclass(frozen=True)
class Place:
    """Room that an attempt has taken."""

    environment: str
    """ARN of the compute environment."""
    vcpus: float
    host: Host

    @property
    def name(self) -> str:
        """Of the compute environment."""
        return self.environment.rpartition("/")[2]


class Capacity:
    """What is used of each environment. Nothing here locks: the engine does."""

    def __init__(self) -> None:
        self._ceilings: dict[str, float] = {}
        self._hosts: dict[str, list[Host]] = {}
        self._used: defaultdict[str, float] = defaultdict(float)
        self._invalid: dict[str, str] = {}

    def set_ceiling(self, environment: str, max_vcpus: float) -> None:
        """UpdateComputeEnvironment's maxvCpus, by name or ARN (moto takes the call and changes nothing)."""
        self._ceilings[environment.rpartition("/")[2]] = max_vcpus

    def set_invalid(self, environment: str, reason: str) -> None:
        """An environment (by name or ARN) becomes INVALID for this reason and starts nothing; an empty one mends it."""
        self._invalid[environment.rpartition("/")[2]] = reason

    def corrected(self, told: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Environments of DescribeComputeEnvironments with the ceilings and the faults that moto does not know."""
        found: list[dict[str, Any]] = []
        for one in told:
            name, own = str(one["computeEnvironmentName"]), dict(one)
            if name in self._ceilings and "computeResources" in own:
                own["computeResources"] = {**own["computeResources"], "maxvCpus": int(self._ceilings[name])}
            if reason := self._invalid.get(name):
                own |= {"status": "INVALID", "statusReason": reason}
            found.append(own)
        return found

    def set_hosts(self, environment: str, hosts: Sequence[Mapping[str, Any]]) -> None:
        """Name the hosts of an environment (by ARN): `vcpus` and `environment` of each; none: as many as jobs, made up."""
        self._hosts[environment] = [
            Host(
                float(told.get("vcpus", 1)),
                dict(told.get("environment") or {}),
                str(told.get("instance") or new_instance()),
            )
            for told in hosts
        ]

    def take(self, queue: Queue, environments: Mapping[str, Environment], vcpus: float) -> Place | None:
        """Room for a job in the queue's environments, in their order; None if there is none now."""
        for arn in queue.environments:
            environment = environments.get(arn)
            if environment is None or not environment.enabled or self._invalid.get(environment.name):
                continue
            if self._used[arn] + vcpus > self._ceiling(environment):
                continue
            host = self._host(arn, vcpus)
            if host is not None:
                self._used[arn] += vcpus
                host.used += vcpus
                return Place(arn, vcpus, host)
        return None

    def is_too_big(self, queue: Queue, environments: Mapping[str, Environment], vcpus: float) -> bool:
        """Can no environment ever run it? A ceiling of 0 is a queue that is switched off, not a job that is too big."""
        enabled = [environments[arn] for arn in queue.environments if arn in environments and environments[arn].enabled]
        ceilings = [self._ceiling(environment) for environment in enabled]
        return any(ceilings) and all(vcpus > ceiling for ceiling in ceilings)

    def give_back(self, place: Place) -> None:
        """The attempt has ended."""
        self._used[place.environment] -= place.vcpus
        place.host.used -= place.vcpus

    def replace(self, host: Host) -> None:
        """A host was terminated: a new one, with nothing wrong, takes its place."""
        for hosts in self._hosts.values():
            for number, each in enumerate(hosts):
                if each is host:
                    hosts[number] = Host(host.vcpus)

    def _ceiling(self, environment: Environment) -> float:
        return self._ceilings.get(environment.name, environment.max_vcpus)

    def _host(self, arn: str, vcpus: float) -> Host | None:
        hosts = self._hosts.get(arn)
        if not hosts:
            return Host(vcpus)
        return next((host for host in hosts if host.used + vcpus <= host.vcpus), None)
