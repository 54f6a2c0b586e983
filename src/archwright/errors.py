"""The exceptions of archwright in one tree.

    ArchwrightError
    |-- InputError           exit 2, HTTP 400   an input is wrong; `where` gives the place
    |   |-- NeedsError         AW-NEEDS-*       needs.yaml
    |   |-- PlanFileError      AW-FILE-*        plan.json and other files we read back
    |   |-- SettingsError      AW-SET-*         flags, ARCHWRIGHT_* variables, archwright.toml
    |   `-- UsageError         AW-USE-*         an invalid call
    |-- PlanError            exit 3, HTTP 409   AW-PLAN-*    no plan satisfies the needs
    |-- CatalogError         exit 4, HTTP 500   AW-CAT-*     a fact is missing or implausible
    |-- MissingError         exit 5, HTTP 503   AW-GET-*     an extra, a model or a program is not installed
    |-- AccessError          exit 6, HTTP 401   AW-ACC-*     authentication or permission failed
    |-- EngineError          exit 7, HTTP 503   AW-ENG-*     a model engine failed or ended
    |-- OperateError         exit 8, HTTP 503   AW-OPS-*     ports, disks, processes, the running platform
    |-- StoreError           exit 8, HTTP 503   AW-STO-*     the database refused
    |-- ReconcileError       exit 9, HTTP 502   AW-REC-*     a measurement is not possible
    |-- DataError            exit 10, HTTP 400  AW-DATA-*    a data set, a recipe, a file to ingest
    |   `-- UnknownSubjectError  exit 13, HTTP 404  AW-DATA-57  an erasure finds nothing (lake/erasure/erasure.py)
    |-- TrainError           exit 11, HTTP 409  AW-TRN-*     a training spec or run
    |-- ModelError           exit 12, HTTP 409  AW-MOD-*     a model version, a gate, a promotion
    |-- Refusal            the reply's status  AW-SRV-01   the gateway refuses a request (serving/http/errors.py)
    `-- InternalError        exit 70, HTTP 500  AW-INT-01    a bug in archwright

Codes are stable, so scripts may match them. The message says what happened, `where` the place, `hint` what to do.
"""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple


class ErrorLocation(NamedTuple):
    """The place of an error: a file, its 1-based line, the path of the field in it."""

    file: str | None = None
    line: int | None = None
    field: str | None = None

    def __str__(self) -> str:
        place = self.file or ""
        if self.line is not None:
            place += f":{self.line}"
        return "  ".join(part for part in (place, self.field) if part)


_CONTROL_CHARACTERS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160)), "\ufffd")


def replace_control_characters(text: str) -> str:
    """Replace the control characters of foreign text: a terminal would obey them, for example to rewrite its lines."""
    return text.translate(_CONTROL_CHARACTERS)


def _restore_error(
    kind: type["ArchwrightError"], code: str, message: str, where: ErrorLocation, hint: str, nearest: tuple[str, ...]
) -> "ArchwrightError":
    return kind(code, message, where=where, hint=hint, nearest=nearest)


