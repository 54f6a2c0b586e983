"""Places of the setting `audit_checkpoints`: standard output, the system log, a file, a bucket of S3."""

import fcntl
import os
import re
import socket
import sys
from collections.abc import Container, Iterator, Sequence
from pathlib import Path

from archwright.access.audit_checkpoints import append_line
from archwright.access.audit_delivery.delivery_place import DeliveryBatch, DeliveryPlace
from archwright.access.audit_delivery.object_lock_bucket import SCHEME, ObjectLockBucket
from archwright.home import open_private

STDOUT = "stdout"
SYSLOG = "syslog"
FILE_SCHEME = "file:"
UNREADABLE = (STDOUT, SYSLOG)
SYSLOG_SOCKETS = ("/dev/log", "/var/run/syslog")
_SYSLOG_HEAD = b"<37>archwright: "  # facility auth, severity notice
# A pipe takes this many bytes whole, so that lines of other processes stay apart.
PIPE_BYTES = 4096
SYSLOG_TIMEOUT_S = 5.0


class StreamPlace:
    """Standard output, which the platform of containers or the service manager collects."""

    window_s = 0.0

    def deliver(self, batch: DeliveryBatch) -> None:
        handle = sys.__stdout__.fileno() if sys.__stdout__ else 1
        for piece in _join_lines(batch.lines):
            while piece:
                piece = piece[os.write(handle, piece) :]


def _join_lines(lines: Sequence[bytes]) -> Iterator[bytes]:
    """Yield the lines in pieces of at most PIPE_BYTES, or of one line."""
    piece = b""
    for line in lines:
        if piece and len(piece) + len(line) >= PIPE_BYTES:
            yield piece
            piece = b""
        piece += line + b"\n"
    yield piece


class SyslogPlace:
    """The daemon of the system log of this machine."""

    window_s = 0.0

    def deliver(self, batch: DeliveryBatch) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.settimeout(SYSLOG_TIMEOUT_S)
            sender.connect(_find_syslog_socket())
            for line in batch.lines:
                sender.send(_SYSLOG_HEAD + line)


def _find_syslog_socket() -> str:
    for path in SYSLOG_SOCKETS:
        if Path(path).exists():
            return path
    return SYSLOG_SOCKETS[0]


class FilePlace:
    """A file that other homes may also write to."""

    window_s = 0.0

    def __init__(self, path: Path) -> None:
        self._path = path

    def deliver(self, batch: DeliveryBatch) -> None:
        with open_private(self._path, "ab+") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            append_line(file, b"\n".join(batch.lines))


def split_addresses(setting: str) -> tuple[str, ...]:
    """Return the places of the setting; a full path is a file."""
    addresses: list[str] = []
    for address in re.split(r"[,\s]+", setting):
        if address:
            addresses.append(f"{FILE_SCHEME}{address}" if address.startswith("/") else address)
    return tuple(dict.fromkeys(addresses))


def select_addresses(setting: str, *, excluded: Container[str]) -> tuple[str, ...]:
    """Return the places of the setting that are not excluded."""
    selected: list[str] = []
    for address in split_addresses(setting):
        if address not in excluded:
            selected.append(address)
    return tuple(selected)


def open_place(address: str) -> DeliveryPlace:
    """Return the place of an address of `split_addresses`."""
    if address == STDOUT:
        return StreamPlace()
    if address == SYSLOG:
        return SyslogPlace()
    if address.startswith(SCHEME):
        return ObjectLockBucket(address)
    return FilePlace(Path(address.removeprefix(FILE_SCHEME)))


def check_readable(address: str) -> None:
    """Raise OSError if the file of a place does not exist or cannot be read."""
    if address.startswith(SCHEME):
        return  # S3 refuses the first request
    with open(address.removeprefix(FILE_SCHEME), "rb"):
        pass


def read_place(address: str) -> Iterator[bytes]:
    """Yield the lines of a place that can be read; nothing if it does not exist yet. Raises OSError, StoreError."""
    if address.startswith(SCHEME):
        yield from ObjectLockBucket(address).read_lines()
        return
    path = Path(address.removeprefix(FILE_SCHEME))
    if path.exists():
        with open(path, "rb") as file:
            yield from file
