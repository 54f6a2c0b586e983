"""Every error archwright raises on purpose, in one tree.

    ArchwrightError
    |-- InputError           exit 2, HTTP 400   what the user gave is wrong; `where` says the place
    |   |-- NeedsError         AW-NEEDS-*       needs.yaml
    |   |-- PlanFileError      AW-FILE-*        plan.json and other files we read back
    |   |-- SettingsError      AW-SET-*         flags, ARCHWRIGHT_* variables, archwright.toml
    |   `-- UsageError         AW-USE-*         a call that makes no sense
    |-- PlanError            exit 3, HTTP 409   AW-PLAN-*    no plan satisfies the needs
    |-- CatalogError         exit 4, HTTP 500   AW-CAT-*     a fact is missing or implausible
    |-- MissingError         exit 5, HTTP 503   AW-GET-*     an extra, a model, a program is not here
    |-- AccessError          exit 6, HTTP 401   AW-ACC-*     who are you, or you may not
    |-- EngineError          exit 7, HTTP 503   AW-ENG-*     a model engine failed or is gone
    |-- OperateError         exit 8, HTTP 503   AW-OPS-*     ports, disks, processes, the running platform
    |-- StoreError           exit 8, HTTP 503   AW-STO-*     the database refuses
    |-- ReconcileError       exit 9, HTTP 502   AW-REC-*     a measurement cannot be had
    |-- DataError            exit 10, HTTP 400  AW-DATA-*    a data set, a recipe, a file to ingest
    |-- TrainError           exit 11, HTTP 409  AW-TRN-*     a training spec or run
    |-- ModelError           exit 12, HTTP 409  AW-MOD-*     a model version, a gate, a promotion
    |-- Refusal            the reply's status  AW-SRV-01   the gateway says no to a client (serving/http/errors.py)
    `-- InternalError        exit 70, HTTP 500  AW-INT-01    our bug

A code is stable: scripts may match on it. The message says what, `where` the place, `hint` what to do.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class ErrorLocation(NamedTuple):
    """The place an error points at: a file, its 1-based line, the field's path in it."""

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
    """What a model or an engine said, without what a terminal would obey: it could rename windows and rewrite what
    stands above."""
    return text.translate(_CONTROL_CHARACTERS)


class ArchwrightError(Exception):
    """Base of the tree. `nearest` holds spellings or values that would have been accepted."""

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
        # What there is to show in spite of the error: a plan without a choice still has its options.
        self.result: object | None = None

    def lines(self) -> str:
        """The three lines of the command line: what, where, what to do."""
        indent = " " * (len(self.code) + 2)
        parts = [f"{self.code}  {self.message}", f"{indent}{self.where}", f"{indent}{self.hint}"]
        return replace_control_characters("\n".join(part for part in parts if part.strip()))

    def as_dict(self) -> dict[str, object]:
        """The form `--json` prints on standard error."""
        return {
            "code": self.code,
            "message": self.message,
            "where": self.where._asdict(),
            "hint": self.hint,
            "nearest": list(self.nearest),
        }


class InputError(ArchwrightError):
    exit_status, http_status = 2, 400


class NeedsError(InputError):
    pass


class PlanFileError(InputError):
    pass


class SettingsError(InputError):
    pass


class UsageError(InputError):
    pass


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
"""The word of a code ("AW-TRN-20") and its class: how an error that crossed from another process is raised again."""


def missing_extra(extra: str, package: str, purpose: str) -> MissingError:
    """The one answer to a package that is not installed: the exact line that installs it."""
    return MissingError(
        "AW-GET-01",
        f"{purpose} needs the package {package}, which is not installed",
        where=ErrorLocation(field=f"extra [{extra}]"),
        hint=f"pip install 'archwright[{extra}]'",
    )


@contextmanager
def require_extra(extra: str, purpose: str) -> Iterator[None]:
    """Around imports of what an extra brings. Raises MissingError AW-GET-01 for the first that is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise missing_extra(extra, str(error.name), purpose) from error


def from_os_error(error: OSError) -> ArchwrightError:
    """A full disk, a missing right or a taken port is the user's world, not our bug."""
    where = ErrorLocation(file=str(error.filename) if error.filename else None)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        where = ErrorLocation(where.file or "the home, or the folder written to")
        return OperateError("AW-OPS-01", "the disk is full", where=where, hint="free space, then run it again")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = "check its owner and rights, or set ARCHWRIGHT_HOME elsewhere"
        return OperateError("AW-OPS-02", f"not allowed: {error.strerror}", where=where, hint=hint)
    if error.errno == errno.EADDRINUSE:
        hint = "stop what listens there, or choose another with --port"
        return OperateError("AW-OPS-03", "the port is already in use", where=where, hint=hint)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EISDIR):
        return UsageError("AW-USE-01", f"cannot open it: {error.strerror}", where=where, hint="check the path")
    return OperateError(
        "AW-OPS-04", f"the system refused: {error.strerror or error}", where=where, hint="see the journal in the home"
    )


class boundary:
    """The only broad catch of the product: command line, request handlers, worker loops stand behind it.

    Lets ArchwrightError pass, turns system refusals into OperateError and anything else into InternalError
    (its cause kept), so a caller has one type to answer with. A class, entered as often as wanted: each request passes
    two of them, and a generator costs four times as much.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        return None

    def __exit__(self, _type: type[BaseException] | None, error: BaseException | None, _trace: object) -> None:
        if error is None or isinstance(error, ArchwrightError) or not isinstance(error, Exception):
            return
        if isinstance(error, OSError):
            raise from_os_error(error) from error
        raise InternalError(
            "AW-INT-01",
            f"a bug in archwright ({self._kind}): {type(error).__name__}: {error}",
            where=ErrorLocation(field=self._kind),
            hint="please report it with what you typed; nothing you did was lost",
        ) from error
