"""The null engine in this process: its times, its queue, its counts, and what it refuses."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest

from archwright.contract.record import replace
from archwright.engines import llamacpp, null
from archwright.engines.engine_config import EngineConfig
from archwright.home import Home
from archwright.http_client.client import EngineClient, EngineRefused
from archwright.journal import Journal

from ..tools.checks import refuses, until_async
from .conftest import SMALL_MODEL, Act, serve_until_done
from .test_engine_config import CONFIG

pytestmark = pytest.mark.usefixtures("terminate_handler")
CHAT = "/chat/completions"
BODY: dict[str, Any] = {"messages": [{"role": "user", "content": "hello there"}], "stream": True, "max_tokens": 4}


def _serve(folder: Path, act: Act, config: EngineConfig = CONFIG, **settings: float | str | bool) -> Any:
    result, events = serve_until_done(null.serve, Home(folder), replace(config, settings=dict(settings)), act)
    assert events == ["ready"]
    return result


async def _stream(client: EngineClient, **more: object) -> list[dict[str, Any]]:
    return [event async for event in client.stream(CHAT, {**BODY, **more})]


async def _counts(client: EngineClient) -> dict[str, int]:
    lines = (await client.get_text("/metrics")).splitlines()
    return {name.removeprefix("null:"): int(value) for name, value in (line.split() for line in lines)}


def test_streams_and_whole_replies_of_both_kinds(tmp_path: Path) -> None:
    async def act(client: EngineClient) -> list[Any]:
        return [
            await _stream(client),
            await _stream(client, stream_options={"include_usage": True}),
            await client.post(CHAT, {**BODY, "stream": False}),
            await client.post("/completions", {"prompt": "x", "max_tokens": 2}),
        ]

    plain, with_usage, chat, completion = _serve(tmp_path, act)
    assert "".join(e["choices"][0]["delta"].get("content", "") for e in plain) == "The null engine says"
    assert plain[-1]["choices"][0]["finish_reason"] == "length"
    usage = {"prompt_tokens": 2, "completion_tokens": 4, "total_tokens": 6}
    assert with_usage[:-1] == plain and with_usage[-1]["choices"] == [] and with_usage[-1]["usage"] == usage
    assert chat["choices"][0]["message"] == {"role": "assistant", "content": "The null engine says"}
    assert (completion["object"], completion["choices"][0]["text"]) == ("text_completion", "The null")


def test_the_times_are_the_settings(tmp_path: Path) -> None:
    async def act(client: EngineClient) -> list[float]:
        loop = asyncio.get_running_loop()
        begin, at = loop.time(), []
        async with aclosing(client.stream(CHAT, BODY)) as stream:
            async for _ in stream:
                at.append(loop.time() - begin)
        return at

    at = _serve(tmp_path, act, ttft_s=0.1, tpot_s=0.05)
    # Never early; how late depends on the machine.
    assert at[0] >= 0.1 and at[3] >= 0.25 - 0.001 and len(at) == 5


def test_one_slot_serves_one_after_another_and_counts_those_who_wait(tmp_path: Path) -> None:
    async def is_at_least(client: EngineClient, name: str, count: int) -> bool:
        return (await _counts(client))[name] >= count

    async def act(client: EngineClient) -> tuple[dict[str, int], dict[str, int], dict[str, int]]:
        tasks = [asyncio.create_task(_stream(client)) for _ in range(3)]
        await until_async(lambda: is_at_least(client, "requests_deferred", 2))
        during = await _counts(client)
        for task in tasks[1:]:
            task.cancel()
        await asyncio.gather(*tasks[1:], return_exceptions=True)
        await until_async(lambda: is_at_least(client, "requests_cancelled_total", 2))
        cancelled = await _counts(client)
        await tasks[0]
        return during, cancelled, await _counts(client)

    during, cancelled, after = _serve(tmp_path, act, ttft_s=1.0)
    assert (during["requests_processing"], during["requests_deferred"]) == (1, 2)
    assert (cancelled["requests_processing"], cancelled["requests_deferred"]) == (1, 0)
    assert (after["requests_processing"], after["requests_cancelled_total"]) == (0, 2)
    assert (after["prompt_tokens_total"], after["tokens_predicted_total"]) == (2, 4)


@pytest.mark.parametrize(("given", "texts"), [("the sea", 1), (["the sea", "a form"], 2), ([[1, 2], [3, 4]], 2)])
def test_embeddings(tmp_path: Path, given: object, texts: int) -> None:
    reply = _serve(tmp_path, lambda client: client.post("/embeddings", {"input": given}), embeddings=True)
    assert [len(row["embedding"]) for row in reply["data"]] == [8] * texts
    assert reply["usage"]["prompt_tokens"] == 2 * texts


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        *(("/embeddings", {"input": wrong}, 400) for wrong in ([], [1], None)),
        *(("/embeddings", {}, 400), (CHAT, {}, 400), ("/responses", {}, 404), ("/health", {}, 405)),
        ("/v1/embeddings", {"input": "x"}, 501),
    ],
)
def test_refusals(tmp_path: Path, path: str, body: dict[str, Any], status: int) -> None:
    """Embeddings are off by default."""

    async def act(client: EngineClient) -> EngineRefused:
        with pytest.raises(EngineRefused) as refused:
            await client.post(path, body)
        return refused.value

    refused = _serve(tmp_path, act, embeddings=status != 501)
    assert refused.status == status and refused.body["error"]["message"]


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"[" * 100_000, b"\xff"])
def test_a_body_that_is_no_object(tmp_path: Path, content: bytes) -> None:
    async def act(client: EngineClient) -> bytes:
        reader, writer = await asyncio.open_unix_connection(client.address.removeprefix("unix:"))
        head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: e\r\ncontent-length: {len(content)}\r\n\r\n"
        writer.write(head.encode() + content)
        said = await reader.read()
        writer.close()
        return said

    head, _, body = _serve(tmp_path, act).partition(b"\r\n\r\n")
    assert b" 400 " in head and "message" in json.loads(body)["error"]


def test_an_adapter_is_heard_and_can_be_left_out(tmp_path: Path) -> None:
    adapted = replace(CONFIG, adapter_sha256="abc123" * 10 + "0000")
    Home(tmp_path).model(str(adapted.adapter_sha256)).touch()

    async def act(client: EngineClient) -> list[str]:
        said = []
        for scale in (None, 0.0, 1.0):
            more = {} if scale is None else {"lora": [{"id": 0, "scale": scale}]}
            found = await client.post(CHAT, {**BODY, "stream": False, **more})
            said.append(str(found["choices"][0]["message"]["content"]))
        return said

    with_it, without, with_scale = _serve(tmp_path, act, adapted)
    assert (with_it, without) == ("abc123abc123 The null engine", "The null engine says")
    assert with_scale == with_it


@pytest.mark.parametrize("engine", [null.serve, llamacpp.serve])
def test_an_adapter_that_is_not_here(tmp_path: Path, model_home: Home, engine: Callable[..., None]) -> None:
    config = replace(CONFIG, adapter_sha256="0" * 64, model_sha256=SMALL_MODEL.sha256, settings={})
    home = Home(tmp_path)
    home.model(SMALL_MODEL.sha256).symlink_to(model_home.model(SMALL_MODEL.sha256))
    with refuses("AW-GET-02") as missing:
        engine(config, home, Journal("x", io.StringIO()))
    assert "0" * 64 in str(missing.value.where)
