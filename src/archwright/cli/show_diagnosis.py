"""The terminal output of `doctor` and `home`.

The exit status of `doctor` is for monitoring: 0 for none, 1 for warnings, 2 for failures."""

from collections.abc import Sequence

from archwright.cli import show
from archwright.cli.show import make_console, print_table, print_text
from archwright.cli.table_layout import print_fields
from archwright.contract.diagnosis import DoctorCheck, HomePart, HomeReport
from archwright.contract.number_format import format_quantity
from archwright.contract.record import Record

WORDS = {"ok": "ok  ", "unknown": "?   ", "warning": "WARN", "failure": "FAIL"}
WARNINGS = 1
FAILURES = 2


def as_json(result: Sequence[DoctorCheck] | HomeReport) -> int:
    show.as_json(result)
    if isinstance(result, HomeReport):
        return 0
    return find_exit_status(result)


def print_checks(result: Sequence[DoctorCheck]) -> int:
    for check in result:
        hint = f"\n      -> {check.hint}" if check.hint else ""
        print_text(f"{WORDS[check.state]}  {check.name}: {check.detail}{hint}")
    return find_exit_status(result)


def print_home(result: HomeReport) -> int:
    fields = {
        "home": result.path,
        "schema version": str(result.schema_version),
        "free": format_quantity(result.free_bytes, "bytes"),
    }
    if result.size_bytes is not None:
        fields["size"] = format_quantity(result.size_bytes, "bytes")
    print_fields(make_console(), fields)
    if result.parts:
        print_table(map(_format_part, result.parts))
    return 0


class _PartRow(Record):
    content: str
    files: int
    size: str
    removed_by: str


def _format_part(part: HomePart) -> _PartRow:
    size = format_quantity(part.size_bytes, "bytes")
    removal = f"{part.removal} ({part.condition})"
    if not part.removal:
        removal = "(must stay)"
    return _PartRow(content=part.content, files=part.files, size=size, removed_by=removal)


def find_exit_status(result: Sequence[DoctorCheck]) -> int:
    """A state that is not known is no warning: monitoring would show it for ever."""
    states = {check.state for check in result}
    if "failure" in states:
        return FAILURES
    if "warning" in states:
        return WARNINGS
    return 0
