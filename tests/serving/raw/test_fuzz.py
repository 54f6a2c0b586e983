"""Valid requests, damaged at random: all responses are well-formed, nothing runs that was not requested, and the
process neither dies nor grows.

The reference is the engine: its counter must equal the number of generations in the responses. The parser alone is
held to the grammar and to h11 in fuzz/.
"""

from __future__ import annotations

import json
import random
import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.tools.checks import WAIT_S

from ..fuzz.parser_differential import change_bytes
from .cases import ASK, BODY, CHUNKED, GET, IN_CHUNKS, LENGTH, OK, POST
from .replies import parsed

if TYPE_CHECKING:
    from ..conftest import Platform

pytestmark = pytest.mark.enable_socket

SHORT, LONG, TOGETHER = 24, 1_000, 24  # batches, and connections of one
SEEDS = [
    ASK + LENGTH + b"\r\n" + BODY,
    ASK + CHUNKED + b"\r\n" + IN_CHUNKS,
    ASK + LENGTH + b"Expect: 100-continue\r\n\r\n" + BODY,
    OK,
    GET + b"Content-Length: 5\r\n\r\nhello",
    POST + b"Host: g\r\n" + LENGTH + b"\r\n" + BODY,
]
WORDS = [
    *(b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"0", b"-1", b"+", b",", b";", b"#", b"@", b"%2f", b"/../"),
    *(b"Content-Length: 3\r\n", b"Content-Length: 41\r\n", CHUNKED, b"Transfer-Encoding: identity\r\n", b"Host: h\r\n"),
    *(b"Connection: close\r\n", b"Expect: 100-continue\r\n", b"0\r\n\r\n", b"5\r\nhello\r\n", b"HTTP/1.0", b"\xff"),
    *(b"_", b"Connection: keep-alive\r\n", b"X: 1\r\n", b"X : 1\r\n", b" X: 1\r\n", b"\x0b", b"ffffffff"),
    b"Upgrade: h2c\r\n",
]


def damaged(chance: random.Random) -> bytes:
    """One to three requests with up to six changes."""
    data = b"".join(chance.choice(SEEDS) for _ in range(chance.randint(1, 3)))
    for _ in range(chance.choice((0, 1, 1, 1, 2, 2, 3, 6))):
        data = change_bytes(data, chance, WORDS)
    return data


def sent_to(platform: Platform, data: bytes, chance: random.Random, *, half_close: bool) -> bytes:
    """Send `data` in up to three pieces and return the responses until the server closes the connection: because our
    side is closed, because a last request asks for it, or because a deadline passed."""
    said = b""
    data = data.replace(b"KEY", platform.key.encode())
    cuts = sorted(chance.randrange(len(data) + 1) for _ in range(2))
    with socket.create_connection(("127.0.0.1", platform.config.port), timeout=WAIT_S) as wire:
        try:
            for begin, end in zip([0, *cuts], [*cuts, len(data)], strict=True):
                wire.sendall(data[begin:end])
            if half_close:
                wire.shutdown(socket.SHUT_WR)
            else:
                wire.sendall(GET + b"Connection: close\r\n\r\n")
            while piece := wire.recv(65536):
                said += piece
        except (BrokenPipeError, ConnectionResetError):
            pass  # it closed while we still sent
    return said


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def batch(platform: Platform, chance: random.Random, *, half_close: bool) -> None:
    """Many connections at once. The engine counts generations: each was requested, and was answered unless its client
    had closed its side."""
    before = platform.engine_metrics()["null:tokens_predicted_total"]
    sent = [damaged(chance) for _ in range(TOGETHER)]
    with ThreadPoolExecutor(TOGETHER) as threads:
        asked = [
            threads.submit(sent_to, platform, data, random.Random(n), half_close=half_close)
            for n, data in enumerate(sent)
        ]
        answers = [parsed(future.result()) for future in asked]
    made = [reply for replies in answers for reply in replies if b"text_completion" in reply.body]
    # A change may have made another length of `max_tokens`: tokens are counted, as each reply says them.
    told = sum(json.loads(reply.body)["usage"]["completion_tokens"] for reply in made)
    platform.until(lambda: platform.engine_metrics()["null:requests_processing"] == 0)
    ran = platform.engine_metrics()["null:tokens_predicted_total"] - before
    assert len(made) <= sum(data.count(b'"prompt":"x"') for data in sent), (sent, answers)
    assert told <= ran if half_close else told == ran, (sent, answers)
    for data, replies in zip(sent, answers, strict=True):
        assert all(reply.status < 500 or reply.status == 505 for reply in replies), (data, replies)
        assert len([reply for reply in replies if reply.status != 100]) <= data.count(b"HTTP/1") + 1, (data, replies)


def run(platform: Platform, batches: int, seed: int) -> int:
    pid, chance = platform.master.pid, random.Random(seed)
    files = memory = 0
    for number in range(batches):
        if number == batches // 3:  # warm by now
            files, memory = open_files(pid), platform.memory_bytes
        batch(platform, chance, half_close=number % 3 == 0)
    assert platform.master.poll() is None
    platform.until(lambda: open_files(pid) <= files + 4)
    assert platform.memory_bytes - memory < 24 << 20
    assert platform.get("/healthz", key=None).status == 200
    return round(platform.engine_metrics()["null:tokens_predicted_total"])


def test_damaged_requests(narrow: Platform) -> None:
    assert run(narrow, SHORT, seed=1) > 100, "too few of them are still requests"


@pytest.mark.nightly
@pytest.mark.parametrize("seed", range(2, 6))
def test_many_damaged_requests(narrow: Platform, seed: int) -> None:
    run(narrow, LONG, seed)
