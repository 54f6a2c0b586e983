"""Downloads of files: the bytes leave in blocks while the client reads, so memory does not grow with the file."""

import asyncio
import re
from http import HTTPStatus
from typing import NamedTuple

from archwright.access.reservations import ReserveResult
from archwright.http_client.connection_pool import ResponseSink
from archwright.serving.batches.batch_api import StoreCall, count_call
from archwright.serving.batches.result_file import ReadableFile
from archwright.serving.handlers.request_handler import HandlerContext, RequestHandler
from archwright.serving.http.errors import ApiError
from archwright.serving.http.http_response import HeaderField

FILE_TYPE = "application/octet-stream"
BLOCK_BYTES = 64 * 1024
_RANGE = re.compile(r"bytes=(?:(\d{1,18})-(\d{0,18})|-(\d{1,18}))", re.ASCII)


class ByteRange(NamedTuple):
    """A part of a file: from `start`, up to and without `end`."""

    start: int
    end: int


class FileDownload(RequestHandler):
    """Sends a file, or the part that the header Range names."""

    def __init__(self, context: HandlerContext) -> None:
        super().__init__(context)
        self._context = context

    async def run(self, _reservation: ReserveResult | None) -> None:
        count_call(self._context)
        call = StoreCall(self._context)
        file = await asyncio.to_thread(call.store.open_file, call.name)
        try:
            await self._send(file, call.name)
        finally:
            file.close()

    async def _send(self, file: ReadableFile, name: str) -> None:
        request, response = self.request, self.response
        tag = f'"{name}"'  # the bytes of a file never change
        headers: list[HeaderField] = [(b"accept-ranges", b"bytes"), (b"etag", tag.encode())]
        stated = request.header(b"range") if request.header(b"if-range") in (None, tag) else None
        part = parse_range(stated, file.size)
        if part is None:
            part, status = ByteRange(0, file.size), HTTPStatus.OK
        else:
            status = HTTPStatus.PARTIAL_CONTENT
            headers.append((b"content-range", b"bytes %d-%d/%d" % (part.start, part.end - 1, file.size)))
        reader = _Reader()
        response.attach_source(reader)
        response.watch_disconnect()
        response.start_sized(status, FILE_TYPE, part.end - part.start, headers)
        for start in range(part.start, part.end, BLOCK_BYTES):
            await reader.ready.wait()
            response.write(await asyncio.to_thread(file.read, start, min(BLOCK_BYTES, part.end - start)))
        response.finish()


class _Reader(ResponseSink):
    """Tells when the client can take more."""

    def __init__(self) -> None:
        self.ready = asyncio.Event()
        self.ready.set()

    def pause(self) -> None:
        self.ready.clear()

    def resume(self) -> None:
        self.ready.set()


def parse_range(header: str | None, size: int) -> ByteRange | None:
    """Return the part that a Range header names; None for the whole file, also if it names several parts.

    Raises ApiError 416 for a part outside the file."""
    match = _RANGE.fullmatch(header.replace(" ", "")) if header else None
    if match is None:
        return None
    first, last, suffix = match.groups()
    if first is None:
        start, end = max(0, size - int(suffix)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < int(first):
            return None  # not a valid range
    if start >= end:
        raise RangeOutsideFile(size)
    return ByteRange(start, end)


class RangeOutsideFile(ApiError):
    """The Range of a request begins behind the end of the file."""

    def __init__(self, size: int) -> None:
        message = f"The file has {size:,} bytes, and the range is outside them. Request a range within the file."
        super().__init__(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, message, "invalid_range")
        self.size = size

    def headers(self, path: str = "") -> list[HeaderField]:
        return [*super().headers(path), (b"content-range", b"bytes */%d" % self.size)]
