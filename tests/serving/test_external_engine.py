"""An engine at a URL that we do not run, well and badly behaved: a real HTTP server with scripted replies."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from archwright.monitor.wal.compaction import read_served

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

STOP = {"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}


def said(text: str, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None, **more}], "timings": {"x": 1}}


@dataclass
class Script:
    """The next reply of the engine, and the requests that it got."""

    status: int = 200
    events: list[Any] = field(default_factory=list)
    done: bool = True
    body: Any = None
    asked: list[Any] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    only_length: str = ""


class Engine(ThreadingHTTPServer):
    daemon_threads = True
    script = Script()


class Handler(BaseHTTPRequestHandler):
    server: Engine

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""

    def do_GET(self) -> None:
        self._send(200, "application/json", b"{}")

    def do_POST(self) -> None:
        script = self.server.script
        script.keys.append(self.headers["authorization"])
        script.asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
        if script.only_length not in ("", *script.asked[-1]):
            told = f"Unsupported parameter: 'max_tokens' is not supported with this model. Use '{script.only_length}'"
            error = {"message": told, "param": "max_tokens", "code": "unsupported_parameter"}
            self._send(400, "application/json", json.dumps({"error": error}).encode())
            return
        if script.body is not None or script.status != 200:
            self._send(script.status, "application/json", json.dumps(script.body).encode())
            return
        lines = [f"data: {json.dumps(event)}\n\n" for event in script.events]
        data = "".join(lines) + ("data: [DONE]\n\n" if script.done else "")
        self._send(200, "text/event-stream", data.encode())

    def _send(self, status: int, kind: str, data: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = Engine(("127.0.0.1", 0), Handler)
    made.script = Script()
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    yield made
    made.shutdown()
    thread.join()
    made.server_close()


@pytest.fixture
def platform(start: Start, engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Platform:
    monkeypatch.setenv("VENDOR_KEY", "sk-vendor")
    spec = {
        "addresses": (f"http://127.0.0.1:{engine.server_port}/v1",),
        "key": "env:VENDOR_KEY",
        "engine_model": "vendor/model-7b",
        "embeddings": True,
    }
    return start([spec], [])


def test_everything_an_engine_may_say(platform: Platform, engine: Engine) -> None:
    """One platform, many scripts: starting it anew for each would cost a second each."""
    _well(platform, engine)
    _whole(platform, engine)
    _badly_before_anything_was_said(platform, engine)
    _in_its_own_word_for_the_length(platform, engine)
    _badly_in_mid_stream(platform, engine)
    _embeddings(platform, engine)
    assert platform.get("/readyz", key=None).status == 200
    log = platform.home.log("gateway").read_text()
    assert "sk-vendor" not in log
    assert "AW-INT" not in log


def _in_its_own_word_for_the_length(platform: Platform, engine: Engine) -> None:
    """As OpenAI's models that reason refuse: {"param": "max_tokens", "code": "unsupported_parameter"}."""
    choice = {"message": {"content": "a"}, "finish_reason": "stop"}
    engine.script = Script(body={"choices": [choice]}, only_length="max_completion_tokens")
    for _ in range(2):
        assert platform.chat(max_tokens=7).json["choices"][0]["message"]["content"] == "a"
    lengths = [{name: value for name, value in asked.items() if "max" in name} for asked in engine.script.asked]
    assert lengths == [{"max_tokens": 7}, {"max_completion_tokens": 7}, {"max_completion_tokens": 7}]
    engine.script = Script(body={"choices": [choice]}, only_length="nothing")
    assert platform.chat(max_tokens=7).status == 400
    assert len(engine.script.asked) == 1


def _well(platform: Platform, engine: Engine) -> None:
    engine.script = Script(events=[{"choices": []}, said("a"), said("b", logprobs={"content": []}), STOP])
    reply = platform.chat()
    assert (reply.status, reply.json["choices"][0]["message"]["content"], reply.json["usage"]) == (200, "ab", None)
    assert reply.json["model"] == "m"
    assert b"timings" not in reply.body
    assert engine.script.keys == ["Bearer sk-vendor"]
    assert engine.script.asked[0]["model"] == "vendor/model-7b"
    assert "stream" not in engine.script.asked[0], "as the client asks; this one streams all the same, and is read"
    streamed = platform.chat(stream=True, stream_options={"include_usage": True})
    assert engine.script.asked[1]["stream"] is True
    assert engine.script.asked[1]["stream_options"] == {"include_usage": True}
    assert streamed.events[-1] == "[DONE]"
    assert b"timings" not in streamed.body
    assert b"vendor" not in streamed.body


