"""Server-sent events, decoded from bytes that may be cut anywhere (WHATWG HTML, section 9.2.6)."""

from __future__ import annotations

from typing import NamedTuple

from archwright.errors import EngineError

# The largest event accepted; a reply with log-probabilities of a few hundred tokens stays far below.
EVENT_LIMIT_BYTES = 4 << 20


class ServerSentEvent(NamedTuple):
    """`kind` is the `event:` field ("" when absent); `data` the `data:` lines joined by line feeds."""

    kind: str
    data: bytes


class EventParser:
    """Bytes in, complete events out. An event cut off by the end of the stream is dropped, as the standard says."""

    def __init__(self, limit_bytes: int = EVENT_LIMIT_BYTES) -> None:
        self._limit = limit_bytes
        self._rest = b""
        self._after_return = False
        self._first = True
        self._kind = ""
        self._data: list[bytes] = []
        self._size = 0

    @property
    def is_between_events(self) -> bool:
        """True if the next byte begins an event."""
        return not (self._rest or self._data or self._kind or self._after_return)

    def take_plain_events(self, chunk: bytes) -> bytes | None:
        """The whole events up to the last empty line of `chunk`, if they have the usual form of one data line and an
        empty line each; what follows is kept. None for another form: then call `feed`."""
        if self._data or self._kind or self._after_return or b"\r" in chunk:
            return None
        whole = self._rest + chunk if self._rest else chunk
        end = whole.rfind(b"\n\n")
        if end < 0 or not whole.startswith(b"data: ") or len(whole) > self._limit:
            return None
        self._rest, self._first = whole[end + 2 :], False
        return whole[:end]

    def parse_plain_events(self, plain: bytes) -> list[ServerSentEvent]:
        """The events of a result of `take_plain_events`."""
        rest, self._rest = self._rest, b""
        return self.feed(plain + b"\n\n" + rest)

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """The events completed by `chunk`. Raises EngineError AW-ENG-03 if one event exceeds the limit."""
        events: list[ServerSentEvent] = []
        for line in self._split_lines(chunk):
            if line:
                self._parse_field(line)
                continue
            if self._data:
                events.append(ServerSentEvent(self._kind, b"\n".join(self._data)))
            self._kind, self._data, self._size = "", [], 0
        if self._size + len(self._rest) > self._limit:
            raise too_large_error(self._limit)
        return events

    def _split_lines(self, chunk: bytes) -> list[bytes]:
        # A line ends in LF, CR or CRLF, and the border of two chunks may fall inside a CRLF.
        if not chunk:
            return []
        if self._after_return and chunk[:1] == b"\n":
            chunk = chunk[1:]
            self._after_return = False
            if not chunk:
                return []
        self._after_return = chunk[-1:] == b"\r"
        if b"\r" in chunk:
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = (self._rest + chunk).split(b"\n")
        self._rest = lines.pop()
        if self._first and lines:
            self._first = False
            lines[0] = lines[0].removeprefix(b"\xef\xbb\xbf")
        return lines

    def _parse_field(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if name == b"data":
            self._append_data(value)
        elif name == b"event":
            self._kind = value.decode("utf-8", "replace")
        elif name == b"error":
            # Older llama.cpp servers report an error within a stream in a field of this name.
            self._kind = "error"
            self._append_data(value)

    def _append_data(self, value: bytes) -> None:
        self._data.append(value)
        self._size += len(value) + 1
        if self._size > self._limit:
            raise too_large_error(self._limit)


def too_large_error(limit_bytes: int) -> EngineError:
    hint = "check that the address is an OpenAI-compatible endpoint"
    return EngineError("AW-ENG-03", f"the engine sent more than {limit_bytes} bytes in one piece", hint=hint)
