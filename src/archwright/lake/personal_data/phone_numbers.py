"""Finds telephone numbers: international, North American, and others after a word for them or with a valid prefix."""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

from archwright.lake.lazy_modules import LazyModule
from archwright.lake.personal_data.internet_addresses import CONTEXT_CHARACTERS

phonenumbers = LazyModule("phonenumbers", "lake", "checking telephone numbers")

PHONE_WORDS = re.compile(
    r"\b(?:(?:(?:tele)?phones?|tel|t[ée]l[ée]fono?|telefon|m[oó]vil|mobile?|fax|sms|whatsapp)\b[^\n\d]{0,16}"
    r"|(?:call|ring|dial|cell|rufen?|handy|portable)"
    r"(?: (?:me|us|him|her|them|now|back|at|on|sie|mich|uns|unter|or)){0,3}[ :.]{0,2})$",
    re.IGNORECASE,
)
DIGIT_RUN = re.compile(r"[0-9](?:[ .()/-]{0,3}[0-9]){6,}+")
EXTENSION = r"(?: ?(?:x|#|ext\.?|extension|poste|Durchwahl) ?[0-9]{1,6})?(?![\w-]|[.,][0-9])"
EXTENSION_CHARACTERS = 24
# Possessive quantifiers: with backtracking a hundred runs of digits took minutes.
INTERNATIONAL = re.compile(
    r"(?<![\w+.-])(?<!\d )(?:\(?\+|00)[1-9][0-9]{0,2}+\)?(?:[ .\-/]{0,2}(?:\(0?[0-9]{1,4}\)|[0-9]++)){1,7}" + EXTENSION
)
# A national number in the North American form; other national numbers need a word for telephone or a valid prefix.
NORTH_AMERICAN = re.compile(
    r"(?<![\w.+/(-])(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[ .-][0-9]{4}" + EXTENSION
)
NATIONAL = re.compile(r"(?<![\w.+(-])\(?[0-9][0-9()]{0,40}(?:[ .\-/]{1,2}\(?[0-9]+\)?){0,6}" + EXTENSION)
# Forms of national numbers that no word announces: area and number, the French pairs, the British groups; no postcodes.
TRUNK_FORM = re.compile(
    r"(?!0[0-9]{4}[ -][0-9]{4}$)(?:\(0[1-9][0-9]{1,4}\) ?[0-9]{3,8}|0[1-9][0-9]{1,4}[ /-][0-9]{4,8}"
    r"|0[1-9](?:[ .-][0-9]{2}){4}|\(?0[1-9][0-9]{1,3}\)?[ -][0-9]{3,4}[ -][0-9]{3,4})"
)
TABLE_BEFORE, TABLE_AFTER = re.compile(r"(?:\b[0-9A-Fa-f]{2,}|[/=,|]) ?$"), re.compile(r"[ ,]+[0-9A-Fa-f]{2}\b|/|\.\w")
MIN_DIGITS = 9  # of a national number that no word announces
MIN_INTERNATIONAL, MIN_NORTH_AMERICAN = 10, 12  # characters
GROUPED_NUMBER = re.compile(r"\+*[^ ]*(?: 000){2,}")  # for example +1 000 000
DATE = re.compile(r"[0-9]{4}[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}[-./][0-9]{1,2}[-./][0-9]{2,4}")


def find_phones(text: str, regions: Sequence[str] = ()) -> Iterator[tuple[int, int]]:
    """With `regions`, the package phonenumbers checks numbers that no word announces; without, their form decides."""
    for run in DIGIT_RUN.finditer(text):
        start, end = max(0, run.start() - 2), run.end() + EXTENSION_CHARACTERS
        number = text[start : run.end()]
        for match in INTERNATIONAL.finditer(text, start, end) if "+" in number or "00" in number else ():
            if match.start() < run.end() and _is_international(match.group(), regions):
                yield match.span()
        if len(number) >= MIN_NORTH_AMERICAN:
            matches = NORTH_AMERICAN.finditer(text, start, end)
            yield from (match.span() for match in matches if match.start() < run.end())
        start = run.start() - text.startswith("(", run.start() - 1)
        national = NATIONAL.match(text, start, end)
        if national is None or not _is_dialable(national.group(), 13) or DATE.fullmatch(national.group()):
            continue
        before = text[max(0, start - CONTEXT_CHARACTERS) : start]
        if PHONE_WORDS.search(before) or (regions and _is_unannounced(before, national, tuple(regions))):
            yield national.span()


def _is_dialable(text: str, most: int) -> bool:
    number = re.split("[x#ePD]", text)[0]
    digits = [sign for sign in number if sign.isdigit()]
    return 7 <= len(digits) <= most and len(set(digits[2:])) > 1


def _is_international(text: str, regions: Sequence[str]) -> bool:
    if len(text) < MIN_INTERNATIONAL or not _is_dialable(text, 17) or GROUPED_NUMBER.fullmatch(text):
        return False
    number = _parse_phone("+" + text[2:] if text.startswith("00") else text, None) if regions else None
    if text.startswith("00") and number:
        return bool(phonenumbers.is_valid_number(number))
    return not regions or (number is not None and bool(phonenumbers.is_possible_number(number)))


def _is_unannounced(before: str, match: re.Match[str], regions: tuple[str, ...]) -> bool:
    """True for a usual form that is no part of a table, and that is valid in one of the regions."""
    short = sum(sign.isdigit() for sign in match.group()) < MIN_DIGITS
    if (
        short
        or not TRUNK_FORM.fullmatch(match.group())
        or TABLE_BEFORE.search(before)
        or TABLE_AFTER.match(match.string, match.end())
    ):
        return False
    return any(_is_valid(match.group(), region) for region in regions)


@lru_cache(4096)
def _is_valid(text: str, region: str) -> bool:
    number = _parse_phone(text, region)
    return number is not None and bool(phonenumbers.is_valid_number(number))


def _parse_phone(text: str, region: str | None) -> Any:
    try:
        return phonenumbers.parse(text, region)
    except phonenumbers.NumberParseException:
        return None


def format_phone(text: str, regions: Sequence[str]) -> str:
    """The number in the form of ITU-T E.164, for example +442079460100, if one of the regions or a prefix is valid."""
    for region in (None, *regions):
        number = _parse_phone("+" + text[2:] if text.startswith("00") else text, region)
        if number and phonenumbers.is_valid_number(number):
            return str(phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164))
    return text
