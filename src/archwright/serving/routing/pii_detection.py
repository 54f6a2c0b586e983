"""Which class the data in a request's text are of, by what points at a person in it (lake/pii_redaction.py).

Decides that detection only ever raises a class: what it does not see (names, pictures, a language's own numbers) it
says nothing about. Token ids are a text nobody here can read, and a caller's choice: they count as the strictest that
could be found in it. And a text is searched as it stands and as it is meant: programs put addresses into URLs, HTML,
JSON and base64, and people write numbers with the blanks, hyphens and digits of their script. It costs time for each
character, so it runs only where an endpoint asks for it.
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

# A card's number is what the rules of payment protect; an account's number names a person.
DATA_CLASS_BY_KIND: dict[PiiKind, DataClass] = {kind: "payment" if kind == "card" else "personal" for kind in PII_KINDS}
DETECTABLE_CLASSES = frozenset(DATA_CLASS_BY_KIND.values())
# A column scan's pattern of addresses asks for a dot somewhere behind: of a@a@a@ that is a search for each.
_SUSPECT = {kind: re.compile(pattern) for kind, pattern in (CANDIDATE_PATTERNS | {"email": r"\S@\S"}).items()}
# The strictest first: nothing more need be looked for once it is found.
_KINDS_BY_STRICTNESS = sorted(PII_KINDS, key=lambda kind: DATA_CLASS_BY_KIND[kind] != "payment")
_DIGITS = b"0123456789"
# The bytes of a picture or a sound; a name of a field that can be nothing else.
_DATA_URL_PREFIX = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,")
_BASE64 = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + b"+/=-_\r\n"
_FIELD_NAME = re.compile(r"[A-Za-z_-]*")
# As JSON within a text writes a character, however often it was put into another.
_ESCAPED = re.compile(r"\\+(?:u([0-9A-Fa-f]{4})|(.))")
_PERCENT = re.compile(r"%[2-7][0-9A-Fa-f]")
_ENTITY = re.compile(r"&(?:#(?:[xX][0-9A-Fa-f]{1,6}|[0-9]{1,7})|commat|period|plus|nbsp);")
# Seen by nobody, or as the hyphen they stand for; NFKC does the rest: blanks, letters and signs of full width.
_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_HYPHEN = re.compile("[\u2010-\u2015\u2212]")
# Normalized piece by piece: the marks above and below one letter are sorted, in the square of the time of their number.
_NORMALISED_CHARACTERS = 128
_DIGIT = re.compile(r"\d(?<![0-9])")
_MIN_DIGITS: dict[PiiKind, int] = {"card": 13, "phone": 7, "iban": 2}
MIN_TEXT_CHARACTERS = 6
MIN_BASE64_CHARACTERS = 512  # what may be bytes and is shorter is searched all the same
_BINARY_SIBLINGS = frozenset({"media_type", "format"})  # what stands beside the bytes of something
_BASE64_PROBE_CHARACTERS = 1024  # of base64: whether it is text
_MIN_CARD_NUMBER = 10**12  # a number as long as a card's


def detect_data_class(body: Any) -> DataClass | None:
    """The strictest class that something in the text of the body is of; None where nothing was found."""
    if _has_token_ids(body):
        return strictest_class(DETECTABLE_CLASSES)
    held = [(text, _count_characters(text)) for text in extract_texts(body)]
    for kind in _KINDS_BY_STRICTNESS:
        for text, signs in held:
            if (
                _may_contain(kind, signs)
                and _SUSPECT[kind].search(text)
                and next(FINDERS[kind](text), None) is not None
            ):
                return DATA_CLASS_BY_KIND[kind]
    return None


def _has_token_ids(body: Any) -> bool:
    """Whether texts came as their token ids."""
    given = body.get("input") if isinstance(body, dict) else None
    return isinstance(given, list) and any(isinstance(one, list) for one in given)


class _CharacterCounts(NamedTuple):
    """How often a text has what every kind needs: counting is a tenth of the cost of a pattern that finds nothing."""

    digits: int
    ats: int
    dots: int
    colons: int


def _count_characters(text: str) -> _CharacterCounts:
    raw = text.encode("utf-8", "surrogatepass")
    return _CharacterCounts(
        len(raw) - len(raw.translate(None, _DIGITS)), raw.count(b"@"), raw.count(b"."), raw.count(b":")
    )


def _may_contain(kind: PiiKind, signs: _CharacterCounts) -> bool:
    if kind == "email":
        return signs.ats > 0 and signs.dots > 0
    if kind == "ip":
        return (signs.digits >= 4 and signs.dots >= 3) or signs.colons >= 2
    return signs.digits >= _MIN_DIGITS[kind]


def _is_base64(text: str) -> bool:
    """Nothing but base64, with or without what a data: URL says before it."""
    head = _DATA_URL_PREFIX.match(text)
    said = text if head is None else text[head.end() :]
    return said.isascii() and not said.encode().translate(None, _BASE64)


def _decode_base64_text(said: str) -> str:
    """The text for which base64 stands; nothing of what is no text."""
    plain = (
        said.rpartition(",")[2].translate({ord("-"): "+", ord("_"): "/", ord("\r"): None, ord("\n"): None}).rstrip("=")
    )
    try:
        codecs.getincrementaldecoder("utf-8")().decode(
            base64.b64decode(plain[:_BASE64_PROBE_CHARACTERS] + "=" * (-len(plain[:_BASE64_PROBE_CHARACTERS]) % 4))
        )
        return base64.b64decode(plain + "=" * (-len(plain) % 4)).decode("utf-8", "replace")
    except ValueError:
        return ""


def _unescape_match(escape: re.Match[str]) -> str:
    """What it stands for: else the n of a line's end would be the letter before a number, and none begins there."""
    code, letter = escape.groups()
    if code:
        return chr(int(code, 16))
    return " " if letter in "nrtbf" else str(letter)


def _normalise_text(text: str) -> str:
    """As who reads it sees it, once what it was put into is taken off."""
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
    """Every text in the body, however deep, also as it is meant, and every number beside them that may be a card's; not
    the bytes of a picture or a sound."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(inner, int | float):  # these set what is asked: the rest of a body holds what is said
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
    if (
        name in ("data", "file_data")
        and isinstance(inner, str)
        and len(inner) >= MIN_BASE64_CHARACTERS
        and _is_base64(inner)
    ):
        yield from _walk_texts(_decode_base64_text(inner))
        if name == "file_data" or beside.get("type") == "base64" or not _BINARY_SIBLINGS.isdisjoint(beside):
            return
    yield from _walk_texts(inner)
