"""Parser of server-sent events in chunks with arbitrary boundaries (WHATWG HTML, section 9.2.6)."""

from typing import NamedTuple

from archwright.errors import EngineError

# Maximum size of an event. Log-probabilities of a few hundred tokens need far less.
EVENT_LIMIT_BYTES = 4 << 20


class ServerSentEvent(NamedTuple):
    """`kind`: the `event:` field ("" if absent). `data`: the `data:` lines joined by line feeds."""

    kind: str
    data: bytes


class EventParser:
    """Parses bytes into complete events. The standard drops an event that the end of the stream cuts off."""

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
        """Return the complete events of `chunk` if they may be plain, else None. After None, call `feed`.

        A plain event is one data line and an empty line. The bytes after the last empty line are kept."""
        if self._data or self._kind or self._after_return or b"\r" in chunk:
            return None
        events = self._rest + chunk if self._rest else chunk
        end = events.rfind(b"\n\n")
        if end < 0 or not events.startswith(b"data: ") or len(events) > self._limit:
            return None
        self._rest, self._first = events[end + 2 :], False
        return events[:end]

    def parse_plain_events(self, plain: bytes) -> list[ServerSentEvent]:
        """Parse a result of `take_plain_events`."""
        rest, self._rest = self._rest, b""
        return self.feed(plain + b"\n\n" + rest)

    def feed(self, chunk: bytes) -> list[ServerSentEvent]:
        """Return the events completed by `chunk`. Raises EngineError AW-ENG-03 if an event exceeds the limit."""
        events: list[ServerSentEvent] = []
        for line in self._split_lines(chunk):
            if line:
                name, _, value = line.partition(b":")
                value = value.removeprefix(b" ")
                if name == b"data":
                    self._append_data(value)
                elif name == b"event":
                    self._kind = value.decode("utf-8", "replace")
                elif name == b"error":
                    # Older llama.cpp servers report a stream error in a field of this name.
                    self._kind = "error"
                    self._append_data(value)
                continue
            if self._data:
                events.append(ServerSentEvent(self._kind, b"\n".join(self._data)))
            self._kind, self._data, self._size = "", [], 0
        if self._size + len(self._rest) > self._limit:
            raise too_large_error(self._limit)
        return events

    def _split_lines(self, chunk: bytes) -> list[bytes]:
        # A line ends in LF, CR or CRLF, and a chunk may end inside a CRLF.
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

    def _append_data(self, value: bytes) -> None:
        self._data.append(value)
        self._size += len(value) + 1
        if self._size > self._limit:
            raise too_large_error(self._limit)


def too_large_error(limit_bytes: int) -> EngineError:
    hint = "check that the engine's address is an OpenAI-compatible endpoint"
    return EngineError("AW-ENG-03", f"the engine sent an event or reply of more than {limit_bytes} bytes", hint=hint)
