"""Distinguish a complete reply from a stream by its content.

Design: the content decides, because servers send either form regardless of the request and of the content type.
"""

from archwright.http_client.client import BODY_LIMIT_BYTES
from archwright.http_client.sse import EventParser, ServerSentEvent, too_large_error

EVENT_STREAM = b"text/event-stream"
# Possible beginnings of a stream: its fields, a comment, and the error field of older llama.cpp servers.
_STREAM_PREFIXES = (b"data", b"event", b"id", b"retry", b":", b"error")


class CompleteReplyParser(EventParser):
    """Parses a stream into events; collects any other reply in `body`."""

    def __init__(self) -> None:
        super().__init__()
        self.body: list[bytes] = []
        self._bytes = 0
        self._streams: bool | None = None

    def take_plain_events(self, chunk: bytes) -> bytes | None:
        return super().take_plain_events(chunk) if self._streams else None

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        if self._streams is None:
            begin = chunk.lstrip()
            if not begin:
                return []
            # A brace is tested first, since nearly every complete reply is an object.
            self._streams = begin[:1] != b"{" and any(begin.startswith(one[: len(begin)]) for one in _STREAM_PREFIXES)
        if self._streams:
            return super().feed(chunk)
        self.body.append(chunk)
        self._bytes += len(chunk)
        if self._bytes > BODY_LIMIT_BYTES:
            raise too_large_error(BODY_LIMIT_BYTES)
        return []
