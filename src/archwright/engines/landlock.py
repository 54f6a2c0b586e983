"""Access to files and TCP ports that a thread gives up for itself and for its children (Landlock, no root needed).

Only what a rule names stays permitted. Kernels differ in the rights that they know, which the version of the ABI says:
1 files, 2 renames between folders, 3 truncation, 4 TCP, 5 ioctl of devices, 6 signals and abstract sockets.
"""

import ctypes
import errno
import os
import struct
import sys
from collections.abc import Iterable
from enum import IntFlag
from pathlib import Path
from stat import S_ISDIR
from typing import NamedTuple

CREATE_RULESET, ADD_RULE, RESTRICT_SELF = 444, 445, 446
ASK_VERSION, RULE_OF_PATH = 1, 1
# The kernel lacks Landlock, it is switched off at boot, or a container around this process forbids it.
NOT_OFFERED = (errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM)
# Version of the ABI -> number of the file rights that it knows.
FILE_RIGHTS = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
TCP_SINCE, SCOPES_SINCE = 4, 6
BIND_AND_CONNECT, ABSTRACT_SOCKETS_AND_SIGNALS = 3, 3


class FileRight(IntFlag):
    """Rights of Landlock that rules here give; those on folders hold for all that is below."""

    EXECUTE = 1 << 0
    WRITE = 1 << 1
    READ = 1 << 2
    LIST = 1 << 3
    REMOVE_FOLDER = 1 << 4
    REMOVE_FILE = 1 << 5
    MAKE_FOLDER = 1 << 7
    MAKE_FILE = 1 << 8
    MAKE_SOCKET = 1 << 9
    MAKE_LINK = 1 << 12
    RENAME = 1 << 13
    TRUNCATE = 1 << 14
    CONTROL_DEVICE = 1 << 15


# The rights that a rule for a single file may give.
OF_FILES = FileRight.EXECUTE | FileRight.WRITE | FileRight.READ | FileRight.TRUNCATE | FileRight.CONTROL_DEVICE


class FileRule(NamedTuple):
    """Rights on a file, or on a folder and all that is below; a link counts as what it leads to."""

    path: Path
    rights: FileRight


def read_landlock_version() -> int:
    """Return the version of the kernel's ABI; 0 if it does not offer Landlock to this process. Raises OSError."""
    if sys.platform != "linux":
        return 0
    libc = ctypes.CDLL(None, use_errno=True)
    version = int(libc.syscall(CREATE_RULESET, None, ctypes.c_size_t(0), ASK_VERSION))
    if version < 0 and ctypes.get_errno() not in NOT_OFFERED:
        raise _last_error("the version of Landlock cannot be read")
    return max(version, 0)


def restrict_files(rules: Iterable[FileRule], version: int, *, tcp_refused: bool) -> None:
    """Keep only the rights of the rules; a rule without its path is left out. Raises OSError.

    Signals and abstract sockets of processes outside are refused too. Call it before threads start, after
    PR_SET_NO_NEW_PRIVS.
    """
    known = FileRight((1 << FILE_RIGHTS[min(version, max(FILE_RIGHTS))]) - 1)
    ports = BIND_AND_CONNECT if tcp_refused and version >= TCP_SINCE else 0
    scopes = ABSTRACT_SOCKETS_AND_SIGNALS if version >= SCOPES_SINCE else 0
    attributes = struct.pack("=QQQ", known, ports, scopes)
    libc = ctypes.CDLL(None, use_errno=True)
    ruleset = libc.syscall(CREATE_RULESET, attributes, ctypes.c_size_t(len(attributes)), 0)
    if ruleset < 0:
        raise _last_error("Landlock refuses the rules")
    try:
        for rule in rules:
            _add_rule(libc, ruleset, rule, known)
        if libc.syscall(RESTRICT_SELF, ruleset, 0):
            raise _last_error("Landlock does not restrict this process")
    finally:
        os.close(ruleset)


def _add_rule(libc: ctypes.CDLL, ruleset: int, rule: FileRule, known: FileRight) -> None:
    try:
        descriptor = os.open(rule.path, os.O_PATH | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # what cannot be reached now stays closed
    try:
        permitted = known if S_ISDIR(os.fstat(descriptor).st_mode) else known & OF_FILES
        attributes = struct.pack("=Qi", rule.rights & permitted, descriptor)
        if libc.syscall(ADD_RULE, ruleset, RULE_OF_PATH, attributes, 0):
            raise _last_error(f"Landlock refuses a rule for {rule.path}")
    finally:
        os.close(descriptor)


def _last_error(message: str) -> OSError:
    return OSError(ctypes.get_errno(), f"{message}: {os.strerror(ctypes.get_errno())}")
