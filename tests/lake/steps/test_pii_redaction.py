"""Personal data is found; texts that only look like it are not."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.lake.steps import pii_redaction
from archwright.lake.steps.pii_redaction import (
    CANDIDATE_PATTERNS,
    IBAN_LENGTHS,
    PII_KINDS,
    compute_mod97,
    find_pii_spans,
    is_luhn_valid,
    redact_text,
)

# Kind, text with the part to be found between brackets.
POSITIVES = """
email  Write to {archive.keeper@example.org} or not.
email  <{müller+tag@mail.example.co.uk}>,
email  mailto:{jo_hn@ex-ample.io}.
email  ({a@b.example}) [{c%d@e.example}]
phone  call {+44 20 7946 0100}; the
phone  {+49 (0)30 901820}
phone  {+442079460100}
phone  {(555) 234-5678} or {212-555-0123}
phone  {1-202-555-0143} and {+1-202-555-0143}.
phone  Tel.: {030 901820}
phone  phone {020 7946 0958}
phone  mobile number: {07700 900123}
phone  Telefon: {089/1234567}
phone  call {(555) 234-5678}
phone  {+33 1 42 68 53 00}
phone  {0044 20 7946 0958}
card  Card {4111 1111 1111 1111}, and {5555-5555-5555-4444}.
card  {378282246310005} {3782 822463 10005} {6011111111111117} {30569309025904} {4222222222222}
card  {2223003122003222} {3530111333300000} {6759649826438453}
iban  account {DE89 3704 0044 0532 0130 00}.
iban  {GB82WEST12345698765432} {GB82 WEST 1234 5698 7654 32} THIS
iban  {ES9121000418450200051332} CARD {NO93 8601 1117 947}
ip  the server is {203.0.113.100}.
ip  {192.168.1.10}:8080 http://{203.0.113.9}/x IP:{198.51.100.7},
ip  {2001:db8::1} [{2001:0db8:85a3:0000:0000:8a2e:0370:7334}]:443 {fe80::1ff:fe23:4567:890a}
"""
NEGATIVES = """
version 10.15.7.1 and v10.15.7.1, macOS 10.15.7.1, firmware: 10.15.7.1, updated to 10.15.7.1, foo==10.15.7.1
Chrome/10.15.7.1 pkg-10.15.7.1 lib.so.1.2.3.4 10.15.7.1-rc1 10.15.7.1.dev2 10.15.7.1b
OID 1.3.6.1.4.1 1.3.6.1.4.1.311 300.1.2.3 01.02.03.04 1.2.3 127.0.0.1 0.0.0.0 ::1
4111 1111 1111 1112 4111111111111112 1234 5678 9012 3456 4111-1111-11111111 41111111111111114 0x4111111111111111
9999 9999 9999 9995 4111111111111111.5 3.4111111111111111 3056930902590 371449635398
DE89 3704 0044 0532 0130 01 DE8937040044053201300 XX82WEST12345698765432 DE89370400440532013000A xDE89370400440532013000
ISBN 978-3-16-148410-0 ISBN 0-306-40615-2 2024-11-24 24.11.2026 2026-11-24T12:30:45Z 12:30:45
da39a3ee5e6b4b0d3255bfef95601890afd80709 550e8400-e29b-41d4-a716-446655440000 e3b0c44298fc1c149afbf4c8996fb924
a[1::2] x[1000::2] std::string dead::beef aa:bb:cc:dd:ee:ff 12::34
git@github.com:org/repo user@host a@b.T pkg@1.2.3 @decorator.name name@ @home.example a@b..example a@-b.example
1732470000000000000 3.14159265358979 1,234,567,890 20,000,000 rows +1 000 000 000 UTC+01:00 +5 -12345678
call 2024-11-24 phone version 1.2.3 call f(12345678) called 1000000 times call 911 call 0000000 Tel 24.11.2026
"""


@pytest.mark.parametrize("line", POSITIVES.strip().splitlines())
def test_found(line: str) -> None:
    kind, _, text = line.partition("  ")
    plain = text.replace("{", "").replace("}", "")
    found = find_pii_spans(plain)
    wanted = [(kind, place) for place in re.findall(r"\{(.*?)\}", text)]
    assert [(span.kind, plain[span.start : span.end]) for span in found] == wanted
    assert re.search(CANDIDATE_PATTERNS[found[0].kind], plain)  # else no column scan would send it here


@pytest.mark.parametrize("line", NEGATIVES.strip().splitlines())
def test_not_found(line: str) -> None:
    for text in (line, *line.split(", ")):
        assert [(span.kind, text[span.start : span.end]) for span in find_pii_spans(text)] == []


def test_only_what_is_asked_for_is_replaced_and_nothing_passes_for_another_kind() -> None:
    text = "a@b.example 203.0.113.9 call 4111 1111 1111 1111 or +44 20 7946 0100, DE89370400440532013000"
    assert redact_text(text, PII_KINDS) == (
        "<EMAIL> <IP> call <CARD> or <PHONE>, <IBAN>",
        ["email", "ip", "card", "phone", "iban"],
    )
    only = text.replace("+44 20 7946 0100", "<PHONE>")
    assert redact_text(text, ["phone"]) == (only, ["phone"])
    assert redact_text(text, []) == (text, [])
    assert redact_text("", PII_KINDS) == ("", [])


def test_many_places_in_one_text() -> None:
    assert redact_text("a@b.example 203.0.113.9", PII_KINDS, ["ip"]) == ("a@b.example <IP>", ["ip"])
    assert len(redact_text("a@b.example, 203.0.113.9; " * 5000, PII_KINDS)[1]) == 10_000


@pytest.mark.parametrize(
    "text",
    [
        *("a" * 100_000, "1" * 100_000, "1." * 50_000, "a@" * 50_000, "+1 " * 30_000, "(" * 9999),
        *(("+" + "1" * 150 + "x ") * 100, "00" + "1 " * 50_000, "tel 1 " + "0()" * 100_000),
    ],
)
def test_hostile_texts_take_no_longer_than_their_length(text: str) -> None:
    assert find_pii_spans(text + " a@b.example")[-1].kind == "email"


@given(st.text(alphabet=st.sampled_from("0123456789 .:-+()/@abcDEF\n"), max_size=80))
def test_what_is_found_is_in_order_and_apart_and_a_column_scan_finds_its_kind(text: str) -> None:
    found = find_pii_spans(text)
    assert all(re.search(CANDIDATE_PATTERNS[span.kind], text) for span in found)
    for span, following in pairwise(found):
        assert span.start < span.end <= following.start
    new, kinds = redact_text(text, PII_KINDS)
    assert len(kinds) == len(found)
    assert all(f"<{kind.upper()}>" in new for kind in kinds)


@given(st.text(alphabet="0123456789", min_size=1, max_size=20))
def test_luhn_has_one_check_digit(digits: str) -> None:
    assert sum(is_luhn_valid(digits + check) for check in "0123456789") == 1


@given(st.text(alphabet="0123456789", min_size=2, max_size=20), st.data())
def test_luhn_notices_one_wrong_digit(digits: str, data: st.DataObject) -> None:
    whole = next(digits + check for check in "0123456789" if is_luhn_valid(digits + check))
    place = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.sampled_from([digit for digit in "0123456789" if digit != whole[place]]))
    assert not is_luhn_valid(whole[:place] + other + whole[place + 1 :])


def iban(country: str, account: str) -> str:
    check = 98 - compute_mod97(f"{country}00{account}")
    return f"{country}{check:02d}{account}"


@given(st.sampled_from(sorted(IBAN_LENGTHS)), st.data(), st.booleans())
def test_every_valid_iban_is_found_and_no_other(country: str, data: st.DataObject, spaced: bool) -> None:
    length = IBAN_LENGTHS[country] - 4
    account = data.draw(st.text(alphabet="0123456789ABCXYZ", min_size=length, max_size=length))
    whole = iban(country, account)
    assert compute_mod97(whole) == 1
    text = " ".join(whole[start : start + 4] for start in range(0, len(whole), 4)) if spaced else whole
    assert (0, len(text), "iban") in find_pii_spans(text)
    digits = [place for place, sign in enumerate(whole) if sign.isdigit()]
    place = data.draw(st.sampled_from(digits))
    wrong = whole[:place] + ("1" if whole[place] != "1" else "2") + whole[place + 1 :]
    assert "iban" not in [span.kind for span in find_pii_spans(wrong)]


def test_the_table_of_countries() -> None:
    assert (IBAN_LENGTHS["DE"], IBAN_LENGTHS["NO"], IBAN_LENGTHS["MT"], len(IBAN_LENGTHS)) == (22, 15, 31, 78)
    assert set(pii_redaction.FINDERS) == set(PII_KINDS) == set(CANDIDATE_PATTERNS)
