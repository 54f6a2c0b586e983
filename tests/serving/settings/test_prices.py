"""Prices of kinds of tokens: the cost of a request, and a worst case that no mixture of kinds exceeds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.serving.settings.prices import (
    PLAIN,
    InputKind,
    Prices,
    TokenKinds,
    UpstreamPrice,
    build_prices,
    combine_prices,
    count_kinds,
)

MICRO = 1e-6  # USD per token: one USD per million tokens
WRITES: frozenset[InputKind] = frozenset({"cache_write", "cache_write_1h"})
LONG = {"above": 1_000, "input": 6.0, "output": 22.5, "cache_read": 0.6}


def built(*, marks_caches: bool = False, **price: Any) -> Prices:
    """The prices of an upstream from USD per million tokens, as a file states them."""
    stated = msgspec.convert({"input": 3.0, "output": 15.0, **price}, UpstreamPrice)
    return build_prices(stated.input * MICRO, stated.output * MICRO, stated.other_prices(), marks_caches=marks_caches)


@pytest.mark.parametrize(
    ("price", "counts", "images", "usd"),
    [
        ({}, PLAIN, 0, 1_000 * 3 + 100 * 15),
        ({}, TokenKinds(900, 50, 50, 0, 90), 0, 1_000 * 3 + 100 * 15),
        ({"cache_read": 0.3}, TokenKinds(cache_read=900), 0, 100 * 3 + 900 * 0.3 + 100 * 15),
        (
            {"cache_write": 3.75, "cache_write_1h": 6.0},
            TokenKinds(0, 200, 300),
            0,
            500 * 3 + 200 * 3.75 + 300 * 6 + 1500,
        ),
        ({"reasoning": 20.0}, TokenKinds(reasoning=90), 0, 3_000 + 90 * 20 + 10 * 15),
        ({"audio": 40.0}, TokenKinds(audio=600), 0, 400 * 3 + 600 * 40 + 1_500),
        ({"image": 0.002, "request": 0.01}, PLAIN, 3, 4_500 + 6_000 + 10_000),
        ({"cache_read": 0.3}, TokenKinds(cache_read=5_000), 0, 1_000 * 0.3 + 1_500),
        ({"long_context": [LONG]}, PLAIN, 0, 4_500),
        ({"long_context": [{**LONG, "above": 999}]}, TokenKinds(cache_read=400), 0, 600 * 6 + 400 * 0.6 + 2_250),
    ],
)
def test_each_kind_has_its_price(price: dict[str, Any], counts: TokenKinds, images: int, usd: float) -> None:
    """1,000 tokens of input and 100 of output."""
    assert built(**price).cost_usd(1_000, 100, counts, images) == pytest.approx(usd * MICRO)


def test_marked_writes_without_a_price_cost_what_the_provider_charges_at_most() -> None:
    marked, alone = built(marks_caches=True), built()
    assert marked.cost_usd(100, 0, TokenKinds(cache_write=100)) == pytest.approx(1.25 * 300 * MICRO)
    assert marked.cost_usd(100, 0, TokenKinds(cache_write_1h=100)) == pytest.approx(2 * 300 * MICRO)
    assert alone.cost_usd(100, 0, TokenKinds(cache_write=100)) == pytest.approx(300 * MICRO)
    assert marked.worst_usd(100, 0) == pytest.approx(300 * MICRO), "a request without a mark writes nothing"
    assert marked.worst_usd(100, 0, WRITES) == pytest.approx(600 * MICRO)
    writes_alone = built(cache_write=3.75)
    assert writes_alone.worst_usd(100, 0) == pytest.approx(375 * MICRO), "a provider that marks by itself"


AMOUNTS = st.floats(0, 100)
KINDS = ("cache_read", "cache_write", "cache_write_1h", "audio", "reasoning")
KIND_PRICES = st.dictionaries(st.sampled_from(KINDS), AMOUNTS)
TIERS = st.lists(st.tuples(st.integers(1, 2_000), AMOUNTS, AMOUNTS, KIND_PRICES), max_size=2)
COUNTS = st.builds(TokenKinds, *[st.integers(0, 2_000)] * 5)


USED = st.tuples(st.integers(0, 2_000), st.integers(0, 2_000), COUNTS)


@given(KIND_PRICES, TIERS, AMOUNTS, USED, st.sampled_from([(True, True), (True, False), (False, False)]))
def test_no_mixture_of_kinds_costs_more_than_the_worst_case(
    kinds: dict[str, float],
    tiers: list[Any],
    usd: float,
    used: tuple[int, int, TokenKinds],
    marks: tuple[bool, bool],
) -> None:
    """`marks`: the provider caches only what is marked; the request marks something."""
    (read, written, counts), (marks_caches, marked) = used, marks
    long_context = [{"above": at, "input": one, "output": two, **more} for at, one, two, more in tiers]
    prices = built(input=usd, **kinds, long_context=long_context, image=0.001, request=0.002, marks_caches=marks_caches)
    asked: frozenset[InputKind] = frozenset({"audio", *(WRITES if marked else ())})
    # A provider that caches what is marked writes nothing without a mark.
    unmarked = counts if marked or not marks_caches else counts._replace(cache_write=0, cache_write_1h=0)
    bound = prices.worst_usd(2_000, 2_000, asked, 2)
    assert prices.cost_usd(read, written, unmarked, 2) <= bound * (1 + 1e-12)
    both = combine_prices([prices, built()])
    assert both is not None and prices.cost_usd(read, written, counts, 2) <= both.cost_usd(read, written, counts, 2) * (
        1 + 1e-12
    )


def test_the_highest_prices_of_pools_bound_each_of_them() -> None:
    one, other = built(cache_read=0.3), built(input=2.0, output=20.0, long_context=[LONG], image=0.5)
    both = combine_prices([one, other])
    assert both is not None and both.base[:3] == pytest.approx((3e-6, 20e-6, 2e-6)) and both.image == 0.5
    assert both.rates_at(1_001)[:2] == pytest.approx((6e-6, 22.5e-6))
    assert combine_prices([one, None]) is None
    lowest = combine_prices([one, both], min)
    assert lowest is not None and lowest.rates_at(0) == lowest.rates_at(2_000) == one.base


@pytest.mark.parametrize(
    ("details", "kinds", "counts"),
    [
        ({}, frozenset(), PLAIN),
        ({"cached_tokens": 5}, frozenset(), TokenKinds(cache_read=5)),
        ({"cache_creation_tokens": 7}, {"cache_write"}, TokenKinds(cache_write=7)),
        ({"cache_creation_tokens": 7}, WRITES, TokenKinds(cache_write_1h=7)),
        ({"cache_creation_tokens": 7, "cache_creation_1h_tokens": 3}, WRITES, TokenKinds(0, 4, 3)),
        ({"cache_creation_tokens": 7, "cache_creation_1h_tokens": 0}, WRITES, TokenKinds(cache_write=7)),
        ({"cache_write_tokens": 9, "audio_tokens": 2}, frozenset(), TokenKinds(0, 9, 0, 2)),
    ],
)
def test_the_kinds_of_a_usage(details: dict[str, int], kinds: frozenset[Any], counts: TokenKinds) -> None:
    used = {"prompt_tokens": 100, "completion_tokens": 10, "prompt_tokens_details": details}
    assert count_kinds(used, frozenset(kinds)) == counts
    reasoned = {**used, "completion_tokens_details": {"reasoning_tokens": 4}}
    assert count_kinds(reasoned, frozenset(kinds)) == counts._replace(reasoning=4)
    assert count_kinds(None) is PLAIN
