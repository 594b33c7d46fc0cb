"""The network of the machines: subnets, their way to AWS, security groups, launch template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pyanamo_core.doctor.case import Case
from pyanamo_core.errors import PyAnamoError


def look_at_network(case: Case, environments: Sequence[Mapping[str, Any]]) -> None:
    """Networks of the environments, each thing once. All of it is for looking only: a refusal is no fault."""
    subnets: dict[str, None] = {}
    groups: dict[str, None] = {}
    templates: dict[tuple[str, str], str] = {}
    for one in environments:
        resources: Mapping[str, Any] = one.get("computeResources") or {}
        subnets |= dict.fromkeys(str(each) for each in resources.get("subnets") or ())
        groups |= dict.fromkeys(str(each) for each in resources.get("securityGroupIds") or ())
        template: Mapping[str, Any] = resources.get("launchTemplate") or {}
        for key, field in (("launchTemplateId", "LaunchTemplateId"), ("launchTemplateName", "LaunchTemplateName")):
            if template.get(key):
                templates[field, str(template[key])] = str(template.get("version") or "$Default")
    if subnets:
        _subnets(case, list(subnets))
    if groups:
        _groups(case, list(groups))
    for (field, value), version in templates.items():
        _template(case, field, value, version)


def _missing(case: Case, check: str, subject: str, error: PyAnamoError, mend: str) -> None:
    """EC2 has a code of its own for each thing that is not there."""
    if "NotFound" in str(error.facts.get("code", "")):
        case.chart.wrong(check, subject, f"it does not exist: {error.facts.get('reason')}", mend)
    else:
        case.chart.told_by(check, subject, error, needed=False)


def _subnets(case: Case, names: list[str]) -> None:
    chart, check, subject = case.chart, "subnets", ", ".join(names)
    try:
        told = case.ask("ec2", "DescribeSubnets", SubnetIds=names)["Subnets"]
    except PyAnamoError as error:
        _missing(case, check, subject, error, "Give the environment subnets that exist: pyanamo deploy --set Subnets=…")
        return
    full = [one["SubnetId"] for one in told if one.get("AvailableIpAddressCount", 1) == 0]
    if full:
        chart.warn(
            check, ", ".join(full), "they have no free address: no machine can start there", "Name more subnets."
        )
    zones = sorted({one["AvailabilityZone"] for one in told})
    chart.ok(check, subject, f"in {', '.join(zones)}")
    with chart.part("way to AWS", subject, needed=False):
        _ways(case, told)


def _ways(case: Case, subnets: Sequence[Mapping[str, Any]]) -> None:
    chart, check = case.chart, "way to AWS"
    networks = sorted({one["VpcId"] for one in subnets})
    within = [{"Name": "vpc-id", "Values": networks}]
    tables = case.pages("ec2", "DescribeRouteTables", "RouteTables", Filters=within)
    endpoints = case.pages("ec2", "DescribeVpcEndpoints", "VpcEndpoints", Filters=within)
    served = {str(one["ServiceName"]).rpartition(".")[2] for one in endpoints}
    by_way: dict[tuple[str, bool], list[str]] = {}
    for one in subnets:
        way = way_of(routes_of(one, tables))
        private = way.startswith("igw-") and not one.get("MapPublicIpOnLaunch")
        by_way.setdefault((way, private), []).append(str(one["SubnetId"]))
    for (way, private), names in by_way.items():
        subject = ", ".join(names)
        if not way and {"ecs", "ecs-agent"} <= served:
            chart.ok(check, subject, "by interface endpoints")
        elif not way:
            mend = "Give their route table a way out (internet or NAT gateway), or endpoints for ecs, ecs-agent, ecs-telemetry, ecr and logs."
            chart.wrong(check, subject, "no route leads out of the network: machines start, and never join", mend)
        elif private:
            mend = "Let the subnets give public addresses (MapPublicIpOnLaunch, or in the launch template), or route through a NAT gateway."
            chart.warn(check, subject, f"by {way}, and the subnets give no public addresses", mend)
        elif way.startswith("nat-") and "s3" not in served:
            mend = (
                "Add a gateway endpoint for S3 to their route table; it is free: pyanamo deploy --set RouteTables=rtb-…"
            )
            chart.warn(check, subject, f"by {way}: every byte of reads and results is charged there", mend)
        else:
            chart.ok(check, subject, f"by {way}")


def way_of(table: Mapping[str, Any] | None) -> str:
    """Through what a route table leads out of its network, e.g. `igw-…`, `nat-…`; "" if nothing does."""
    keys = (
        "GatewayId",
        "NatGatewayId",
        "TransitGatewayId",
        "NetworkInterfaceId",
        "VpcPeeringConnectionId",
        "InstanceId",
    )
    for route in (table or {}).get("Routes", ()):
        if route.get("DestinationCidrBlock") == "0.0.0.0/0" and route.get("State", "active") == "active":
            return next((str(route[key]) for key in keys if route.get(key)), "")
    return ""


def routes_of(subnet: Mapping[str, Any], tables: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The route table of a subnet: its own, else its network's main one."""
    main: Mapping[str, Any] | None = None
    for table in tables:
        for one in table.get("Associations", ()):
            if one.get("SubnetId") == subnet["SubnetId"]:
                return table
            if one.get("Main") and table.get("VpcId") == subnet.get("VpcId"):
                main = table
    return main


def _groups(case: Case, names: list[str]) -> None:
    chart, check, subject = case.chart, "security groups", ", ".join(names)
    try:
        told = case.ask("ec2", "DescribeSecurityGroups", GroupIds=names)["SecurityGroups"]
    except PyAnamoError as error:
        _missing(
            case, check, subject, error, "Give the environment groups that exist: pyanamo deploy --set SecurityGroups=…"
        )
        return
    if not any(one.get("IpPermissionsEgress") for one in told):
        chart.wrong(
            check, subject, "they let nothing out: machines start, and never join", "Allow TCP 443 to 0.0.0.0/0."
        )
    else:
        chart.ok(check, subject, "they exist, and let something out")


def _template(case: Case, field: str, value: str, version: str) -> None:
    chart, check = case.chart, "launch template"
    try:
        case.ask("ec2", "DescribeLaunchTemplateVersions", **{field: value}, Versions=[version])
    except PyAnamoError as error:
        _missing(case, check, value, error, "Give the environment one that exists; pyanamo deploy makes it anew.")
        return
    chart.ok(check, value, f"version {version} exists")
