"""Speed, precision and recall of the finders of personal data, on real prose with generated values and look-alikes.

    python -m bench.data.personal_data CORPUS [DOCUMENTS] [--misses]

CORPUS is a folder of docs/*.jsonl with {"text", "source"}. The values are of Faker (an extra package). Two sets are
made: `usual` (the templates and locales with which the finders were written), and `held-out` (templates and locales
that were written afterwards). A value counts as found only if it is covered whole. The reference of the same run is six
plain patterns without any check.
"""

from __future__ import annotations

import argparse
import json
import random
import re
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from faker import Faker  # type: ignore[import-not-found]

from archwright.lake.personal_data.span_finder import CANDIDATE_PATTERNS, find_spans, make_finders

USUAL = {
    "email": ("Contact {} for access.", "reply to {}", "<{}> wrote:", "user={} status=ok"),
    "phone": ("Call {} before noon.", "Tel: {}", "phone {}", "her mobile is {}, ask for the desk"),
    "ssn": ("SSN {} on file.", "social security number: {}", "employee {} was hired"),
    "card": ("paid with card {}", "Visa {} exp 04/29", "card number {} declined"),
    "iban": ("transfer to {}", "IBAN: {}", "account {} closed"),
    "ip": ("login from {}", "client {} blocked", "host {} timed out"),
}
HELD_OUT = {
    "email": ("({})", "email:{};", "write to {}!", '"{}",', "cc {} and others"),
    "phone": (
        "Telefon {}",
        "Fax: {}",
        "please call me at {} tomorrow",
        "phone number is {}.",
        "(tel. {})",
        "sms to {}",
    ),
    "ssn": ("ssn={}", "| {} |", "his SSN is {}.", "[{}]", "Social Security: {}"),
    "card": ("{} was charged twice", "cc: {},", "pan={};", "her card ({}) expired", "refund to {}."),
    "iban": ("({})", "iban={};", "Konto {}, bitte", "pay {} by Friday.", '"{}"'),
    "ip": ("[{}]", "{} - - GET /index", "ssh root@{}", "ip={};", "peer {}: reset", "traffic of {}."),
    "birth-date": (
        "born on {}",
        "Date of birth: {}",
        "DOB {}",
        "geboren am {}",
        "née le {}",
        "fecha de nacimiento: {}",
    ),
    "secret": ("api_key = {}", 'token: "{}"', "export SECRET_KEY={}", "password={}"),
}
LOOK_ALIKES = (
    *(
        "version 10.15.7.{a} released",
        "build 4{a}{b}-77-{c}{c}",
        "order 1{a}{b}{c}{a}{b}",
        "commit 9f{a}e{b}c4d{c}a77b01",
    ),
    *(
        "ISBN 978-3-16-1484{a}{b}-0",
        "card-like 4111 1111 1111 111{x}",
        "OID 1.3.6.1.4.1.{a}",
        "RFC 79{a} section 4.{b}.{c}",
    ),
    *("at symbol foo@@bar and decorator @app.route", "mean 123-45-{a} tolerance", "range 2019-2024 and 555.{a}"),
    *("uuid 550e8400-e29b-41d4-a716-4466{a}{b}000", "IBAN-like GB00WEST12345698765{a}"),
)
HELD_OUT_LOOK_ALIKES = (
    *(
        "4.{c}.{a}.{c}. Installing",
        "see Kapitel {a}.{c}.{c}.{c}, “Netz”",
        "std::deque<{a}>::at",
        "{a}:{b}:0{c}",
        "IPv{c} {a}::",
    ),
    *(
        "invoice 20{a}-{b}-000{c}",
        "{a}-{b}-{c}{c}{c}{c}",
        "0{a}/{b}/{c}",
        "hex 00 {a} {b} 0{c} ff",
        "total 4{a} {b}0 {c}00 000",
    ),
    *(
        "token: none",
        "password: <hidden>",
        "api_key=os.environ['KEY{a}']",
        "born in 19{a}",
        "ETag a{a}b{b}c{c}",
        "x[{a}00::{c}]",
    ),
)
REFERENCE = {
    "email": r"[\w.+%-]{1,64}@[\w-]+(?:\.[\w-]+)*\.[A-Za-z]{2,24}",
    "ssn": r"(?<![\d-])\d{3}-\d{2}-\d{4}(?![\d-])",
    "card": r"(?<![\d-])(?:\d[ -]?){12,18}\d(?![\d-])",
    "iban": r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{2,4}){3,8}\b",
    "ip": r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w.]\d)|(?<![\w:])(?:[0-9a-fA-F]{1,4}:){2,7}[0-9a-fA-F:]+(?![\w:])",
    "phone": r"(?<![\w.-])(?:\+\d{1,3}[ .-]?)?(?:\(\d{1,5}\)[ .-]?)?\d{1,5}(?:[ .-]?\d{2,5}){1,5}(?:x\d+)?(?![\w-])",
}
CLEAN = re.compile(r"\S@\S|\d+\.\d+\.\d+\.\d+|\d{3}[- .]\d{2,4}|[0-9a-f]+:[0-9a-f]*:|\d{9}", re.IGNORECASE)
Spans = Sequence[tuple[int, int, str]]


