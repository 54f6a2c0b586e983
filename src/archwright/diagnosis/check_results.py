"""Results of checks, and the result of a check that ends with an error."""

from collections.abc import Callable

from archwright.contract.diagnosis import DoctorCheck
from archwright.errors import ArchwrightError, boundary


def make_ok(name: str, detail: str) -> DoctorCheck:
    return DoctorCheck(name=name, state="ok", detail=detail)


def make_warning(name: str, detail: str, hint: str) -> DoctorCheck:
    return DoctorCheck(name=name, state="warning", detail=detail, hint=hint)


def make_failure(name: str, detail: str, hint: str) -> DoctorCheck:
    return DoctorCheck(name=name, state="failure", detail=detail, hint=hint)


def make_unknown(name: str, detail: str, hint: str = "") -> DoctorCheck:
    return DoctorCheck(name=name, state="unknown", detail=detail, hint=hint)


def run_check(name: str, check: Callable[[], DoctorCheck]) -> DoctorCheck:
    """Return the result of a check; an error is a failure, with the error's own hint."""
    return run_checks(name, lambda: [check()])[0]


def run_checks(name: str, check: Callable[[], list[DoctorCheck]]) -> list[DoctorCheck]:
    """Return the results of a check that looks at several things, as `run_check` does."""
    try:
        with boundary(name):
            return check()
    except ArchwrightError as error:
        return [make_failure(name, f"{error.code}  {error.message}", error.hint)]
