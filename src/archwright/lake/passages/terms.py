"""Terms of a text for keyword search, for all languages: no stemming, no stop words.

Words are folded (NFKC, case). Scripts without spaces between words become pairs of neighbouring characters.
"""

import re
import unicodedata

TERM_CHARACTERS = 64
# Marks of vowels in Indic and other scripts belong to a word, but are no letters.
_WORD = r"[^\W_](?:[^\W_]|[\u0300-\u036f\u0900-\u0dff\u0610-\u061a\u064b-\u065f])*"
_UNSPACED = r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]+"
_TERM = re.compile(f"{_UNSPACED}|{_WORD}")
_IS_UNSPACED = re.compile(_UNSPACED)


def split_terms(text: str) -> list[str]:
    """The terms in order, each at most TERM_CHARACTERS long."""
    found: list[str] = []
    for run in _TERM.findall(unicodedata.normalize("NFKC", text).casefold()):
        parts = re.split(f"({_UNSPACED})", run) if not run.isascii() else [run]
        for part in parts:
            if part.isascii() or not _IS_UNSPACED.fullmatch(part):
                found += [part[:TERM_CHARACTERS]] if part else []
            else:
                found += [part[at : at + 2] for at in range(max(1, len(part) - 1))]
    return found
