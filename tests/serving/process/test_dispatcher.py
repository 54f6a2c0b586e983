"""The application behind a real connection, in states that no process reaches: bugs, a broken health check."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import math
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
from tests.tools.checks import WAIT_S, until_async

from archwright.access.accounts import Accounts, open_accounts_table
from archwright.access.api_keys import KeyStore, Principal
from archwright.access.audit_log import AuditEvent, AuditLog, check_chain, read_entries
from archwright.access.reservations import Reservation, ReserveResult
from archwright.contract.served import RequestRecord
from archwright.engines.http_request_parser import parse_head
from archwright.errors import StoreError
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.http_client.connection_pool import ResponseSink
from archwright.journal import Journal
from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.shared_table import SharedTable
from archwright.monitor.wal.compaction import read_served
from archwright.monitor.wal.writer import WalWriter
from archwright.policy.usage_limits import UsageLimits as KeyLimits
from archwright.serving.admission.authorization import RequestAuthorizer
from archwright.serving.admission.metering import CostAccounting, RecordedSpending, RequestCharge, WorstCase
from archwright.serving.admission.response_cache import CachedResponse, ResponseCache
from archwright.serving.handlers.gateway_context import GatewayContext, Recorders
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.http.connection import HttpServer
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import HttpResponse, ResponseBuffer
from archwright.serving.process.dispatcher import LARGE_BYTES, Dispatcher
from archwright.store import Store

from ..conftest import endpoint, table

SEGMENT_BYTES = 16 << 10
Wanted = list[tuple[HttpRequest, WorstCase, bool]]
BODY = b'{"model": "m", "messages": [{"role": "user", "content": "x"}]}'
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nhost: g\r\nauthorization: Bearer %b\r\ncontent-length: %d\r\n\r\n"


async def connect(server: HttpServer) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    ours, theirs = socket.socketpair()
    await server.loop.connect_accepted_socket(server.create_connection, ours)
    return await asyncio.open_connection(sock=theirs)


class Stand:
    """A gateway without a socket; `journal` collects what it writes."""

    def __init__(self, folder: Path, **limits: Any) -> None:
        self.store = Store(f"sqlite:///{folder}/a.db")
        keys = KeyStore(self.store, b"p" * 32)
        keys.create_tenant("acme")
        self.key = keys.create("acme")[0]
        self.exposition = Exposition()
        self.ledger = WalWriter(self.store, Home(folder), segment_bytes=SEGMENT_BYTES)
        self.journal = io.StringIO()
        entry = endpoint(workload="w", addresses=("unix:none",), default_max_tokens=1, context_tokens=9, slots=1)
        journal, home = Journal("gateway", self.journal), Home(folder)
        spending = RecordedSpending(self.ledger, home, lambda: None, lambda: 0.0)
        self.gateway = GatewayContext(
            table(entry, limits=ClientLimits(**limits)),
            home,
            RequestAuthorizer(keys, AuditLog(self.ledger), self.exposition),
            Recorders(self.ledger, self.exposition),
            CostAccounting(Accounts(open_accounts_table(home), keys, spending), keys, journal),
            journal,
        )
        self.app = Dispatcher(self.gateway)
        self.caller: Principal | None = None

    def mark_engine_healthy(self) -> None:
        (pool,) = self.gateway.pools.values()
        pool.replicas[0].healthy = True

    def chat(self, *, healthy: bool = True) -> tuple[int, Any]:
        """The status and body of one chat before an engine that is thought to be healthy."""
        if healthy:
            self.mark_engine_healthy()
        return asyncio.run(self.call("/v1/chat/completions", BODY))

    def limited_caller(self, **limits: Any) -> tuple[str, Principal]:
        """The secret and the identity of a new key."""
        keys = self.gateway.accounting.keys
        secret, _ = keys.create("acme", limits=KeyLimits(**limits))
        principal = keys.identify(secret)
        assert principal is not None
        return secret, principal

    def can_reserve(self, principal: Principal, tokens: int) -> bool:
        """True if another worker may reserve these tokens."""
        accounting = self.gateway.accounting
        other = Accounts(accounting.accounts.table, accounting.keys, lambda _scope, _since: 0.0)
        return isinstance(other.reserve(principal, (tokens, None)), Reservation)

    def server(self) -> HttpServer:
        return HttpServer(self.app, ResponseBuffer(self.gateway.config.limits, self.gateway.now, self.gateway.flush))

    async def call(self, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """One request over a pair of sockets."""
        reader, writer = await connect(self.server())
        first = f"GET {path}" if body is None else f"POST {path}"
        writer.write(f"{first} HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {self.key}\r\n".encode())
        writer.write(b"content-length: %d\r\nconnection: close\r\n\r\n%b" % (len(body or b""), body or b""))
        head, _, said = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        await writer.wait_closed()
        return int(head.split()[1]), json.loads(said)

    def close(self) -> None:
        self.ledger.close()
        self.store.close()


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Stand]:
    made = Stand(tmp_path)
    yield made
    made.close()


def test_a_bug_is_an_internal_error_that_says_nothing(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        def resolve(self, *_asked: object) -> None:
            raise KeyError("the secret prompt")

    monkeypatch.setattr(stand.gateway, "directory", Broken())
    status, body = stand.chat()
    assert (status, body["error"]["code"]) == (500, "bug")
    entry = json.loads(stand.journal.getvalue())
    assert entry["code"] == "AW-INT-01" and entry["request"].startswith("aw-")
    assert entry["bug"].startswith("KeyError at resolve:")
    assert "secret" not in stand.journal.getvalue()


def test_why_an_engine_was_not_reached_is_in_the_journal(stand: Stand) -> None:
    """The journal names the kind of the error, such as an untrusted certificate or an unknown name, and no message."""
    assert stand.chat()[0] == 503
    entry = json.loads(stand.journal.getvalue())
    assert (entry["code"], entry["reason"]) == ("AW-ENG-01", "FileNotFoundError")


def test_a_bug_on_the_way_to_an_engine_is_recorded_as_a_failure_and_costs_nothing(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_asked: object) -> None:
        raise ValueError("unforeseen")

    monkeypatch.setattr(EngineClient, "send_request", broken)
    assert stand.chat()[0] == 500
    (record,) = read_served(stand.store, Home(tmp_path))
    assert (record.status, record.input_tokens, record.output_tokens) == ("failed", 0, 0)


class FullCache:
    """Has a response to every request."""

    def cache_key(self, *_parts: object) -> bytes:
        return b"k"

    def get(self, _key: bytes) -> CachedResponse:
        return CachedResponse(b'{"cached": true}', 3, 5, 0.25, "v")


@pytest.fixture
def cached_stand(stand: Stand) -> Stand:
    """A stand whose responses are cached, and whose key has limits."""
    entry = endpoint(workload="w", addresses=("unix:none",), cache="all", default_max_tokens=1)
    stand.gateway._rebuild_routing(table(entry))
    stand.gateway.accounting = stand.gateway.accounting._replace(cache=cast(ResponseCache, FullCache()))
    stand.key, stand.caller = stand.limited_caller(rpm=2, tpm=9_000)
    return stand


def test_a_cached_response_takes_one_transaction_and_no_task(
    cached_stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[object] = []
    write = SharedTable.write

    def count(shared: SharedTable, act: Any, *args: Any) -> Any:
        writes.append(act)
        return write(shared, act, *args)

    def refuse(_response: HttpResponse, _work: object) -> None:
        raise AssertionError("a task")

    assert cached_stand.chat()[0] == 200, "the first request registers the process"
    monkeypatch.setattr(SharedTable, "write", count)
    monkeypatch.setattr(HttpResponse, "start_work", refuse)
    assert cached_stand.chat() == (200, {"cached": True})
    assert len(writes) == 1 and not cached_stand.gateway.accounting.accounts.ended
    assert cached_stand.chat()[0] == 429, "both count as requests"
    records = read_served(cached_stand.store, Home(tmp_path))
    found = sorted((one.status, one.cache, one.cost_usd, one.saved_usd) for one in records)
    assert found == [("limited", "off", None, 0.0)] + [("ok", "hit", 0.0, 0.25)] * 2


def test_a_cached_response_holds_no_tokens(cached_stand: Stand) -> None:
    assert cached_stand.chat()[0] == 200
    assert cached_stand.caller is not None and cached_stand.can_reserve(cached_stand.caller, 9_000)


def test_a_bug_in_one_cached_response_leaves_the_others(cached_stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """Responses of one tick are written one after the other, without tasks of their own."""
    answered: list[int] = []

    async def scenario() -> None:
        async def work(number: int) -> None:
            answered.append(number)
            if number == 2:
                raise ValueError("unforeseen")

        with pytest.raises(ValueError, match="unforeseen"):
            cached_stand.app._answer_cached([work(number) for number in (1, 2, 3)])
        await asyncio.sleep(0)

    asyncio.run(scenario())
    assert sorted(answered) == [1, 2, 3]


def test_a_cached_response_that_cannot_be_recorded_is_an_error(
    cached_stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_record: object) -> None:
        raise StoreError("AW-STO-06", "the disk is full")

    monkeypatch.setattr(cached_stand.gateway._requests, "add", full)
    status, said = cached_stand.chat()
    assert (status, said["error"]["code"]) == (503, "record_unavailable")


def test_a_key_taken_away_while_its_request_is_let_in_is_seen_to_be(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread updates the keys, so they may change between any two steps of the event loop."""
    identify = KeyStore.identify

    def gone(keys: KeyStore, secret: str) -> Principal | None:
        known = identify(keys, secret)
        if known is not None:
            keys.revoke(known.key_id)
            keys._refresh()
        return known

    monkeypatch.setattr(KeyStore, "identify", gone)
    assert stand.chat()[0] == 401


