"""The client against real servers on a Unix socket or loopback: valid, invalid and missing replies."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from tests.async_tests import run_async
from tests.tools.checks import WAIT_S

from archwright.errors import EngineError, UsageError
from archwright.http_client import client as module
from archwright.http_client.client import EngineClient, EngineRefused

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


def _plain(body: bytes, status: str = "200 OK") -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


Handle = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[object]]


@asynccontextmanager
async def _serving(handle: Handle, folder: Path | None) -> AsyncIterator[EngineClient]:
    """A client of a server that runs `handle` on each connection. Both are closed at the end."""
    open_connections: set[asyncio.Task[None]] = set()

    def accepted(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_connections.add(asyncio.get_running_loop().create_task(serve(reader, writer)))

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            try:
                await handle(reader, writer)
                await writer.drain()
            finally:
                writer.close()
                await writer.wait_closed()

    if folder:
        address = f"unix:{folder}/x.sock"
        server = await asyncio.start_unix_server(accepted, f"{folder}/x.sock")
    else:
        server = await asyncio.start_server(accepted, "127.0.0.1", 0)
        address = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    client = EngineClient(address, "secret")
    try:
        yield client
    finally:
        await client.close()
        server.close()
        await asyncio.gather(*open_connections)


@asynccontextmanager
async def _replying(folder: Path, *replies: bytes) -> AsyncIterator[tuple[EngineClient, list[bytes]]]:
    """A client of a server that sends one of `replies` per connection, then closes; and the heads that it received."""
    heads, left = [], list(replies)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        heads.append(head)
        if head.startswith(b"POST"):
            await reader.readuntil(b"}")
        writer.write(left.pop(0))

    async with _serving(serve, folder) as client:
        yield client, heads


async def _all(client: EngineClient) -> list[dict[str, Any]]:
    return [event async for event in client.stream("/chat/completions", {"stream": True})]


@run_async
async def test_events_come_decoded_until_done_and_progress_reports_only_if_requested(tmp_path: Path) -> None:
    reply = HEAD + _chunk(b': x\n\ndata: {"prompt_progress": {}}\n\ndata: {"a":') + _chunk(b" 1}\n\n")
    reply += _chunk(b"data: [DONE]\n\n") + _chunk(b": the end\n\n") + b"0\r\n\r\n"
    async with _replying(tmp_path, reply, reply) as (client, heads):
        assert await _all(client) == [{"a": 1}]
        events = [event async for event in client.stream("completions", {"return_progress": True})]
    assert events == [{"prompt_progress": {}}, {"a": 1}]
    assert heads[0].startswith(b"POST /v1/chat/completions ") and b"Authorization: Bearer secret" in heads[0]


@pytest.mark.parametrize(
    ("reply", "code"),
    [
        (HEAD + _chunk(b'data: {"a": 1}\n\n') + b"0\r\n\r\n", "AW-ENG-02"),
        (HEAD + _chunk(b'data: {"a": 1}\n\n'), "AW-ENG-02"),
        (b"", "AW-ENG-02"),
        (HEAD + _chunk(b"data: not json\n\n"), "AW-ENG-03"),
        (HEAD + _chunk(b"data: [1]\n\n"), "AW-ENG-03"),
        (HEAD + _chunk(b'data: "\xff"\n\n'), "AW-ENG-03"),
        (b"this is no HTTP\r\n\r\n", "AW-ENG-03"),
    ],
)
@run_async
async def test_a_stream_that_breaks_off_or_speaks_nonsense(tmp_path: Path, reply: bytes, code: str) -> None:
    with pytest.raises(EngineError) as failed:
        async with _replying(tmp_path, reply) as (client, _):
            await _all(client)
    assert failed.value.code == code and failed.value.hint


@pytest.mark.parametrize(
    ("reply", "status", "message"),
    [
        (_plain(b'{"error": {"message": "no"}}', "404 Not Found"), 404, "no"),
        (_plain(b'{"detail": "no"}', "422 Unprocessable"), 422, "no"),
        (_plain(b"<html>", "502 Bad Gateway"), 502, "<html>"),
        (_plain(b'{"error": "plain"}', "500 Oops"), 500, "plain"),
        (_plain(b"", "307 Elsewhere"), 307, ""),
        (HEAD + _chunk(b'data: {"error": {"code": 400, "message": "no"}}\n\n'), 400, "no"),
        (HEAD + _chunk(b'data: {"error": {"code": "odd", "message": "no"}}\n\n'), 500, "no"),
        (HEAD + _chunk(b'error: {"code": 503, "message": "no"}\n\n'), 503, "no"),
        (HEAD + _chunk(b'data: {"error": "plain"}\n\n'), 500, "plain"),
    ],
)
@run_async
async def test_a_refusal_keeps_its_status_and_words(tmp_path: Path, reply: bytes, status: int, message: str) -> None:
    with pytest.raises(EngineRefused) as refused:
        async with _replying(tmp_path, reply) as (client, _):
            await _all(client)
    assert (refused.value.status, refused.value.code) == (status, "AW-ENG-04")
    assert message in refused.value.message and refused.value.body


@run_async
async def test_nobody_listens(tmp_path: Path) -> None:
    client = EngineClient(f"unix:{tmp_path}/none.sock")
    with pytest.raises(EngineError) as gone:
        await client.get("/models")
    assert not await client.healthy()
    await client.close()
    await client.close()
    assert gone.value.code == "AW-ENG-01" and f"unix:{tmp_path}" in str(gone.value.where)


@pytest.mark.enable_socket
@pytest.mark.parametrize("host", ["a..b", "x" * 70])
@run_async
async def test_a_name_that_can_be_no_hosts_is_an_engine_that_is_not_there(host: str) -> None:
    """An invalid host name must not stop the health checks of other engines."""
    client = EngineClient(f"http://{host}:1/v1")
    with pytest.raises(EngineError, match="cannot be reached"):
        await client.get("/models")
    assert not await client.healthy("/health") and not await client.healthy("")
    await client.close()


@run_async
async def test_a_mute_engine_is_not_healthy(tmp_path: Path) -> None:
    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with _serving(mute, tmp_path) as client:
        assert not await client.healthy(timeout_s=0.05)


@run_async
async def test_plain_replies_and_texts(tmp_path: Path) -> None:
    async with _replying(tmp_path, _plain(b'{"a": 1}'), _plain(b'{"b": 2}'), _plain(b"c 3\n")) as (client, heads):
        assert await client.post("/embeddings", {}) == {"a": 1}
        assert await client.get("v1/models") == {"b": 2}
        assert await client.get_text("/metrics") == "c 3\n"
    firsts = [head.split(b" HTTP")[0] for head in heads]
    assert firsts == [b"POST /v1/embeddings", b"GET /v1/models", b"GET /metrics"]


@run_async
async def test_a_reply_without_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BODY_LIMIT_BYTES", 10)
    async with _replying(tmp_path, _plain(b'"0123456789"')) as (client, _):
        with pytest.raises(EngineError) as refused:
            await client.get("/models")
    assert refused.value.code == "AW-ENG-03"


@run_async
async def test_a_connection_held_open_after_done_is_let_go(tmp_path: Path) -> None:
    async def hold(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD + _chunk(b'data: {"a": 1}\n\ndata: [DONE]\n\n'))
        await reader.read()

    async with _serving(hold, tmp_path) as client:
        assert await _all(client) == [{"a": 1}]


@pytest.mark.parametrize(
    ("address", "path", "url"),
    [
        ("http://a:1/v1", "/chat/completions", "http://a:1/v1/chat/completions"),
        ("http://a:1/v1/", "/v1/completions", "http://a:1/v1/completions"),
        ("http://a:1", "models", "http://a:1/v1/models"),
        ("https://a/openai/v1", "/health", "https://a/openai/health"),
        ("https://a/openai/v1", "/v1/rerank", "https://a/openai/v1/rerank"),
        ("unix:/x.sock", "/metrics", "http://engine/metrics"),
    ],
)
def test_where_a_path_leads(address: str, path: str, url: str) -> None:
    assert EngineClient(address)._url(path) == url


@pytest.mark.parametrize("address", ["", "a:1/v1", "ftp://a/v1", "/x.sock"])
def test_an_address_that_is_none(address: str) -> None:
    with pytest.raises(UsageError) as refused:
        EngineClient(address)
    assert refused.value.code == "AW-USE-10"


@pytest.mark.enable_socket
@run_async
async def test_a_urls_connection_is_used_again_and_replaced_when_the_server_dropped_it() -> None:
    """The server closes a kept connection after it read a request, as llama.cpp does; the request still succeeds."""
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        for _ in range(2):
            await reader.readuntil(b"\r\n\r\n")
            writer.write(_plain(b'{"n": %d}' % connections))
        # A third request is read, and the connection is closed instead of a reply.
        await reader.readuntil(b"\r\n\r\n")

    async with _serving(serve, None) as client:
        assert [(await client.get("/models"))["n"] for _ in range(4)] == [1, 1, 2, 2]


@pytest.mark.enable_socket
@run_async
async def test_many_at_once_share_kept_connections_and_each_gets_its_own_reply() -> None:
    connections = 0

    async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        while True:
            head = await reader.readuntil(b"\r\n\r\n")
            writer.write(_plain(head.split()[1]))

    async with _serving(echo, None) as client:

        async def get_often(name: int) -> None:
            for number in range(30):
                assert await client.get_text(f"/{name}/{number}") == f"/{name}/{number}"

        await asyncio.gather(*map(get_often, range(20)))
    assert connections <= 20


@pytest.mark.enable_socket
@run_async
async def test_a_server_that_only_drops_connections_is_given_up() -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")

    async with _serving(drop, None) as client:
        with pytest.raises(EngineError) as failed:
            await client.get("/models")
    assert failed.value.code == "AW-ENG-02"


def test_one_client_serves_one_event_loop_after_another(tmp_path: Path) -> None:
    client = EngineClient(f"unix:{tmp_path}/x.sock")

    async def well(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(_plain(b""))
        writer.close()

    async def act() -> bool:
        async with await asyncio.start_unix_server(well, f"{tmp_path}/x.sock"):
            healthy = await client.healthy()
            await client.close()
        return healthy

    assert [asyncio.run(act()), asyncio.run(act())] == [True, True]


@run_async
async def test_a_reader_that_does_not_read_holds_the_server_back(tmp_path: Path) -> None:
    sent = 0

    async def pour(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"}")
        writer.write(HEAD)
        for _ in range(200):
            writer.write(_chunk(b'data: {"a": "%b"}\n\n' % (b"x" * 100_000)))
            await writer.drain()
            sent += 1
        writer.write(_chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n")

    async with _serving(pour, tmp_path) as client, aclosing(client.stream("/completions", {})) as stream:
        await anext(stream)
        await asyncio.sleep(0.3)
        assert sent < 50
        assert len([event async for event in stream]) == 199


@run_async
async def test_leaving_the_loop_closes_the_connection(tmp_path: Path) -> None:
    ended: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"}")
        writer.write(HEAD + _chunk(b'data: {"a": 1}\n\n'))
        ended.set_result(await reader.read())

    async with _serving(endless, tmp_path) as client:
        async with aclosing(client.stream("/chat/completions", {})) as stream:
            await anext(stream)
        assert await asyncio.wait_for(ended, WAIT_S) == b""