class ArchwrightError(Exception):
    """Base of the tree. `nearest`: similar spellings or values that would be accepted."""

    exit_status = 1
    http_status = 500

    def __init__(
        self,
        code: str,
        message: str,
        *,
        where: ErrorLocation | None = None,
        hint: str = "",
        nearest: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.where = where or ErrorLocation()
        self.hint = hint
        self.nearest = nearest
        # A result to show in spite of the error: a plan without a choice still has its options.
        self.result: object | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Errors of worker processes travel to their parent."""
        return _restore_error, (type(self), self.code, self.message, self.where, self.hint, self.nearest)

    def lines(self) -> str:
        """Format the three lines of the command line: what happened, where, what to do."""
        indent = " " * (len(self.code) + 2)
        parts = [f"{self.code}  {self.message}", f"{indent}{self.where}", f"{indent}{self.hint}"]
        return replace_control_characters("\n".join(part for part in parts if part.strip()))

    def as_dict(self) -> dict[str, object]:
        """Return the form that `--json` prints on standard error."""
        return {
            "code": self.code,
            "message": self.message,
            "where": self.where._asdict(),
            "hint": self.hint,
            "nearest": list(self.nearest),
        }


class InputError(ArchwrightError):
    exit_status, http_status = 2, 400


class NeedsError(InputError): ...


class PlanFileError(InputError): ...


class SettingsError(InputError): ...


class UsageError(InputError): ...


def argument_error(code: str, message: str, name: str, hint: str, nearest: tuple[str, ...] = ()) -> UsageError:
    """Return the error of one argument of a function; `name`: the argument; `hint`: the value to pass instead."""
    return UsageError(code, message, where=ErrorLocation(field=name), hint=hint, nearest=nearest)


class PlanError(ArchwrightError):
    exit_status, http_status = 3, 409


class CatalogError(ArchwrightError):
    exit_status, http_status = 4, 500


class MissingError(ArchwrightError):
    exit_status, http_status = 5, 503


class AccessError(ArchwrightError):
    exit_status, http_status = 6, 401


class EngineError(ArchwrightError):
    exit_status, http_status = 7, 503


class OperateError(ArchwrightError):
    exit_status, http_status = 8, 503


class StoreError(ArchwrightError):
    exit_status, http_status = 8, 503


class ReconcileError(ArchwrightError):
    exit_status, http_status = 9, 502


class DataError(ArchwrightError):
    exit_status, http_status = 10, 400


class TrainError(ArchwrightError):
    exit_status, http_status = 11, 409


class ModelError(ArchwrightError):
    exit_status, http_status = 12, 409


class InternalError(ArchwrightError):
    exit_status, http_status = 70, 500


ERROR_CLASSES: dict[str, type[ArchwrightError]] = {
    "NEEDS": NeedsError,
    "FILE": PlanFileError,
    "SET": SettingsError,
    "USE": UsageError,
    "PLAN": PlanError,
    "CAT": CatalogError,
    "GET": MissingError,
    "ACC": AccessError,
    "ENG": EngineError,
    "OPS": OperateError,
    "STO": StoreError,
    "REC": ReconcileError,
    "DATA": DataError,
    "TRN": TrainError,
    "MOD": ModelError,
    "INT": InternalError,
}
"""The area of a code ("AW-TRN-20") and its class, to raise an error of another process again."""


def missing_extra(extra: str, package: str, purpose: str) -> MissingError:
    """Build the error for a package that is not installed; the hint is the command that installs it."""
    where = ErrorLocation(field=f"extra [{extra}]")
    message = f"{purpose} needs the package {package}, which is not installed"
    return MissingError("AW-GET-01", message, where=where, hint=f"pip install 'archwright[{extra}]'")


@contextmanager
def require_extra(extra: str, purpose: str) -> Iterator[None]:
    """Wrap imports of an extra's packages. Raises MissingError AW-GET-01 if a package is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(extra, str(error.name), purpose) from error


def from_os_error(error: OSError) -> ArchwrightError:
    """Translate a full disk, a missing permission or a port in use into an error of the user's system."""
    where = ErrorLocation(file=str(error.filename) if error.filename else None)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = ErrorLocation(where.file or "the home, or the output folder")
        hint = "free disk space, then run the command again"
        return OperateError("AW-OPS-01", "the disk is full", where=where, hint=hint)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "check the owner and the permissions of the path, or set ARCHWRIGHT_HOME to another folder"
        return OperateError("AW-OPS-02", f"permission denied: {error.strerror}", where=where, hint=hint)
    if error.errno == errno.EADDRINUSE:
        hint = "stop the program that uses the port, or choose another port with --port"
        return OperateError("AW-OPS-03", "the port is already in use", where=where, hint=hint)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return UsageError("AW-USE-01", f"cannot open the file: {error.strerror}", where=where, hint="check the path")
    message = f"the system refused: {error.strerror or error}"
    return OperateError("AW-OPS-04", message, where=where, hint="read the logs in the home")


RUST_PANIC = "PanicException"


class boundary:
    """The only broad `except`: the command line, request handlers and worker loops run inside it.

    ArchwrightError passes; an OSError becomes an OperateError or UsageError, any other exception an InternalError with
    its cause. Design: a class, because each request enters two boundaries, and a generator costs four times as much.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        # A panic of a library in Rust is no Exception.
        caught = error is not None and (isinstance(error, Exception) or type(error).__name__ == RUST_PANIC)
        if not caught or isinstance(error, ArchwrightError):
            return
        if isinstance(error, OSError):
            raise from_os_error(error) from error
        raise InternalError(
            "AW-INT-01",
            f"a bug in archwright ({self._kind}): {type(error).__name__}: {error}",
            where=ErrorLocation(field=self._kind),
            hint="report it together with the command; your data are unchanged",
        ) from error
