"""Attacks with bodies: structure, size and text that would stop a worker or fill its memory."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.conftest import endpoint, free_port, null_engine, running, table
from tests.serving.fake_provider import standing_in, whole

from archwright.home import Home
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.http.errors import MESSAGES_PATH

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Reply, Start

pytestmark = pytest.mark.enable_socket
MIB = 1 << 20
CHAT = "/v1/chat/completions"


# A worker does at most the work of so many short chats while another client waits; 100 were measured for 20 MiB.
STALL_CHATS, CALM_CHATS, LEAST_CHAT_S = 400, 100, 0.0005


def fill(unit: bytes, size: int) -> bytes:
    """A chat body of at most `size` bytes with a list of as many `unit` as it holds."""
    begin, end = b'{"model":"m","messages":[', b"{}]}"
    return begin + unit * ((size - len(begin) - len(end)) // len(unit)) + end


def text_chat(content: object) -> bytes:
    return json.dumps({"model": "v", "messages": [{"role": "user", "content": content}]}).encode()


def image_chat(size: int, text: str = "What is this?") -> bytes:
    """A chat with an image of `size` base64 characters."""
    url = "data:image/png;base64," + base64.b64encode(os.urandom(size // 4 * 3)).decode()
    return text_chat([{"type": "text", "text": text}, {"type": "image_url", "image_url": {"url": url}}])


def begin_peak(platform: Platform) -> int:
    """Let the peak of the worker's resident memory begin again at its present memory, and return that."""
    (worker,) = platform.workers
    Path(f"/proc/{worker}/clear_refs").write_text("5")
    return peak_bytes(platform)


