"""The table: made once, told from other people's, opened under its workflow's rules, deleted on demand."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from pyanamo_core.errors import EndpointDown, ForeignTable, SchemaNewer, TableMissing, WorkflowMissing
from pyanamo_core.ledger import Ledger, open_ledger
from pyanamo_core.ledger import table as tables
from pyanamo_core.ledger.probe import probe_rights
from pyanamo_core.ledger.store import BATCH_KEYS
from pyanamo_core.model import SCHEMA, Definition, Imported, State
from pyanamo_core.workflow import Buckets, Budgets, Timing, Workflow

if TYPE_CHECKING:
    from pyanamo_core.aws import Clients


def a_workflow(**more: Any) -> Workflow:
    return Workflow(
        name="HaplotypeCaller",
        queue="Q",
        job_definition="J",
        buckets=Buckets(results="s3://results/calls"),
        **more,
    )


@pytest.fixture
def made(dynamodb_clients: Clients, unique_name: str) -> str:
    assert tables.create_table(dynamodb_clients, unique_name, pitr=False)
    return unique_name


def test_a_table_is_made_once_and_is_a_ledger(dynamodb_clients: Clients, made: str) -> None:
    assert not tables.create_table(dynamodb_clients, made)
    info = tables.describe_table(dynamodb_clients, made)
    assert info is not None
    assert (info.status, info.billing, info.deletion_protection) == ("ACTIVE", "PAY_PER_REQUEST", True)
    told = dynamodb_clients.client("dynamodb").describe_time_to_live(TableName=made)["TimeToLiveDescription"]
    assert (told["TimeToLiveStatus"], told["AttributeName"]) == ("ENABLED", "expires")


def test_a_table_is_deleted_though_it_is_protected(dynamodb_clients: Clients, made: str) -> None:
    assert tables.delete_table(dynamodb_clients, made)
    assert tables.describe_table(dynamodb_clients, made) is None
    assert not tables.delete_table(dynamodb_clients, made)


def test_a_table_with_another_key_is_foreign_to_every_door(dynamodb_clients: Clients, unique_name: str) -> None:
    # Given PyAnamo 1's table: itemID alone is its key
    dynamodb_clients.client("dynamodb").create_table(
        TableName=unique_name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=[{"AttributeName": "itemID", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "itemID", "AttributeType": "S"}],
    )
    # When anybody opens, imports into, describes, makes or deletes it
    ledger = Ledger(dynamodb_clients, unique_name)
    doors = [
        lambda: open_ledger(dynamodb_clients, unique_name),
        lambda: ledger.import_item("a", "t", Definition(script="x")),
        lambda: ledger.claim("a", "p"),
        ledger.counts,
        lambda: tables.create_table(dynamodb_clients, unique_name),
        lambda: tables.describe_table(dynamodb_clients, unique_name),
        lambda: tables.delete_table(dynamodb_clients, unique_name),
    ]
    # Then it is refused by name and reason, and nothing was written
    for door in doors:
        with pytest.raises(ForeignTable, match=r"its key is itemID \(hash\), not itemID \(hash\), row \(range\)"):
            door()
    assert dynamodb_clients.client("dynamodb").scan(TableName=unique_name)["Count"] == 0


def test_a_table_without_the_index_is_foreign(dynamodb_clients: Clients, unique_name: str) -> None:
    whole = tables.definition_of(unique_name)
    whole["AttributeDefinitions"] = whole["AttributeDefinitions"][:2]
    del whole["GlobalSecondaryIndexes"]
    dynamodb_clients.client("dynamodb").create_table(**whole)
    with pytest.raises(ForeignTable, match="it has no index by-queue"):
        Ledger(dynamodb_clients, unique_name).counts()
    with pytest.raises(ForeignTable, match="it has no index by-queue"):
        tables.create_table(dynamodb_clients, unique_name)


def test_a_missing_table_says_where_it_was_looked_for(dynamodb_clients: Clients, unique_name: str) -> None:
    with pytest.raises(TableMissing, match=f"Table {unique_name} does not exist at http://127.0.0.1:"):
        open_ledger(dynamodb_clients, unique_name)
    with pytest.raises(TableMissing):
        Ledger(dynamodb_clients, unique_name).import_item("a", "t", Definition(script="x"))


def test_a_dead_endpoint_is_no_missing_table() -> None:
    from pyanamo_core.aws import Clients

    class Impatient(Clients):
        """Three tries instead of eight: nobody listens there anyway."""

        def client(self, service: str, region: str | None = None) -> Any:
            return self.quick(service)

    clients = Impatient(endpoint_url="http://127.0.0.1:9", region="us-east-1")
    with pytest.raises(EndpointDown, match=r"http://127\.0\.0\.1:9"):
        open_ledger(clients, "HaplotypeCaller")


def test_a_table_without_a_workflow_is_not_opened(dynamodb_clients: Clients, made: str) -> None:
    with pytest.raises(WorkflowMissing, match="pyanamo workflow create"):
        open_ledger(dynamodb_clients, made)


def test_a_ledger_is_opened_under_the_rules_of_a_pinned_version(dynamodb_clients: Clients, made: str) -> None:
    # Given two versions, of which the second has more shards and other budgets
    bare = Ledger(dynamodb_clients, made)
    first = a_workflow(budgets=Budgets(tries=2, interruptions=5), timing=Timing(lease_seconds=30, beat_seconds=10))
    second = a_workflow(shards=16, budgets=Budgets(tries=7))
    third = a_workflow(shards=4)
    assert [bare.add_workflow(w) for w in (first, second, third)] == [1, 2, 3]
    # When the first is opened, then its budgets hold, and readers walk the shards of all versions
    ledger, number, workflow = open_ledger(dynamodb_clients, made, version=1)
    assert (number, workflow) == (1, first)
    assert (ledger.rules.max_tries, ledger.rules.max_interruptions, ledger.rules.lease_seconds) == (2, 5, 30)
    assert ledger.rules.shards == 16
    newest, number, _ = open_ledger(dynamodb_clients, made)
    assert (number, newest.rules.max_tries, newest.rules.shards) == (3, 3, 16)


def test_items_of_fewer_shards_are_seen_by_a_ledger_with_more(dynamodb_clients: Clients, made: str) -> None:
    old = Ledger(dynamodb_clients, made)
    old.add_workflow(a_workflow(shards=1))
    small, _, _ = open_ledger(dynamodb_clients, made)
    for number in range(20):
        assert small.import_item(f"i{number}", "t", Definition(script="x")) is Imported.CREATED
    old.add_workflow(a_workflow(shards=8))
    big, _, _ = open_ledger(dynamodb_clients, made)
    assert big.counts().todo == 20
    claims = [big.claim(item_id, "p") for item_id in list(big.item_ids(State.TODO))]
    assert len([claim for claim in claims if claim]) == 20
    assert {shard for shard in range(8) if big._store.queue_count(f"locked#{shard}")} > {0}


def test_a_newer_schema_is_refused(dynamodb_clients: Clients, made: str) -> None:
    Ledger(dynamodb_clients, made).add_workflow(a_workflow())
    _change(dynamodb_clients, made, "schema", {"N": str(SCHEMA + 1)})
    with pytest.raises(SchemaNewer, match=f"has schema {SCHEMA + 1}, this PyAnamo knows up to {SCHEMA}"):
        open_ledger(dynamodb_clients, made)
    with pytest.raises(SchemaNewer):
        Ledger(dynamodb_clients, made).add_workflow(a_workflow(pilots=2))


def test_additive_fields_of_a_newer_pyanamo_are_left_aside(dynamodb_clients: Clients, made: str) -> None:
    workflow = a_workflow(pilots=3)
    Ledger(dynamodb_clients, made).add_workflow(workflow)
    told = json.loads(workflow.model_dump_json(exclude_defaults=True))
    told |= {"colour": "blue"}
    told["buckets"]["archive"] = "s3://archive/x"
    _change(dynamodb_clients, made, "workflow", {"S": json.dumps(told)})
    _, _, found = open_ledger(dynamodb_clients, made)
    assert found == workflow


def _change(clients: Clients, table: str, name: str, value: dict[str, str]) -> None:
    clients.client("dynamodb").update_item(
        TableName=table,
        Key={"itemID": {"S": "!workflow"}, "row": {"S": "V#0001"}},
        UpdateExpression="SET #n = :v",
        ExpressionAttributeNames={"#n": name},
        ExpressionAttributeValues={":v": value},
    )


def test_listing_reads_whole_pages_of_a_hundred_rows(dynamodb_clients: Clients, made: str) -> None:
    ledger = Ledger(dynamodb_clients, made)
    for number in range(BATCH_KEYS + 5):
        ledger.import_item(f"i{number}", "t", Definition(script="x"))
    items = ledger.items()
    first = next(items)
    assert first.state is State.TODO
    assert sum(1 for _ in items) == BATCH_KEYS + 4


def test_users_read_the_table_with_the_names_of_pyanamo_1(dynamodb_clients: Clients, made: str) -> None:
    ledger = Ledger(dynamodb_clients, made)
    ledger.import_item("NA12878", "trio", Definition(script="bash call.sh", arguments=("chr1:1-100",)))
    claim = ledger.claim("NA12878", "pilot-1")
    assert claim is not None
    ledger.finish(claim, nests_done=1)
    row = dynamodb_clients.client("dynamodb").get_item(
        TableName=made, Key={"itemID": {"S": "NA12878"}, "row": {"S": "ITEM"}}
    )["Item"]
    assert row["TaskID"] == {"S": "trio"}
    assert row["TaskScript"] == {"S": "bash call.sh"}
    assert row["ItemState"] == {"S": "done"}
    assert row["InstanceID"] == {"S": "pilot-1"}
    assert row["Nested_Tasks"] == {"N": "1"}
    assert row["Lock_Date"]["S"] <= row["Done_Date"]["S"]
    assert row["Done_Date"]["S"].endswith("Z")
    assert len(row["lockID"]["S"]) == 16


def test_rights_are_asked_without_making_a_row(dynamodb_clients: Clients, made: str) -> None:
    # Given a table, when it is asked what may be done with it
    found = probe_rights(dynamodb_clients, made)
    # Then all that a pilot does was tried, by AWS's own emulator's judgement too, and no row was made
    assert found == dict.fromkeys(("GetItem", "Query", "PutItem", "UpdateItem"))
    assert dynamodb_clients.client("dynamodb").scan(TableName=made)["Items"] == []


def test_rights_to_a_table_that_is_not_there_are_none(dynamodb_clients: Clients, unique_name: str) -> None:
    found = probe_rights(dynamodb_clients, unique_name)
    assert all(error is not None and error.exit_code == 4 for error in found.values())
