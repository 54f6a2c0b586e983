"""Secrets by reference: keys of engines, and the database URL, which has a password.

`env:NAME`; `file:PATH`, polled for a rotated key; `command:["program", "argument"]`, whose standard output is the key.
`command:SECONDS:[...]` states how often the command runs, else COMMAND_EVERY_S. A command runs without a shell, with
the environment of the gateway. Its output is never logged, and its arguments are not shown.
"""

import os
import re
import signal
import stat
import time
from contextlib import suppress
from pathlib import Path
from subprocess import DEVNULL, PIPE, Popen, TimeoutExpired

import msgspec

from archwright.errors import ErrorLocation, OperateError
from archwright.settings import read_variable

MAX_KEY_BYTES = 8192
# The whole of a reference: seconds, and the words of the command as JSON.
COMMAND_KEY = re.compile(r'command:(?:([1-9][0-9]{0,5}):)?(\[\s*".+\])')
# A token of a cloud lives an hour or longer.
COMMAND_EVERY_S, COMMAND_TIMEOUT_S, COMMAND_PAUSE_S = 900, 10.0, 10.0


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
        elif kind == "command":
            file_hint = f"run the command by hand; it must print the key within {COMMAND_TIMEOUT_S:g} s"
            words = split_command(reference)
            reference = f"command:{words[0]}"
            secret, problem = _run_command(words)
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


def split_command(reference: str) -> list[str]:
    """Return the words of a key's command; [""] if the reference has another form."""
    found = COMMAND_KEY.fullmatch(reference)
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(found.group(2) if found else "", type=list[str])
    return [""]


def _run_command(words: list[str]) -> tuple[str, str]:
    """Return the output of a command, and the problem to state if that is not a key. Raises OSError."""
    # A session of its own, so that a command that hangs is killed with all its processes.
    with Popen(words, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL, start_new_session=True) as process:
        try:
            output, _ = process.communicate(timeout=COMMAND_TIMEOUT_S)
        except TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "", f"is not there after {COMMAND_TIMEOUT_S:g} s"
    if process.returncode:
        return "", f"cannot be read: the command ended with status {process.returncode}"
    return output[:MAX_KEY_BYTES].decode("ascii", "replace"), "does not contain a key of printable ASCII characters"


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
    """Return a value that changes with the key's file, or when its command is due; None for a key of another kind."""
    kind, _, name = reference.partition(":")
    if command := COMMAND_KEY.fullmatch(reference):
        return 0, int(time.monotonic() / int(command.group(1) or COMMAND_EVERY_S))
    if kind != "file":
        return None
    try:
        status = Path(name).stat()
    except OSError:
        return None
    return status.st_ino, status.st_mtime_ns
