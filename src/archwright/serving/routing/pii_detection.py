"""The data class of a request's text, by personal data found in it (lake/pii_redaction.py).

Detection only raises a class: it does not see names, images or national numbers. Token ids cannot be read, so they
count as the strictest detectable class. A text is searched as it is and decoded: addresses may be in URLs, HTML, JSON
and base64, numbers in the digits of any script. It takes time, so it runs only for endpoints that need it.
"""

from __future__ import annotations

import base64
import codecs
import html
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple
from urllib.parse import unquote

from archwright.lake.pii_redaction import CANDIDATE_PATTERNS, FINDERS, PII_KINDS, PiiKind
from archwright.policy.residency import DataClass, strictest_class

DATA_CLASS_BY_KIND: dict[PiiKind, DataClass] = {kind: "payment" if kind == "card" else "personal" for kind in PII_KINDS}
DETECTABLE_CLASSES = frozenset(DATA_CLASS_BY_KIND.values())
# The column scan's email pattern needs a later dot, which takes quadratic time in a@a@a@.
_SUSPECT = {kind: re.compile(pattern) for kind, pattern in (CANDIDATE_PATTERNS | {"email": r"\S@\S"}).items()}
# The strictest first: the first one found decides.
_KINDS_BY_STRICTNESS = sorted(PII_KINDS, key=lambda kind: DATA_CLASS_BY_KIND[kind] != "payment")
_DIGITS = b"0123456789"
# The bytes of an image or a sound; a field name without data.
_DATA_URL_PREFIX = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,")
_BASE64 = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + b"+/=-_\r\n"
_TO_STANDARD_BASE64 = str.maketrans("-_", "+/", "\r\n")
_FIELD_NAME = re.compile(r"[A-Za-z_-]*")
# JSON escapes in a text, however often nested.
_ESCAPED = re.compile(r"\\+(?:u([0-9A-Fa-f]{4})|(.))")
_PERCENT = re.compile(r"%[2-7][0-9A-Fa-f]")
_ENTITY = re.compile(r"&(?:#(?:[xX][0-9A-Fa-f]{1,6}|[0-9]{1,7})|commat|period|plus|nbsp);")
# Invisible characters and hyphens; NFKC normalises blanks and full-width letters and signs.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_HYPHEN = re.compile("[\u2010-\u2015\u2212]")
# Normalised in pieces: sorting the marks of one letter takes quadratic time.
_NORMALISED_CHARACTERS = 128
_DIGIT = re.compile(r"\d(?<![0-9])")
_MIN_DIGITS: dict[PiiKind, int] = {"card": 13, "phone": 7, "iban": 2}
MIN_TEXT_CHARACTERS = 6
MIN_BASE64_CHARACTERS = 512  # shorter values are searched as text
_BINARY_SIBLINGS = frozenset({"media_type", "format"})  # fields beside binary data
_BASE64_PROBE_CHARACTERS = 1024  # decoded to see if it is text
_MIN_CARD_NUMBER = 10**12


def detect_data_class(body: Any) -> DataClass | None:
    """The strictest class of the personal data in the body's text; None if there is none."""
    given = body.get("input") if isinstance(body, dict) else None
    if isinstance(given, list) and any(isinstance(one, list) for one in given):  # token ids
        return strictest_class(DETECTABLE_CLASSES)
    held = [(text, _count_characters(text)) for text in extract_texts(body)]
    for kind in _KINDS_BY_STRICTNESS:
        for text, signs in held:
            suspect = _may_contain(kind, signs) and _SUSPECT[kind].search(text)
            if suspect and next(FINDERS[kind](text), None) is not None:
                return DATA_CLASS_BY_KIND[kind]
    return None


class _CharacterCounts(NamedTuple):
    """Counts of the characters that the kinds need; counting takes a tenth of the time of a search without a match."""

    digits: int
    ats: int
    dots: int
    colons: int


def _count_characters(text: str) -> _CharacterCounts:
    raw = text.encode("utf-8", "surrogatepass")
    digits = len(raw) - len(raw.translate(None, _DIGITS))
    return _CharacterCounts(digits, raw.count(b"@"), raw.count(b"."), raw.count(b":"))


def _may_contain(kind: PiiKind, signs: _CharacterCounts) -> bool:
    if kind == "email":
        return signs.ats > 0 and signs.dots > 0
    if kind == "ip":
        return (signs.digits >= 4 and signs.dots >= 3) or signs.colons >= 2
    return signs.digits >= _MIN_DIGITS[kind]


def _is_base64(text: str) -> bool:
    """True if `text` is only base64, with or without the head of a data: URL."""
    head = _DATA_URL_PREFIX.match(text)
    said = text if head is None else text[head.end() :]
    return said.isascii() and not said.encode().translate(None, _BASE64)


def _decode_base64_text(said: str) -> str:
    """The text encoded as base64; empty if it is no text."""
    plain = said.rpartition(",")[2].translate(_TO_STANDARD_BASE64).rstrip("=")
    probe = plain[:_BASE64_PROBE_CHARACTERS]
    try:
        codecs.getincrementaldecoder("utf-8")().decode(base64.b64decode(probe + "=" * (-len(probe) % 4)))
        return base64.b64decode(plain + "=" * (-len(plain) % 4)).decode("utf-8", "replace")
    except ValueError:
        return ""


def _unescape_match(escape: re.Match[str]) -> str:
    """The escaped character; the n of a line's end would otherwise be a letter before a number."""
    code, letter = escape.groups()
    if code:
        return chr(int(code, 16))
    return " " if letter in "nrtbf" else str(letter)


def _normalise_text(text: str) -> str:
    """The text as its reader sees it, without escapes and encodings."""
    if "\\" in text:
        text = _ESCAPED.sub(_unescape_match, text)
    if "%" in text and _PERCENT.search(text):
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
    """Every text in the body, also normalised, and every number that may be a card's; no bytes of images or sounds."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(inner, int | float):  # numbers at the top are parameters
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
        meant = _normalise_text(value)
        if meant != value:
            yield meant
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _walk_field(name, inner, value)
    elif isinstance(value, list):
        for inner in value:
            yield from _walk_texts(inner)
    elif isinstance(value, int | float) and value >= _MIN_CARD_NUMBER:
        yield f"{value:.0f}" if isinstance(value, float) else str(value)


def _walk_field(name: str, inner: Any, beside: dict[str, Any]) -> Iterator[str]:
    if not _FIELD_NAME.fullmatch(name):
        yield from _walk_texts(name)
    long = name in ("data", "file_data") and isinstance(inner, str) and len(inner) >= MIN_BASE64_CHARACTERS
    if long and _is_base64(inner):
        yield from _walk_texts(_decode_base64_text(inner))
        if name == "file_data" or beside.get("type") == "base64" or not _BINARY_SIBLINGS.isdisjoint(beside):
            return
    yield from _walk_texts(inner)