def test_a_key_taken_away_while_its_work_is_reserved_ends_it(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    reserve, opened = CostAccounting.reserve, CostAccounting.open_charge

    def revoke(accounting: CostAccounting, wanted: Wanted) -> list[ReserveResult | None]:
        for request, *_ in wanted:
            accounting.keys.revoke(request.principal.key_id)
            accounting.keys._refresh()
        return reserve(accounting, wanted)

    def check(accounting: CostAccounting, *asked: Any) -> RequestCharge:
        charge = opened(accounting, *asked)
        charge.check_if_due(math.inf)
        return charge

    monkeypatch.setattr(CostAccounting, "reserve", revoke)
    monkeypatch.setattr(CostAccounting, "open_charge", check)
    assert stand.chat()[0] == 401


def test_an_endpoint_taken_away_between_the_reading_of_a_request_and_its_work_is_no_bug(
    stand: Stand, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve, config = CostAccounting.reserve, table(endpoint(workload="other", addresses=("unix:none",)))

    def change(accounting: CostAccounting, wanted: Wanted) -> list[ReserveResult | None]:
        stand.gateway._rebuild_routing(config)
        return reserve(accounting, wanted)

    monkeypatch.setattr(CostAccounting, "reserve", change)
    status, said = stand.chat(healthy=False)
    assert (status, said["error"]["code"]) == (503, "model_unavailable")


def test_tenants_take_turns_for_large_bodies(stand: Stand, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tenant that uploads four files of sound delays the file of another by one of them."""
    order: list[str] = []
    monkeypatch.setattr(stand.app, "_start", lambda arrived: order.extend(request.id for request, _ in arrived))
    head = parse_head(b"POST /v1/audio/transcriptions HTTP/1.1\r\nhost: g")
    response = cast(HttpResponse, None)

    async def scenario() -> None:
        for name in ("a1", "a2", "a3", "a4", "b1", "c1", "b2"):
            admitted = Admitted(Principal(key_id="k", tenant=name[0], role="member"), 0, upload=True)
            stand.app.on_request(HttpRequest(name, head, 0.0, admitted, bytes(LARGE_BYTES + 1)), response)
        await until_async(lambda: len(order) == 7)

    asyncio.run(scenario())
    assert order == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]


def test_a_broken_health_check_is_noted_and_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand = Stand(tmp_path, health_s=0.01, sweep_s=0.01)
    asked = 0

    async def healthy(_client: EngineClient, _path: str = "", _timeout_s: float = 2.0) -> bool:
        nonlocal asked
        asked += 1
        if asked == 1:
            raise RuntimeError("unforeseen")
        return True

    monkeypatch.setattr(EngineClient, "healthy", healthy)

    async def scenario() -> None:
        async with stand.app.run_background_tasks(stand.server()):
            await until_async(lambda: stand.gateway.ready_pool_count)
            assert await stand.call("/readyz") == (200, {"ready": True, "pools": {"ready": 1, "total": 1}})

    try:
        asyncio.run(scenario())
        assert "health check failed" in stand.journal.getvalue()
    finally:
        stand.close()


def test_a_full_disk_leaves_the_deadlines(tmp_path: Path) -> None:
    """An error while the load of a pool is exported does not end the sweep."""
    stand = Stand(tmp_path, headers_s=0.1, sweep_s=0.01)
    page = stand.gateway.exposition = Exposition(folder=Home(tmp_path).counters)
    file = page._file
    assert file is not None
    file._labels.close()
    file._labels = open("/dev/full", "ab", buffering=0)  # noqa: SIM115

    async def scenario() -> bytes:
        server = stand.server()
        async with stand.app.run_background_tasks(server), asyncio.timeout(WAIT_S):
            await until_async(lambda: "sweep failed" in stand.journal.getvalue())
            reader, writer = await connect(server)
            said = await reader.readline()
            writer.close()
            await writer.wait_closed()
            file._labels.close()
            file._labels = (tmp_path / "room").open("ab", buffering=0)
            return said

    try:
        assert b" 408 " in asyncio.run(scenario())
        assert stand.journal.getvalue().count("sweep failed") == 1
    finally:
        page.close()
        stand.close()


def test_a_full_disk_ends_admissions_first_and_no_request_let_in_is_left_out(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def said(key: str, path: str, sent: bytes | None) -> tuple[int, str]:
        stand.key = key
        status, reply = await stand.call(path, sent)
        return status, reply["error"]["code"]

    async def scenario() -> None:
        key = stand.key
        admitted = 0
        assert (await said(key, "/v1/chat/completions", BODY))[1] == "engine_unavailable"

        def full(_handle: int, _offset: int, _size: int) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr("os.posix_fallocate", full)
        while (found := await said(key, "/v1/chat/completions", BODY))[1] == "engine_unavailable":
            admitted += 1
        assert found == (503, "audit_unavailable") and admitted > 5
        denied = 0
        while (found := await said(key, "/v1/nothing", None))[1] == "not_found":
            denied += 1
        assert found == (503, "audit_unavailable") and denied > 1, "a refusal is let out while it can be recorded"
        assert await said("aw_x", "/v1/models", None) == (401, "invalid_api_key"), "no record holds up a stranger's"
        one = RequestRecord(at=1.0, request_id="r", status="ok")
        stand.ledger.append("served", one)
        stand.ledger.flush()
        monkeypatch.undo()
        assert (await said(key, "/v1/chat/completions", BODY))[1] == "engine_unavailable"
        records = list(read_served(stand.store, Home(tmp_path)))
        assert [record.status for record in records if record != one] == ["failed"] * (admitted + 2)
        effects = [event.effect for event in read_entries(stand.store, Home(tmp_path))]
        assert (effects.count("allow"), effects.count("deny")) == (admitted + 2, denied)
        assert check_chain(stand.store, Home(tmp_path)).broken is None
        await stand.gateway.fleet.close()

    asyncio.run(scenario())


def test_a_settlement_the_accounts_refuse_is_noted_and_the_records_are_flushed(stand: Stand) -> None:
    gateway, accounts = stand.gateway, stand.gateway.accounting.accounts
    _, principal = stand.limited_caller(budget_usd=1.0)
    taken = accounts.reserve(principal, (10, 0.5))
    assert isinstance(taken, Reservation)
    accounts.settle(taken, 10, 0.1)
    accounts.table.close()
    texts: dict[str, Any] = dict.fromkeys(("tenant", "key_id", "action", "permission", "reason", "request_id"), "x")
    AuditLog(stand.ledger).record(AuditEvent(at=1.0, effect="allow", **texts))
    gateway.flush()
    entry = json.loads(stand.journal.getvalue())
    assert (entry["event"], entry["code"], entry["requests"]) == ("not settled", "AW-STO-11", 1)
    assert not any(stand.ledger._pending.values()) and accounts.ended == []


def test_a_pool_that_is_gone_has_no_load(stand: Stand) -> None:
    gateway = stand.gateway
    (pool,) = gateway.pools.values()
    line = f'archwright_requests_in_flight{{pool="{pool.name}"}} '
    pool.in_flight = 2
    assert line + "2.0" in gateway.render_metrics().decode()
    gateway.fleet.pools = {}
    assert line + "0.0" in gateway.render_metrics().decode()


class Gone(asyncio.Transport):
    """The transport of a client that has disconnected."""

    def is_closing(self) -> bool:
        return True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None: ...

    def abort(self) -> None: ...

    def close(self) -> None: ...


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_a_client_who_leaves_at_any_moment_leaves_nothing_reserved(stand: Stand, turns: int) -> None:
    """`turns` event-loop ticks after the request is complete: before its reservation, before its work, during it."""
    secret, principal = stand.limited_caller(tpm=10)

    async def scenario() -> None:
        connection = stand.server().create_connection()
        connection.connection_made(Gone())
        connection.data_received(HEAD % (secret.encode(), len(BODY)) + BODY)
        for _ in range(turns):
            await asyncio.sleep(0)
        connection.connection_lost(None)
        for _ in range(10):
            await asyncio.sleep(0)
        await stand.gateway.fleet.close()

    asyncio.run(scenario())
    assert stand.can_reserve(principal, 10), "all of the minute's tokens are there, for others too"


def test_a_client_who_leaves_as_its_stream_begins_leaves_nothing_reserved(
    stand: Stand, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first bytes wait for the end of the tick, and the client has disconnected by then."""
    secret, principal = stand.limited_caller(tpm=10)
    body = b'{"model": "m", "stream": true, "messages": [{"role": "user", "content": "x"}]}'
    event = b'data: {"choices":[{"index":0,"delta":{"content":"a"}}]}\n\n'
    stand.mark_engine_healthy()

    async def scenario() -> None:
        connection = stand.server().create_connection()

        async def ask(_client: EngineClient, _path: str, _body: object, sink: ResponseSink, _headers: object) -> None:
            sink.begin(b"text/event-stream")
            sink.feed(event)
            connection.connection_lost(None)
            await asyncio.sleep(60)

        monkeypatch.setattr(EngineClient, "send_request", ask)
        connection.connection_made(Gone())
        connection.data_received(HEAD % (secret.encode(), len(body)) + body)
        for _ in range(10):
            await asyncio.sleep(0)
        await stand.gateway.fleet.close()

    asyncio.run(scenario())
    (record,) = read_served(stand.store, Home(tmp_path))
    billed = record.status, record.input_tokens, record.output_tokens
    assert billed == ("cancelled", 1, 1), "and what it got is billed"
    assert stand.can_reserve(principal, 8), "what was not used is there for others"
