"""What an operator asks first: spend, budget left, queue, upstreams, fallbacks, retries, cache, batches, disk."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.serving.conftest import endpoint

from archwright.policy.usage_limits import UsageLimits
from archwright.serving.http.client_limits import ClientLimits

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket
PRICED = {"price_in_usd": 1e-6, "price_out_usd": 2e-6}


def sum_series(platform: Platform, name: str, *labels: str) -> float:
    """The sum of the series of a name that have all labels."""
    found = platform.metrics().items()
    return sum(value for series, value in found if series.startswith(name) and all(label in series for label in labels))


def test_spend_budget_cache_queue_and_disk_are_metrics(start: Start) -> None:
    """Over two workers: each scrape shows the whole, a budget once."""
    two = start([{**PRICED, "cache": "deterministic", "slots": 2}], [{"ttft_s": 0.2, "slots": 2}], workers=2)
    key = two.made_key("money")
    with two.keys() as keys:
        keys.set_limits("tenant", "money", "", limits=UsageLimits(budget_usd=1.0))
    replies = [two.chat(key, max_tokens=4, temperature=0) for _ in range(4)]
    with ThreadPoolExecutor(8) as clients:
        texts = [[{"role": "user", "content": f"text {number}"}] for number in range(8)]
        replies += clients.map(lambda text: two.chat(key, max_tokens=4, messages=text), texts)
    assert {reply.status for reply in replies} == {200}
    spent = sum(float(reply.headers["x-archwright-cost-usd"]) for reply in replies)
    for _ in range(3):
        assert sum_series(two, "archwright_spend_usd_total", 'tenant="money"') == pytest.approx(spent)
        assert two.metrics()['archwright_budget_left_usd{tenant="money"}'] == pytest.approx(1.0 - spent)
        assert two.metrics()['archwright_budget_usd{tenant="money"}'] == 1.0
    hits = sum(reply.headers["x-archwright-cache"] == "hit" for reply in replies)
    assert sum_series(two, "archwright_cache_lookups_total", 'outcome="hit"') == hits >= 2
    assert sum_series(two, "archwright_queue_wait_seconds_count", 'pool="p"') >= 1
    assert two.metrics()['archwright_queue_length{pool="p"}'] == 0
    assert two.metrics()['archwright_disk_free_bytes{disk="home"}'] > 0
    assert two.metrics()['archwright_batches{state="waiting"}'] == 0
    assert two.metrics()['archwright_upstream_healthy_workers{pool="p",upstream="unix:null"}'] == 2


def test_fallbacks_upstreams_and_restarts_are_metrics(start: Start) -> None:
    spare = endpoint(pool="spare", addresses=("unix:spare",)).pool
    one = start([{"fallback": ("spare",)}], [{}, {"name": "spare"}], more=[spare], limits=ClientLimits(health_s=60))
    assert one.chat(max_tokens=1).status == 200
    one.kill_engine("null")
    assert one.chat(max_tokens=1).status == 200
    up = 'archwright_upstream_healthy_workers{pool="p",upstream="unix:null"}'
    one.until(lambda: one.metrics()[up] == 0)
    assert sum_series(one, "archwright_fallbacks_total", 'pool="p"') == 1
    assert sum_series(one, "archwright_fallbacks_total", 'pool="spare"') == 0
    os.kill(one.workers[0], signal.SIGKILL)
    one.until(lambda: bool(one.workers) and one.get("/healthz").status == 200)
    assert one.metrics()['archwright_restarts_total{process="worker"}'] == 1
