"""Measure the cost of usage records: `python -m bench.ledger.measure [RECORDS]`.

For 1 and for 64 requests per event-loop tick: an audit record and a usage record each, with the metrics. They are
appended and flushed on the serving thread, then compacted into the store. Figures are microseconds of CPU per request,
the best of three, and the bytes of the segments and of the store. Then usage is read and the audit chain is verified.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from archwright.access import audit_log
from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.contract.served import RequestRecord, make_request_id
from archwright.home import Home
from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.request_recorder import RequestRecorder
from archwright.monitor.wal import writer as books
from archwright.monitor.wal.compaction import BLOCKS, read_usage_totals
from archwright.store import Store

REQUESTS = 50_000
TENANTS, KEYS = 20, 200


class Figures(NamedTuple):
    turn: int
    append_us: float
    flush_us: float
    fold_us: float
    segment_bytes: float
    store_bytes: float
    usage_s: float
    verify_us: float


def records(count: int) -> list[tuple[AuditEvent, RequestRecord]]:
    chance = random.Random(1)
    return [_one(chance, time.time() + number / 1_000) for number in range(count)]


def _one(chance: random.Random, at: float) -> tuple[AuditEvent, RequestRecord]:
    name, key = make_request_id(at, chance.getrandbits(52)), chance.randrange(KEYS)
    tenant = f"tenant-{key % TENANTS}"
    event = AuditEvent(
        at=at,
        tenant=tenant,
        key_id=f"key-{key:06d}",
        action="POST /v1/chat/completions",
        permission="inference.invoke",
        effect="allow",
        request_id=name,
    )
    served = RequestRecord(
        at=at,
        request_id=name,
        status="ok",
        tenant=tenant,
        key_id=f"key-{key:06d}",
        workload="chat",
        model="assistant",
        version="assistant@v1",
        pool="main",
        route="main",
        input_tokens=chance.randrange(4_000),
        output_tokens=chance.randrange(500),
        cost_usd=chance.random() / 100,
        cache="miss",
        ttft_s=chance.random(),
        tpot_s=chance.random() / 50,
        latency_s=chance.random() * 5,
        queue_s=chance.random() / 1e3,
        gateway_s=chance.random() / 1e3,
        engine_s=chance.random() * 5,
    )
    return event, served


def measure(given: list[tuple[AuditEvent, RequestRecord]], turn: int, folder: Path) -> Figures:
    """The thread of the ledger is kept still: what it would do is measured by itself."""
    books.SYNC_S = 1e6
    home = Home(folder)
    store = Store(home.store_url)
    ledger = books.WalWriter(store, home)
    log, requests = AuditLog(ledger), RequestRecorder(ledger, Exposition())
    append_s = flush_s = 0.0
    for start in range(0, len(given), turn):
        began = time.process_time()
        for event, served in given[start : start + turn]:
            log.record(event)
            requests.add(served)
        half = time.process_time()
        ledger.flush()
        append_s, flush_s = append_s + half - began, flush_s + time.process_time() - half
    segments = sum(path.stat().st_blocks and path.stat().st_size for path in home.write_ahead_log.glob("*.segment"))
    began = time.process_time()
    ledger.compact()
    fold_s = time.process_time() - began
    ledger.close()
    began = time.process_time()
    assert sum(total.requests for total in read_usage_totals(store, home, ("tenant", "model", "day"))) == len(given)
    usage_s = time.process_time() - began
    began = time.process_time()
    assert audit_log.check_chain(store) == (len(given), None)
    verify_s = time.process_time() - began
    stored = sum(len(block.data) for table in BLOCKS.values() for block in store.rows(table))
    store.close()
    count = len(given)
    return Figures(
        turn,
        append_s / count * 1e6,
        flush_s / count * 1e6,
        fold_s / count * 1e6,
        segments / count,
        stored / count,
        usage_s,
        verify_s / count * 1e6,
    )


def whole_us(one: Figures) -> float:
    return one.append_us + one.flush_us + one.fold_us


def main() -> None:
    given = records(int(sys.argv[1]) if len(sys.argv) > 1 else REQUESTS)
    print("turn  append us  flush us  fold CPU us  requests/s  segment B  store B  usage s  verify us")
    for turn in (1, 64):
        with tempfile.TemporaryDirectory() as folder:
            found = [measure(given, turn, Path(folder) / str(number)) for number in range(3)]
        one = min(found, key=whole_us)
        figures = (one.append_us, one.flush_us, one.fold_us, 1e6 / whole_us(one))
        sizes = (one.segment_bytes, one.store_bytes, one.usage_s, one.verify_us)
        print("{:>4}  {:>9.2f}  {:>8.2f}  {:>11.2f}  {:>10,.0f}".format(turn, *figures), end="")
        print("  {:>9.0f}  {:>7.0f}  {:>7.3f}  {:>9.2f}".format(*sizes))


if __name__ == "__main__":
    main()
