"""Personal data is found; texts that only look like it are not."""

from __future__ import annotations

import re
from itertools import pairwise

import pyarrow.compute as pc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.lake.personal_data.payment_numbers import IBAN_LENGTHS, compute_mod97, is_luhn_valid
from archwright.lake.personal_data.span_finder import (
    CANDIDATE_PATTERNS,
    FINDERS,
    PERSONAL_KINDS,
    PersonalSpan,
    find_spans,
    make_finders,
)

ALL = make_finders(("US", "GB", "DE", "FR", "ES"), ())

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
ip  {::ffff:203.0.113.7} {::FFFF:cb00:7107} {64:ff9b::203.0.113.7} ({fe80::1%eth0})
ip  {dbda:9be9:b737:8127:20b2:ae1:8e1:ddde}.
ip  from {2a02:8109:9c40:1b44::}/64 {fd12:3456:789a::1} {2001:db8:1:2:3:4:5:6}
ip  ip {9.9.9.10} http://{2.3.4.5}/ {1.1.1.1}
ip  the hosts {10.4.2.200}. and {10.4.2.2}.
card  {5018 0000 0009}, {501800000009} or {213112345678904} {180000000000002} {4111 1111 1111 1111 110}
ssn  SSN {123-45-6789}; her number is {234-56-7890}. Social security number: {123 45 6789} ssn={123456789}
ssn  ITIN {912-70-1234}
phone  {+1-545-880-7302x157}, {001-612-799-7220x03322}, {(926)569-8572x296}, {883.423.6405 ext. 12}
phone  {+49 (0) 6212 997220}, {+44(0)1154960997}; call {0492807302} or mobile {654 321 098}
birth-date  born on {1980-02-03}, DOB: {02/03/1980}; Date of Birth {February 3, 1980}. birthday: {3rd of March 1980}
birth-date  geboren am {3.2.1980}, geb. {03.02.80}, Geburtsdatum: {3. Februar 1980}
birth-date  née le {3 février 1980}, date de naissance : {03/02/1980}; nacido el {3 de febrero de 1980}
secret  {AKIAIOSFODNN7EXAMPLE} {ghp_abcdefghijklmnopqrstuvwxyz0123456789} {hf_abcdefghijklmnopqrstuvwxyzABCDEFGH}
secret  api_key = "{a8Fk29dLq0Zx71mP}" and 'client-secret': '{Zm9vYmFyMTIzNDU2Nzg5MA==}' password: {kX93mfLq82hs01Pz}
secret  {eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9PlFUP0THsR8U}
secret  {-----BEGIN RSA PRIVATE KEY-----MIIE/+x9-----END RSA PRIVATE KEY-----} ok
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
9.6.4.4 @Override, 5.4.3.1 Class and Interface
see Odjeljak 11.7.3.2, “Configuring PAM”, JLS 15.12.4.5, section 33.2.7.6, §4.3.2.1
OID 2.5.29.14 2.5.29.15 0.0.0.6 255.255.255.0 224.0.0.1 ff02::1 12:30:45 00:11:22:33:44:55:66:77 1:2:3 ::
abc::def a::b std::vec::Vec 10::20 x[2001::2] 3.140000 +3.140000 JIS X 0212 1990 MA 02110-1301 MA 02110 1301
123-45-678 000-12-3456 666-12-3456 123-00-4567 123-45-0000 987-45-4321 1123-45-6789 123-45-6789-1 123 45 6789
born in 1980, born on Monday, birthday: 12 people, geb. 12, reborn 1980-02-03 stillborn: 1.2.1980
api_key = os.environ["API_KEY"] token: <your-token-here> secret = get_secret(name) password: correcthorsebatterystaple
token = archwright.lake.steps.step password=/etc/secrets/db-password-file1 akiaiosfodnn7example AKIAIOSFODNN7EXAMPL
00 F8 26 FF 07 75 0C 95 02 81 06 09 38 15 80 25 7F, 05 06 07 08 09 0c 0f, 1996 Dec 06 73 12 165
call #1233329, called on all 220356483481 layers, portable Format. (8589934591 Byte), /text/scalc/01/02190200.xhp
call 2024-11-24 phone version 1.2.3 call f(12345678) called 1000000 times call 911 call 0000000 Tel 24.11.2026
"""


@pytest.mark.parametrize("line", POSITIVES.strip().splitlines())
def test_found(line: str) -> None:
    kind, _, text = line.partition("  ")
    plain = text.replace("{", "").replace("}", "")
    found = find_spans(plain, finders=ALL)
    wanted = [(kind, place) for place in re.findall(r"\{(.*?)\}", text)]
    assert [(span.kind, plain[span.start : span.end]) for span in found] == wanted
    assert pc.match_substring_regex(plain, CANDIDATE_PATTERNS[found[0].kind]).as_py()  # by the engine of column scans


@pytest.mark.parametrize("line", NEGATIVES.strip().splitlines())
def test_not_found(line: str) -> None:
    for text in (line, *line.split(", ")):
        assert [(span.kind, text[span.start : span.end]) for span in find_spans(text, finders=ALL)] == []


def kinds_of(text: str) -> list[tuple[str, str]]:
    return [(span.kind, text[span.start : span.end]) for span in find_spans(text, finders=ALL)]


def test_a_section_number_has_a_title_or_a_parent() -> None:
    """459 of 614 addresses that were found in documentation were sections."""
    for text in (
        "10.4.2.2. Title",
        "as above\n\n10.4.2.2. Title\nmore",
        "## 10.4.2.2. Title",
        "\t4.2.13.1 Guided Setup",
    ):
        assert kinds_of(text) == []
    assert kinds_of("3.2.8. Callable types\n 3.2.8.17. Functions, 3.2.8.18") == []
    assert kinds_of("10.4.2.2 db.example.org")[0] == ("ip", "10.4.2.2")
    assert kinds_of("IEEE 33.2.7.6 text, 33.2.7 text") == []


def test_no_kind_passes_for_another() -> None:
    text = "a@b.example 203.0.113.9 call 4111 1111 1111 1111 or +44 20 7946 0100, DE89370400440532013000 123-45-6789"
    assert [span.kind for span in find_spans(text)] == ["email", "ip", "card", "phone", "iban", "ssn"]
    assert find_spans(text, ["ip"]) == [PersonalSpan(12, 23, "ip")]
    assert find_spans("") == []


def test_many_places_in_one_text() -> None:
    assert len(find_spans("a@b.example, 203.0.113.9; " * 5000)) == 10_000


UNITS = (
    *(
        "a",
        "1",
        "1.",
        "a@",
        "@a.",
        "+1 ",
        "(",
        "0()",
        "00 1 ",
        "1-",
        ":",
        "1:",
        "::",
        "a:",
        "f:f",
        " ",
        ".",
        "@",
        "eyJ-",
        "eyJa",
    ),
    *(
        "12 ",
        "1.1.1.1 ",
        "2001:",
        "DE89",
        "4111 ",
        "123-45-",
        "token=",
        "-----BEGIN PRIVATE KEY-----",
        "born on ",
        "geb. 1",
    ),
    *("\n1.1.1.1 A", "01 23 45 67 89 ", "tel 1 ", "AA12", "NHS ", "password: a1", "{", "é", "\u0301"),
)


@pytest.mark.parametrize("unit", UNITS)
def test_hostile_texts_take_no_longer_than_their_length(unit: str) -> None:
    """A quadratic search of these texts takes minutes."""
    text = unit * (100_000 // len(unit))
    found = find_spans(f"c@d.example {text} a@b.example", finders=ALL)
    assert [span.kind for span in (found[0], found[-1])] == ["email", "email"]


@given(st.text(alphabet=st.sampled_from("0123456789 .:-+()/@abcDEF\n"), max_size=80))
def test_spans_are_in_order_and_a_column_scan_finds_their_kind(text: str) -> None:
    found = find_spans(text, finders=ALL)
    assert all(pc.match_substring_regex(text, CANDIDATE_PATTERNS[span.kind]).as_py() for span in found)
    for span, following in pairwise(found):
        assert span.start < span.end <= following.start


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
    assert (0, len(text), "iban") in find_spans(text)
    digits = [place for place, sign in enumerate(whole) if sign.isdigit()]
    place = data.draw(st.sampled_from(digits))
    wrong = whole[:place] + ("1" if whole[place] != "1" else "2") + whole[place + 1 :]
    assert "iban" not in [span.kind for span in find_spans(wrong)]


def test_the_table_of_countries() -> None:
    assert (IBAN_LENGTHS["DE"], IBAN_LENGTHS["NO"], IBAN_LENGTHS["MT"], len(IBAN_LENGTHS)) == (22, 15, 31, 78)
    assert set(ALL) == set(PERSONAL_KINDS) == set(CANDIDATE_PATTERNS)
    assert set(FINDERS) == set(PERSONAL_KINDS) - {"national-id"}


# Valid numbers from the documentation of python-stdnum.
NATIONAL = """
SVNR 1237 010180; TFN: 123 456 782; {85.07.30-033.28}; {390.533.447-05}; SIN 123-456-782; {756.9217.0769.85}
IdNr: 36 574 261 809; NIF 54362315K; {X-2482300W}; {131052-308T}; {2 95 10 99 126 111 93}; {AB 12 34 56 C}
NINO AB123456C; NHS 9434765870; PPS 6433435F; aadhaar: 2341 2341 2346; PAN ACUPA7085R; {RCCMNL83S18D969H}
{971013-1019019}; {BOXW310820HNERXN09}; BSN 1112.22.333; PESEL 44051401359; CNP 1630615123457; {880320-0016}
"""


@pytest.mark.parametrize("text", [text for line in NATIONAL.strip().splitlines() for text in re.split("; ?", line)])
def test_national_numbers(text: str) -> None:
    plain = re.sub("[{}]", "", text)
    [span] = find_spans(plain, finders=ALL)
    assert span.kind == "national-id"
    assert plain.endswith(plain[span.start : span.end])
    digits = [place for place in range(span.start, span.end) if plain[place].isdigit()]
    wrong = [plain[:place] + str((int(plain[place]) + 1) % 10) + plain[place + 1 :] for place in digits[-2:]]
    checked = not re.match("AB|NINO|PAN", plain)  # numbers without a check digit
    assert ["national-id" in dict(kinds_of(other)) for other in wrong] == [not checked] * 2
    if "{" not in text:  # a weak check digit needs a word
        assert kinds_of(plain[span.start :]) == []


def test_only_numbers_of_the_chosen_countries() -> None:
    finders = make_finders((), ("BR",))
    assert [span.start for span in find_spans("756.9217.0769.85 390.533.447-05", finders=finders)] == [17]


def test_a_date_is_found_whole_wherever_it_stands() -> None:
    """Slow patterns are searched in windows around digits; no window cuts a match."""
    for before in range(0, 400, 3):
        text = f"In 1999 {'a ' * before}she was born on 12/03/1980 in Rome"
        assert kinds_of(text) == [("birth-date", "12/03/1980")]
