"""Keys of engines by reference, `env:NAME` or `file:PATH`. Files are polled for rotated keys."""

from pathlib import Path

from archwright.errors import ErrorLocation, OperateError
from archwright.settings import read_variable

MAX_KEY_BYTES = 8192


def read_secret(reference: str) -> str | None:
    """Read the key; None for an empty reference. Raises OperateError AW-OPS-15 if it cannot be read."""
    if not reference:
        return None
    kind, _, name = reference.partition(":")
    secret, problem = "", "does not contain a key of printable ASCII characters"
    try:
        if kind == "env":
            secret = read_variable(name) or ""
        else:
            with Path(name).open("rb") as file:
                secret = file.read(MAX_KEY_BYTES).decode("ascii", "replace")
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    secret = secret.strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        variable, file_hint = "export the variable for this process", "write the key to the file and make it readable"
        hint, where = variable if kind == "env" else file_hint, ErrorLocation(field=reference)
        raise OperateError("AW-OPS-15", f"the key {reference} {problem}", where=where, hint=hint)
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
