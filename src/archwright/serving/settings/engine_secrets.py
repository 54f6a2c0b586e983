"""Secrets by reference, `env:NAME` or `file:PATH`: keys of engines, whose files are polled for rotated keys, and the
database URL, which has a password."""

import os
import stat
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
    file_hint = "write the key to the file and make it readable"
    try:
        if kind == "env":
            secret = read_variable(name) or ""
        else:
            with Path(name).open("rb") as file:
                if exposure := describe_exposure(os.fstat(file.fileno())):
                    problem, file_hint = exposure, f"run: chmod 600 {name}"
                else:
                    secret = file.read(MAX_KEY_BYTES).decode("ascii", "replace")
    except OSError as error:
        problem = f"cannot be read: {error.strerror}"
    secret = secret.strip()
    if not secret or not secret.isascii() or not secret.isprintable():
        variable = "export the variable for this process"
        hint, where = variable if kind == "env" else file_hint, ErrorLocation(field=reference)
        raise OperateError("AW-OPS-15", f"the key {reference} {problem}", where=where, hint=hint)
    return secret


def read_store_url(stated: str) -> str:
    """Return the database URL; `env:NAME` names its variable. Raises OperateError AW-OPS-15 if that is not set."""
    return (read_secret(stated) or "") if stated.startswith("env:") else stated


def describe_exposure(status: os.stat_result) -> str:
    """Return why a key's file is not private; empty if it is. Root may share its file with a group, read-only."""
    mode, own = stat.S_IMODE(status.st_mode), status.st_uid == os.geteuid()
    if not own and status.st_uid != 0:
        return f"belongs to another user (uid {status.st_uid})"
    return f"is open to other users (mode {mode:04o})" if mode & (0o077 if own else 0o037) else ""


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
