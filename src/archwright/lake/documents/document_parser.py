"""Starts the child process that parses documents, and ends it when a document exceeds a limit or crashes it.

Design: one child parses many documents, since it starts in about a second. It gets no secret (the environment of an
engine), an empty working folder and one read-only descriptor per document. Its answers are checked like
foreign files. The document that ends a child is refused with the reason, and the next one gets a new child.
"""

import atexit
import os
import resource
import signal
import socket
import tempfile
import time
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from subprocess import DEVNULL, Popen, TimeoutExpired
from threading import Lock
from typing import NamedTuple

import msgspec

from archwright.contract.record import replace
from archwright.errors import DataError, from_os_error, missing_extra, replace_control_characters
from archwright.lake.documents import parser_process
from archwright.lake.documents.parser_process import ParsedDocument, ParseRequest
from archwright.python_process import build_module_command
from archwright.settings import engine_environment

START_S = 60.0
END_S = 5.0
ERROR_BYTES = 4096
REASON_CHARACTERS = 200
# Messages of allocators before they abort: of Rust, C++, pdfium.
MEMORY_MESSAGES = (b"memory allocation", b"bad_alloc", b"out of memory")


class ParserLimits(NamedTuple):
    """Limits of the child (address space) and of each document (wall time, processor time, sizes)."""

    memory_mb: int = 1024
    wall_s: int = 120
    cpu_s: int = 60
    document_mb: int = 128
    output_mb: int = 64


class _Child(NamedTuple):
    process: Popen[bytes]
    channel: socket.socket
    errors: int
    folder: tempfile.TemporaryDirectory[str]