def _whole(platform: Platform, engine: Engine) -> None:
    """A reply that comes in one piece says what a stream would have said."""
    calls = [
        {"id": f"c{n}", "type": "function", "function": {"name": "f", "arguments": f'{{"n":{n}}}'}} for n in (1, 2)
    ]
    message = {"role": "assistant", "content": "ab", "reasoning_content": "hm", "tool_calls": calls, "audio": None}
    used = {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12, "vendor": 1}
    choice = {"index": 0, "message": message, "finish_reason": "tool_calls", "logprobs": None, "vendor": 1}
    engine.script = Script(body={"id": "vendor-1", "choices": [choice], "usage": used, "timings": {}})
    reply = platform.chat()
    assert reply.status == 200 and b"vendor" not in reply.body and b"timings" not in reply.body
    told = reply.json["choices"][0]
    assert (told["message"]["content"], told["message"]["reasoning_content"]) == ("ab", "hm")
    assert told["message"]["tool_calls"] == calls and told["finish_reason"] == "tool_calls"
    assert reply.json["usage"] == {"prompt_tokens": 3, "completion_tokens": 9, "total_tokens": 12}
    engine.script = Script(body={"choices": [{"text": "x" * 40, "finish_reason": "stop"}]})
    reply = platform.ask("POST", "/v1/completions", {"model": "m", "prompt": "p"})
    assert (reply.status, reply.json["choices"][0]["text"], reply.json["usage"]) == (200, "x" * 40, None)
    two = [{"index": n, "message": {"content": str(n)}, "finish_reason": "stop"} for n in (1, 0)]
    engine.script = Script(body={"choices": two})
    assert [one["message"]["content"] for one in platform.chat(n=2).json["choices"]] == ["0", "1"]
    for broken in ([], [{"message": {"content": "a"}}], two, [{"message": 7, "finish_reason": "stop"}], 7):
        engine.script = Script(body={"choices": broken})
        assert platform.chat().status == 503, broken
    engine.script = Script(body={"error": {"code": 500, "message": "out of memory at /opt"}})
    assert platform.chat().status == 502
    usage = [one for one in read_served(platform.store, platform.home) if one.status == "ok"][-3:]
    assert [one.output_tokens for one in usage] == [9, 10, 2], "where nothing is counted, by its characters"
    assert all(one.ttft_s is None and one.tpot_s is None for one in usage), "nothing is known of its tokens' times"
    limited = platform.made_key("bounded", tpm=1_000_000)
    used = {"prompt_tokens": 3, "completion_tokens": 900_000}
    engine.script = Script(body={"choices": [{"message": {"content": "x"}, "finish_reason": "stop"}], "usage": used})
    reply = platform.chat(limited, max_tokens=10)
    assert (reply.status, reply.error["code"]) == (429, "insufficient_quota"), "more than was reserved"
    (one,) = platform.served(reply.headers["x-request-id"])
    assert (one.status, one.output_tokens) == ("rejected", 10), "billed as a stream that was cut there"
    _content_in_parts(platform, engine)


def _content_in_parts(platform: Platform, engine: Engine) -> None:
    parts = [
        {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
        {"type": "text", "text": "a"},
        {"type": "text", "text": "b"},
        {"type": "reference", "reference_ids": [1]},
    ]
    engine.script = Script(body={"choices": [{"message": {"content": parts}, "finish_reason": "stop"}]})
    message = platform.chat().json["choices"][0]["message"]
    assert (message["content"], message["reasoning_content"]) == ("ab", "hm")
    engine.script = Script(events=[{"choices": [{"delta": {"content": parts}}]}, STOP])
    deltas = [one["choices"][0]["delta"] for one in platform.chat(stream=True).events[:-1]]
    assert [one["content"] for one in deltas if one.get("content")] == ["ab"]


def _badly_before_anything_was_said(platform: Platform, engine: Engine) -> None:
    scripts = [
        (Script(status=401, body={"error": {"message": "bad key sk-vendor"}}), 502),
        (Script(status=500, body={"error": "boom"}), 502),
        (Script(status=503, body={"error": {"message": "Loading model"}}), 503),
        (Script(status=429, body={"error": {"message": "slow down"}}), 429),
        (Script(status=400, body={"error": {"message": "no /etc/x"}}), 400),
        (Script(body=[1, 2]), 503),
        (Script(events=[]), 503),
        (Script(events=[{"choices": 7}, {"choices": [3]}, {"nothing": 1}]), 503),
        (Script(events=[{"error": {"code": 500, "message": "out of memory at /opt"}}]), 502),
    ]
    for script, status in scripts:
        for streamed in (False, True):
            engine.script = script
            reply = platform.chat(stream=streamed)
            assert reply.status == status, (script, reply)
            assert b"sk-vendor" not in reply.body
            assert b"/etc" not in reply.body


def _badly_in_mid_stream(platform: Platform, engine: Engine) -> None:
    for script in (
        Script(events=[said("a")], done=False),
        Script(events=[said("a")]),
        Script(events=[said("a"), {"error": {"code": 500, "message": "x"}}]),
        Script(events=[said("a"), "no object"]),
    ):
        engine.script = script
        assert platform.chat().status in (502, 503)
        streamed = platform.chat(stream=True)
        assert streamed.status == 200
        assert "error" in streamed.events[-1]
        assert b"[DONE]" not in streamed.body


def _embeddings(platform: Platform, engine: Engine) -> None:
    def ask() -> int:
        return platform.ask("POST", "/v1/embeddings", {"model": "m", "input": ["x", "y"]}).status

    def vectors(*found: Any) -> Script:
        return Script(body={"data": list(found)})

    engine.script = vectors({"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [2.0]})
    reply = platform.ask("POST", "/v1/embeddings", {"model": "m", "input": ["x", "y"], "encoding_format": "float"})
    assert [item["embedding"] for item in reply.json["data"]] == [[2.0], [1.0]]
    assert reply.json["usage"] == {"prompt_tokens": 0, "total_tokens": 0}
    for broken in (
        vectors({"index": 0, "embedding": [1.0]}),
        vectors(1, 2),
        vectors({"index": 0, "embedding": [1.0]}, {"index": 0, "embedding": [1.0]}),
        vectors({"index": [0], "embedding": [1.0]}, {"index": 1, "embedding": [1.0]}),
        vectors({"index": 0, "embedding": ["a"]}, {"index": 1, "embedding": [1.0]}),
        vectors({"index": 0, "embedding": None}, {"index": 1, "embedding": [1.0]}),
        Script(body={"data": 5}),
        Script(body=[1]),
        Script(body={}),
    ):
        engine.script = broken
        assert ask() == 503, broken
    engine.script = Script(status=501, body={"error": {"message": "not here"}})
    assert ask() == 400
