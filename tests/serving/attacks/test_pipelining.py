"""Clients that pipeline requests without a key neither stop a worker nor fill its memory."""

from __future__ import annotations

import http.client
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from archwright.home import Home

from ..conftest import Platform, endpoint, free_port, null_engine, running, table

pytestmark = pytest.mark.enable_socket

GROWTH_BYTES = 48 << 20
# Four attackers and the client share one worker, and the machine has other work. Without the bound it was 0.5 %.
LEAST_SHARE = 0.02
CLIENT = Path(__file__).with_name("pipelining_client.py")


@pytest.fixture
def platform(processes: None, tmp_path: Path) -> Iterator[Platform]:
    with running(Home(tmp_path / "home"), table(endpoint(), port=free_port()), null_engine()) as started:
        yield started


def count_answers(platform: Platform, seconds: float) -> tuple[float, int]:
    """Requests per second of one client with a key, and the largest resident memory of the gateway in bytes."""
    answers, peak, began = 0, 0, time.monotonic()
    with closing(platform.connection()) as connection:
        while time.monotonic() < began + seconds:
            connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {platform.key}"})
            assert read_status(connection) == 200
            answers += 1
            if answers % 16 == 1:
                peak = max(peak, resident_bytes(platform))
    return answers / (time.monotonic() - began), max(peak, resident_bytes(platform))


def read_status(connection: http.client.HTTPConnection) -> int:
    with connection.getresponse() as response:
        response.read()
        return response.status


def resident_bytes(platform: Platform) -> int:
    pages = [int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in (platform.master.pid, *platform.workers)]
    return sum(pages) * resource.getpagesize()


@contextmanager
def attacked(port: int) -> Iterator[None]:
    attack = subprocess.Popen([sys.executable, str(CLIENT), str(port)], stdin=subprocess.PIPE)
    assert attack.stdin is not None
    try:
        yield
    finally:
        attack.kill()
        attack.wait()
        attack.stdin.close()


def test_strangers_that_pipeline_leave_others_their_rate(platform: Platform) -> None:
    calm, memory = count_answers(platform, 0.5)
    with attacked(platform.config.port):
        time.sleep(0.3)  # until the attack runs
        rate, peak = count_answers(platform, 1.5)
    print(f"calm {calm:.0f}/s, attacked {rate:.0f}/s, grown {(peak - memory) >> 20} MiB")
    assert peak - memory < GROWTH_BYTES
    assert rate > LEAST_SHARE * calm
