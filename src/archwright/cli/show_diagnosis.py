"""The terminal output of `doctor`. The exit status is for monitoring: 0 for none, 1 for warnings, 2 for failures."""

from collections.abc import Sequence

from archwright.cli import show
from archwright.cli.show import print_text
from archwright.contract.diagnosis import DoctorCheck

WORDS = {"ok": "ok  ", "unknown": "?   ", "warning": "WARN", "failure": "FAIL"}
WARNINGS = 1
FAILURES = 2


def as_json(result: Sequence[DoctorCheck]) -> int:
    return show.as_json(result) or find_exit_status(result)


def print_checks(result: Sequence[DoctorCheck]) -> int:
    for check in result:
        hint = f"\n      -> {check.hint}" if check.hint else ""
        print_text(f"{WORDS[check.state]}  {check.name}: {check.detail}{hint}")
    return find_exit_status(result)


def find_exit_status(result: Sequence[DoctorCheck]) -> int:
    """A state that is not known is no warning: monitoring would show it for ever."""
    states = {check.state for check in result}
    if "failure" in states:
        return FAILURES
    return WARNINGS if "warning" in states else 0
