"""Detect the data class of a request by the personal data in its text (lake/personal_data).

Detection can only raise a class, because it does not recognise names, images or national numbers. Token ids cannot be
read, so they count as the strictest detectable class. Each text is searched as sent and decoded: addresses may be
encoded in URLs, HTML, JSON or base64, numbers in the digits of any script.
Design: detection costs CPU, so it runs only for endpoints with a pool outside the residency, or with `detect`.
"""

from __future__ import annotations

import base64
import codecs
import html
import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from archwright.lake.personal_data.internet_addresses import CONTEXT_CHARACTERS
from archwright.lake.personal_data.span_finder import CANDIDATE_PATTERNS, FINDERS, PersonalKind
from archwright.policy.residency import DataClass, strictest_class

DETECTED_KINDS: tuple[PersonalKind, ...] = ("email", "iban", "card", "ip", "ssn", "phone")
DATA_CLASS_BY_KIND: dict[PersonalKind, DataClass] = {
    kind: "payment" if kind == "card" else "personal" for kind in DETECTED_KINDS
}
DETECTABLE_CLASSES = frozenset(DATA_CLASS_BY_KIND.values())
# The column scan's email pattern searches a later dot, which takes quadratic time in a@a@a@.
_SUSPECT = {kind: re.compile(pattern) for kind, pattern in (CANDIDATE_PATTERNS | {"email": r"\S@\S"}).items()}
# Strictest kind first: the first match decides.
_KINDS_BY_STRICTNESS = sorted(DETECTED_KINDS, key=lambda kind: DATA_CLASS_BY_KIND[kind] != "payment")
_STRICTEST = DATA_CLASS_BY_KIND[_KINDS_BY_STRICTNESS[0]]
_STRICTEST_KINDS = [kind for kind in DETECTED_KINDS if DATA_CLASS_BY_KIND[kind] == _STRICTEST]
_DIGITS = b"0123456789"
# The prefix of a data: URL.
_DATA_URL_PREFIX = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,")
_BASE64 = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + b"+/=-_\r\n"
_TO_STANDARD_BASE64 = str.maketrans("-_", "+/", "\r\n")
_FIELD_NAME = re.compile(r"[A-Za-z_-]*")  # names that contain no data
# Two neighbours that are never in one match, nor in one escape.
_GAP = re.compile(r"(?<!\\)[ \n](?=[a-z])")
# JSON escapes in a text, nested to any depth.
_ESCAPED = re.compile(r"\\+(?:u([0-9A-Fa-f]{4})|(.))")
_ENTITY = re.compile(r"&(?:#(?:[xX][0-9A-Fa-f]{1,6}|[0-9]{1,7})|commat|period|plus|nbsp);")
# Invisible characters and hyphens. NFKC normalises blanks, full-width letters and full-width signs.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_HYPHEN = re.compile("[\u2010-\u2015\u2212]")
# Length of the pieces to normalise, because sorting the combining marks of one letter takes quadratic time.
_NORMALISED_CHARACTERS = 128
_DIGIT = re.compile(r"\d(?<![0-9])")
_MIN_DIGITS: dict[PersonalKind, int] = {"card": 12, "ssn": 9, "phone": 7, "iban": 2}
MIN_TEXT_CHARACTERS = 6
PIECE_CHARACTERS = 16 * 1024
OVERLAP_CHARACTERS = 1024
MIN_BASE64_CHARACTERS = 512  # shorter values are searched as plain text
_BINARY_SIBLINGS = frozenset({"media_type", "format"})  # fields siblings binary data
_BASE64_PROBE_CHARACTERS = 1024  # decoded to check whether the value is text
_MIN_CARD_NUMBER = 10**12


def detect_data_class(body: Any, is_stopped: Callable[[], bool] = lambda: False) -> DataClass | None:
    """Return the strictest class of personal data in the body's text; None if no personal data is found.

    `is_stopped` is called before each piece of a text; once it returns True, the result is not complete."""
    inputs = body.get("input") or body.get("prompt") if isinstance(body, dict) else None
    if isinstance(inputs, list) and any(isinstance(text, list | int) for text in inputs):  # token ids
        return strictest_class(DETECTABLE_CLASSES)
    found: DataClass | None = None
    for text in extract_texts(body):
        before = ""  # the end of the normalised text before the piece
        for context, piece in _cut_text(text):
            if is_stopped():
                return found
            normalised = normalise_text(piece)
            before = before if context else ""
            forms = [_Form.of(context, piece)]
            if (before, normalised) != (context, piece):
                forms.append(_Form.of(before, normalised))
            kinds = _KINDS_BY_STRICTNESS if found is None else _STRICTEST_KINDS
            found = next((DATA_CLASS_BY_KIND[kind] for kind in kinds if any(form.has(kind) for form in forms)), found)
            if found == _STRICTEST:
                return found
            before = normalised[-CONTEXT_CHARACTERS:]
    return found


