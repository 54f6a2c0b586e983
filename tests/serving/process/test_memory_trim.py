"""A worker after large replies is about as small as before, whatever became of them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from tests.serving.fake_provider import Place, Script

from archwright.http_client.client import BODY_LIMIT_BYTES
from archwright.serving.process.memory_trim import GROWN_BYTES, HeapTrimmer

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

MIB = 1 << 20
HELD_MIB = 24  # what is not given back at once: GROWN_BYTES, and what a first request makes


def whole(size: int) -> Script:
    message = {"index": 0, "message": {"content": "x" * size}, "finish_reason": "stop"}
    return Script([json.dumps({"choices": [message]}).encode()], kind="application/json")


def anonymous_mib(pid: int) -> float:
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as file:
        return next(int(line.split()[1]) / 1024 for line in file if line.startswith("Pss_Anon"))


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_what_large_replies_took_is_given_back(start: Start, place: Place) -> None:
    platform: Platform = start([{"addresses": (place.url,)}], [])
    place.script = whole(10)
    assert platform.chat().status == 200
    (pid,) = platform.workers
    before = anonymous_mib(pid)
    place.script = whole(12 * MIB)
    with ThreadPoolExecutor(6) as clients:
        assert [reply.status for reply in clients.map(lambda _: platform.chat(), range(6))] == [200] * 6
    platform.until(lambda: anonymous_mib(pid) < before + HELD_MIB)
    place.script = whole(BODY_LIMIT_BYTES + MIB)
    assert platform.chat().status == 503, "one that is too large"
    platform.until(lambda: anonymous_mib(pid) < before + HELD_MIB)


def test_when_memory_is_given_back() -> None:
    size, trims = [100 * MIB], []

    def trim() -> None:
        trims.append(size[0])
        size[0] = max(100 * MIB, size[0] - 50 * MIB)

    slack = HeapTrimmer(lambda: size[0], trim)
    for now, count in (
        (100 * MIB + GROWN_BYTES, 0),
        (101 * MIB + GROWN_BYTES, 1),
        (200 * MIB, 2),  # all but 50 of it is in use
        (150 * MIB, 2),
        (150 * MIB + GROWN_BYTES, 2),
        (90 * MIB, 2),
        (91 * MIB + GROWN_BYTES, 3),
    ):
        size[0] = now
        slack.trim_if_grown()
        assert len(trims) == count, now
