"""Finds e-mail and IP addresses, telephone and card numbers, and IBANs in texts; no names.

Each kind has a pattern for candidates and a check: a checksum (cards, IBANs), a grammar (addresses), or a word before
it (telephone numbers without a prefix). Versions, dates, ISBNs, digests and slices are not reported. All kinds are
searched, so a card is never taken for a telephone number; the first kind in PII_KINDS that matches a place wins.
"""

import ipaddress
import re
import string
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator
from typing import Literal, NamedTuple

PiiKind = Literal["email", "iban", "card", "ip", "phone"]
PII_KINDS: tuple[PiiKind, ...] = ("email", "iban", "card", "ip", "phone")
# A text without the pattern has no match of the kind. Arrow searches a whole column at once.
CANDIDATE_PATTERNS: dict[PiiKind, str] = {
    "email": r"[^\s]@[^\s]+\.",
    "iban": r"[A-Z]{2}[0-9]{2} ?[A-Z0-9]{2}",
    "card": r"[2-6](?:[ -]?[0-9]){12}",
    "ip": r"[0-9]\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]|[0-9A-Fa-f]{4}::?[0-9A-Fa-f]",
    "phone": r"[0-9](?:[ .()/-]{0,3}[0-9]){6}",
}


class PiiSpan(NamedTuple):
    start: int
    end: int
    kind: PiiKind


def find_pii_spans(text: str, suspected: Collection[str] = PII_KINDS) -> list[PiiSpan]:
    """All matches of the `suspected` kinds, in order and without overlaps."""
    taken: list[PiiSpan] = []
    for kind in PII_KINDS:
        for start, end in FINDERS[kind](text) if kind in suspected else ():
            place = bisect_left(taken, (start,))
            before = taken[place - 1].end if place else 0
            if before <= start and (place == len(taken) or end <= taken[place].start):
                taken.insert(place, PiiSpan(start, end, kind))
    return taken


def redact_text(text: str, kinds: Collection[str], suspected: Collection[str] = PII_KINDS) -> tuple[str, list[str]]:
    """The text with matches of `kinds` replaced by <EMAIL> and so on, and their kinds in order."""
    pieces, found, last = [], [], 0
    for span in find_pii_spans(text, suspected):
        if span.kind in kinds:
            pieces += [text[last : span.start], f"<{span.kind.upper()}>"]
            found.append(str(span.kind))
            last = span.end
    return "".join([*pieces, text[last:]]), found


EMAIL = re.compile(
    r"(?<![\w.%+-])[\w%+-]+(?:\.[\w%+-]+)*@(?:[\w](?:[\w-]{0,61}\w)?\.)+[^\W\d_]{2,24}(?![\w-]|\.\w|/|:[\w/~])"
)


# Characters of an IBAN per country: registry of ISO 13616.
IBAN_LENGTHS = {
    country: length
    for length, countries in (
        (15, "NO"),
        (16, "BE"),
        (18, "DK FI FO GL NL"),
        (19, "MK SI"),
        (20, "AT BA EE KZ LT LU XK"),
        (21, "CH HR LI LV"),
        (22, "BG BH CR DE GB GE IE ME RS VA"),
        (23, "AE GI IL IQ TL"),
        (24, "AD CZ ES MD PK RO SA SE SK TN VG"),
        (25, "LY PT ST"),
        (26, "IS TR"),
        (27, "FR GR IT MC MR SM"),
        (28, "AL AZ BY CY DO GT HU LB PL SV"),
        (29, "BR EG PS QA UA"),
        (30, "JO KW MU"),
        (31, "MT SC"),
        (32, "LC"),
    )
    for country in countries.split()
}
IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]){11,28}")


def _find_ibans(text: str) -> Iterator[tuple[int, int]]:
    at = 0
    while match := IBAN.search(text, at):
        end = _find_iban_end(match, text)
        at = end or match.start() + 2
        if end:
            yield match.start(), end


def _find_iban_end(match: re.Match[str], text: str) -> int:
    """The end of the IBAN that begins at the match, 0 if there is none."""
    length = IBAN_LENGTHS.get(match.group()[:2], 0)
    iban = match.group().replace(" ", "")[:length]
    if not iban or len(iban) < length or compute_mod97(iban) != 1:
        return 0
    places = [place for place, sign in enumerate(match.group()) if sign != " "]
    end = match.start() + places[length - 1] + 1
    return 0 if text[end : end + 1].isalnum() else end


_LETTERS = {ord(letter): str(int(letter, 36)) for letter in string.ascii_uppercase}


def compute_mod97(iban: str) -> int:
    """ISO 7064: 1 for a valid IBAN."""
    return int((iban[4:] + iban[:4]).translate(_LETTERS)) % 97


# Without gaps, or in the groups that are printed on cards; other groupings are not cards.
CARD = re.compile(
    r"(?<![\w.+-])(?:[2-6][0-9]{12,18}"
    r"|[2-6][0-9]{3}([ -])(?:[0-9]{4}\1[0-9]{4}\1[0-9]{4}(?:\1[0-9]{3})?|[0-9]{6}\1[0-9]{4,5}))(?![\w-]|\.[0-9])"
)


def _find_cards(text: str) -> Iterator[tuple[int, int]]:
    for match in CARD.finditer(text):
        # The digits after four groups of four may belong to the next number.
        for end in (match.end(), match.start() + 19):
            digits = re.sub("[ -]", "", text[match.start() : end])
            if end <= match.end() and _is_issued_card(digits) and is_luhn_valid(digits):
                yield match.start(), end
                break


