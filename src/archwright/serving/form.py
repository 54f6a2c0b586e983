"""The form of a stream's events: their bytes around the text that each of them brings.

Decides that nothing is guessed. A form is taken from an event only where the decoder, shown the same bytes with another
text in that place, finds that text and otherwise the same; so any JSON string may stand there. An event is read by its
form only where it is these very bytes around one JSON string; whatever else is for the decoder.
"""

from __future__ import annotations

import msgspec

from archwright.serving.events import decode_event, text_alone

_DATA, _END = b"data: ", b"\n\n"
_PROBE = "\u2042 archwright"

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(str).decode


class Form:
    __slots__ = ("_around", "_before", "_behind")

    def __init__(self, before: bytes, behind: bytes) -> None:
        self._before, self._behind = before, behind
        self._around = len(before) + len(behind)

    def text(self, event: bytes) -> str | None:
        """What one event brings; None where it is not of this form."""
        between = event.removeprefix(self._before).removesuffix(self._behind)
        if len(event) - len(between) != self._around:
            return None
        try:
            return _decode(between)
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None


def form_of(event: bytes) -> Form | None:
    """None where this is not one event in one line that brings a text alone, or its text is in no plain place."""
    if not (event.startswith(_DATA) and event.endswith(_END) and event.count(b"\n") == 2) or b"\r" in event:
        return None
    text = _text(event)
    if not text or text == _PROBE:
        return None
    before, found, behind = event.rpartition(_encode(text))
    return Form(before, behind) if found and _text(before + _encode(_PROBE) + behind) == _PROBE else None


def _text(event: bytes) -> str | None:
    try:
        return text_alone(decode_event(event[len(_DATA) : -len(_END)]))
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
