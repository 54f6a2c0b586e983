"""The price list of `serve` is the catalog's table of hosted models, which states date and source of each row."""

from __future__ import annotations

from archwright.api.list_prices import read_price_list
from archwright.catalog.load import load_catalog


def test_hosted_prices_with_their_cache() -> None:
    listed = read_price_list()
    opus = listed["anthropic/claude-opus-4-5"]
    assert (opus.input, opus.output, opus.cache_read, opus.cache_write) == (5.0, 25.0, 0.5, 6.25)
    assert listed["deepseek/deepseek-v4-pro"].cache_write is None, "0 means: not charged apart"


def test_each_listed_price_has_a_source_and_a_date() -> None:
    assert all(row.source and row.as_of for row in load_catalog().hosted)
