"""The countries of ISO 3166-1, valid even if the catalog has no prices for them."""

import re
from collections.abc import Mapping
from functools import cache
from importlib import resources

from archwright.needs.needs_problem import nearest_spellings


@cache
def country_names() -> Mapping[str, str]:
    """Map alpha-2 codes to English names."""
    table = resources.files("archwright.needs") / "countries.tsv"
    names: dict[str, str] = {}
    for line in table.read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            code, name = line.split("\t")
            names[code] = name
    return names


def nearest_countries(word: str) -> tuple[str, ...]:
    """Return the codes that `word` may mean.

    A name comes first (Germany, UK), then the spelling of a code (DEU, no).
    """
    names = country_names()
    if re.fullmatch(r"[\w ]{2,40}", word) and word.upper() not in names:
        whole_word = re.compile(rf"\b{re.escape(word)}\b", re.IGNORECASE)
        codes = [code for code, name in names.items() if whole_word.search(name)]
        if codes:
            return tuple(codes[:3])
    return nearest_spellings(word, names)
