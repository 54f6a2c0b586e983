"""Requests that a limit of their own caller refuses: a status of their own, which no service level counts.

A request whose body comes after its headers is refused at its headers, and its record has no model.
"""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from archwright.contract.evidence import Query
from archwright.monitor.metrics.observations import evaluate_query
from archwright.monitor.wal.compaction import read_served

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

PRICED = {"price_in_usd": 0.001, "price_out_usd": 0.001}
LIMITS: tuple[tuple[dict[str, Any], str], ...] = (
    ({"rpm": 2}, "rate_limit_exceeded"),
    ({"tpm": 0}, "rate_limit_exceeded"),
    ({"budget_usd": 0.0}, "insufficient_quota"),
    ({"parallel": 0}, "parallel_limit_exceeded"),
)


@pytest.fixture
def platform(start: Start) -> Platform:
    return start([{"slots": 1, **PRICED}], [{"slots": 1, "ttft_s": 0.05}])


def send_many(platform: Platform, key: str, count: int) -> list[tuple[int, str]]:
    """Return status and error code of `count` chats that are sent at once."""
    with ThreadPoolExecutor(count) as threads:
        replies = list(threads.map(lambda _: platform.chat(key, max_tokens=1), range(count)))
    return [(reply.status, "" if reply.status == 200 else reply.error["code"]) for reply in replies]


def list_statuses(platform: Platform) -> list[str]:
    return [one.status for one in read_served(platform.store, platform.home)]


def test_a_limit_of_the_caller_is_its_own_status(platform: Platform) -> None:
    limited = 0
    for limits, code in LIMITS:
        replies = send_many(platform, platform.made_key("acme", **limits), 6)
        refused = replies.count((429, code))
        assert refused >= 4 and refused + replies.count((200, "")) == 6
        limited += refused
        assert 0 < platform.requests("limited") <= limited and platform.requests("rejected") == 0


def test_a_full_queue_counts_against_the_service_level_and_a_limited_key_does_not(platform: Platform) -> None:
    limited = send_many(platform, platform.made_key("acme", rpm=0), 40)
    assert limited == [(429, "rate_limit_exceeded")] * 40
    replies = send_many(platform, platform.key, 40)
    rejected = 40 - replies.count((200, ""))
    assert {code for status, code in replies if status == 429} <= {"queue_full", "queue_late"} and rejected > 0
    platform.until(lambda: len(list_statuses(platform)) == 80)
    counted = Counter(list_statuses(platform))
    assert counted == {"ok": 40 - rejected, "rejected": rejected, "limited": 40}

    query = Query(metric="requests", labels={"workload": "desk"}, statistic="share", window_s=3600.0)
    measured = evaluate_query(platform.store, query, time.time(), home=platform.home)
    assert measured is not None and measured.value == pytest.approx(1 - rejected / 40)


def send_body_later(platform: Platform, key: str) -> tuple[int, str]:
    """Send the headers of a chat without its body; return the status and the request id of the response."""
    with closing(platform.connection()) as connection:
        connection.putrequest("POST", "/v1/chat/completions")
        for name, value in (("authorization", f"Bearer {key}"), ("content-length", "70")):
            connection.putheader(name, value)
        connection.endheaders()
        response = connection.getresponse()
        return response.status, response.headers["x-request-id"]


def test_a_request_that_is_refused_at_its_headers_leaves_one_record(platform: Platform) -> None:
    refusals = 'archwright_refusals_total{http_status="429",route="/v1/chat/completions"}'
    key = platform.made_key("acme", rpm=0)
    status, request_id = send_body_later(platform, key)
    (record,) = platform.served(request_id)
    assert status == record.http_status == 429 and record.status == "limited"
    assert (record.tenant, record.model, record.pool, record.cost_usd) == ("acme", "", "", None)
    assert record.key_id == platform.audited(request_id)[0].key_id and record.latency_s >= 0
    assert platform.metrics()[refusals] == 1

    unknown, unknown_id = send_body_later(platform, "aw_none")
    assert unknown == 401 and platform.served(unknown_id) == [], "nobody is known who could be recorded"
    assert not [name for name in platform.metrics() if 'model=""' in name]
