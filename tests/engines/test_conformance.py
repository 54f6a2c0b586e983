"""Every engine of `candidates` behaves the same, by its socket and by a URL."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from archwright.errors import EngineError
from archwright.home import Home
from archwright.http_client.client import EngineClient, EngineRefused

from ..tools.checks import POLL_S, WAIT_S, refuses, until, until_async
from .candidates import (
    CHAT,
    CONTEXT_TOKENS,
    DEFAULT_LENGTH,
    DEFAULT_MAX_TOKENS,
    EMBED,
    LIFECYCLE,
    PROMPT_STEPS,
    RERANK,
    SCHEMA,
    Candidate,
    find_candidates,
)
from .conftest import ENDED_WITH_INPUT, Child, accepts_connections

T = TypeVar("T")
CHAT_PATH = "/chat/completions"
# A prompt of PROMPT_WORDS has more than twice as many tokens, and fits the context together with LONG_TOKENS.
PROMPT_WORDS, LONG_TOKENS = 220, 500
# The server of a URL looks for closed connections after a second without requests.
QUIET_S = 1.2


@pytest.fixture(scope="module", params=find_candidates(CHAT))
def candidate(request: pytest.FixtureRequest) -> Candidate:
    found: Candidate = request.param
    return found


@pytest.fixture(scope="module")
def child(candidate: Candidate, model_home: Home) -> Iterator[Child]:
    child = candidate.start(model_home, CHAT)
    yield child
    child.end()


@pytest.fixture(params=["socket", pytest.param("url", marks=[pytest.mark.enable_socket, pytest.mark.nightly])])
def engine(request: pytest.FixtureRequest, child: Child) -> Iterator[str]:
    """The engine's address."""
    if request.param == "socket" or not child.address.startswith("unix:"):
        yield child.address
        return
    bridge = [sys.executable, str(Path(__file__).with_name("tcp_bridge.py")), child.address[5:]]
    with subprocess.Popen(bridge, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        port = int(process.stdout.readline())
        yield f"http://127.0.0.1:{port}/v1"
        process.communicate()


@pytest.fixture(scope="module", params=find_candidates(EMBED))
def embedder(request: pytest.FixtureRequest, model_home: Home) -> Iterator[str]:
    child = request.param.start(model_home, EMBED)
    yield child.address
    child.end()


@pytest.fixture(scope="module", params=find_candidates(RERANK))
def ranker(request: pytest.FixtureRequest, model_home: Home) -> Iterator[str]:
    child = request.param.start(model_home, RERANK)
    yield child.address
    child.end()


def _ask(**more: object) -> dict[str, Any]:
    messages = [{"role": "user", "content": "Name three colours of the rainbow."}]
    base = {"messages": messages, "stream": True, "stream_options": {"include_usage": True}}
    return {**base, "temperature": 0, "max_tokens": 16, **more}


def _long() -> dict[str, Any]:
    """A prompt of many steps and a long answer; never the same, so that no cache helps."""
    words = " ".join(f"{time.monotonic_ns() % 97} blue" for _ in range(PROMPT_WORDS // 2))
    messages = [{"role": "user", "content": words}]
    return _ask(messages=messages, cache_prompt=False, max_tokens=LONG_TOKENS, ignore_eos=True)


class Reply(NamedTuple):
    text: str
    finish_reason: str | None
    usage: dict[str, Any]
    events: list[dict[str, Any]]


async def _reply(client: EngineClient, body: dict[str, Any], path: str = CHAT_PATH) -> Reply:
    events = [event async for event in client.stream(path, body)]
    choices = [choice for event in events for choice in event["choices"]]
    text = "".join(c["text"] if "text" in c else c["delta"].get("content") or "" for c in choices)
    usage: dict[str, Any] = next((event["usage"] for event in events if event.get("usage")), {})
    return Reply(text, choices[-1]["finish_reason"], usage, events)


def _with(address: str, act: Callable[[EngineClient], Awaitable[T]]) -> T:
    async def run() -> T:
        client = EngineClient(address)
        try:
            return await act(client)
        finally:
            await client.close()

    return asyncio.run(run())


class Counts(NamedTuple):
    """What the engine counts: requests that run now, and tokens since its start."""

    running: int
    read: int
    written: int


async def _count(client: EngineClient, candidate: Candidate) -> Counts:
    lines = (await client.get_text("/metrics")).splitlines()
    sums = []
    for series in candidate.series:
        values = [line.rsplit(None, 1)[1] for line in lines if line.startswith((series + " ", series + "{"))]
        sums.append(int(sum(map(float, values))))
    return Counts(*sums)


async def _until_running(client: EngineClient, candidate: Candidate, count: int) -> Counts:
    """Wait until `count` requests run. By a URL it asks seldom, so that the server looks for closed connections."""

    async def is_reached() -> bool:
        return (await _count(client, candidate)).running == count

    every_s = QUIET_S if count == 0 and not client.address.startswith("unix:") else POLL_S
    await until_async(is_reached, every_s=every_s)
    return await _count(client, candidate)


def test_is_healthy_and_names_its_model_by_alias(engine: str) -> None:
    assert _with(engine, lambda client: client.healthy("/models"))
    models = _with(engine, lambda client: client.get("/models"))
    assert [model["id"] for model in models["data"]] == ["small"]


def test_streams_a_chat_in_pieces_with_a_reason_and_usage(engine: str) -> None:
    reply = _with(engine, lambda client: _reply(client, _ask()))
    assert reply.text and len(reply.events) > 5
    assert reply.finish_reason in ("length", "stop")
    assert 0 < reply.usage["completion_tokens"] <= 16
    assert reply.usage["total_tokens"] == reply.usage["prompt_tokens"] + reply.usage["completion_tokens"]


def test_answers_a_plain_completion_and_without_streaming_too(engine: str) -> None:
    body = {"prompt": "One, two, three,", "stream": True, "max_tokens": 6, "temperature": 0}
    reply = _with(engine, lambda client: _reply(client, body, "/v1/completions"))
    assert reply.text and reply.finish_reason in ("length", "stop")
    whole = _with(engine, lambda client: client.post(CHAT_PATH, {**_ask(), "stream": False, "stream_options": None}))
    assert whole["choices"][0]["message"]["content"] and whole["usage"]["completion_tokens"] <= 16


def test_respects_max_tokens_or_the_default_request_after_request_without_a_pause(
    engine: str, candidate: Candidate
) -> None:
    async def act(client: EngineClient) -> list[Reply]:
        story = [{"role": "user", "content": "Tell a very long story about the sea."}]
        return [await _reply(client, _ask(messages=story, max_tokens=limit)) for limit in limits]

    limits = (*([None] if DEFAULT_LENGTH in candidate.abilities else []), 7, *([1] * 6))
    for limit, reply in zip(limits, _with(engine, act), strict=True):
        assert (reply.usage["completion_tokens"], reply.finish_reason) == (limit or DEFAULT_MAX_TOKENS, "length")


def test_stops_at_a_stop_string_and_leaves_it_out(engine: str) -> None:
    free = _with(engine, lambda client: _reply(client, _ask(cache_prompt=False)))
    stop = free.text.split()[3]
    stopped = _with(engine, lambda client: _reply(client, _ask(stop=[stop], cache_prompt=False)))
    assert stopped.finish_reason == "stop" and stop not in stopped.text
    assert free.text.startswith(stopped.text.rstrip())


def test_the_same_seed_gives_the_same_text(engine: str) -> None:
    body = _ask(seed=11, temperature=1.0, cache_prompt=False)
    assert len({_with(engine, lambda client: _reply(client, body)).text for _ in range(3)}) == 1


@pytest.mark.parametrize("candidate", find_candidates(CHAT, SCHEMA), indirect=True)
def test_a_schema_is_obeyed(engine: str) -> None:
    fields = {"city": {"type": "string", "minLength": 1, "maxLength": 12}, "large": {"type": "boolean"}}
    schema = {"type": "object", "properties": fields, "required": ["city", "large"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": schema}}
    reply = _with(engine, lambda client: _reply(client, _ask(response_format=form, max_tokens=60)))
    document = json.loads(reply.text)
    assert set(document) == {"city", "large"} and isinstance(document["large"], bool)
    assert 1 <= len(document["city"]) <= 12 and reply.finish_reason == "stop"


@pytest.mark.parametrize("candidate", find_candidates(CHAT, SCHEMA), indirect=True)
def test_a_bad_schema_or_a_prompt_longer_than_the_context_is_refused(engine: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "place", "schema": {"type": "banana"}}}
    prompt = [{"role": "user", "content": "word " * (CONTEXT_TOKENS + 50)}]
    for body, said in ((_ask(response_format=form), "banana"), (_ask(messages=prompt), None)):
        with pytest.raises(EngineRefused, match=said) as refused:
            _with(engine, lambda client, body=body: _reply(client, body))  # type: ignore[misc]
        assert 400 <= refused.value.status < 500
    error = refused.value.body["error"]
    counted = error.get("n_prompt_tokens") or int(re.findall(r"at least (\d+) input tokens", error["message"])[0])
    assert counted > CONTEXT_TOKENS


def test_closing_the_stream_in_decode_frees_the_engine(engine: str, candidate: Candidate) -> None:
    async def act(client: EngineClient) -> int:
        before = await _count(client, candidate)
        async with aclosing(client.stream(CHAT_PATH, _ask(max_tokens=LONG_TOKENS, ignore_eos=True))) as stream:
            for _ in range(4):
                await anext(stream)
            assert (await _count(client, candidate)).running == 1
        after = await _until_running(client, candidate, 0)
        return after.written - before.written

    assert _with(engine, act) < LONG_TOKENS, "the answer was not finished"


def test_cancelling_while_a_prompt_is_read_frees_the_engine(engine: str, candidate: Candidate) -> None:
    async def act(client: EngineClient) -> tuple[int, int]:
        before = await _count(client, candidate)
        task = asyncio.create_task(_reply(client, _long()))
        await _until_running(client, candidate, 1)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        # By a URL no progress is asked for, and the server's metrics must not be polled meanwhile.
        await asyncio.sleep(0.0 if engine.startswith("unix:") else QUIET_S)
        after = await _until_running(client, candidate, 0)
        return after.read - before.read, after.written - before.written

    read, written = _with(engine, act)
    assert written < LONG_TOKENS, "the answer was not finished"
    if PROMPT_STEPS in candidate.abilities and engine.startswith("unix:"):
        assert read < 2 * PROMPT_WORDS, "the rest of the prompt was not read"


def test_cancelling_while_a_prompt_is_read_is_seen_beside_a_busy_neighbour(child: Child) -> None:
    """Both slots are taken, and the neighbour ends before the cancelled request would: a short answer that comes before
    the neighbour's end has the slot of the cancelled request."""

    async def drain(stream: AsyncIterator[dict[str, Any]]) -> None:
        async for _ in stream:
            pass

    async def act(client: EngineClient) -> bool:
        body = _ask(max_tokens=LONG_TOKENS - 50, ignore_eos=True)
        async with aclosing(client.stream(CHAT_PATH, body)) as stream:
            await anext(stream)
            neighbour = asyncio.create_task(drain(stream))
            cancelled = asyncio.create_task(_reply(client, _long()))
            await asyncio.sleep(0.3)
            cancelled.cancel()
            await asyncio.gather(cancelled, return_exceptions=True)
            await _reply(client, _ask(max_tokens=1))
            is_first = not neighbour.done()
            neighbour.cancel()
            await asyncio.gather(neighbour, return_exceptions=True)
            return is_first

    assert _with(child.address, act)


def test_eight_cancelled_long_streams_are_not_finished_before_the_next_answer(
    engine: str, candidate: Candidate
) -> None:
    async def begin_and_drop(client: EngineClient) -> None:
        async with aclosing(client.stream(CHAT_PATH, _ask(max_tokens=LONG_TOKENS, ignore_eos=True))) as stream:
            await anext(stream)

    async def act(client: EngineClient) -> int:
        before = await _count(client, candidate)
        await asyncio.gather(*(begin_and_drop(client) for _ in range(8)))
        await _reply(client, _ask(max_tokens=8, cache_prompt=False))
        after = await _until_running(client, candidate, 0)
        return after.written - before.written

    assert _with(engine, act) < LONG_TOKENS, "eight times that without cancellation"


def test_embeds_texts_and_token_ids_repeatably_whatever_they_are_read_with(embedder: str) -> None:
    long = "the sea and the ships upon it " * 33  # several steps of an engine, and within every context

    async def act(client: EngineClient) -> tuple[list[list[float]], int]:
        found, tokens = list[list[float]](), 0
        form, ids = "a tax form", [[10, 20], [40], [10, 20]]
        for given in (["the sea", form, "the sea"], [form], [long], [form, long], ids):
            reply = await client.post("/embeddings", {"model": "small", "input": given})
            found += [row["embedding"] for row in reply["data"]]
            tokens = reply["usage"]["prompt_tokens"]
        return found, tokens

    (sea, form, again, alone, whole, _, beside, one, other, same), tokens = _with(embedder, act)
    assert len(sea) == len(form) > 1 and tokens == 5
    assert sea == pytest.approx(again, abs=1e-5) and sea != pytest.approx(form, abs=1e-3)
    assert form == pytest.approx(alone, abs=1e-3) and whole == pytest.approx(beside, abs=1e-3)
    assert one == pytest.approx(same, abs=1e-5) and one != pytest.approx(other, abs=1e-3)


def test_ranks_documents_repeatably_and_by_their_own_words(ranker: str) -> None:
    documents = ["the red ship", "tax form", "the sea is blue", "tax form"]

    async def act(client: EngineClient) -> list[dict[int, float]]:
        asked = (documents, documents[::-1])
        replies = [await client.post("/rerank", {"query": "the sea", "documents": these}) for these in asked]
        assert all(reply["usage"]["total_tokens"] > 8 for reply in replies)
        return [{row["index"]: row["relevance_score"] for row in reply["results"]} for reply in replies]

    there, back = _with(ranker, act)
    assert sorted(there) == sorted(back) == [0, 1, 2, 3] and len(set(there.values())) > 2
    assert [there[number] for number in range(4)] == pytest.approx([back[3 - number] for number in range(4)], abs=1e-4)


@pytest.mark.parametrize("candidate", find_candidates(CHAT, LIFECYCLE), indirect=True)
def test_lives_and_dies_as_the_supervisor_wants(candidate: Candidate, model_home: Home) -> None:
    """Killed, it starts again on the same socket; told to end, it ends with status 0; orphaned, it ends at once."""
    child = candidate.make(model_home, CHAT, f"{candidate.name}-life")
    child.start()
    assert child.end(signal.SIGKILL) == -signal.SIGKILL
    path = Path(child.address.removeprefix("unix:"))
    assert path.is_socket()
    until(lambda: not accepts_connections(path))
    with refuses("AW-ENG-01"):
        _with(child.address, lambda client: client.get("/models"))
    child.start()
    assert path.stat().st_mode & 0o077 == 0
    assert child.end(signal.SIGTERM) == 0 and not path.exists()
    child.start()
    assert child.orphan() in ENDED_WITH_INPUT


@pytest.mark.parametrize("candidate", find_candidates(CHAT, LIFECYCLE), indirect=True)
def test_a_second_engine_on_the_same_socket_is_refused(child: Child) -> None:
    path = child.home.config(child.config.socket)
    command = [sys.executable, "-P", "-m", "archwright.engines", str(child.home.root), str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as rival:
        assert rival.wait(WAIT_S) == EngineError.exit_status
        assert rival.stderr is not None
        said = rival.stderr.read()
    assert "AW-ENG-07" in said and "archwright down" in said
    assert _with(child.address, lambda client: client.healthy())
