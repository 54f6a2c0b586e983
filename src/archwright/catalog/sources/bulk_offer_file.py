"""A provider's bulk offer file in CSV: words, then one line per product and term. Shared Linux machines by the hour.

Above the columns' names stand lines of words, the day of publication among them. A promise counts with nothing paid up
front: only then is its hourly price all of it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from itertools import chain, islice

from archwright.catalog.sources import csv_lines
from archwright.catalog.sources.source_records import FileContext, InstancePrice, SourceFacts

FORMAT = "FormatVersion"
PUBLISHED = "Publication Date"
PREAMBLE_LINES = 5
# What a line must say to be a plain machine by the hour; an empty cell of the last two says nothing.
SHARED_LINUX_HOURLY = {
    "Unit": {"Hrs"},
    "Currency": {"USD"},
    "Tenancy": {"Shared"},
    "Operating System": {"Linux"},
    "CapacityStatus": {"Used"},
    "Pre Installed S/W": {"", "NA"},
    "MarketOption": {"", "OnDemand"},
}
REQUIRED_TEXTS = [next(iter(values)) for values in SHARED_LINUX_HOURLY.values() if len(values) == 1]
NEEDED = {"TermType", "PricePerUnit", "Instance Type", "Region Code", *SHARED_LINUX_HOURLY} - {"MarketOption"}
TERMS = {"1yr": 1, "1 yr": 1, "3yr": 3, "3 yr": 3}
NOTHING_UPFRONT, PLAIN_CLASS = "No Upfront", "standard"
LIST = 0


def read(data: bytes, _file: FileContext) -> SourceFacts:
    lines = csv_lines.read_lines(data)
    words = list(islice(lines, PREAMBLE_LINES))
    if not words or not words[0].strip().strip('"').startswith(FORMAT):
        raise ValueError("no bulk offer file: it does not begin with its format's version")
    stated = {row[0]: row[1] for row in csv.reader(words) if len(row) > 1}
    found: dict[tuple[str, str], dict[int, float]] = {}
    for line in csv_lines.read_csv_rows(data, NEEDED, _skip_preamble(lines)):
        years = _term_years(line)
        if years is not None and all((line.get(name) or "") in said for name, said in SHARED_LINUX_HOURLY.items()):
            key = line["Region Code"], line["Instance Type"]
            price = float(line["PricePerUnit"])
            if price > 0:
                found.setdefault(key, {}).setdefault(years, price)
    return SourceFacts(
        as_of=stated.get(PUBLISHED, "")[:10],
        prices=tuple(
            InstancePrice(*key, of[LIST], commit_1y=of.get(1), commit_3y=of.get(3))
            for key, of in found.items()
            if LIST in of
        ),
    )


def _skip_preamble(lines: Iterator[str]) -> Iterator[str]:
    """From the columns' names on: an empty line may stand before them. Of hundreds of megabytes only the lines that can
    be wanted are taken apart.
    """
    first = next((line for line in lines if line.strip()), "")
    return chain([first], (line for line in lines if all(word in line for word in REQUIRED_TEXTS)))


def _term_years(line: dict[str, str]) -> int | None:
    """0 for the list price, else the years promised; None for a term of another kind."""
    if line["TermType"] == "OnDemand":
        return LIST
    plain = line.get("PurchaseOption") == NOTHING_UPFRONT and line.get("OfferingClass") == PLAIN_CLASS
    return TERMS.get(line.get("LeaseContractLength") or "") if line["TermType"] == "Reserved" and plain else None
