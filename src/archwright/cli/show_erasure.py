"""The terminal output of erasures and their receipts."""

from typing import Any

from archwright.api.data_erasure import CheckedReceipt
from archwright.cli.show import as_json, make_console, print_text
from archwright.cli.table_layout import (
    TableColumn,
    format_time,
    make_table,
    print_fields,
    print_lines,
)

__all__ = ["as_json", "print_erasure", "print_receipt"]

SHOWN_LINES = 12
FOUND_COLUMNS = (
    TableColumn("store", "store"),
    TableColumn("place", "place"),
    TableColumn("found", "count", number=True),
)
MODEL_COLUMNS = (
    TableColumn("run", "run"),
    TableColumn("model", "model"),
    TableColumn("data", "dataset_version"),
    TableColumn("serving", lambda row: bool(row.serving)),
    TableColumn("what follows", "follow_up"),
)


def print_erasure(result: Any) -> int:
    out = make_console()
    out.print(make_table(FOUND_COLUMNS, result.found))
    if result.models:
        warning = "The weights of these models may remember the person. Nothing was trained again."
        out.print(f"\n{warning}\n")
        out.print(make_table(MODEL_COLUMNS, result.models))
    if result.scan is None:
        return _print_dry_run(result)

    counts = f"{result.scan.files:,} files, {result.scan.decoded:,} decoded"
    out.print(f"\nscan     {counts}: nothing names the person")
    not_proven = [f"not proven  {file}" for file in result.scan.not_proven]
    print_lines(out, not_proven, shown=SHOWN_LINES, prefix="  ")
    out.print(f"receipt  {result.receipt}", soft_wrap=True)
    return print_text("Remove the person from backups and source files outside this home, too.")


def _print_dry_run(result: Any) -> int:
    summary = f"plan only: {result.rows:,} rows in all versions; nothing was changed"
    if result.confirm:
        summary += f"; to erase so many, add --expect-rows {result.rows}"
    return print_text(f"\n{summary}")


def print_receipt(result: CheckedReceipt) -> int:
    receipt = result.receipt
    signature = "valid, by this home"
    if not result.own_key:
        signature = f"valid, by the stated key {receipt.public_key}"
    proven = f"{receipt.scan.files:,} files searched"
    if not receipt.proven:
        proven = f"no: {len(receipt.scan.hits)} files remain"

    out = make_console()
    fields = {
        "signature": signature,
        "made": f"{format_time(receipt.at)} by {receipt.program}",
        "proven": proven,
        "not proven": f"{len(receipt.scan.not_proven)} files of other formats",
    }
    print_fields(out, fields)
    print_lines(out, receipt.statements, shown=SHOWN_LINES, prefix="  ")
    return 0
