"""Batches survive kill -9 of a worker and of everything: each line has one result and is charged once."""

from __future__ import annotations

import http.client
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import Any

import pytest
from tests.serving.batches.conftest import Batches, write_lines
from tests.serving.conftest import Platform, Start, endpoint, free_port, null_engine, table
from tests.serving.official_clients import openai_client
from tests.tools.checks import WAIT_S

from archwright.access.account_codec import decode_row
from archwright.access.accounts import open_accounts_table
from archwright.access.tables import format_scope_name
from archwright.home import Home
from archwright.monitor.wal.compaction import read_served
from archwright.serving.http.client_limits import ClientLimits

pytestmark = pytest.mark.enable_socket
PRICES: dict[str, Any] = {"price_in_usd": 1e-6, "price_out_usd": 3e-6}
POINTS = (
    *("before the result", "in the result", "before the line", "after the result"),
    *("after the settlement", "after the record"),
)
LATE_POINTS = ("before the end", "before the files", "after the files", "after the end")


@pytest.fixture(scope="module")
def crashing(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    config = table(endpoint(slots=2, **PRICES), port=free_port(), workers=2)
    home = Home(tmp_path_factory.mktemp("crashing"))
    platform = Platform(home, config, module="tests.serving.batches.crashing_gateway")
    try:
        platform.start_engine(null_engine(ttft_s=0.01))
        platform.start_gateway()
        yield platform
    finally:
        platform.close()


def spent_nusd(platform: Platform, key_id: str) -> int:
    """What the account of a key has spent, by the table that admits its requests."""
    with closing(open_accounts_table(platform.home)) as accounts:
        raw = accounts.get(b"a" + format_scope_name("key", name=key_id).encode())
    assert raw is not None
    return decode_row(raw)[3]


def check_batch(platform: Platform, batches: Batches, batch_id: str, count: int) -> int:
    """Check that each line has one result and one record; return the cost of all in nano-dollars."""
    batch = batches.wait(batch_id)
    assert (batch.status, batch.request_counts.completed) == ("completed", count), batch
    output = batches.read(batch.output_file_id)
    assert [line["custom_id"] for line in output] == [f"c{n}" for n in range(count)] and batch.error_file_id is None
    with closing(platform.store) as store:
        records = [one for one in read_served(store, platform.home) if batch_id in one.request_id]
    assert Counter(one.request_id for one in records) == Counter(line["response"]["request_id"] for line in output)
    platform.until(
        lambda: not {*platform.home.batches.glob(f"*/{batch_id}*")} - {*platform.home.batches.glob("*/*.json")}
    )
    return sum(round((one.cost_usd or 0.0) * 1e9) for one in records)


def check_crash(platform: Platform, point: str) -> None:
    secret = platform.made_key("acme", budget_usd=1.0)
    with openai_client(platform, secret, max_retries=5) as client:
        batches = Batches(client)
        (platform.home.root / "crash").write_text(point)
        batch_id = batches.create(write_lines(8)).id
        cost = check_batch(platform, batches, batch_id, 8)
        assert not (platform.home.root / "crash").exists(), "the worker did not crash"
        key_id = batches.client.batches.retrieve(batch_id).to_dict()["key_id"]
        # Between the two writes of one flush, the account is ahead of the record: it may count a line twice.
        ahead = cost // 8 if point == "after the settlement" else 0
        assert spent_nusd(platform, str(key_id)) - cost in (0, ahead) and cost > 0


@pytest.mark.parametrize("point", ["before the result", "after the result"])
def test_a_crash_loses_and_repeats_nothing(crashing: Platform, point: str) -> None:
    check_crash(crashing, point)


@pytest.mark.nightly
@pytest.mark.parametrize("point", [*POINTS, *LATE_POINTS])
def test_every_crash_loses_and_repeats_nothing(crashing: Platform, point: str) -> None:
    check_crash(crashing, point)


def kill_all(platform: Platform) -> None:
    """Kill the master and its workers at once."""
    for pid in (platform.master.pid, *platform.workers):
        os.kill(pid, signal.SIGKILL)


def start_again(platform: Platform) -> None:
    platform.master.communicate(timeout=WAIT_S)
    platform.start_gateway()


@pytest.mark.nightly
@pytest.mark.parametrize("end", [kill_all, lambda platform: platform.master.terminate()], ids=["killed", "stopped"])
def test_a_batch_goes_on_when_the_gateway_starts_again(crashing: Platform, end: Callable[[Platform], None]) -> None:
    with openai_client(crashing, max_retries=5) as client:
        batches = Batches(client)
        batch_id = batches.create(write_lines(30)).id
        batches.wait(batch_id, lambda batch: batch.status == "in_progress")
        end(crashing)
        start_again(crashing)
        check_batch(crashing, batches, batch_id, 30)


@pytest.mark.nightly
def test_twenty_kills_under_load(crashing: Platform) -> None:
    chance, stop = random.Random(21), threading.Event()
    secret = crashing.made_key("acme", budget_usd=1.0)

    def load() -> None:
        while not stop.is_set():
            with suppress(OSError, http.client.HTTPException):
                crashing.chat(max_tokens=2)

    with ThreadPoolExecutor(2) as threads, openai_client(crashing, secret, max_retries=9) as client:
        others = [threads.submit(load) for _ in range(2)]
        batches, made, kills = Batches(client), list[Any](), 0
        while kills < 20:
            made.append(batches.create(write_lines(40)))
            for _ in range(4):
                time.sleep(chance.uniform(0.05, 0.8))
                kind = chance.choice(("worker", "worker", "all", "stop", "reload"))
                if kind == "worker" and crashing.workers:
                    os.kill(chance.choice(crashing.workers), signal.SIGKILL)
                elif kind == "reload":
                    crashing.master.send_signal(signal.SIGHUP)
                else:
                    kill_all(crashing) if kind == "all" else crashing.master.terminate()
                    start_again(crashing)
                kills += kind in ("worker", "all")
        stop.set()
        cost = sum(check_batch(crashing, batches, batch.id, 40) for batch in made)
        for other in others:
            other.result()
    # An account is ahead of the records by what was between its two writes of a flush, never behind.
    assert 0 <= spent_nusd(crashing, made[0].key_id) - cost <= cost // 40


@pytest.mark.nightly
def test_a_line_that_a_reload_cuts_off_costs_nothing(start: Start) -> None:
    engine: Any = {"ttft_s": 2.0, "tpot_s": 0.01}
    platform = start([{"slots": 1, **PRICES}], [engine], limits=ClientLimits(drain_s=0.1))
    with openai_client(platform, platform.made_key("acme", budget_usd=1.0), max_retries=5) as client:
        batches = Batches(client)
        batch = batches.create(write_lines(1))
        platform.until(lambda: platform.in_flight() == 1)
        reloaded_at = time.time()
        platform.master.send_signal(signal.SIGHUP)
        cost = check_batch(platform, batches, batch.id, 1)
        with closing(platform.store) as store:
            (record,) = [one for one in read_served(store, platform.home) if batch.id in one.request_id]
        assert record.at - record.latency_s > reloaded_at, "the line was not cut off"
        assert spent_nusd(platform, batch.key_id) == cost > 0
