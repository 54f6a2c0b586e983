"""The countries of ISO 3166-1, valid even if the catalog has no prices for them."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

from archwright.needs.needs_problem import nearest_spellings


@cache
def country_names() -> Mapping[str, str]:
    """Map alpha-2 codes to English names."""
    text = (resources.files("archwright.needs") / "countries.tsv").read_text(encoding="utf-8")
    rows = (line.split("\t") for line in text.splitlines() if line and not line.startswith("#"))
    return {code: name for code, name in rows}


def nearest_countries(word: str) -> tuple[str, ...]:
    """Return the codes that `word` may mean: by name (Germany, UK) first, else by spelling (DEU, no)."""
    if re.fullmatch(r"[\w ]{2,40}", word) and word.upper() not in country_names():
        pattern = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
        named = tuple(code for code, name in country_names().items() if pattern.search(name))
        if named:
            return named[:3]
    return nearest_spellings(word, country_names())