def make_values(held_out: bool, chosen: random.Random) -> dict[str, Callable[[], str]]:
    Faker.seed(23 if held_out else 11)
    american = Faker("en_US")
    usual = ("en_US", "en_GB", "de_DE", "fr_FR", "es_ES")
    local = [Faker(name) for name in (("it_IT", "nl_NL", "pt_BR", "sv_SE", "pl_PL", "en_AU") if held_out else usual)]

    def card() -> str:
        number = str(american.credit_card_number())
        return re.sub(r"(\d{4})(?=\d)", r"\1 ", number) if chosen.random() < 0.5 and len(number) == 16 else number

    def ip() -> str:
        address = str(american.ipv4() if chosen.random() < 0.6 else american.ipv6())
        return chosen.choice((f"2001:db8::{address[:4]}".rstrip(":"), address)) if ":" in address else address

    signs = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"
    return {
        "email": lambda: str(chosen.choice(local).email()),
        "phone": lambda: str(chosen.choice(local).phone_number()),
        "ssn": lambda: str(american.ssn()),
        "card": card,
        "iban": lambda: str(chosen.choice([one for one in local if one.locales[0][:2] != "en"] or local).iban()),
        "ip": ip,
        "birth-date": lambda: american.date_of_birth().strftime(chosen.choice(("%Y-%m-%d", "%d/%m/%Y", "%d.%m.%Y"))),
        "secret": lambda: "".join(chosen.choices(signs, k=32)),
    }


def make_set(corpus: Path, number: int, held_out: bool) -> Iterator[tuple[str, Spans]]:
    """Real texts without personal data, with values in templates and look-alikes between their sentences."""
    chosen = random.Random(5 if held_out else 11)
    templates = HELD_OUT if held_out else USUAL
    values = make_values(held_out, chosen)
    sources = ("python3.13-doc", "postgresql-doc-17", "anarchism", "developers-reference", "perl-doc")
    lines = (line for path in sorted(corpus.glob("docs/*.jsonl")) for line in path.open(encoding="utf-8"))
    rows = [row for row in map(json.loads, lines) if row["source"] in sources and not CLEAN.search(row["text"])]
    chosen.shuffle(rows)
    for place in range(number):
        pieces = re.split(r"(?<=[.!?])\s+|\n+", rows[place % len(rows)]["text"][:3000])
        text = ""
        spans: list[tuple[int, int, str]] = []
        for piece in pieces:
            text += piece + "\n"
            if chosen.random() < 3 / len(pieces):
                kind = chosen.choice(list(templates))
                before, _, after = chosen.choice(templates[kind]).partition("{}")
                value = values[kind]()
                spans.append((len(text) + len(before), len(text) + len(before + value), kind))
                text += before + value + after + "\n"
            if chosen.random() < 2 / len(pieces):
                numbers = {"a": chosen.randint(10, 99), "b": chosen.randint(10, 99), "c": chosen.randint(1, 9)}
                like = chosen.choice(HELD_OUT_LOOK_ALIKES if held_out else LOOK_ALIKES)
                text += like.replace("{x}", chosen.choice("0234567")).format(**numbers) + "\n"
        yield text, spans


def find_ours(texts: list[str]) -> list[Spans]:
    """As the step redact does it: Arrow's pre-filter over the column, then the finders on candidates."""
    finders = make_finders(("US", "GB", "DE", "FR", "ES"), ())
    column, suspected = pa.array(texts, pa.large_string()), defaultdict(list)
    for kind, pattern in CANDIDATE_PATTERNS.items():
        for place in pc.indices_nonzero(pc.match_substring_regex(column, pattern)).to_pylist():
            suspected[place].append(kind)
    return [list(find_spans(text, suspected.get(place, ()), finders)) for place, text in enumerate(texts)]


def find_reference(texts: list[str]) -> list[Spans]:
    patterns = {kind: re.compile(pattern) for kind, pattern in REFERENCE.items()}
    return [[(*m.span(), kind) for kind, one in patterns.items() for m in one.finditer(text)] for text in texts]


def measure(name: str, find: Callable[[list[str]], list[Spans]], rows: list[tuple[str, Spans]], misses: bool) -> float:
    texts = [text for text, _ in rows]
    find(texts[:50])
    began = time.process_time()
    found = find(texts)
    speed = sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - began)
    hit, missed, false = Counter[str](), Counter[str](), Counter[str]()
    for (text, spans), ours in zip(rows, found, strict=True):
        for start, end, kind in spans:
            ok = any(a <= start and end <= b and kind == other for a, b, other in ours)
            (hit if ok else missed)[kind] += 1
            if misses and not ok:
                print(f"  missed {kind}: {text[max(0, start - 20) : end + 5]!r}")
        for a, b, kind in ours:
            if not any(a < end and start < b and kind == other for start, end, other in spans):
                false[kind] += 1
                if misses:
                    print(f"  false {kind}: {text[max(0, a - 20) : b + 5]!r}")
    print(f"{name}: {speed:.1f} MB/s of text per second of CPU")
    for kind in hit | missed:
        recall, precision = hit[kind] / (hit[kind] + missed[kind]), hit[kind] / max(1, hit[kind] + false[kind])
        print(f"  {kind:11} precision {precision:.3f} recall {recall:.3f} ({hit[kind] + missed[kind]} values)")
    return speed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("corpus", type=Path)
    parser.add_argument("documents", type=int, nargs="?", default=1500)
    parser.add_argument("--misses", action="store_true")
    given: Any = parser.parse_args()
    for name, held_out in (("usual", False), ("held-out", True)):
        rows = list(make_set(given.corpus, given.documents, held_out))
        speed = measure(f"{name}, archwright", find_ours, rows, given.misses)
        print(f"  ratio to plain patterns: {speed / measure(f'{name}, plain', find_reference, rows, False):.1f}")


if __name__ == "__main__":
    main()
