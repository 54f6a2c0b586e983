"""Clients that pipeline requests without a key neither stop a worker nor fill its memory."""

from __future__ import annotations

import http.client
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from archwright.home import Home

from ..conftest import Platform, endpoint, free_port, null_engine, running, table

pytestmark = pytest.mark.enable_socket

GROWTH_BYTES = 48 << 20
# Four attackers and the client share one worker. An attacker sends 8,000 requests at once; with the bound of what is
# read ahead, about 13 requests of strangers are refused for each answer.
ANSWERS, REFUSED_PER_ANSWER = 60, 100
CLIENT = Path(__file__).with_name("pipelining_client.py")


@pytest.fixture
def platform(processes: None, tmp_path: Path) -> Iterator[Platform]:
    with running(Home(tmp_path / "home"), table(endpoint(), port=free_port()), null_engine()) as started:
        yield started


def ask_often(platform: Platform) -> int:
    """Ask with a key and wait for the answers; returns the largest resident memory of the gateway in bytes."""
    peak = resident_bytes(platform)
    with closing(platform.connection()) as connection:
        for number in range(ANSWERS):
            connection.request("GET", "/v1/models", headers={"authorization": f"Bearer {platform.key}"})
            assert read_status(connection) == 200
            if number % 8 == 0:
                peak = max(peak, resident_bytes(platform))
    return peak


def count_refused(platform: Platform) -> float:
    return platform.metrics().get('archwright_refusals_total{http_status="401",route="/v1/models"}', 0.0)


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


def test_strangers_that_pipeline_leave_others_their_share(platform: Platform) -> None:
    memory = ask_often(platform)
    with attacked(platform.config.port):
        platform.until(lambda: count_refused(platform) > 0)
        before = count_refused(platform)
        peak = ask_often(platform)
        refused = count_refused(platform) - before
    print(f"{refused / ANSWERS:.1f} refused for each answer, grown {(peak - memory) >> 20} MiB")
    assert peak - memory < GROWTH_BYTES
    assert refused < REFUSED_PER_ANSWER * ANSWERS
