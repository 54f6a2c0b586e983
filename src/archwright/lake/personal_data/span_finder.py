"""Finds personal data in a text: addresses, numbers, dates of birth and secrets. Names need a model (`name_model`).

Each kind has a pattern for candidates and a check: a checksum, a grammar, or a word before the value. Versions, section
numbers, ISBNs, digests and slices are not reported. All kinds are searched, so a card is never taken for a telephone
number; the first kind in PERSONAL_KINDS that matches a place wins.
"""

from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal, NamedTuple

from archwright.lake.personal_data import internet_addresses, payment_numbers, personal_numbers, phone_numbers
from archwright.lake.personal_data.secret_finder import CANDIDATE, find_secrets

PatternKind = Literal["secret", "email", "iban", "card", "ip", "ssn", "national-id", "birth-date", "phone"]
PersonalKind = PatternKind | Literal["name"]
PERSONAL_KINDS: tuple[PatternKind, ...] = (
    *("secret", "email", "iban", "card", "ip", "ssn", "national-id", "birth-date", "phone"),
)
FOUND = " found"  # after the kind of a value that is counted and left as it is
# A text without the pattern has no match of the kind. Arrow searches a whole column at once.
CANDIDATE_PATTERNS: dict[PersonalKind, str] = {
    "secret": CANDIDATE,
    "email": r"[^\s]@[^\s]+\.",
    "iban": r"[A-Z]{2}[0-9]{2} ?[A-Z0-9]{2}",
    "card": r"[0-6](?:[ -]?[0-9]){11}",
    "ip": r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|:[0-9A-Fa-f]{0,4}:",
    "ssn": r"[0-9]{3}[- ]?[0-9]{2}[- ]?[0-9]{4}",
    "national-id": personal_numbers.NATIONAL_NUMBER_CANDIDATE,
    "birth-date": personal_numbers.BIRTH_DATE,
    "phone": r"[0-9](?:[ .()/-]{0,3}[0-9]){6}",
}
Finder = Callable[[str], Iterator[tuple[int, int]]]
# Without the packages of the extra `lake`: the gateway uses these.
FINDERS: dict[PersonalKind, Finder] = {
    "secret": find_secrets,
    "email": internet_addresses.find_emails,
    "iban": payment_numbers.find_ibans,
    "card": payment_numbers.find_cards,
    "ip": internet_addresses.find_ip_addresses,
    "ssn": personal_numbers.find_ssns,
    "birth-date": personal_numbers.find_birth_dates,
    "phone": phone_numbers.find_phones,
}


class PersonalSpan(NamedTuple):
    start: int
    end: int
    kind: PersonalKind


def make_finders(regions: Sequence[str], countries: Sequence[str]) -> dict[PersonalKind, Finder]:
    """Finders that also know the telephone numbers of `regions` and the national numbers of `countries` (ISO 3166)."""
    return FINDERS | {
        "national-id": partial(personal_numbers.find_national_numbers, countries=tuple(countries)),
        "phone": partial(phone_numbers.find_phones, regions=tuple(regions)),
    }


def find_spans(
    text: str, suspected: Collection[str] = PERSONAL_KINDS, finders: Mapping[PersonalKind, Finder] = FINDERS
) -> list[PersonalSpan]:
    """All matches of the `suspected` kinds, in order and without overlaps."""
    taken: list[PersonalSpan] = []
    for kind in PERSONAL_KINDS:
        for start, end in finders[kind](text) if kind in suspected and kind in finders else ():
            place = bisect_left(taken, (start,))
            before = taken[place - 1].end if place else 0
            if before <= start and (place == len(taken) or end <= taken[place].start):
                taken.insert(place, PersonalSpan(start, end, kind))
    return taken
