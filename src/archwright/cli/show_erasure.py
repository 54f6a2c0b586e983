"""The terminal output of erasures and their receipts."""

from typing import Any

from archwright.api.data_erasure import CheckedReceipt
from archwright.cli.show import as_json, make_console, print_text
from archwright.cli.table_layout import TableColumn, format_time, make_table, print_fields, print_lines

__all__ = ["as_json", "print_erasure", "print_receipt"]

SHOWN_LINES = 12
FOUND_COLUMNS = (
    TableColumn("store", "store"),
    TableColumn("place", "place"),
    TableColumn("found", "count", number=True),
)
MODEL_COLUMNS = (
    *(TableColumn(name, field) for name, field in (("run", "run"), ("model", "model"), ("data", "dataset_version"))),
    TableColumn("serving", lambda row: "yes" if row.serving else "no"),
    TableColumn("what follows", "follow_up"),
)


def print_erasure(result: Any) -> int:
    out = make_console()
    out.print(make_table(FOUND_COLUMNS, result.found))
    if result.models:
        out.print("\nThe weights of these models may remember the person. Nothing was trained again.\n")
        out.print(make_table(MODEL_COLUMNS, result.models))
    if result.scan is None:
        confirm = f"; to erase so many, add --expect-rows {result.rows}" if result.confirm else ""
        return print_text(f"\nplan only: {result.rows:,} rows in all versions; nothing was changed{confirm}")
    out.print(f"\nscan     {result.scan.files:,} files, {result.scan.decoded:,} decoded: nothing names the person")
    print_lines(out, (f"not proven  {place}" for place in result.scan.not_proven), SHOWN_LINES, "  ")
    out.print(f"receipt  {result.receipt}", soft_wrap=True)
    return print_text("Remove the person from backups and source files outside this home, too.")


def print_receipt(result: CheckedReceipt) -> int:
    found = result.receipt
    fields = {
        "signature": "valid, by this home" if result.own_key else f"valid, by the stated key {found.public_key}",
        "made": f"{format_time(found.at)} by {found.program}",
        "proven": f"{found.scan.files:,} files searched"
        if found.proven
        else f"no: {len(found.scan.hits)} files remain",
        "not proven": f"{len(found.scan.not_proven)} files of other formats",
    }
    print_fields(make_console(), fields)
    print_lines(make_console(), found.statements, SHOWN_LINES, "  ")
    return 0
