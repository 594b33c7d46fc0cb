"""`pyanamo workflow scale` against moto's DynamoDB and Application Auto Scaling, and against DynamoDB Local."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner, Result

from pyanamo.main import app
from pyanamo_core.ledger import Ledger, scale
from pyanamo_core.ledger import table as tables
from pyanamo_core.ledger.scale import PLACES, Bounds, Kind, Scaling, Wanted
from pyanamo_core.workflow import Buckets, Timing, Workflow

if TYPE_CHECKING:
    from pyanamo_core.aws import Clients
    from pyanamo_core.local import LocalCloud


def a_workflow(**more: Any) -> Workflow:
    return Workflow(
        name="HaplotypeCaller", queue="Q", job_definition="J", buckets=Buckets(results="s3://results/calls"), **more
    )


@pytest.fixture
def table(cloud_clients: Clients, cloud_environment: dict[str, str], unique_name: str) -> str:
    tables.create_table(cloud_clients, unique_name)
    Ledger(cloud_clients, unique_name).add_workflow(a_workflow(pilots=1000, items=3, timing=Timing()))
    return unique_name


def types(*words: str, code: int = 0) -> Result:
    told = CliRunner().invoke(app, ["workflow", "scale", *words])
    assert told.exit_code == code, (words, told.output, told.stderr)
    return told


def reads(*words: str) -> Any:
    return json.loads(types(*words, "--json").stdout)


def targets(clients: Clients, name: str) -> dict[str, tuple[int, int]]:
    told = clients.client("application-autoscaling").describe_scalable_targets(ServiceNamespace="dynamodb")
    return {
        f"{one['ResourceId'].removeprefix(f'table/{name}')} {one['ScalableDimension']}": (
            one["MinCapacity"],
            one["MaxCapacity"],
        )
        for one in told["ScalableTargets"]
        if f"table/{name}" in one["ResourceId"]
    }


def test_a_table_goes_through_all_ways_of_scaling_and_back(cloud_clients: Clients, table: str) -> None:
    at = ("--table", table)
    assert reads(*at)["before"]["kind"] == "on-demand"
    assert "$0.62 a million write units" in types(*at).stdout
    # When it is provisioned, then table and index have the units; the index what it was given for itself
    words = ("provisioned", "--writes", "400", "--reads", "200", "--index-writes", "800", *at, "--yes")
    done = reads(*words)
    assert done["after"]["table writes"] == {"units": 400} | done["after"]["table writes"]
    # 1,200 write units of 0.00065 and 400 read units of 0.00013 dollars an hour
    assert done["cost"] == "$0.83 an hour, $610 a month, used or not"
    told = cloud_clients.client("dynamodb").describe_table(TableName=table)["Table"]
    assert told["BillingModeSummary"]["BillingMode"] == "PROVISIONED"
    assert told["ProvisionedThroughput"]["WriteCapacityUnits"] == 400
    (index,) = told["GlobalSecondaryIndexes"]
    assert {k: index["ProvisionedThroughput"][k] for k in ("ReadCapacityUnits", "WriteCapacityUnits")} == {
        "ReadCapacityUnits": 200,
        "WriteCapacityUnits": 800,
    }
    # Given the same again, nothing is called
    assert reads(*words)["steps"] == []
    # When it shall scale by itself, then all four places have bounds and a policy
    words = ("autoscaling", "--writes", "25:4000", "--reads", "10:2000", "--target", "60", *at, "--yes")
    assert reads(*words)["after"]["index writes"]["target_percent"] == 60
    assert targets(cloud_clients, table) == {
        " dynamodb:table:ReadCapacityUnits": (10, 2000),
        " dynamodb:table:WriteCapacityUnits": (25, 4000),
        "/index/by-queue dynamodb:index:ReadCapacityUnits": (10, 2000),
        "/index/by-queue dynamodb:index:WriteCapacityUnits": (25, 4000),
    }
    assert reads(*words)["steps"] == []
    # When it goes back, then nothing scales it any longer, and it is billed by request
    assert reads("on-demand", *at, "--yes")["after"]["kind"] == "on-demand"
    assert targets(cloud_clients, table) == {}
    assert tables.describe_table(cloud_clients, table).billing == "PAY_PER_REQUEST"  # type: ignore[union-attr]


def test_a_dry_run_and_an_unconfirmed_one_change_nothing(cloud_clients: Clients, table: str) -> None:
    # When it is asked for as a dry run, each call is told with what it would ask
    done = reads("autoscaling", "--writes", "25:4000", "--reads", "25:2000", "--dry-run", "--table", table)
    assert (done["done"], len(done["steps"])) == (False, 9)
    assert done["steps"][0]["asked"]["BillingMode"] == "PROVISIONED"
    # And when nobody is there to confirm
    refused = types("provisioned", "--writes", "50", "--reads", "50", "--table", table, code=5)
    # Then it is as it was, and was told why
    assert "With --yes it is done without being asked" in refused.stderr
    assert scale.look(cloud_clients, table).kind is Kind.ON_DEMAND
    assert targets(cloud_clients, table) == {}


def test_units_below_what_beats_need_are_told(table: str) -> None:
    # Given a workflow of 1,000 pilots with 3 items, that beat every 200 s
    told = types(
        "provisioned", "--writes", "50", "--reads", "50", "--index-writes", "10", "--dry-run", "--table", table
    )
    # Then 30 units a second go to the index for beats alone
    assert "write 30 units a second to the index for beats alone, more than 10" in told.stderr


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (["provisioned", "--reads", "5"], "Give --writes UNITS. For beats alone a run of this workflow", 3),
        (["provisioned", "--writes", "5:10", "--reads", "5"], "--writes takes one whole number of units", 3),
        (["autoscaling", "--writes", "50:10", "--reads", "5:9"], "--writes takes LEAST:MOST units a second", 3),
        (["autoscaling", "--writes", "many", "--reads", "5:9"], "not 'many'", 3),
        (["on-demand", "--writes", "5"], "--writes means nothing for on-demand", 3),
        (["warm", "--index-writes", "5"], "--index-writes means nothing for warm", 3),
        (["faster"], "A table is scaled on-demand, provisioned, autoscaling or warm, not 'faster'", 3),
        (["autoscaling", "--writes", "1:2", "--reads", "1:2", "--target", "95"], "equal to 90", 2),
    ],
)
def test_what_was_typed_wrongly_is_told_and_changes_nothing(
    cloud_clients: Clients, table: str, words: list[str], said: str, code: int
) -> None:
    told = types(*words, "--table", table, "--yes", code=code)
    assert said in " ".join(told.stderr.split())
    assert scale.look(cloud_clients, table).kind is Kind.ON_DEMAND


def test_a_table_that_is_not_there_is_named(cloud_environment: dict[str, str]) -> None:
    told = types("on-demand", "--table", "no-such-table", code=4)
    assert "Table no-such-table does not exist" in told.stderr


def test_who_may_not_look_at_autoscaling_scales_by_hand_all_the_same(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, table: str
) -> None:
    # Given a role that may change tables, and nothing of Application Auto Scaling
    misbehaving_cloud.answer("application-autoscaling", "", "access_denied", times=50)
    told = types("provisioned", "--writes", "50", "--reads", "50", "--index-writes", "90", "--table", table, "--yes")
    assert "no permission for application-autoscaling" in told.stderr
    assert scale.look(cloud_clients, table).units["index", "writes"] == 90
    # And where it is asked for, the refusal is told
    told = types("autoscaling", "--writes", "50:90", "--reads", "50:90", "--table", table, "--yes", code=6)
    assert "application-autoscaling" in told.stderr


def test_a_limit_of_aws_is_told_and_the_same_again_goes_on(
    misbehaving_cloud: LocalCloud, cloud_clients: Clients, table: str
) -> None:
    # Given AWS that does not switch the table today
    misbehaving_cloud.answer("dynamodb", "UpdateTable", "LimitExceededException", message="Update to PayPerRequest")
    words = ("provisioned", "--writes", "50", "--reads", "50", "--index-writes", "90", "--table", table, "--yes")
    told = types(*words, code=5)
    assert f"AWS does not scale table {table} now" in told.stderr
    # When it is asked for later, then it is done
    types(*words)
    assert scale.look(cloud_clients, table).kind is Kind.PROVISIONED


def test_dynamodb_local_takes_the_same_calls(dynamodb_clients: Clients, unique_name: str) -> None:
    # Given a table in another implementation, which knows nothing of autoscaling
    tables.create_table(dynamodb_clients, unique_name, pitr=False)

    def scaled(wanted: Wanted) -> Scaling:
        todo = scale.steps(scale.look(dynamodb_clients, unique_name), wanted)
        scale.apply(dynamodb_clients, unique_name, todo)
        now = scale.look(dynamodb_clients, unique_name)
        assert scale.steps(now, wanted) == []
        return now

    # When it is provisioned, changed in one place, and billed by request again
    assert scaled(Wanted(Kind.PROVISIONED, dict.fromkeys(PLACES, Bounds.just(20)))).units["index", "reads"] == 20
    bounds = dict.fromkeys(PLACES, Bounds.just(20)) | {("index", "writes"): Bounds.just(40)}
    assert scaled(Wanted(Kind.PROVISIONED, bounds)).units["index", "writes"] == 40
    # Then it is so each time, and there is nothing left to do
    assert scaled(Wanted(Kind.ON_DEMAND)).units == {}


def test_a_warm_table_is_so_for_table_and_index(cloud_clients: Clients, table: str) -> None:
    done = reads("warm", "--writes", "40000", "--table", table, "--yes")
    (step,) = done["steps"]
    assert step["asked"]["WarmThroughput"] == {"WriteUnitsPerSecond": 40_000}
    told = cloud_clients.client("dynamodb").describe_table(TableName=table)["Table"]
    assert told["WarmThroughput"]["WriteUnitsPerSecond"] == 40_000
