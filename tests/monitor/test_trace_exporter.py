"""Traces, delivered to a collector of the test."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from tests.tools.checks import WAIT_S, until

from archwright.contract.listener import TraceSpec
from archwright.contract.served import RequestRecord, make_request_id
from archwright.monitor import trace_exporter
from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.trace_exporter import (
    DROP_REASONS,
    DropReason,
    TraceContent,
    TraceExporter,
)

pytestmark = pytest.mark.enable_socket


def _set() -> threading.Event:
    made = threading.Event()
    made.set()
    return made


class Collector(ThreadingHTTPServer):
    """Keeps what it was sent; `answers` are the statuses of its next replies. It answers when `held` is set, and ends
    an answer said to be of `length` bytes when `held_after` is."""

    def __init__(self) -> None:
        self.got: list[tuple[str, str, Any]] = []
        self.answers: list[int] = []
        self.held = self.held_after = _set()
        self.length = 2
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[Any]:
        return [
            span
            for _, _, body in self.got
            for resource in body["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.held.wait(WAIT_S)
        status = self.server.answers.pop(0) if self.server.answers else 200
        if status == 200:
            self.server.got.append((self.path, self.headers["content-type"], body))
        self.send_response(status)
        self.send_header("content-length", str(self.server.length))
        self.end_headers()
        self.wfile.write(b"{}")
        self.server.held_after.wait(WAIT_S)

    def log_message(self, *_: Any) -> None:
        return None


@pytest.fixture
def collector() -> Iterator[Collector]:
    server = Collector()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def one(chance: int = 0, **more: Any) -> RequestRecord:
    given: dict[str, Any] = {"status": "ok", "tenant": "acme", "model": "m", "version": "m@v1", "pool": "p", **more}
    return RequestRecord(at=1_700_000_010.0, request_id=make_request_id(1_700_000_008.0, chance), **given)


def exporter(collector: Collector, page: Exposition | None = None, **more: Any) -> TraceExporter:
    return TraceExporter(TraceSpec(url=collector.url, share=1.0), counted(page or Exposition()), **more)


def attributes(span: Any) -> dict[str, Any]:
    return {pair["key"]: pair["value"] for pair in span["attributes"]}


def counted(page: Exposition) -> dict[DropReason, Callable[[float], None]]:
    return {reason: page.counter("traces_dropped", {"reason": reason}).add for reason in DROP_REASONS}


def drops(page: Exposition, reason: DropReason) -> float:
    return page.counter("traces_dropped", {"reason": reason}).slots[0]


def test_a_request_is_a_span_with_its_parts(collector: Collector) -> None:
    made = TraceExporter(TraceSpec(url=collector.url + "/", share=1.0), counted(Exposition()))
    times: dict[str, Any] = {"latency_s": 2.0, "queue_s": 0.5, "gateway_s": 0.25, "engine_s": 1.25, "ttft_s": 0.75}
    made.add(one(**times, input_tokens=12, output_tokens=34, cost_usd=0.5))
    made.close()
    ((path, kind, body),) = collector.got
    assert (path, kind) == ("/v1/traces", "application/json")
    assert attributes(body["resourceSpans"][0]["resource"]) == {"service.name": {"stringValue": "archwright-gateway"}}
    whole, *parts = collector.spans
    assert (whole["name"], whole["kind"], "parentSpanId" in whole, "status" in whole) == ("chat m", 2, False, False)
    seconds = [int(whole[f"{end}TimeUnixNano"]) / 10**9 for end in ("start", "end")]
    assert seconds == [1_700_000_008, 1_700_000_010]
    assert len(whole["traceId"]) == 32 and len(whole["spanId"]) == 16
    said = attributes(whole)
    assert said["gen_ai.operation.name"] == {"stringValue": "chat"}
    assert said["gen_ai.request.model"] == {"stringValue": "m"}
    assert said["gen_ai.response.model"] == {"stringValue": "m@v1"}
    assert said["gen_ai.usage.input_tokens"] == {"intValue": "12"}
    assert said["gen_ai.usage.output_tokens"] == {"intValue": "34"}
    assert said["gen_ai.server.time_to_first_token"] == {"doubleValue": 0.75}
    assert said["archwright.tenant"] == {"stringValue": "acme"} and "error.type" not in said
    assert not any("content" in key or "messages" in key for key in said)
    took = {part["name"]: (int(part["endTimeUnixNano"]) - int(part["startTimeUnixNano"])) / 1e9 for part in parts}
    assert took == pytest.approx({"gateway": 0.25, "queue": 0.5, "engine": 1.25})
    assert {part["parentSpanId"] for part in parts} == {whole["spanId"]}
    assert len({span["spanId"] for span in collector.spans}) == 4


def test_a_failure_says_so(collector: Collector) -> None:
    made = exporter(collector)
    made.add(one(status="failed", version=""))
    made.close()
    whole = collector.spans[0]
    assert whole["status"] == {"code": 2, "message": "failed"}
    assert {"key": "error.type", "value": {"stringValue": "failed"}} in whole["attributes"]


def test_the_id_alone_says_which_are_sampled(collector: Collector) -> None:
    made = TraceExporter(TraceSpec(url=collector.url, share=0.25), counted(Exposition()))
    for place in range(100):
        made.add(one((place << 52) // 100))
    made.close()
    assert len(collector.spans) == 25 * 4
    nothing = TraceExporter(TraceSpec(url=collector.url, share=0.0), counted(Exposition()))
    assert not nothing.is_sampled(one().request_id)
    nothing.close()


def test_a_collector_that_stumbles_is_asked_again_and_one_that_refuses_is_counted(collector: Collector) -> None:
    page = Exposition()
    collector.answers = [503, 429, 200, 400]
    made = exporter(collector, page, every_s=0.01)
    made.add(one(1))
    until(lambda: bool(collector.got))
    made.add(one(2))
    until(lambda: drops(page, "refused") > 0)
    made.close()
    assert len(collector.spans) == 4 and [drops(page, reason) for reason in DROP_REASONS] == [0, 1, 0]


def test_a_collector_that_is_away_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_exporter, "QUEUE_LIMIT", 10)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    page = Exposition()
    made = TraceExporter(TraceSpec(url=f"http://127.0.0.1:{port}", share=1.0), counted(page))
    for number in range(25):
        made.add(one(number))
    made.close()
    assert [drops(page, reason) for reason in DROP_REASONS] == [15, 0, 10]


def test_a_collector_that_does_not_answer_holds_no_end_up(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A reload ends its old workers, whether their last traces were delivered or not."""
    monkeypatch.setattr(trace_exporter, "TIMEOUT_S", 60.0)
    page, collector.held = Exposition(), threading.Event()
    made = exporter(collector, page, last_s=0.1)
    made.add(one())
    made.close()
    assert collector.got == [] and drops(page, "away") == 1
    collector.held.set()


