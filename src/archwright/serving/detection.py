"""Which class the data in a request's text are of, by what points at a person in it (lake/personal.py).

Decides that detection only ever raises a class: what it does not see (names, pictures, a language's own numbers) it
says nothing about. It costs time for each character, so it runs only where an endpoint asks for it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from archwright.lake.personal import FINDERS, KINDS, SUSPECT, Kind
from archwright.policy.residency import DataClass

# A card's number is what the rules of payment protect; an account's number names a person.
CLASS_OF: dict[Kind, DataClass] = {kind: "payment" if kind == "card" else "personal" for kind in KINDS}
_SUSPECT = {kind: re.compile(pattern) for kind, pattern in SUSPECT.items()}
# The strictest first: nothing more need be looked for once it is found.
_ORDER = sorted(KINDS, key=lambda kind: CLASS_OF[kind] != "payment")
SHORTEST = 6


def class_of(body: Any) -> DataClass | None:
    """The strictest class that something in the text of the body is of; None where nothing was found."""
    found = list(texts(body))
    for kind in _ORDER:
        for text in found:
            if _SUSPECT[kind].search(text) and next(FINDERS[kind](text), None) is not None:
                return CLASS_OF[kind]
    return None


def texts(value: Any) -> Iterator[str]:
    """Every text in the body, however deep; not the bytes of a picture or a sound in it."""
    if isinstance(value, str):
        if len(value) >= SHORTEST and not value.startswith("data:"):
            yield value
    elif isinstance(value, dict):
        for inner in value.values():
            yield from texts(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from texts(inner)
