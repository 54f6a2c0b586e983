"""A length in an embedding request neither enters a reservation nor caps a bill."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.fake_provider import whole

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start
    from tests.serving.fake_provider import Place

pytestmark = pytest.mark.enable_socket
PRICED = {"price_in_usd": 1e-6, "price_out_usd": 1e-6}
BUDGET_USD = 0.001
TEXT = "word " * 20
VECTOR = [{"index": 0, "embedding": [1.0]}]
NO_LENGTHS: tuple[Any, ...] = ([], "a", {}, True, 1.5, -1, 10**30)
NO_COUNTS: tuple[Any, ...] = (-5, True, 1e3, "7", None, [], 2**40, -(2**70))


@pytest.fixture
def priced(start: Start, place: Place) -> Platform:
    """Model m: embeddings of an engine behind a URL that reports 30 tokens of input per request."""
    place.script = whole({"data": VECTOR, "usage": {"prompt_tokens": 30, "total_tokens": 30}})
    return start([{**PRICED, "addresses": (place.url,), "embeddings": True, "health_path": ""}], [])


def embed(platform: Platform, key: str, **fields: Any) -> tuple[int, str]:
    reply = platform.ask("POST", "/v1/embeddings", {"model": "m", "input": TEXT, **fields}, key=key)
    return reply.status, "" if reply.status == 200 else reply.error["code"]


def test_a_length_does_not_bypass_a_budget(priced: Platform, place: Place) -> None:
    key = priced.made_key("small", budget_usd=BUDGET_USD)
    sent = Counter(embed(priced, key, max_tokens=-1_000_000) for _ in range(100))
    assert sent == {(400, "unsupported_parameter"): 100}
    assert [embed(priced, key, max_tokens=value) for value in NO_LENGTHS] == [(400, "unsupported_parameter")] * 7
    assert embed(priced, "", max_tokens=None) == (200, "")
    assert len(place.asked) == 1
    counts = Counter(status for status, _ in (embed(priced, key) for _ in range(20)))
    assert 0 < counts[200] < 20 and counts[200] + counts[429] == 20
    assert counts[200] * 30 * PRICED["price_in_usd"] <= BUDGET_USD


def test_a_count_that_is_none_enters_no_bill(priced: Platform, place: Place) -> None:
    key = priced.made_key("counted", budget_usd=1.0)
    for count in NO_COUNTS:
        place.script = whole({"data": VECTOR, "usage": {"prompt_tokens": count}})
        reply = priced.ask("POST", "/v1/embeddings", {"model": "m", "input": TEXT}, key=key)
        assert reply.status == 200
        (record,) = priced.served(reply.headers["x-request-id"])
        assert record.cost_usd is not None and record.reserved_usd is not None
        assert 0 <= record.cost_usd <= record.reserved_usd, count
