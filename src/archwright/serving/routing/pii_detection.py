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

from archwright.lake.pii_redaction import FINDERS, KINDS, SUSPECT, Kind
from archwright.policy.residency import DataClass, strictest

# A card's number is what the rules of payment protect; an account's number names a person.
CLASS_OF: dict[Kind, DataClass] = {kind: "payment" if kind == "card" else "personal" for kind in KINDS}
FINDS = frozenset(CLASS_OF.values())
# A column scan's pattern of addresses asks for a dot somewhere behind: of a@a@a@ that is a search for each.
_SUSPECT = {kind: re.compile(pattern) for kind, pattern in (SUSPECT | {"email": r"\S@\S"}).items()}
# The strictest first: nothing more need be looked for once it is found.
_ORDER = sorted(KINDS, key=lambda kind: CLASS_OF[kind] != "payment")
_DIGITS = b"0123456789"
# The bytes of a picture or a sound; a name of a field that can be nothing else.
_BYTES = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,")
_BASE64 = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + b"+/=-_\r\n"
_NAME = re.compile(r"[A-Za-z_-]*")
# As JSON within a text writes a character, however often it was put into another.
_ESCAPED = re.compile(r"\\+(?:u([0-9A-Fa-f]{4})|(.))")
_PERCENT = re.compile(r"%[2-7][0-9A-Fa-f]")
_ENTITY = re.compile(r"&(?:#(?:[xX][0-9A-Fa-f]{1,6}|[0-9]{1,7})|commat|period|plus|nbsp);")
# Seen by nobody, or as the hyphen they stand for; NFKC does the rest: blanks, letters and signs of full width.
_UNSEEN = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_HYPHEN = re.compile("[\u2010-\u2015\u2212]")
# Normalized piece by piece: the marks above and below one letter are sorted, in the square of the time of their number.
_PIECE = 128
_DIGIT = re.compile(r"\d(?<![0-9])")
_LEAST_DIGITS: dict[Kind, int] = {"card": 13, "phone": 7, "iban": 2}
SHORTEST = 6
SEARCHED = 512  # what may be bytes and is shorter is searched all the same
_OF_BYTES = frozenset({"media_type", "format"})  # what stands beside the bytes of something
_HEAD = 1024  # of base64: whether it is text
_LARGE = 10**12  # a number as long as a card's


def class_of(body: Any) -> DataClass | None:
    """The strictest class that something in the text of the body is of; None where nothing was found."""
    if _coded(body):
        return strictest(FINDS)
    held = [(text, _signs(text)) for text in texts(body)]
    for kind in _ORDER:
        for text, signs in held:
            if _may_hold(kind, signs) and _SUSPECT[kind].search(text) and next(FINDERS[kind](text), None) is not None:
                return CLASS_OF[kind]
    return None


def _coded(body: Any) -> bool:
    """Whether texts came as their token ids."""
    given = body.get("input") if isinstance(body, dict) else None
    return isinstance(given, list) and any(isinstance(one, list) for one in given)


class _Signs(NamedTuple):
    """How often a text has what every kind needs: counting is a tenth of the cost of a pattern that finds nothing."""

    digits: int
    ats: int
    dots: int
    colons: int


def _signs(text: str) -> _Signs:
    raw = text.encode("utf-8", "surrogatepass")
    return _Signs(len(raw) - len(raw.translate(None, _DIGITS)), raw.count(b"@"), raw.count(b"."), raw.count(b":"))


def _may_hold(kind: Kind, signs: _Signs) -> bool:
    if kind == "email":
        return signs.ats > 0 and signs.dots > 0
    if kind == "ip":
        return (signs.digits >= 4 and signs.dots >= 3) or signs.colons >= 2
    return signs.digits >= _LEAST_DIGITS[kind]


def _is_bytes(text: str) -> bool:
    """Nothing but base64, with or without what a data: URL says before it."""
    head = _BYTES.match(text)
    said = text if head is None else text[head.end() :]
    return said.isascii() and not said.encode().translate(None, _BASE64)


def _told(said: str) -> str:
    """The text for which base64 stands; nothing of what is no text."""
    plain = (
        said.rpartition(",")[2].translate({ord("-"): "+", ord("_"): "/", ord("\r"): None, ord("\n"): None}).rstrip("=")
    )
    try:
        codecs.getincrementaldecoder("utf-8")().decode(
            base64.b64decode(plain[:_HEAD] + "=" * (-len(plain[:_HEAD]) % 4))
        )
        return base64.b64decode(plain + "=" * (-len(plain) % 4)).decode("utf-8", "replace")
    except ValueError:
        return ""


def _unescaped(escape: re.Match[str]) -> str:
    """What it stands for: else the n of a line's end would be the letter before a number, and none begins there."""
    code, letter = escape.groups()
    if code:
        return chr(int(code, 16))
    return " " if letter in "nrtbf" else str(letter)


def _meant(text: str) -> str:
    """As who reads it sees it, once what it was put into is taken off."""
    if "\\" in text:
        text = _ESCAPED.sub(_unescaped, text)
    if "%" in text and _PERCENT.search(text):
        text = unquote(text)
    if "&" in text:
        text = _ENTITY.sub(lambda entity: html.unescape(entity.group()), text)
    if not text.isascii():
        text = _HYPHEN.sub("-", _UNSEEN.sub("", text))
        pieces = (text[at : at + _PIECE] for at in range(0, len(text), _PIECE))
        text = "".join(unicodedata.normalize("NFKC", piece) for piece in pieces)
        text = _DIGIT.sub(lambda digit: str(unicodedata.digit(digit.group(), 0)), text)
    return text


def texts(value: Any) -> Iterator[str]:
    """Every text in the body, however deep, also as it is meant, and every number beside them that may be a card's; not
    the bytes of a picture or a sound."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if not isinstance(inner, int | float):  # these set what is asked: the rest of a body holds what is said
                yield from _named(name, inner, value)
            elif not _NAME.fullmatch(name):
                yield from _texts(name)
    else:
        yield from _texts(value)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        if len(value) < SHORTEST:
            return
        if value.startswith("data:") and _is_bytes(value):
            value = _told(value)
        yield value
        meant = _meant(value)
        if meant != value:
            yield meant
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _named(name, inner, value)
    elif isinstance(value, list):
        for inner in value:
            yield from _texts(inner)
    elif isinstance(value, int | float) and value >= _LARGE:
        yield f"{value:.0f}" if isinstance(value, float) else str(value)


def _named(name: str, inner: Any, beside: dict[str, Any]) -> Iterator[str]:
    if not _NAME.fullmatch(name):
        yield from _texts(name)
    if name in ("data", "file_data") and isinstance(inner, str) and len(inner) >= SEARCHED and _is_bytes(inner):
        yield from _texts(_told(inner))
        if name == "file_data" or beside.get("type") == "base64" or not _OF_BYTES.isdisjoint(beside):
            return
    yield from _texts(inner)
