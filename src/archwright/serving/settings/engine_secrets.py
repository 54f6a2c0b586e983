"""Keys of engines by reference: `env:NAME` or `file:PATH`. Files are polled, because keys may be rotated."""

from __future__ import annotations

from pathlib import Path

from archwright.errors import ErrorLocation, OperateError
from archwright.settings import read_variable

MAX_KEY_BYTES = 8192


def read_secret(reference: str) -> str | None:
    """Read the key; None for an empty reference. Raises OperateError AW-OPS-15 if it cannot be read."""
    if not reference:
        return None
    kind, _, name = reference.partition(":")
    secret = (read_variable(name) or "").strip() if kind == "env" else _read_secret_file(name, reference)
    if not secret or not secret.isascii() or not secret.isprintable():
        raise _missing_secret_error(reference, "does not contain a key of printable ASCII characters")
    return secret


def read_stamp(reference: str) -> tuple[int, int] | None:
    """Return a value that changes with the key's file; None without a file."""
    kind, _, name = reference.partition(":")
    if kind != "file":
        return None
    try:
        status = Path(name).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns


def _read_secret_file(name: str, reference: str) -> str:
    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_KEY_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise _missing_secret_error(reference, f"cannot be read: {error.strerror}") from error


def _missing_secret_error(reference: str, reason: str) -> OperateError:
    variable, file = "export the variable for this process", "write the key to the file and let this user read it"
    hint = variable if reference.startswith("env:") else file
    return OperateError("AW-OPS-15", f"the key {reference} {reason}", where=ErrorLocation(field=reference), hint=hint)
