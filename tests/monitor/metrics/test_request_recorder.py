"""The record of a finished request is written once, even if the disk is full."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from archwright.contract.record import replace
from archwright.contract.served import RequestRecord
from archwright.home import Home
from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.request_recorder import RequestRecorder
from archwright.monitor.wal.compaction import read_served
from archwright.monitor.wal.writer import WalWriter
from archwright.store import Store


def test_a_label_that_finds_the_disk_full_costs_the_exposition_and_not_the_usage_record(tmp_path: Path) -> None:
    home = Home(tmp_path)
    page = Exposition(folder=home.counters)
    assert page._file is not None
    whole, page._file._labels = page._file._labels, open("/dev/full", "ab", buffering=0)  # noqa: SIM115
    one = RequestRecord(at=1.0, request_id="r", status="ok", tenant="t", key_id="k", model="m")
    with closing(page), closing(Store(home.store_url)) as store, closing(WalWriter(store, home)) as wal:
        requests = RequestRecorder(wal, page)
        requests.add(one)
        page._file._labels.close()
        page._file._labels = whole
        requests.add(replace(one, request_id="s"))
        wal.flush()
        assert [record.request_id for record in read_served(store, home)] == ["r", "s"]
        assert 'status="ok",tenant="t",workload=""} 1.0' in page.render().decode(), (
            "what came when there was room again"
        )


def test_a_model_has_at_most_145_series_in_all_processes(tmp_path: Path) -> None:
    """50 tenants in two processes, each status that a request can end with, and all that counts by pool."""
    statuses = [("ok", 200), ("refused", 400), ("refused", 404), ("rejected", 429), ("failed", 200), ("failed", 500)]
    statuses += [*(("failed", code) for code in (502, 503, 504)), ("cancelled", 499), ("cancelled", 200)]
    statuses += [("ended", code) for code in (200, 408, 503, 504)] + [("refused", code) for code in (403, 413, 422)]
    one = RequestRecord(at=1.0, request_id="r", status="ok", workload="w", model="m", pool="p", ttft_s=1.0, tpot_s=0.1)
    home, sent = Home(tmp_path), 0
    first, second = Exposition(folder=home.counters), Exposition(folder=home.counters)
    with (
        closing(first),
        closing(second),
        closing(Store(home.store_url)) as store,
        closing(WalWriter(store, home)) as wal,
    ):
        recorders = [RequestRecorder(wal, first), RequestRecorder(wal, second)]
        for index in range(50):
            for status, code in statuses[: 1 if index < 10 else None]:
                recorders[index % 2].add(replace(one, tenant=f"t{index}", status=status, http_status=code))
                sent += 1
        first.record("in_flight", {"pool": "p"}, 1)
        for verdict in ("same", "different", "failed"):
            first.record("shadows", {"pool": "p", "verdict": verdict}, 1)
        lines = [line for line in first.render().decode().splitlines() if 'pool="p"' in line]
    assert 130 < len(lines) <= 145
    counts = {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in lines if "requests_total" in line}
    assert sum(counts.values()) == sent
    named = 'archwright_requests_total{http_status="200",model="m",pool="p",status="ok",tenant="%s",workload="w"}'
    assert counts[named % "t0"] == counts[named % "t9"] == 1 and counts[named % "other"] > 20
    assert any('http_status="other"' in name for name in counts)
