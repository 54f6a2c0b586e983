"""Finds API keys and other secrets: known formats, private keys, and random values after words like `api_key =`."""

import csv
import math
import re
from collections import Counter
from collections.abc import Iterator
from importlib import resources

_TABLE = resources.files(__package__).joinpath("secret_formats.csv").read_text(encoding="utf-8")
_FORMATS = "|".join(row["pattern"] for row in csv.DictReader(_TABLE.splitlines()))
_PRIVATE_KEY = "-----BEGIN (?:[A-Z0-9]{2,12} ){0,3}PRIVATE KEY(?: BLOCK)?-----"
_NAME = (
    r"(?i:(?:api|access|auth|account|secret|private|client|encryption)[_ -]?(?:key|token|secret)"
    r"|secret|token|passw(?:or)?d|pwd)[\"'\] \t]{0,3}"
)
_SIGN = r"[:=]>?[ \t]{0,3}(?:[Bb]earer )?[\"']?"
# For RE2, which has no look-behind, and which counts no more than 1,000 characters.
_SHORT_FORMATS = re.sub(r"\{(\d+),\d{2,}\}", r"{\1,}", _FORMATS)
CANDIDATE = rf"\b(?:{_SHORT_FORMATS})|{_PRIVATE_KEY}|{_NAME}:?{_SIGN}[A-Za-z0-9+/_~.-]{{16}}"
_KNOWN = re.compile(rf"(?<![\w-])(?:{_FORMATS}|{_PRIVATE_KEY})")
_NAME_BEFORE = re.compile(rf"{_NAME}:?$")
NAME_CHARACTERS = 32
_VALUE = re.compile(rf"{_SIGN}([A-Za-z0-9+/_~.-]{{16,512}}={{0,2}})(?![A-Za-z0-9+/_~.(<{{$-])")
_PRIVATE_KEY_END = re.compile("-----END [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----")
MAX_PRIVATE_KEY_CHARACTERS = 20_000
# A pseudonym, a word, a version, a path.
NO_SECRET = re.compile(r"^[A-Z-]+_[a-z2-7]{16}$|[a-z]{10}|\.\w*\.|^\.?/|(?:/[a-z]+){2}")
MIN_ENTROPY_BITS = 3.3  # per character; English words have less


def find_secrets(text: str) -> Iterator[tuple[int, int]]:
    for match in _KNOWN.finditer(text):
        start, end = match.span()
        if match.group().startswith("-----BEGIN"):
            found = _PRIVATE_KEY_END.search(text, end, end + MAX_PRIVATE_KEY_CHARACTERS)
            end = found.end() if found else end
        yield start, end
    for match in _VALUE.finditer(text):
        before = text[max(0, match.start() - NAME_CHARACTERS) : match.start()]
        if _NAME_BEFORE.search(before) and _is_random(match.group(1)):
            yield match.span(1)


def _is_random(text: str) -> bool:
    """True for a value of letters and digits that no name, path or version is."""
    if not re.search("[0-9]", text) or not re.search("[A-Za-z]", text) or NO_SECRET.search(text):
        return False
    counts = Counter(text).values()
    return -sum(count / len(text) * math.log2(count / len(text)) for count in counts) >= MIN_ENTROPY_BITS