class DocumentParser:
    """Parses one document at a time. The child starts with the first and ends with `close`, or with this process."""

    def __init__(self, limits: ParserLimits | None = None) -> None:
        self.limits = limits or ParserLimits()
        self.sandbox: tuple[str, ...] = ()
        self.errors = ""  # last line of the standard error of the last child that failed
        self._child: _Child | None = None
        self._cpu_s = 0.0
        self._lock = Lock()

    def parse_file(self, path: Path, form: str) -> ParsedDocument:
        """Return the pages, or the reason why there are none. Raises DataError AW-DATA-34, MissingError AW-GET-01."""
        try:
            with self._lock, open(path, "rb") as file:
                if os.fstat(file.fileno()).st_size > self.limits.document_mb << 20:
                    return ParsedDocument(broken=f"larger than {self.limits.document_mb} MB")
                child = self._child or self._start_child()
                found = self._request_pages(child, file.fileno(), form)
        except OSError as error:
            raise from_os_error(error) from error
        self._cpu_s = found.cpu_s
        return found

    def kill_child(self) -> None:
        """Kill the child, so that the document that another thread waits for is refused at once."""
        child = self._child
        if child is not None:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)

    def close(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            with suppress(ProcessLookupError):
                os.killpg(child.process.pid, signal.SIGKILL)
            child.process.wait()
            child.channel.close()
            os.close(child.errors)
            child.folder.cleanup()

    def _start_child(self) -> _Child:
        missing = next((name for name in parser_process.LIBRARIES if find_spec(name) is None), None)
        if missing is not None:
            raise missing_extra("documents", missing, "reading HTML, PDF, office documents and images")
        folder = tempfile.TemporaryDirectory(prefix="archwright-parser-")
        channel, remote = socket.socketpair()
        errors, errors_end = os.pipe()
        os.set_blocking(errors_end, False)  # a library that writes much must not wait: the excess is lost
        argv = build_module_command(parser_process.__name__, str(self.limits.memory_mb))
        try:
            # The child leads a session of its own, so the terminal's Ctrl-C reaches only its parent.
            process = Popen(
                argv,
                stdin=remote.fileno(),
                stdout=DEVNULL,
                stderr=errors_end,
                cwd=folder.name,
                env=engine_environment({}),
                start_new_session=True,
            )
        finally:
            remote.close()
            os.close(errors_end)
        self._child = child = _Child(process, channel, errors, folder)
        try:
            started = self._receive_message(child, START_S)
        except (TimeoutError, EOFError, ConnectionError, msgspec.MsgspecError) as error:
            reason = self._end_child(child)
            message = f"the document parser does not start: {reason} {self.errors}".rstrip()
            hint = "install the libraries again: pip install --force-reinstall 'archwright[documents]'"
            raise DataError("AW-DATA-34", message, hint=hint) from error
        self.sandbox, self._cpu_s = started.sandbox, started.cpu_s
        return child

    def _request_pages(self, child: _Child, descriptor: int, form: str) -> ParsedDocument:
        request = msgspec.json.encode(ParseRequest(format=form, output_bytes=self.limits.output_mb << 20))
        if hasattr(resource, "prlimit"):  # Linux
            seconds = int(self._cpu_s) + 1 + self.limits.cpu_s
            with suppress(ProcessLookupError):
                resource.prlimit(child.process.pid, resource.RLIMIT_CPU, (seconds, resource.RLIM_INFINITY))
        try:
            socket.send_fds(child.channel, [request], [descriptor])
            found = self._receive_message(child, self.limits.wall_s)
        except TimeoutError:
            self.close()
            return ParsedDocument(broken=f"took longer than {self.limits.wall_s} s")
        except (EOFError, ConnectionError, msgspec.MsgspecError):
            return ParsedDocument(broken=self._end_child(child))
        if found.broken == parser_process.describe_memory(self.limits.memory_mb):
            self.close()  # it may hold much of the memory
        return found

    def _receive_message(self, child: _Child, timeout_s: float) -> ParsedDocument:
        """Receive one message. Raises TimeoutError, EOFError, ConnectionError, MsgspecError for an invalid one."""
        deadline = time.monotonic() + timeout_s
        data = bytearray()
        length = parser_process.LENGTH_BYTES
        while len(data) < length:
            child.channel.settimeout(max(deadline - time.monotonic(), 0.001))
            received = child.channel.recv(min(length - len(data), 1 << 20))
            if not received:
                raise EOFError
            data += received
            if len(data) == parser_process.LENGTH_BYTES == length:
                length += int.from_bytes(data, "big")
                if length > 8 * self.limits.output_mb << 20:  # JSON escapes take up to six bytes per character
                    raise EOFError
        found = msgspec.json.decode(memoryview(data)[parser_process.LENGTH_BYTES :], type=ParsedDocument)
        if [page.page for page in found.pages] != list(range(1, len(found.pages) + 1)):
            raise msgspec.ValidationError
        return replace(found, broken=replace_control_characters(found.broken)[:REASON_CHARACTERS])

    def _end_child(self, child: _Child) -> str:
        """End the child after a failure; return the reason."""
        try:
            ended = -child.process.wait(END_S)
        except TimeoutExpired:
            ended = 0
        os.set_blocking(child.errors, False)
        errors = b""
        with suppress(BlockingIOError):
            errors = os.read(child.errors, ERROR_BYTES * 16)[-ERROR_BYTES:]
        self.close()
        self.errors = errors.decode("utf-8", "replace").strip().rpartition("\n")[2][:REASON_CHARACTERS]
        if any(message in errors.lower() for message in MEMORY_MESSAGES):
            return parser_process.describe_memory(self.limits.memory_mb)
        if ended == signal.SIGXCPU:
            return f"took longer than {self.limits.cpu_s} s of processor time"
        names = {0: "invalid answer", **{number.value: number.name for number in signal.Signals}}
        return f"parser crashed: {names.get(ended, f'exit {-ended}')}"


@cache
def _make_parser(_process: int) -> DocumentParser:
    parser = DocumentParser()
    atexit.register(parser.close)
    return parser


def shared_parser() -> DocumentParser:
    """The parser of this process; a forked process gets its own, since two cannot share a channel."""
    return _make_parser(os.getpid())
