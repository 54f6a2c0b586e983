"""The form of a stream's events: the bytes around the text that each event brings.

A form is derived from an event only if the decoder, given the same bytes around another text, finds that text and
nothing else; so any JSON string may stand there. An event is read by its form only if it has exactly these bytes around
one JSON string; any other goes to the decoder.
"""

from __future__ import annotations

import msgspec

from archwright.serving.events.engine_events import decode_event, extract_plain_text

_DATA, _END = b"data: ", b"\n\n"
_PROBE = "\u2042 archwright"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(str).decode


class EventTemplate:
    """More bytes than `one` may be several events."""

    __slots__ = ("_around", "_before", "_behind", "_joint", "one")

    def __init__(self, before: bytes, behind: bytes) -> None:
        self._before, self._behind = before, behind
        self._joint = behind + before  # has a line's end: never within JSON's strings
        self._around = len(self._joint)
        self.one = 2 * self._around

    def match_one(self, event: bytes) -> str | None:
        """The text of one event; None if it is not of this form."""
        between = event.removeprefix(self._before).removesuffix(self._behind)
        if len(event) - len(between) != self._around:
            return None
        try:
            return _decode(between)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None

    def match_all(self, events: bytes) -> list[str] | None:
        """The texts of whole events, none empty; None unless all are of this form."""
        between = events.removeprefix(self._before).removesuffix(self._behind)
        if len(events) - len(between) != self._around:
            return None
        try:
            found = [_decode(one) for one in between.split(self._joint)]
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        return found if all(found) else None


def derive_template(events: bytes) -> EventTemplate | None:
    """The form of the last of some events; None unless it is one line that brings only a text, in one place."""
    if not events.endswith(_END):
        return None
    event = events[: -len(_END)].rpartition(_END)[2] + _END
    if not event.startswith(_DATA) or event.count(b"\n") != 2 or b"\r" in event:
        return None
    text = _decode_text(event)
    if not text or text == _PROBE:
        return None
    before, found, behind = event.rpartition(_encode(text))
    same = found and _decode_text(before + _encode(_PROBE) + behind) == _PROBE
    return EventTemplate(before, behind) if same else None


def _decode_text(event: bytes) -> str | None:
    try:
        return extract_plain_text(decode_event(event[len(_DATA) : -len(_END)]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
