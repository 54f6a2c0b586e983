"""The terminal output of the check of data sets."""

from rich.markup import escape

from archwright.api.data_check import VersionCheck
from archwright.cli import show
from archwright.cli.show import make_console
from archwright.cli.table_layout import print_indented
from archwright.contract.number_format import format_quantity

DAMAGED = 3


def as_json(result: VersionCheck) -> int:
    """Print JSON; the exit status is DAMAGED if there is a problem."""
    return show.as_json(result) or (DAMAGED if result.problems else 0)


def print_check(result: VersionCheck) -> int:
    """Return DAMAGED if there is a problem."""
    out = make_console()
    for one in result.problems:
        out.print(f"[bold]{escape(one.version)}[/]: {escape(one.subject)}", soft_wrap=True)
        print_indented(out, escape(one.problem))
    size, rate = (
        format_quantity(number, "bytes") for number in (result.size_bytes, result.size_bytes / result.seconds)
    )
    state = f"{len(result.problems):,} problem(s)" if result.problems else "no problem"
    out.print(f"{result.versions:,} version(s), {result.files:,} file(s), {size} at {rate} per second: {state}")
    if result.problems:
        out.print("copy the damaged files from a restored backup: archwright restore --into DIR,")
        out.print("or ingest the sources under another name")
    return DAMAGED if result.problems else 0