def test_a_collector_that_never_ends_its_answer_is_not_heard_out(collector: Collector) -> None:
    collector.length, collector.held_after = 1_000_000, threading.Event()
    made = exporter(collector, every_s=60, last_s=20.0)
    made.add(one())
    made.close()
    assert len(collector.spans) == 4 and not collector.held_after.is_set()
    collector.held_after.set()


def test_content_goes_along_while_its_tenant_wants_that(collector: Collector) -> None:
    """The setting at sending time decides: queued traces lose their content if the tenant disables it."""
    wanting = {"acme"}
    collector.answers = [503]
    made = exporter(collector, traced=wanting.__contains__, every_s=60)
    content = TraceContent("acme", '[{"in":1}]', '[{"out":1}]', missing=True)
    made.add(one(tenant="acme"), content)
    made.add(one(tenant="bolt"), TraceContent("bolt", "[1]", "[2]"))
    assert not made._send(), "the collector was away"
    wanting.clear()
    made.add(one(tenant="acme"), content)
    made.close()
    first = "gen_ai.input.messages"
    assert [first in attributes(span) for span in roots(collector)] == [False] * 3
    wanting.add("acme")
    made = exporter(collector, traced=wanting.__contains__, every_s=60)
    for _ in range(3):
        made.add(one(tenant="acme"), content)
    made.close()
    said = attributes(roots(collector)[-1])
    assert said[first] == {"stringValue": '[{"in":1}]'} and said["archwright.content.truncated"] == {"boolValue": True}
    assert said["gen_ai.output.messages"] == {"stringValue": '[{"out":1}]'}
    assert "gen_ai.system_instructions" not in said


def test_what_waits_of_content_is_bounded(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_exporter, "CONTENT_QUEUE_BYTES", 1_000)
    monkeypatch.setattr(trace_exporter, "CONTENT_BATCH_BYTES", 500)
    made = exporter(collector, traced=lambda _: True, every_s=60)
    for _ in range(5):
        made.add(one(), TraceContent("acme", "x" * 300, "y" * 2))
    made.close()
    assert len(collector.got) > 2, "no batch is larger than it may be"
    found = [attributes(span) for span in roots(collector)]
    told = [said["gen_ai.input.messages"]["stringValue"] for said in found]
    assert told == ["x" * 300] * 3 + ["[]"] * 2
    assert ["archwright.content.truncated" in said for said in found] == [False] * 3 + [True] * 2


def roots(collector: Collector) -> list[Any]:
    return [span for span in collector.spans if "parentSpanId" not in span]
