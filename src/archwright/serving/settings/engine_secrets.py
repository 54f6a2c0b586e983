"""The engines' keys, by reference: `env:NAME` or `file:PATH`, whose stamp is polled since a key may be rotated."""

from __future__ import annotations

from pathlib import Path

from archwright.errors import ErrorLocation, OperateError
from archwright.settings import read_variable

MAX_KEY_BYTES = 8192


def read_secret(reference: str) -> str | None:
    """The key; None for an empty reference. Raises OperateError AW-OPS-15 if it cannot be read."""
    if not reference:
        return None
    kind, _, name = reference.partition(":")
    found = (read_variable(name) or "").strip() if kind == "env" else _read_secret_file(name, reference)
    if not found or not found.isascii() or not found.isprintable():
        raise _missing_secret_error(reference, "holds no key")
    return found


def read_stamp(reference: str) -> tuple[int, int] | None:
    """Changes whenever the key's file does; None without a file."""
    kind, _, name = reference.partition(":")
    if kind != "file":
        return None
    try:
        found = Path(name).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


def _read_secret_file(name: str, reference: str) -> str:
    try:
        with Path(name).open("rb") as file:
            return file.read(MAX_KEY_BYTES).decode("ascii", "replace").strip()
    except OSError as error:
        raise _missing_secret_error(reference, f"cannot be read: {error.strerror}") from error


def _missing_secret_error(reference: str, why: str) -> OperateError:
    hint = "export the variable" if reference.startswith("env:") else "write the key into the file, readable by us"
    return OperateError("AW-OPS-15", f"the key {reference} {why}", where=ErrorLocation(field=reference), hint=hint)