def _cut_text(text: str) -> Iterator[tuple[str, str]]:
    """Yield the text in pieces, each with the end of the text before it, which decides on matches in the piece.

    Design: a search in C holds the interpreter lock, so long texts are searched in pieces. A piece ends where no match
    can go on: before a space or line end that a small letter follows. A text without such a place for two pieces, which
    is no prose, is cut anywhere, with an overlap that is longer than any address or number.
    """
    at, context = 0, 0
    while len(text) - at > 2 * PIECE_CHARACTERS:
        gap = _GAP.search(text, at + PIECE_CHARACTERS, at + 2 * PIECE_CHARACTERS)
        end = at + 2 * PIECE_CHARACTERS if gap is None else gap.start()
        yield text[at - context : at], text[at:end]
        at, context = (end - OVERLAP_CHARACTERS, 0) if gap is None else (end, CONTEXT_CHARACTERS)
    yield text[at - context : at], text[at:]


class _CharacterCounts(NamedTuple):
    """Counts of the characters that the kinds need. Counting takes a tenth of the time of a search."""

    digits: int
    ats: int
    dots: int
    colons: int

    @classmethod
    def of(cls, text: str) -> _CharacterCounts:
        raw = text.encode("utf-8", "surrogatepass")
        digits = len(raw) - len(raw.translate(None, _DIGITS))
        return cls(digits, raw.count(b"@"), raw.count(b"."), raw.count(b":"))

    def may_contain(self, kind: PersonalKind) -> bool:
        if kind == "email":
            return self.ats > 0 and self.dots > 0
        if kind == "ip":
            return (self.digits >= 4 and self.dots >= 3) or self.colons >= 2
        return self.digits >= _MIN_DIGITS[kind]


class _Form(NamedTuple):
    """A piece of a text, as sent or normalised, with the text before it. `begin`: where the piece begins."""

    text: str
    begin: int
    counts: _CharacterCounts

    @classmethod
    def of(cls, before: str, piece: str) -> _Form:
        return cls(before + piece, len(before), _CharacterCounts.of(before + piece))

    def has(self, kind: PersonalKind) -> bool:
        """True if a match of the kind begins in the piece."""
        suspect = self.counts.may_contain(kind) and _SUSPECT[kind].search(self.text)
        return bool(suspect) and any(start >= self.begin for start, _ in FINDERS[kind](self.text))


def _is_base64(text: str) -> bool:
    """True if `text` is only base64, with or without the prefix of a data: URL."""
    head = _DATA_URL_PREFIX.match(text)
    encoded = text if head is None else text[head.end() :]
    return encoded.isascii() and not encoded.encode().translate(None, _BASE64)


def _decode_base64_text(encoded: str) -> str:
    """Decode text from base64. Return "" if the bytes are not text."""
    plain = encoded.rpartition(",")[2].translate(_TO_STANDARD_BASE64).rstrip("=")
    probe = plain[:_BASE64_PROBE_CHARACTERS]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(base64.b64decode(probe + "=" * (-len(probe) % 4)))
        return base64.b64decode(plain + "=" * (-len(plain) % 4)).decode("utf-8", "replace")
    except ValueError:
        return ""


def _unescape_match(escape: re.Match[str]) -> str:
    """Return the escaped character. Without this, the n of a line end is a letter before a number."""
    code, letter = escape.groups()
    if code:
        return chr(int(code, 16))
    return " " if letter in "nrtbf" else str(letter)


def normalise_text(text: str) -> str:
    """Remove escapes and encodings from a text."""
    if "\\" in text:
        text = _ESCAPED.sub(_unescape_match, text)
    if "%" in text:
        text = unquote(text)
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity.group()), text)
    if not text.isascii():
        text = _HYPHEN.sub("-", _INVISIBLE.sub("", text))
        pieces = (text[at : at + _NORMALISED_CHARACTERS] for at in range(0, len(text), _NORMALISED_CHARACTERS))
        text = "".join(unicodedata.normalize("NFKC", piece) for piece in pieces)
        text = _DIGIT.sub(lambda digit: str(unicodedata.digit(digit.group(), 0)), text)
    return text


def extract_texts(value: Any) -> Iterator[str]:
    """Yield the body's texts and possible card numbers; no image or audio bytes."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(inner, int | float):  # top-level numbers are parameters
                yield from _walk_field(name, inner, value)
            elif not _FIELD_NAME.fullmatch(name):
                yield from _walk_texts(name)
    else:
        yield from _walk_texts(value)


def _walk_texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) < MIN_TEXT_CHARACTERS:
            return
        if value.startswith("data:") and _is_base64(value):
            value = _decode_base64_text(value)
        yield value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk_field(name, inner, value)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk_texts(inner)
    elif isinstance(value, int | float) and value >= _MIN_CARD_NUMBER:
        yield f"{value:.0f}" if isinstance(value, float) else str(value)


def _walk_field(name: str, inner: Any, siblings: dict[str, Any]) -> Iterator[str]:
    if not _FIELD_NAME.fullmatch(name):
        yield from _walk_texts(name)
    may_be_binary = name in ("data", "file_data") and isinstance(inner, str) and len(inner) >= MIN_BASE64_CHARACTERS
    if may_be_binary and _is_base64(inner):
        yield from _walk_texts(_decode_base64_text(inner))
        if name == "file_data" or siblings.get("type") == "base64" or not _BINARY_SIBLINGS.isdisjoint(siblings):
            return
    yield from _walk_texts(inner)
