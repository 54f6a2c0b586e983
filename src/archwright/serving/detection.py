"""Which class the data in a request's text are of, by what points at a person in it (lake/personal.py).

Decides that detection only ever raises a class: what it does not see (names, pictures, a language's own numbers) it
says nothing about. Token ids are a text nobody here can read, and a caller's choice: they count as the strictest that
could be found in it. It costs time for each character, so it runs only where an endpoint asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from archwright.lake.personal import FINDERS, KINDS, SUSPECT, Kind
from archwright.policy.residency import DataClass, strictest

# A card's number is what the rules of payment protect; an account's number names a person.
CLASS_OF: dict[Kind, DataClass] = {kind: "payment" if kind == "card" else "personal" for kind in KINDS}
FINDS = frozenset(CLASS_OF.values())
_SUSPECT = {kind: re.compile(pattern) for kind, pattern in SUSPECT.items()}
# The strictest first: nothing more need be looked for once it is found.
_ORDER = sorted(KINDS, key=lambda kind: CLASS_OF[kind] != "payment")
_DIGITS = b"0123456789"
# The bytes of a picture or a sound; a name of a field that can be nothing else.
_BYTES = re.compile(r"data:[\w.+-]+/[\w.+-]+(?:;[\w.+=-]+)*;base64,")
_BASE64 = bytes(range(48, 58)) + bytes(range(65, 91)) + bytes(range(97, 123)) + b"+/=-_\r\n"
_NAME = re.compile(r"[A-Za-z_-]*")
# As JSON within a text writes a character, however often it was put into another.
_ESCAPED = re.compile(r"\\+(?:u([0-9A-Fa-f]{4})|(.))")
_LEAST_DIGITS: dict[Kind, int] = {"card": 13, "phone": 7, "iban": 2}
SHORTEST = 6
SEARCHED = 512  # what may be bytes and is shorter is searched all the same


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
        return signs.ats > 0
    if kind == "ip":
        return (signs.digits >= 4 and signs.dots >= 3) or signs.colons >= 2
    return signs.digits >= _LEAST_DIGITS[kind]


def _is_bytes(text: str) -> bool:
    """Nothing but base64, with or without what a data: URL says before it."""
    head = _BYTES.match(text)
    said = text if head is None else text[head.end() :]
    return said.isascii() and not said.encode().translate(None, _BASE64)


def _meant(escape: re.Match[str]) -> str:
    """What it stands for: else the n of a line's end would be the letter before a number, and none begins there."""
    code, letter = escape.groups()
    if code:
        return chr(int(code, 16))
    return " " if letter in "nrtbf" else str(letter)


def texts(value: Any) -> Iterator[str]:
    """Every text in the body, however deep, one that may be JSON also as it is meant; not the bytes of a picture or a
    sound in it."""
    if isinstance(value, str):
        if len(value) >= SHORTEST and not (value.startswith("data:") and _is_bytes(value)):
            yield value
            if "\\" in value:
                yield _ESCAPED.sub(_meant, value)
    elif isinstance(value, dict):
        for name, inner in value.items():
            if not _NAME.fullmatch(name):
                yield from texts(name)
            if name != "data" or not isinstance(inner, str) or len(inner) < SEARCHED or not _is_bytes(inner):
                yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
