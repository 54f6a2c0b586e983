"""Finds social security numbers, other national and tax numbers (python-stdnum), and dates of birth."""

import csv
import re
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from importlib import import_module, resources
from typing import NamedTuple

from archwright.errors import require_extra
from archwright.lake.personal_data.internet_addresses import CONTEXT_CHARACTERS

SSN = re.compile(r"[0-9](?<![\w.+-].)[0-9]{2}([- ]?)[0-9]{2}\1[0-9]{4}(?![\w-]|\.[0-9])")
SSN_WORDS = re.compile(r"\b(?:ssn|social security|tax(?:payer)? id|itin)\b[^\n\d]{0,20}$", re.IGNORECASE)


def find_ssns(text: str) -> Iterator[tuple[int, int]]:
    """Numbers of the United States (also taxpayer numbers, 9xx): with hyphens, or after a word for them."""
    for match in SSN.finditer(text):
        area, group, serial = (digits := re.sub("[- ]", "", match.group()))[:3], digits[3:5], digits[5:]
        if (
            area in ("000", "666")
            or group == "00"
            or serial == "0000"
            or (area[0] == "9" and not re.match("5|6[0-5]|[78]|9[0-24-9]", group))
        ):
            continue
        if match.group(1) == "-" or SSN_WORDS.search(text, max(0, match.start() - CONTEXT_CHARACTERS), match.start()):
            yield match.span()


DIGITS = re.compile("[0-9]{2}")
WORDS_CHARACTERS, WINDOW_CHARACTERS, MAX_CHARACTERS = 64, 256, 64
JOINERS = frozenset("-+_/")  # signs beside a part of something longer


class NationalNumber(NamedTuple):
    """A row of national_numbers.csv. If `words` is not empty, one of them must stand before the number."""

    country: str
    module: str
    pattern: str
    words: str
    source: str


def _read_national_numbers() -> tuple[NationalNumber, ...]:
    text = resources.files(__package__).joinpath("national_numbers.csv").read_text(encoding="utf-8")
    return tuple(NationalNumber(**row) for row in csv.DictReader(text.splitlines()))


NATIONAL_NUMBERS = _read_national_numbers()


def _pattern_of(row: NationalNumber) -> str:
    """In the syntax of RE2 and Python."""
    return rf"(?i:{row.words})[^\n0-9]{{0,20}}\b({row.pattern})\b" if row.words else rf"({row.pattern})\b"


# One pattern finds the candidates of all countries; then the pattern and the check digit of each row decide.
NATIONAL_NUMBER_CANDIDATE = rf"\b(?:{'|'.join(map(_pattern_of, NATIONAL_NUMBERS))})"
_CANDIDATE = re.compile(NATIONAL_NUMBER_CANDIDATE)
_PATTERNS = [re.compile(_pattern_of(row)) for row in NATIONAL_NUMBERS]


def find_national_numbers(text: str, countries: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    """Numbers of the `countries`, by default of all rows, with a valid check digit."""
    for candidate in _search_near_digits(_CANDIDATE, text):
        span = _find_valid_number(text, candidate.start(), countries)
        if span:
            yield span


def _search_near_digits(pattern: re.Pattern[str], text: str) -> Iterator[re.Match[str]]:
    """Matches of a slow pattern, searched only around digits."""
    searched = found = 0
    for digits in DIGITS.finditer(text):
        if digits.start() >= searched:
            begin, searched = max(found, digits.start() - WORDS_CHARACTERS), digits.start() + WINDOW_CHARACTERS
            for match in pattern.finditer(text, begin, searched + MAX_CHARACTERS):
                if match.start() < searched:  # later matches may be cut
                    found = match.end()
                    yield match


def _find_valid_number(text: str, at: int, countries: Sequence[str]) -> tuple[int, int] | None:
    for row, pattern in zip(NATIONAL_NUMBERS, _PATTERNS, strict=True):
        match = pattern.match(text, at) if not countries or row.country in countries else None
        if match and _load_validator(row.module)(match.group(1)):
            start, end = match.span(1)
            if text[start - 1 : start] not in JOINERS and text[end : end + 1] not in JOINERS:
                return start, end
    return None


@cache
def _load_validator(module: str) -> Callable[[str], bool]:
    if not module:
        return bool  # the pattern is the check
    with require_extra("lake", "checking national numbers"):
        found: Callable[[str], bool] = import_module(f"stdnum.{module}").is_valid
    return found


MONTHS = "jan|feb|fév|fev|m[aä]r|ene|abr|apr|avr|mai|may|jun|jui|jul|ago|aug|ao[uû]|sep|oct|okt|nov|dec|dez|déc|dic"
YEAR = r"(?:19|20)[0-9]{2}"
BIRTH_DATE = (
    r"(?i:\b(?:born|birth ?da(?:te|y)|date of birth|d\.?o\.?b\.?|geboren|geb\.|geburts(?:datum|tag)"
    r"|née?|date de naissance|nacid[oa]|(?:fecha de )?nacimiento)(?:[ :=*,()\"'_]|am|on|le|el){1,12})"
    rf"(?P<date>{YEAR}[-./][01]?[0-9][-./][0-3]?[0-9]\b|[0-3]?[0-9][-./][0-3]?[0-9][-./](?:{YEAR}|[0-9]{{2}})\b"
    rf"|(?i:[0-3]?[0-9](?:\.|er|st|nd|rd|th)? (?:de |of )?(?:{MONTHS})[a-zäéûç]{{0,7}}\.?,? (?:del? )?{YEAR}\b"
    rf"|(?:{MONTHS})[a-z]{{0,7}}\.? [0-3]?[0-9](?:st|nd|rd|th)?,? {YEAR}\b))"
)
_BIRTH_DATE = re.compile(BIRTH_DATE)


def find_birth_dates(text: str) -> Iterator[tuple[int, int]]:
    """Dates after a word for birth in English, German, French or Spanish."""
    return (match.span("date") for match in _search_near_digits(_BIRTH_DATE, text))
