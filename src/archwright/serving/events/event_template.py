"""Template of a stream's events: the constant bytes before and after the text of each event.

A template is derived from one event. The decoder must read any other text from the same surrounding bytes, and nothing
else. An event matches only if it has exactly these bytes around one JSON string; other events go to the decoder.
Design: reading a text event needs two byte comparisons and no decoding of the envelope, which saves CPU per token.
"""

import msgspec

from archwright.serving.events.engine_events import decode_event, extract_plain_text

_DATA, _END = b"data: ", b"\n\n"
_PROBE = "\u2042 archwright"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(str).decode


class EventTemplate:
    """`one`: a chunk of more bytes than this may hold several events."""

    __slots__ = ("_after", "_before", "_envelope_bytes", "_separator", "one")

    def __init__(self, before: bytes, after: bytes) -> None:
        self._before, self._after = before, after
        self._separator = after + before  # contains a line end, so it never occurs within a JSON string
        self._envelope_bytes = len(self._separator)
        self.one = 2 * self._envelope_bytes

    def match_one(self, event: bytes) -> str | None:
        """Return the text of one event; None if the event does not match."""
        encoded_text = event.removeprefix(self._before).removesuffix(self._after)
        if len(event) - len(encoded_text) != self._envelope_bytes:
            return None
        try:
            return _decode(encoded_text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def match_all(self, events: bytes) -> list[str] | None:
        """Return the texts of complete events; None if an event does not match or its text is empty."""
        encoded_text = events.removeprefix(self._before).removesuffix(self._after)
        if len(events) - len(encoded_text) != self._envelope_bytes:
            return None
        try:
            texts = [_decode(text) for text in encoded_text.split(self._separator)]
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return texts if all(texts) else None


def derive_template(events: bytes) -> EventTemplate | None:
    """Derive a template from the last event; None unless it is one line with one text and nothing else."""
    if not events.endswith(_END):
        return None
    event = events[: -len(_END)].rpartition(_END)[2] + _END
    if not event.startswith(_DATA) or event.count(b"\n") != 2 or b"\r" in event:
        return None
    text = _decode_text(event)
    if not text or text == _PROBE:
        return None
    before, found, after = event.rpartition(_encode(text))
    reproduced = found and _decode_text(before + _encode(_PROBE) + after) == _PROBE
    return EventTemplate(before, after) if reproduced else None


def _decode_text(event: bytes) -> str | None:
    try:
        return extract_plain_text(decode_event(event[len(_DATA) : -len(_END)]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