def peak_bytes(platform: Platform) -> int:
    """Peak of the resident memory of the worker."""
    (worker,) = platform.workers
    status = Path(f"/proc/{worker}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def cpu_s(platform: Platform) -> float:
    """CPU time of the worker."""
    (worker,) = platform.workers
    fields = Path(f"/proc/{worker}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def ask_beside_another(platform: Platform, path: str, body: object, key: str = "") -> tuple[Reply, float]:
    """The reply to a large body, and the most work of the worker, in short chats, while another client waited for one.

    The other client sends one short chat after the other. A worker that stalls for a large body does the work of many
    chats meanwhile. Time of the clock would say how busy the machine is. One body at a time: on a busy machine the
    other client may sleep through several, and their sum says nothing about a stall.
    """
    waits_s: list[float] = []
    done = threading.Event()

    def send() -> None:
        while not done.is_set():
            before_s = cpu_s(platform)
            assert platform.chat(max_tokens=1).status == 200
            waits_s.append(cpu_s(platform) - before_s)

    with ThreadPoolExecutor(1) as pool:
        sending = pool.submit(send)
        platform.until(lambda: len(waits_s) >= CALM_CHATS)
        chat_s = max(sum(waits_s), CALM_CHATS * LEAST_CHAT_S) / len(waits_s)
        waits_s.clear()
        reply = platform.ask("POST", path, body, key=key)
        # A wait that began before the reply ends after it.
        seen = len(waits_s)
        platform.until(lambda: len(waits_s) > seen or sending.done())
        done.set()
        sending.result()
    return reply, max(waits_s) / chat_s


@pytest.fixture(scope="module")
def gateway(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A gateway with the default limits: model m of a fast engine, model v of a provider."""
    with standing_in() as place:
        message = {"role": "assistant", "content": "So."}
        place.script = whole({"choices": [{"message": message, "finish_reason": "stop"}]})
        provider: dict[str, Any] = {"model": "v", "context_tokens": 1 << 24, "health_path": ""}
        provider |= {"workload": "v", "pool": "v", "addresses": (place.url,)}
        entries = endpoint(), endpoint(vision=True, detect=True, **provider)
        home = Home(tmp_path_factory.mktemp("bodies"))
        with running(home, table(*entries, port=free_port()), null_engine()) as platform:
            yield platform


@pytest.mark.parametrize("size", [31 * MIB, 39 * MIB // 10], ids=["31 MiB", "3.9 MiB"])
def test_empty_objects_cost_neither_memory_nor_time(gateway: Platform, size: int) -> None:
    key, body = gateway.made_key(f"objects-{size}", rpm=1), fill(b"{},", size)
    before = begin_peak(gateway)
    first, first_work = ask_beside_another(gateway, CHAT, body, key)
    again, again_work = ask_beside_another(gateway, CHAT, body, key)
    assert first.status in (400, 413)
    assert (again.status, again.error["code"]) == (429, "rate_limit_exceeded")
    assert peak_bytes(gateway) - before < 50e6
    assert max(first_work, again_work) < STALL_CHATS


def test_the_rate_counts_at_the_head(gateway: Platform) -> None:
    """A body that never arrives counts, and the next request is refused before its body."""
    key = gateway.made_key("slow", rpm=1)
    head = f"POST {CHAT} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {key}\r\ncontent-length: 900000\r\n\r\n"
    assert gateway.raw(head.encode() + b"{", wait_s=0.3) == b""
    said = gateway.raw(head.encode())
    assert said.startswith(b"HTTP/1.1 429 ") and b"retry-after: " in said


def test_invalid_bodies_count_and_large_ones_count_once(gateway: Platform) -> None:
    for number, (path, body) in enumerate(((CHAT, b"{"), (f"{MESSAGES_PATH}/count_tokens", b"{" * 20_000))):
        key = gateway.made_key(f"invalid-{number}", rpm=2)
        assert [gateway.ask("POST", path, body, key=key).status for _ in range(3)] == [400, 400, 429]
    key, text = gateway.made_key("large", rpm=3), [{"role": "user", "content": "x" * 100_000}]
    assert [gateway.chat(key, messages=text, max_tokens=1).status for _ in range(4)] == [200, 200, 200, 429]


def test_deep_nesting_is_refused(gateway: Platform) -> None:
    for unit in (b"[", b'{"a":', b'[{"a":'):
        for size in (1_500, 15_000, 190_000, 3 * MIB):
            reply = gateway.ask("POST", CHAT, b'{"model":"m","messages":' + unit * (size // len(unit)))
            assert reply.status == 400, (unit, size)
            assert any(word in reply.error["message"] for word in ("nested", "contains more than")), (unit, size)


def test_only_image_data_may_exceed_the_limit(gateway: Platform) -> None:
    image, beside, text = image_chat(20 * MIB), image_chat(6 * MIB, "word " * MIB), text_chat("word " * (4 * MIB))
    posing = text_chat("data:image/png;base64," + "a" * (5 * MIB))
    found = [ask_beside_another(gateway, CHAT, body) for body in (image, beside, text, posing)]
    found.append(ask_beside_another(gateway, "/v1/embeddings", image))
    assert [reply.status for reply, _ in found] == [200, 413, 413, 413, 413]
    assert max(work for _, work in found) < STALL_CHATS


def test_a_large_image_of_the_messages_interface_is_accepted(gateway: Platform) -> None:
    data = base64.b64encode(os.urandom(6 * MIB)).decode()
    source = {"type": "base64", "media_type": "image/png", "data": data}
    messages = [{"role": "user", "content": [{"type": "image", "source": source}]}]
    reply = gateway.ask("POST", MESSAGES_PATH, {"model": "v", "max_tokens": 8, "messages": messages})
    assert reply.status == 200, reply.body


@pytest.mark.parametrize("unit", ["1.2.3 ", "a@b c@d. "])
def test_the_search_for_personal_data_in_a_large_text_stalls_nobody(gateway: Platform, unit: str) -> None:
    body = text_chat(unit * (2 * MIB // len(unit)))
    reply, work = ask_beside_another(gateway, CHAT, body)
    assert reply.status == 200
    assert work < STALL_CHATS


def test_large_bodies_of_many_tenants_stay_under_one_cap(start: Start) -> None:
    """The cap is over all tenants; what ends, is cut off or is refused gives its part back."""
    platform = start([{"slots": 64}], [{"slots": 64, "ttft_s": 0.3}], limits=ClientLimits(total_bytes=4 * MIB))
    keys = [platform.made_key(f"t{at}") for at in range(8)]
    text = [{"role": "user", "content": "x" * 300_000}]

    def send(key: str) -> Reply:
        return platform.chat(key, messages=text, max_tokens=1)

    for _ in range(2):
        with ThreadPoolExecutor(8) as pool:
            replies = list(pool.map(send, keys))
        refused = [reply for reply in replies if reply.status != 200]
        assert 1 <= len(replies) - len(refused) <= 7
        assert {(reply.status, reply.headers["retry-after"]) for reply in refused} == {(503, "1")}
    for connection in [platform.open_chat(messages=text, max_tokens=1) for _ in range(4)]:
        connection.close()
    platform.until(lambda: {send(key).status for key in keys[:4]} == {200})
