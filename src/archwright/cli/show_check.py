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
    show.as_json(result)
    return _find_exit_status(result)


def _find_exit_status(result: VersionCheck) -> int:
    if result.problems:
        return DAMAGED
    return 0


def print_check(result: VersionCheck) -> int:
    """Return DAMAGED if there is a problem."""
    out = make_console()
    for problem in result.problems:
        heading = f"[bold]{escape(problem.version)}[/]: {escape(problem.subject)}"
        out.print(heading, soft_wrap=True)
        print_indented(out, escape(problem.problem))

    size = format_quantity(result.size_bytes, "bytes")
    rate = format_quantity(result.size_bytes / result.seconds, "bytes")
    state = "no problem"
    if result.problems:
        state = f"{len(result.problems):,} problem(s)"
    counts = f"{result.versions:,} version(s), {result.files:,} file(s)"
    out.print(f"{counts}, {size} at {rate} per second: {state}")
    if result.problems:
        out.print("copy the damaged files from a restored backup: archwright restore --into DIR,")
        out.print("or ingest the sources under another name")
    return _find_exit_status(result)