def _is_issued_card(digits: str) -> bool:
    """True if an issuer uses this prefix and length."""
    two, four, length = int(digits[:2]), int(digits[:4]), len(digits)
    if two in (34, 37):
        return length == 15
    if two in (36, 38, 39) or 300 <= four // 10 <= 305:
        return length in (14, 16, 19)
    if digits[0] == "4":
        return length in (13, 16, 19)
    if 51 <= two <= 55 or 2221 <= four <= 2720:
        return length == 16
    return length in range(16, 20) and (two in (50, 56, 57, 58, 60, 62, 63, 64, 65, 67) or 3528 <= four <= 3589)


def is_luhn_valid(digits: str) -> bool:
    total = 0
    for place, sign in enumerate(reversed(digits)):
        value = int(sign) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


IPV4 = re.compile(r"(?<![\w.-])(?<!\w/)[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w-]|\.\w)")
IPV6 = re.compile(r"(?<![\w.:])[0-9A-Fa-f]{4}:[0-9A-Fa-f:]{2,34}(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3})?(?![\w:])")
# Words after which four numbers are a version.
VERSION_WORDS = re.compile(
    r"(?:\bversions?|\bver\.?|\bv\.?|\brelease[ds]?|\brev(?:ision)?\.?|\bbuild|\bupdate[ds]?(?: to)?|\bupgrade[ds]? to"
    r"|\bfirmware|\bkernel|\b(?:mac ?)?os(?: x)?|\bwindows|\bandroid|\bpatch|\bsection|\bchapter|\boid|==?|~=|>=|<=)"
    r"\s*[:=(]?\s*$",
    re.IGNORECASE,
)
CONTEXT_CHARACTERS = 24


def _find_ip_addresses(text: str) -> Iterator[tuple[int, int]]:
    for match in IPV4.finditer(text):
        versioned = VERSION_WORDS.search(text, max(0, match.start() - CONTEXT_CHARACTERS), match.start())
        if not versioned and _is_personal_ip(match.group()):
            yield match.span()
    if ":" in text:
        for match in IPV6.finditer(text):
            if _is_personal_ip(match.group()) and match.group()[0] in "23fF":
                yield match.span()


def _is_personal_ip(text: str) -> bool:
    """True for an address that is neither loopback nor unspecified."""
    try:
        found = ipaddress.ip_address(text)
    except ValueError:
        return False
    return not (found.is_loopback or found.is_unspecified)


PHONE_WORDS = re.compile(
    r"\b(?:(?:tele)?phones?|tel|t[ée]l[ée]fono?|telefon|mobile?|cell|fax|call(?:ed|ing)?|ring|dial|sms|whatsapp|handy"
    r"|portable|rufen?)\b[^\n\d]{0,16}$",
    re.IGNORECASE,
)
# Possessive quantifiers: with backtracking a hundred runs of digits took minutes.
INTERNATIONAL_PHONE = re.compile(
    r"(?<![\w+.-])(?<!\d )(?:\+|00)[1-9][0-9]{0,2}+(?:[ .\-/]?(?:\(0?[0-9]{1,4}\)|[0-9]++)){1,7}(?![\w-]|[.,][0-9])"
)
# A national number in the North American form; other national numbers need a word for telephone before them.
NORTH_AMERICAN_PHONE = re.compile(
    r"(?<![\w.+/(-])(?:1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[2-9][0-9]{2}[ .-][0-9]{4}(?![\w-]|\.[0-9])"
)
DIGIT_RUN = re.compile(r"[0-9](?:[ .()/-]{0,3}[0-9]){6,14}")
NATIONAL_PHONE = re.compile(r"(?<![\w.+(-])\(?[0-9][0-9()]{0,40}(?:[ .\-/]{1,2}\(?[0-9]+\)?){0,6}(?![\w-]|[.,][0-9])")


def _find_phones(text: str) -> Iterator[tuple[int, int]]:
    for match in INTERNATIONAL_PHONE.finditer(text):
        if _is_dialable(match.group(), 15) and not GROUPED_NUMBER.fullmatch(match.group()):
            yield match.span()
    for match in NORTH_AMERICAN_PHONE.finditer(text):
        yield match.span()
    for run in DIGIT_RUN.finditer(text):
        start = run.start() - text.startswith("(", run.start() - 1)
        near = NATIONAL_PHONE.match(text, start)
        if near is None or not PHONE_WORDS.search(text, max(0, start - CONTEXT_CHARACTERS), start):
            continue
        if _is_dialable(near.group(), 13) and not DATE.fullmatch(near.group()):
            yield near.span()


# For example +1 000 000.
GROUPED_NUMBER = re.compile(r"\+*[^ ]*(?: 000){2,}")
DATE = re.compile(r"[0-9]{4}[-./][0-9]{1,2}[-./][0-9]{1,2}|[0-9]{1,2}[-./][0-9]{1,2}[-./][0-9]{2,4}")


def _is_dialable(text: str, most: int) -> bool:
    digits = [sign for sign in text if sign.isdigit()]
    return 7 <= len(digits) <= most and len(set(digits[2:])) > 1


FINDERS: dict[PiiKind, Callable[[str], Iterator[tuple[int, int]]]] = {
    "email": lambda text: (match.span() for match in EMAIL.finditer(text)),
    "iban": _find_ibans,
    "card": _find_cards,
    "ip": _find_ip_addresses,
    "phone": _find_phones,
}
