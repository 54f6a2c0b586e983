"""Price tables generated as Go code: a map of regions to maps of machine types to prices, in either of two spellings
(`"region": {` inside one literal, or one assignment `prices["region"] = ...{` per region).
"""

from __future__ import annotations

import re

from archwright.catalog.sources.source_records import File, Found, Price

TOKEN = re.compile(
    r'\["(?P<assigned>[\w-]+)"\]\s*=\s*map|"(?P<nested>[\w-]+)":\s*\{|"(?P<type>[^"\n]+)":\s*(?P<price>\d+(?:\.\d+)?)'
)
MADE = re.compile(r"generated at (\d{4}-\d{2}-\d{2})")


def read(data: bytes, _file: File) -> Found:
    text = data.decode("utf-8")
    region, prices = "", []
    for token in TOKEN.finditer(text):
        if token["type"] is None:
            region = token["assigned"] or token["nested"]
        elif region:
            prices.append(Price(region, token["type"], float(token["price"])))
    if not prices:
        raise ValueError("no table of regions and prices in it")
    made = MADE.search(text)
    return Found(as_of=made[1] if made else "", prices=tuple(prices))
