"""Queries over observations and requests are exact, and recording never blocks the caller."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.monitor.conftest import running_threads
from tests.tools.checks import until
from tests.tools.work import counted_calls

from archwright.contract.evidence import Query, Statistic
from archwright.contract.percentile import percentile
from archwright.contract.served import RequestRecord
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.metrics import observations
from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.observations import (
    OBSERVATIONS,
    Observation,
    ObservationRecorder,
    QueryResult,
    evaluate_query,
    prune_observations,
)
from archwright.monitor.metrics.request_recorder import RequestRecorder
from archwright.monitor.wal.writer import WalWriter
from archwright.store import RecordTable, Store

R = TypeVar("R")
CALLS_PER_ROW = 20
CHAT = {"workload": "chat", "model": "m", "pool": "main"}


def seen(quantity: str, at: float, value: float, labels: dict[str, str] | None = None) -> Observation:
    return Observation(quantity=quantity, at=at, value=value, labels=CHAT if labels is None else labels)


def ask(
    store: Store,
    metric: str,
    statistic: Statistic,
    labels: dict[str, str] | None = None,
    *,
    window_s: float = 10.0,
    until: float = 100.0,
) -> QueryResult | None:
    query = Query(metric=metric, labels=labels or {}, statistic=statistic, window_s=window_s)
    return evaluate_query(store, query, until)


def value(reading: QueryResult | None) -> float:
    assert reading is not None
    return reading.value


def test_the_share_of_requests_that_were_answered(store: Store) -> None:
    ended = {"ok": 6, "refused": 1, "cancelled": 1, "failed": 1, "rejected": 1, "limited": 40}
    rows = [("chat", status) for status, count in ended.items() for _ in range(count)] + [("mail", "failed")]
    labels = ({"workload": name, "status": status} for name, status in rows)
    store.append(OBSERVATIONS, [seen("requests", 95.0, 1.0, each) for each in labels])
    reading = ask(store, "requests", "share", {"workload": "chat"})
    assert value(reading) == pytest.approx(0.8)
    assert reading is not None and (reading.unit, reading.samples) == ("share", 10)
    assert value(ask(store, "requests", "share", {"workload": "mail"})) == 0.0
    assert ask(store, "requests", "share", {"workload": "nobody"}) is None
    store.append(OBSERVATIONS, [seen("requests", 95.0, 0.0, {"workload": "none", "status": "ok"})])
    assert ask(store, "requests", "share", {"workload": "none"}) is None


def test_runs_of_one_name_are_values_of_their_own(store: Store) -> None:
    runs = [(91.0, 300.0), (92.0, 100.0), (93.0, 200.0)]
    store.append(
        OBSERVATIONS, [seen("train_s", at, seconds, {"run": f"r{at}", "name": "tune"}) for at, seconds in runs]
    )
    asked: dict[Statistic, float] = {"max": 300.0, "last": 200.0, "mean": 200.0, "p50": 200.0}
    for statistic, expected in asked.items():
        assert value(ask(store, "train_s", statistic, {"name": "tune"})) == expected


def test_percentiles_come_from_the_single_observations(store: Store) -> None:
    values = [0.013 * number**1.5 for number in range(1, 40)]
    store.append(OBSERVATIONS, [seen("ttft_s", 95.0, each) for each in values])
    reading = ask(store, "ttft_s", "p95")
    assert reading == QueryResult(value=percentile(values, 0.95), unit="s", samples=39, window_s=10.0)
    assert value(ask(store, "ttft_s", "p50")) == statistics.median(values)
    assert value(ask(store, "ttft_s", "p99")) == percentile(values, 0.99)
    assert value(ask(store, "ttft_s", "mean")) == pytest.approx(statistics.fmean(values))
    assert value(ask(store, "ttft_s", "max")) == max(values)


def test_the_window_includes_both_ends_and_nothing_else(store: Store) -> None:
    store.append(OBSERVATIONS, [seen("ttft_s", at, at) for at in (89.999, 90.0, 95.0, 100.0, 100.001)])
    reading = ask(store, "ttft_s", "max")
    assert reading is not None and (reading.value, reading.samples) == (100.0, 3)
    assert ask(store, "ttft_s", "max", until=50.0) is None


def test_last_is_by_time_and_not_by_arrival(store: Store) -> None:
    store.append(OBSERVATIONS, [seen("ttft_s", 99.0, 2.0), seen("ttft_s", 98.0, 1.0)])
    assert value(ask(store, "ttft_s", "last")) == 2.0


def test_labels_match_as_a_subset(store: Store) -> None:
    other = {**CHAT, "workload": "triage"}
    store.append(OBSERVATIONS, [seen("ttft_s", 95, 1.0), seen("ttft_s", 95, 2.0, other), seen("tpot_s", 95, 9.0)])
    assert value(ask(store, "ttft_s", "max", {"workload": "chat"})) == 1.0
    assert value(ask(store, "ttft_s", "max", {"model": "m"})) == 2.0
    assert value(ask(store, "ttft_s", "max")) == 2.0
    assert ask(store, "ttft_s", "max", {"workload": "chat", "colour": "red"}) is None
    assert ask(store, "ttft_s", "max", {"workload": "cha"}) is None


def test_a_rate_is_the_increments_or_seconds_over_the_window(store: Store) -> None:
    store.append(OBSERVATIONS, [seen("tokens_per_s", 90 + number, 5.0) for number in range(10)])
    assert ask(store, "tokens_per_s", "rate") == QueryResult(value=5.0, unit="tokens/s", samples=10, window_s=10.0)
    assert value(ask(store, "tokens_per_s", "last")) == 50.0
    assert value(ask(store, "tokens_per_s", "mean")) == 5.0
    assert ask(store, "tokens_per_s", "rate", {"workload": "none"}) is None
    store.append(OBSERVATIONS, [seen("latency_s", 95, 4.0), seen("latency_s", 96, 6.0)])
    assert ask(store, "latency_s", "rate") == QueryResult(value=1.0, unit="s/s", samples=2, window_s=10.0)


def test_gauges_of_several_processes_add_up(store: Store) -> None:
    gateway, engine = {"process": "gateway"}, {"process": "engine"}
    readings = [(91, 100, gateway), (91, 400, engine), (92, 900, engine), (93, 50, gateway), (94, 300, engine)]
    store.append(OBSERVATIONS, [seen("peak_memory_bytes", *reading) for reading in readings])
    assert ask(store, "peak_memory_bytes", "max") == QueryResult(value=1000, unit="bytes", samples=5, window_s=10.0)
    assert value(ask(store, "peak_memory_bytes", "last")) == 350
    assert value(ask(store, "peak_memory_bytes", "mean")) == (500 + 1000 + 950 + 350) / 4
    assert value(ask(store, "peak_memory_bytes", "p50")) == (500 + 950) / 2
    assert value(ask(store, "peak_memory_bytes", "max", engine)) == 900
    assert ask(store, "peak_memory_bytes", "rate") is None


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.floats(0, 200), st.floats(0, 10), st.sampled_from(["a", "b"]), st.sampled_from(["x", "y"])),
        max_size=40,
    ),
    st.sampled_from(["a", "b", None]),
    st.floats(0, 200),
    st.floats(1, 100),
)
def test_agrees_with_a_plain_reading_of_the_query(
    rows: list[tuple[float, float, str, str]], workload: str | None, until: float, window_s: float
) -> None:
    store = Store("sqlite://")
    store.append(OBSERVATIONS, [seen("ttft_s", at, v, {"workload": w, "pool": p}) for at, v, w, p in rows])
    expected = [v for at, v, w, _ in rows if until - window_s <= at <= until and workload in (None, w)]
    labels = {} if workload is None else {"workload": workload}
    reading = ask(store, "ttft_s", "p95", labels, window_s=window_s, until=until)
    store.close()
    if not expected:
        assert reading is None
    else:
        assert reading is not None and reading.samples == len(expected)
        assert reading.value == percentile(expected, 0.95)


def test_prune_drops_what_is_older(store: Store) -> None:
    store.append(OBSERVATIONS, [seen("ttft_s", at, 1.0) for at in (1.0, 2.0, 3.0)])
    assert prune_observations(store, 2.0) == 1
    assert [row.at for row in store.rows(OBSERVATIONS)] == [2.0, 3.0]
    assert prune_observations(store, math.inf) == 2


def test_a_recorder_prunes_and_outlives_a_store_that_refuses(store: Store, tmp_path: Path) -> None:
    store.append(OBSERVATIONS, [seen("ttft_s", at, 1.0) for at in (1.0, 2.0, 3.0)])
    with closing(ObservationRecorder(store, flush_s=1_000)) as recorder:
        assert recorder.prune(3.0) == 2
    with closing(ObservationRecorder(Store(f"sqlite:///{tmp_path}/no/such/store.db"), flush_s=1_000)) as recorder:
        assert recorder.prune(3.0) == 0 and said(recorder) == "AW-STO-01"


def test_the_recorder_writes_by_itself(store: Store) -> None:
    recorder = ObservationRecorder(store, clock=lambda: 42.0, flush_s=0.01)
    recorder.observe("ttft_s", CHAT, 0.5)
    until(lambda: bool(store.rows(OBSERVATIONS)))
    assert store.rows(OBSERVATIONS) == [seen("ttft_s", 42.0, 0.5)]
    recorder.close()


def test_large_buffers_go_in_batches_and_in_order_at_the_latest_by_close(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(observations, "BATCH_ROWS", 10)
    recorder = ObservationRecorder(store, flush_s=1_000)
    record(recorder, range(35))
    assert recorder.flush()
    assert [row.value for row in store.rows(OBSERVATIONS)] == [float(number) for number in range(35)]
    record(recorder, range(7))
    assert len(store.rows(OBSERVATIONS)) == 35
    recorder.close()
    assert len(store.rows(OBSERVATIONS)) == 42


class RefusingStore(Store):
    """Store that fails on request, like a full disk; `meanwhile` is called during a failing write."""

    refuse = True
    meanwhile: Callable[[], None] = staticmethod(lambda: None)

    def append(self, table: RecordTable[R], rows: Sequence[R]) -> None:
        if self.refuse:
            self.meanwhile()
            raise StoreError("AW-STO-01", "the store refuses: database or disk is full")
        super().append(table, rows)


def said(recorder: ObservationRecorder) -> str | None:
    return recorder.refusal.code if recorder.refusal else None


@pytest.fixture
def refusing(tmp_path: Path) -> Iterator[RefusingStore]:
    with closing(RefusingStore(Home(tmp_path / "home").store_url)) as opened:
        yield opened


def record(recorder: ObservationRecorder, values: Iterable[float]) -> None:
    for number in values:
        recorder.observe("ttft_s", CHAT, float(number), at=1.0)


def test_a_refusing_store_costs_only_the_oldest(refusing: RefusingStore) -> None:
    recorder = ObservationRecorder(refusing, flush_s=1_000, buffer_limit=10)
    record(recorder, range(8))
    assert not recorder.flush()
    assert said(recorder) == "AW-STO-01"
    record(recorder, range(8, 13))
    assert not recorder.flush()
    assert recorder.dropped == 3
    refusing.refuse = False
    assert recorder.flush()
    assert said(recorder) is None
    assert [row.value for row in refusing.rows(OBSERVATIONS)] == [float(number) for number in range(3, 13)]
    recorder.close()


def test_what_is_put_back_does_not_push_out_what_is_newer(refusing: RefusingStore) -> None:
    recorder = ObservationRecorder(refusing, flush_s=1_000, buffer_limit=10)
    refusing.meanwhile = lambda: record(recorder, range(100, 107))
    record(recorder, range(8))
    assert not recorder.flush()
    refusing.refuse = False
    recorder.close()
    assert [row.value for row in refusing.rows(OBSERVATIONS)] == [5.0, 6.0, 7.0, *(100.0 + n for n in range(7))]
    assert recorder.dropped == 5


def test_what_is_no_number_is_dropped_and_what_no_database_takes_is_made_printable(store: Store) -> None:
    recorder = ObservationRecorder(store, flush_s=1_000)
    with pytest.raises(KeyError, match="happiness"):
        recorder.observe("happiness", CHAT, 1.0)
    for broken in (math.nan, math.inf, -math.inf):
        recorder.observe("ttft_s", CHAT, broken)
    recorder.observe("ttft_s", {**CHAT, "model": "\ud800\x00"}, 1.0, at=1.0)
    recorder.close()
    assert recorder.dropped == 3
    assert [row.labels["model"] for row in store.rows(OBSERVATIONS)] == ["??"]


def test_threads_lose_nothing(store: Store) -> None:
    recorder = ObservationRecorder(store, flush_s=0.005)

    def work() -> None:
        for number in range(500):
            recorder.observe("tokens_per_s", CHAT, 1.0, at=float(number))

    with running_threads(work):
        pass
    recorder.close()
    assert store.newest_seq(OBSERVATIONS)[0] == len(store.rows(OBSERVATIONS)) == 2_000
    assert recorder.dropped == 0


@pytest.mark.nightly
def test_a_hundred_thousand_observations_are_answered_with_little_work(store: Store) -> None:
    """At most CALLS_PER_ROW calls for each of them; about 0.3 s on a quiet machine."""
    rows = [
        seen("ttft_s", number / 1_000, number / 1e5, {**CHAT, "pool": f"p{number % 5}"}) for number in range(100_000)
    ]
    store.append(OBSERVATIONS, rows)
    with counted_calls() as work:
        reading = ask(store, "ttft_s", "p95", {"workload": "chat", "pool": "p3"}, window_s=100.0)
    assert work.calls < CALLS_PER_ROW * 100_000
    assert reading is not None and reading.samples == 20_000


def answered(number: int, **more: Any) -> RequestRecord:
    given: dict[str, Any] = {"ttft_s": 0.1 * number, "tpot_s": 0.01, "latency_s": 1.0 * number, "output_tokens": 7}
    return RequestRecord(
        at=90.0 + number,
        request_id=f"r{number}",
        **{"status": "ok", "workload": "chat", "model": "m", "pool": "main", "input_tokens": 2, **given, **more},
    )


@pytest.mark.parametrize("folded", [True, False])
def test_what_was_served_answers_like_observations_of_it(store: Store, tmp_path: Path, folded: bool) -> None:
    home = Home(tmp_path / "home")
    wal = WalWriter(store, home)
    requests = RequestRecorder(wal, Exposition())
    for number in range(1, 9):
        requests.add(answered(number))
    requests.add(answered(9, status="failed", output_tokens=0, input_tokens=0))
    requests.add(answered(9, status="cancelled", output_tokens=3))
    requests.add(answered(9, workload="mail"))
    requests.add(answered(9, shadow=True))
    wal.flush()
    if folded:
        wal.compact()
        assert ask(store, "ttft_s", "max", CHAT) is not None, "without the home what is in the store"

    def asked(metric: str, statistic: Statistic) -> QueryResult | None:
        query = Query(metric=metric, labels=CHAT, statistic=statistic, window_s=10.0)
        return evaluate_query(store, query, 100.0, home=home)

    assert asked("ttft_s", "max") == QueryResult(value=0.8, unit="s", samples=8, window_s=10.0)
    assert value(asked("latency_s", "p50")) == 4.5 and value(asked("tpot_s", "mean")) == pytest.approx(0.01)
    assert asked("tokens_per_s", "rate") == QueryResult(value=5.9, unit="tokens/s", samples=9, window_s=10.0)
    assert value(asked("input_tokens", "last")) == 18
    assert value(asked("requests", "last")) == 10 and value(asked("requests", "share")) == pytest.approx(0.9)
    wal.close()


def test_the_page_says_what_was_served(store: Store, tmp_path: Path) -> None:
    wal, page = WalWriter(store, Home(tmp_path / "home")), Exposition()
    requests = RequestRecorder(wal, page)
    for number in range(1, 4):
        requests.add(answered(number, tenant=f"t{number}"))
    requests.add(answered(4, status="failed", output_tokens=0, tenant="t4", http_status=502))
    requests.add(answered(5, shadow=True))
    wal.close()
    text = page.render().decode()
    labels = 'model="m",pool="main"'
    for line in (
        f'archwright_ttft_seconds_count{{{labels},workload="chat"}} 3.0',
        f'archwright_request_seconds_sum{{{labels},workload="chat"}} 6.0',
        f'archwright_output_tokens_total{{{labels},workload="chat"}} 21.0',
        f'archwright_requests_total{{http_status="502",{labels},status="failed",tenant="t4",workload="chat"}} 1.0',
        f'archwright_requests_total{{http_status="0",{labels},status="ok",tenant="t1",workload="chat"}} 1.0',
    ):
        assert line in text
    assert text.count('tenant="t1"') == 2, "a tenant is a label of the requests and of the spend alone"


@pytest.mark.nightly
def test_a_hundred_thousand_requests_are_answered_with_little_work(store: Store, tmp_path: Path) -> None:
    """At most CALLS_PER_ROW calls for each of them; about 0.3 s on a quiet machine."""
    wal = WalWriter(store, Home(tmp_path / "home"))
    for number in range(100_000):
        wal.append("served", answered(1, ttft_s=number / 1e5))
        if number % 1_000 == 0:
            wal.flush()
    wal.close()
    with counted_calls() as work:
        reading = ask(store, "ttft_s", "p95", CHAT)
    assert work.calls < CALLS_PER_ROW * 100_000
    assert reading is not None and reading.samples == 100_000
