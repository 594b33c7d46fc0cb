"""The subflow `import_sheet`: a sheet's items into the table."""

from __future__ import annotations

from prefect import flow, get_run_logger
from pydantic import BaseModel

from pyanamo_core import importer
from pyanamo_core.errors import SheetConflict
from pyanamo_core.ledger import open_ledger
from pyanamo_core.sheet import read_sheet
from pyanamo_flows.parameters import Aws, local_file

SHOWN_CONFLICTS = 20


class SheetImported(BaseModel):
    """Items of the sheet, by what the import did with them."""

    total: int
    created: int
    exists: int
    edited: int


@flow(name="import_sheet", persist_result=False)
def import_sheet(
    table: str,
    sheet: str,
    update: bool = False,
    delimiter: str = "",
    nested_delimiter: str = ",",
    aws: Aws = Aws(),  # noqa: B008 - Prefect's form needs it
) -> SheetImported:
    """Import the items of a sheet. The same sheet again changes nothing; items with another definition refuse it.

    Args:
        table: Name of the table.
        sheet: Path or s3:// address of the sheet (itemID, TaskID, TaskScript, TaskArgs).
        update: Edit items that stand in the table with another definition; else the sheet is refused.
        delimiter: Delimiter of the columns; empty: found out.
        nested_delimiter: Delimiter of the nests in TaskArgs.
        aws: Which AWS to talk to.
    """
    log = get_run_logger()
    clients = aws.clients()
    ledger, _, workflow = open_ledger(clients, table)
    with local_file(clients, sheet) as path:
        told = read_sheet(path, delimiter=delimiter or None, nested_delimiter=nested_delimiter)
        done = importer.import_sheet(ledger, told, update=update, revision=workflow.revision)
    if done.conflicts:
        for conflict in done.shown_conflicts[:SHOWN_CONFLICTS]:
            log.error("line %s: %s is left as it is: %s", conflict.line, conflict.item_id, conflict.reason)
        first = done.shown_conflicts[0].item_id
        raise SheetConflict(count=done.conflicts, path=sheet, table=table, example=first)
    log.info("%s items: %s new, %s there already, %s edited", done.total, done.created, done.exists, done.edited)
    return SheetImported(total=done.total, created=done.created, exists=done.exists, edited=done.edited)
