"""Price tables generated as Go code: a map of regions to maps of machine types to prices, in either of two spellings
(`"region": {` inside one literal, or one assignment `prices["region"] = ...{` per region).
"""

from __future__ import annotations

import re

from archwright.catalog.sources.source_records import FileContext, InstancePrice, SourceFacts

TOKEN = re.compile(
    r'\["(?P<assigned>[\w-]+)"\]\s*=\s*map|"(?P<nested>[\w-]+)":\s*\{|"(?P<type>[^"\n]+)":\s*(?P<price>\d+(?:\.\d+)?)'
)
GENERATED_ON = re.compile(r"generated at (\d{4}-\d{2}-\d{2})")


def read(data: bytes, _file: FileContext) -> SourceFacts:
    text = data.decode("utf-8")
    region, prices = "", []
    for token in TOKEN.finditer(text):
        if token["type"] is None:
            region = token["assigned"] or token["nested"]
        elif region:
            prices.append(InstancePrice(region, token["type"], float(token["price"])))
    if not prices:
        raise ValueError("no table of regions and prices in it")
    made = GENERATED_ON.search(text)
    return SourceFacts(as_of=made[1] if made else "", prices=tuple(prices))
