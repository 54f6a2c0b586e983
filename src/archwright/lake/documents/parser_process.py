"""The child process that parses documents: `python -P -m archwright.lake.documents.parser_process`.

It gets descriptors of documents over the Unix socket that is its standard input, and answers each with one message: its
length, then a `ParsedDocument` as JSON. All libraries are loaded first, since no file can be opened in the sandbox.
"""

import encodings
import os
import pkgutil
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from typing import IO

import msgspec

from archwright.contract.record import Record, replace
from archwright.errors import ArchwrightError, boundary
from archwright.lake.documents import document_contents
from archwright.lake.documents.document_contents import DocumentError, DocumentPage
from archwright.lake.documents.sandbox import enter_sandbox, limit_resources
from archwright.python_process import run_entry_point

LENGTH_BYTES = 8
MAX_REQUEST_BYTES = 4096
# Loaded when the first document is parsed, otherwise.
LATE_MODULES = ("PIL.Image", "xml.dom.expatbuilder")
LIBRARIES = ("pypdfium2", "html_to_markdown", "mammoth", "pptx", "python_calamine", "PIL")


class ParseRequest(Record):
    format: str
    output_bytes: int


class ParsedDocument(Record):
    """`broken` is the reason why there are no pages; `cpu_s` is the processor time of the child since its start."""

    pages: tuple[DocumentPage, ...] = ()
    broken: str = ""
    cpu_s: float = 0.0
    sandbox: tuple[str, ...] = ()


def main(arguments: Sequence[str]) -> None:
    memory_mb = int(arguments[0])
    _load_libraries()
    limit_resources(memory_mb << 20)
    channel = socket.socket(fileno=0)
    sandbox = tuple(enter_sandbox())
    _send_document(channel, ParsedDocument(sandbox=sandbox))
    while True:
        message, descriptors, _flags, _address = socket.recv_fds(channel, MAX_REQUEST_BYTES, 1)
        if not message:
            return
        request = msgspec.json.decode(message, type=ParseRequest)
        with os.fdopen(descriptors[0], "rb") as file:
            document = _parse_document(file, request, memory_mb)
        _send_document(channel, document)


def _load_libraries() -> None:
    for name in (*LIBRARIES, *LATE_MODULES):
        import_module(name)
    import_module("PIL.Image").init()
    for module in pkgutil.iter_modules(encodings.__path__):
        with suppress(ImportError):  # of another operating system
            import_module(f"encodings.{module.name}")


def _send_document(channel: socket.socket, document: ParsedDocument) -> None:
    message = msgspec.json.encode(replace(document, cpu_s=time.process_time()))
    channel.sendall(len(message).to_bytes(LENGTH_BYTES, "big") + message)


def _parse_document(file: IO[bytes], request: ParseRequest, memory_mb: int) -> ParsedDocument:
    pages: list[DocumentPage] = []
    size = 0
    try:
        with boundary("document"):
            for page in document_contents.parse_document(request.format, file.read()):
                text = page.text.encode("utf-8", "replace").decode().replace("\0", "").strip()
                pages.append(page._replace(text=text))
                size += len(text)
                if size > request.output_bytes:
                    return ParsedDocument(broken=f"more than {request.output_bytes >> 20} MB of text")
    except ArchwrightError as error:
        return ParsedDocument(broken=_describe_cause(error.__cause__, memory_mb))
    return ParsedDocument(pages=tuple(pages))


def _describe_cause(cause: BaseException | None, memory_mb: int) -> str:
    if isinstance(cause, DocumentError):
        return str(cause)
    if isinstance(cause, MemoryError):
        return describe_memory(memory_mb)
    return "nested too deep" if isinstance(cause, RecursionError) else f"damaged: {type(cause).__name__}"


def describe_memory(memory_mb: int) -> str:
    return f"needs more than {memory_mb} MB of memory"


if __name__ == "__main__":
    run_entry_point(main)
