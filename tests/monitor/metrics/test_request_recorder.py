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
    one = RequestRecord(at=1.0, request_id="r", status="ok", tenant="t", key_id="k")
    with closing(page), closing(Store(home.store_url)) as store, closing(WalWriter(store, home)) as wal:
        requests = RequestRecorder(wal, page)
        requests.add(one)
        page._file._labels.close()
        page._file._labels = whole
        requests.add(replace(one, request_id="s"))
        wal.flush()
        assert [record.request_id for record in read_served(store, home)] == ["r", "s"]
        assert 'status="ok",workload=""} 1.0' in page.render().decode(), "what came when there was room again"
