"""One tenant does not block another: slots of a pool and requests at once, over two workers with real clients."""

from __future__ import annotations

import os
import signal
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Reply, Start

pytestmark = pytest.mark.enable_socket
SLOW = {"ttft_s": 0.0, "tpot_s": 0.5, "text": "word " * 1000, "slots": 8}


def open_streams(platform: Platform, count: int, key: str) -> list[socket.socket]:
    """Open streams that outlast the test, each with a connection of its own."""
    before, platform.key = platform.key, key
    try:
        return [platform.open_chat(stream=True, max_tokens=900) for _ in range(count)]
    finally:
        platform.key = before


def test_long_streams_of_one_tenant_leave_a_slot_to_another(start: Start) -> None:
    """Two workers with two slots each. The quiet tenant sent once, to one of them, and then is served by each of them
    beside four streams of the loud tenant that do not end."""
    two = start([{"slots": 4}], [SLOW], workers=2)
    loud, quiet = two.made_key("loud"), two.made_key("quiet")
    assert two.chat(quiet, max_tokens=1).status == 200
    two.until(lambda: two.metrics()['archwright_pool_tenants{pool="p"}'] == 2)
    open_streams(two, 4, loud)
    two.until(lambda: two.in_flight() == 4)
    for _ in range(8):
        assert two.chat(quiet, max_tokens=1).status == 200
    assert two.in_flight() == 4, "the streams run or wait"


def test_requests_at_once_are_limited_over_workers_and_killed_workers_free_theirs(start: Start) -> None:
    two = start([{"slots": 64}], [{**SLOW, "slots": 64}], workers=2)
    key = two.made_key("many", parallel=6)
    open_streams(two, 6, key)
    two.until(lambda: two.in_flight() == 6)
    with ThreadPoolExecutor(8) as clients:
        replies: list[Reply] = list(clients.map(lambda _: two.chat(key, max_tokens=1), range(8)))
    assert {reply.status for reply in replies} == {429}
    assert {reply.error["code"] for reply in replies} == {"parallel_limit_exceeded"}
    assert {reply.headers["retry-after"] for reply in replies} == {"1"}
    assert "allows 6 requests at once" in replies[0].error["message"]

    for worker in two.workers:
        os.kill(worker, signal.SIGKILL)
    two.until(lambda: answers(two, key))
    # A stream beside a chat that is not settled yet is refused, so one more is opened each time.
    two.until(lambda: bool(open_streams(two, 1, key)) and two.chat(key, max_tokens=1).status == 429)


def answers(platform: Platform, key: str) -> bool:
    with suppress(ConnectionError):
        return platform.chat(key, max_tokens=1).status == 200
    return False
