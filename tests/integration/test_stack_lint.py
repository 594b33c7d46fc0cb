"""The template and the policies against what AWS itself publishes: schemas and permissions that come with cfn-lint."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import cfnlint
from policy_support import like, listed

from pyanamo_core.resources import resource
from pyanamo_core.stack.admin import deployer_policy
from pyanamo_core.stack.template import Resolved, read_template

DATA = Path(cfnlint.__file__).parent / "data"
EVERYTHING = {
    "InputBuckets": "reads",
    "InputPrefixes": "shared/references/",
    "OutputPrefixes": "logs/x",
    "ListBuckets": "shared",
    "ListPrefixes": "gathered/",
    "EarlierTables": "Earlier,Earlier-gather",
    "PrefectApiKeySecret": "arn:aws:secretsmanager:us-east-1:111122223333:secret:prefect",
}


def test_the_template_passes_cfn_lint() -> None:
    # Given the template, when cfn-lint judges it, offline
    told = subprocess.run(
        [str(Path(sys.executable).with_name("cfn-lint")), str(resource("deployments/cloudformation.yaml"))],
        capture_output=True,
        text=True,
        check=False,
    )
    # Then it has nothing to say
    assert (told.returncode, told.stdout + told.stderr) == (0, "")


def permissions_of_actions() -> dict[str, Any]:
    """AWS's list of actions with the resources that each takes, as cfn-lint carries it."""
    return json.loads((DATA / "AdditionalSpecs" / "Policies.json").read_text())


def schema(kind: str) -> dict[str, Any]:
    """AWS's schema of a kind of resource."""
    names = json.loads((DATA / "schemas" / "providers" / "us-east-1.json").read_text())
    return json.loads((DATA / "schemas" / "resources" / f"{names[kind]}.json").read_text())


def statements() -> list[tuple[str, dict[str, Any]]]:
    one = Resolved(read_template(), EVERYTHING, "HC", "111122223333", "us-east-1")
    found = [(name, told) for name, role in one.roles.items() for told in role.document["Statement"]]
    deployer = deployer_policy("HC", EVERYTHING, "111122223333", "us-east-1")
    return found + [("deployer", told) for told in deployer["Statement"]]


def takes(pattern: str, resource: str) -> bool:
    """Can this resource of a statement be one of that kind? Both may hold wildcards; so their plain beginnings decide."""
    start = re.split(r"\.\*|\$\{(?!Partition|Region|Account)", pattern)[0]
    start = start.replace("${Partition}", "aws").replace("${Region}", "us-east-1").replace("${Account}", "111122223333")
    plain = resource.split("*")[0]
    return plain.startswith(start) or start.startswith(plain)


def test_every_action_exists_and_can_be_had_on_the_resource_that_it_is_allowed_on() -> None:
    # Given each action of each policy, and AWS's own list of what an action can be allowed on
    known = permissions_of_actions()
    for who, told in statements():
        for action in listed(told["Action"]):
            service, _, name = action.partition(":")
            if action == "s3:Get*":
                continue
            assert name.lower() in known[service]["Actions"], f"{who}: AWS knows no {action}"
            kinds = known[service]["Actions"][name.lower()].get("Resources", [])
            named = {kind.lower(): one for kind, one in known[service]["Resources"].items()}
            formats = [one for kind in kinds for one in named[kind.lower()]["ARNFormats"]]
            # Then one that takes no resource stands on "*", or it would allow nothing
            if not kinds:
                assert told["Resource"] == "*", f"{who}: {action} takes no resource"
            # And any other on at least one of its kind
            elif told["Resource"] != "*":
                fits = [any(takes(one, resource) for one in formats) for resource in listed(told["Resource"])]
                assert any(fits), f"{who}: {action} on {told['Resource']}"


NOT_USED = {"billing", "eks", "firehose", "kms", "s3tables", "vpc-lattice", "vpce"}
"""Services of things that the template does not ask for: EKS, keys of one's own, tables of a bucket, service networks."""
UNSET = re.compile(
    "abac|accelerate|acl$|analytics|bearertoken|cors$|dataprotection|deletionprotection|encryptioncontrol|grouppolicy|"
    "indexpolicy|ingress|intelligenttiering|inventory|kmskey|logdelivery|logging|metadata.*configuration|metrics|"
    "notification|objectlock|permissionsboundary|replication|repositorypolicy|resourcepolic|rest.put|"
    "ruledescriptions|subnetcidrblock|tagmutability|tenancy|userpolicy|versioning|vpngateway|website"
)
"""Words of actions for properties that the template does not set; the next pattern sees to that."""
UNSET_PROPERTIES = re.compile(
    "Abac|Accelerate|AccessControl|Analytics|BearerToken|Cors|DataProtection|DeletionProtection|Groups|IndexPolic|"
    "Ingress|IntelligentTiering|Inventory|Ipv6|KmsKey|Logging|Metadata|Metrics|Notification(?!sWith)|ObjectLock|"
    "PermissionsBoundary|Replication|RepositoryPolicy|ResourcePolic|Tenancy|Users|Versioning|VpnGateway|Website"
)
OLD_NAMES = {"s3:deletebucketencryption", "s3:deletebucketlifecycle"}
"""No actions of IAM: S3 asks for the Put of the same thing."""


def test_the_deployer_may_do_what_cloudformation_does_to_make_change_and_delete_the_stack() -> None:
    # Given what each kind of resource calls when it is made, changed or deleted, by AWS's schemas
    allows = {action.lower() for who, told in statements() if who == "deployer" for action in listed(told["Action"])}
    template = read_template()
    for kind in {told["Type"] for told in template["Resources"].values()}:
        handlers = schema(kind)["handlers"]
        asked = {
            one.lower()
            for name in ("create", "update", "delete")
            for one in handlers.get(name, {}).get("permissions", ())
            if one.lower().partition(":")[0] not in NOT_USED and not UNSET.search(one.lower())
        }
        # Then all of it is allowed
        missing = {one for one in asked - OLD_NAMES if not any(like(pattern, one) for pattern in allows)}
        assert not missing, kind
    # And nothing else is asked for by what the template sets
    for name, told in template["Resources"].items():
        if told["Type"] not in ("AWS::Batch::JobDefinition", "AWS::Batch::JobQueue", "AWS::EC2::LaunchTemplate"):
            assert not [one for one in told.get("Properties", {}) if UNSET_PROPERTIES.search(one)], name
