"""Replies that are no valid ones: what can be read is delivered and charged, the rest is named as what it is."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING

import pytest
from tests.serving.conftest import Platform, starting
from tests.serving.fake_provider import Place, Script, standing_in, whole

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.enable_socket
SAID = '{"choices": [{"index": 0, "%s": {"content": "abcdefgh"}, "finish_reason": "stop"%s}], "usage": %s}'
NO_NUMBERS = '{"prompt_tokens": NaN, "completion_tokens": Infinity, "total_tokens": -Infinity}'
LOGPROBS = ', "logprobs": {"content": [{"token": "a", "logprob": -Infinity, "bytes": null, "top_logprobs": []}]}'
MESSAGE = '{"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": NaN}}'


@pytest.fixture(scope="module")
def upstream(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, Place]]:
    spec = {"price_in_usd": 1e-6, "price_out_usd": 4e-6, "health_path": ""}
    vectors = {"embeddings": True, "model": "e", "workload": "e", "pool": "e"}
    claude = {"protocol": "anthropic", "model": "claude", "workload": "claude", "pool": "claude"}
    with standing_in() as place, starting(tmp_path_factory.mktemp("malformed")) as start:
        pools = [{**spec, "addresses": (place.url,), **kind} for kind in ({}, vectors, claude)]
        yield start(pools, []), place


@pytest.mark.parametrize("stream", [True, False], ids=["stream", "complete reply"])
def test_a_usage_of_nan_is_charged_by_count_and_the_reply_is_delivered(
    upstream: tuple[Platform, Place], stream: bool
) -> None:
    platform, place = upstream
    if stream:
        event = SAID % ("delta", LOGPROBS, NO_NUMBERS)
        place.script = Script([f"data: {event}\n\ndata: [DONE]\n\n".encode()])
    else:
        place.script = Script([(SAID % ("message", LOGPROBS, NO_NUMBERS)).encode()], kind="application/json")
    reply = platform.chat(stream=stream, logprobs=True, max_tokens=9)
    assert reply.status == 200 and b"abcdefgh" in reply.body and b"-9999.0" in reply.body
    (record,) = platform.served(reply.headers["x-request-id"])
    assert (record.status, record.input_tokens, record.output_tokens) == ("ok", 4, 1 if stream else 2)


def test_numbers_that_are_none_in_other_replies(upstream: tuple[Platform, Place]) -> None:
    platform, place = upstream
    vectors = b'{"data": [{"index": 0, "embedding": [1.0]}], "usage": {"prompt_tokens": NaN}}'
    place.script = Script([vectors], kind="application/json")
    assert platform.ask("POST", "/v1/embeddings", {"model": "e", "input": "x"}).status == 200
    start = b'event: message_start\ndata: {"type": "message_start", "message": {"usage": {"input_tokens": 7}}}\n\n'
    end = b'event: message_stop\ndata: {"type": "message_stop"}\n\n'
    place.script = Script([start, f"event: message_delta\ndata: {MESSAGE}\n\n".encode(), end])
    reply = platform.chat(model="claude", max_tokens=9)
    assert (reply.status, reply.json["usage"]["prompt_tokens"]) == (200, 7)


@pytest.mark.parametrize(
    "script",
    [
        whole("text"),
        Script([b'{"choices": ['], kind="application/json"),
        Script([b"<html>busy</html>"], kind="text/html"),
        Script([gzip.compress(json.dumps({"choices": []}).encode())], kind="application/json"),
        Script([b"{}"], kind="application/json", headers={"content-length": "2", "Content-Length": "3"}),
    ],
    ids=["a text", "half an object", "HTML", "gzip", "two lengths"],
)
def test_a_malformed_reply_is_named_as_such(upstream: tuple[Platform, Place], script: Script) -> None:
    platform, place = upstream
    place.script = script
    reply = platform.chat(max_tokens=9)
    assert (reply.status, reply.error["code"]) == (502, "engine_reply_invalid") and "not valid" in reply.error[
        "message"
    ]
    lines = platform.home.log("gateway").read_text().splitlines()
    (failed,) = (json.loads(line) for line in lines if reply.headers["x-request-id"] in line)
    assert failed["code"] == "AW-ENG-03" and failed["reason"]
