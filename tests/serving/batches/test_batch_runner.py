"""Batches in a running gateway: free slots only, ends before the last line, keys and budgets."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.batches.conftest import CHAT, Batches, write_lines
from tests.serving.conftest import null_engine
from tests.serving.official_clients import openai_client

from archwright.contract.served import RequestRecord
from archwright.monitor.wal.compaction import read_served
from archwright.serving.batches.batch_runner import MAX_TRIES, POLL_S, decide_retry
from archwright.serving.batches.batch_store import BatchStore
from archwright.serving.batches.open_batches import OPEN_FOLDER, mark_gateway
from archwright.serving.http.errors import ApiError

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

    from archwright.contract.served import RequestRecord

SLOTS = 2
SLOW: Any = {"model": "slow", "max_tokens": 2}  # 0.1 s


@pytest.fixture
def batches(null: Platform) -> Iterator[Batches]:
    with openai_client(null) as client:
        yield Batches(client)


def list_records(platform: Platform, batch_id: str) -> list[RequestRecord]:
    with closing(platform.store) as store:
        return [one for one in read_served(store, platform.home) if batch_id in one.request_id]


def read_all(batches: Batches, batch: Any, count: int) -> tuple[list[Any], list[Any]]:
    """The lines of the output and of the errors; together they have each line once."""
    output, errors = batches.read(batch.output_file_id), batches.read(batch.error_file_id)
    assert sorted(line["custom_id"] for line in (*output, *errors)) == sorted(f"c{n}" for n in range(count))
    return output, errors


@pytest.mark.enable_socket
def test_requests_come_before_the_lines_of_a_batch(null: Platform, batches: Batches) -> None:
    batch_id = batches.create(write_lines(60, **SLOW)).id
    null.until(lambda: null.in_flight("slow") == SLOTS)
    with ThreadPoolExecutor(6) as threads:
        replies = [reply.result() for reply in [threads.submit(null.chat, **SLOW) for _ in range(6)]]
    records = [one for reply in replies for one in null.served(reply.headers["x-request-id"])]
    batches.client.batches.cancel(batch_id)
    batches.wait(batch_id)
    lines = [one.at - one.latency_s for one in list_records(null, batch_id)]
    between = [at for at in lines for one in records if is_waiting(one, at)]
    assert len(records) == 6 and between == [], "a line began while a request waited"


def is_waiting(record: RequestRecord, at: float) -> bool:
    """True if the request waited for a slot at this time, but for moments at both ends."""
    arrived_at = record.at - record.latency_s
    return arrived_at + 0.02 < at < arrived_at + record.queue_s - 0.005


@pytest.mark.enable_socket
def test_a_cancelled_batch_has_the_results_so_far(null: Platform, batches: Batches) -> None:
    batch_id = batches.create(write_lines(60, **SLOW)).id
    null.until(lambda: len(list_records(null, batch_id)) >= 2)
    assert batches.client.batches.cancel(batch_id).status == "cancelling"
    batch = batches.wait(batch_id)
    assert batch.status == "cancelled" and batch.cancelling_at <= batch.cancelled_at
    output, errors = read_all(batches, batch, 60)
    assert 2 <= len(output) == len(list_records(null, batch_id)) < 60
    assert {(line["response"], line["error"]["code"]) for line in errors} == {(None, "batch_cancelled")}


@pytest.mark.enable_socket
def test_a_revoked_key_ends_its_batch(null: Platform, batches: Batches) -> None:
    with openai_client(null, null.made_key("acme")) as client:
        batch = Batches(client).create(write_lines(60, **SLOW))
    null.until(lambda: len(list_records(null, batch.id)) >= 2)
    with null.keys() as keys:
        keys.revoke(batch.key_id)
    batch = batches.wait(batch.id)
    assert (batch.status, batch.errors.data[0].code) == ("failed", "invalid_api_key")
    output, errors = read_all(batches, batch, 60)
    assert 2 <= len(output) < 60 and {line["error"]["code"] for line in errors if line["error"]} == {"batch_failed"}


@pytest.mark.enable_socket
def test_an_expired_batch_runs_no_line(null: Platform, batches: Batches) -> None:
    early = BatchStore(null.home, "acme", lambda: time.time() - 25 * 3_600)
    file = early.add_file("in.jsonl", write_lines(3))
    key_id = batches.create(write_lines(1)).key_id
    batch = batches.wait(early.create_batch(file.id, CHAT, key_id, None).id)
    output, errors = read_all(batches, batch, 3)
    assert (batch.status, output, list_records(null, batch.id)) == ("expired", [], [])
    assert {line["error"]["code"] for line in errors} == {"batch_expired"}


@pytest.mark.enable_socket
def test_another_gateway_of_the_home_runs_a_batch_only_if_its_own_has_ended(null: Platform, batches: Batches) -> None:
    store, key_id = BatchStore(null.home, "acme", port=1), batches.create(write_lines(1)).key_id
    with mark_gateway(null.home, 1):
        made = [
            store.create_batch(store.add_file("a", write_lines(1, model=name)).id, CHAT, key_id, None).id
            for name in ("m", "?")
        ]
        time.sleep(3 * POLL_S)
        assert {store.find_batch(one).status for one in made} == {"validating"}
    assert batches.wait(made[0]).request_counts.completed == 1
    assert store.find_batch(made[1]).status == "validating", "no gateway has its model"
    (null.home.batches / OPEN_FOLDER / made[1]).unlink()


@pytest.mark.nightly
@pytest.mark.enable_socket
def test_lines_wait_for_an_engine_but_not_for_a_budget(start: Start) -> None:
    engine: Any = {"slots": 8, "ttft_s": 0.01, "tpot_s": 0.01}
    platform = start([{"slots": SLOTS, "price_in_usd": 1e-6, "price_out_usd": 3e-6}], [engine])
    budget_usd = 0.0014  # two worst cases
    with openai_client(platform, platform.made_key("acme", budget_usd=budget_usd)) as client:
        batches = Batches(client)
        batch = batches.wait(batches.create(write_lines(8, max_tokens=10)).id)
        output, errors = read_all(batches, batch, 8)
    assert output and errors
    assert {row["response"]["body"]["error"]["code"] for row in errors} == {"insufficient_quota"}
    records = list_records(platform, batch.id)
    assert len(records) == 8 and sum(one.cost_usd or 0.0 for one in records) <= budget_usd
    platform.kill_engine("null")
    platform.until(lambda: platform.get("/readyz").status == 503)
    with openai_client(platform) as client:
        batches = Batches(client)
        batch_id = batches.create(write_lines(3)).id
        batches.wait(batch_id, lambda batch: batch.status == "in_progress")
        platform.start_engine(null_engine(**engine))
        assert batches.wait(batch_id).request_counts.completed == 3


@pytest.mark.parametrize(
    ("status", "code", "after_s", "tries", "wait_s"),
    [
        (400, None, None, 1, None),
        (404, "model_not_found", None, 1, None),
        (429, "rate_limit_exceeded", 7, 50, 7),
        (429, "rate_limit_exceeded", 3_600, 1, 60),
        (429, "rate_limit_exceeded", None, 1, None),  # it never fits
        (429, "insufficient_quota", 3_600, 1, None),
        (503, "engine_unavailable", 1, 50, 1),
        (502, "engine_failed", 1, 1, 2),
        (504, "timeout", 1, MAX_TRIES, None),
    ],
)
def test_retries(status: int, code: str | None, after_s: int | None, tries: int, wait_s: int | None) -> None:
    assert decide_retry(ApiError(status, "no", code, retry_after_s=after_s), tries) == wait_s
