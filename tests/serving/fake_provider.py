"""A provider's place on a real socket: says what a test wrote, keeps what it was asked."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.tools.checks import WAIT_S


@dataclass
class Asked:
    path: str
    headers: dict[str, str]
    body: Any


@dataclass
class Script:
    """A reply: `pieces` are written and flushed one by one, the first after `after_s`. `hangs` waits after the last
    until the client is gone. Requests without the field `only_length` are refused as OpenAI's reasoning models do.
    Requests whose prompt (a token for two characters) and `max_tokens` exceed `context` are refused as vLLM does."""

    pieces: Sequence[bytes] = ()
    status: int = 200
    kind: str = "text/event-stream"
    hangs: bool = False
    after_s: float = 0.0
    headers: dict[str, str] = field(default_factory=dict)
    only_length: str = ""
    context: int = 0


@dataclass
class Place:
    script: Script = field(default_factory=Script)
    after_tool: Script | None = None  # for a chat that ends with a tool's result
    choose: Callable[[Any], Script] | None = None  # instead of `script`, by the body
    asked: list[Asked] = field(default_factory=list)
    gone: threading.Event = field(default_factory=threading.Event)
    port: int = 0
    gets: dict[str, Script] = field(default_factory=dict)
    got: list[str] = field(default_factory=list)

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"


class Server(ThreadingHTTPServer):
    daemon_threads = True
    place = Place()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""

    def do_GET(self) -> None:
        self.server.place.got.append(self.path)
        self._say(self.server.place.gets.get(self.path, Script([b'{"data": []}'], kind="application/json")))

    def do_POST(self) -> None:
        place = self.server.place
        raw = self.rfile.read(int(self.headers["content-length"]))
        body: Any = json.loads(raw) if raw.startswith(b"{") else {"form": raw}
        place.asked.append(Asked(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
        script = place.script
        if place.choose is not None:
            script = place.choose(body)
        if place.after_tool is not None and body["messages"][-1]["role"] == "tool":
            script = place.after_tool
        if script.only_length not in ("", *body):
            told = f"Unsupported parameter: 'max_tokens' is not supported with this model. Use '{script.only_length}'"
            script = whole({"error": {"message": told, "param": "max_tokens", "code": "unsupported_parameter"}}, 400)
        output = body.get("max_output_tokens") or body.get("max_tokens", 0)
        prompt = sum(len(str(one["content"])) for one in body.get("messages", ())) // 2
        if script.context and prompt + output > script.context:
            told = f"'max_tokens' or 'max_completion_tokens' is too large: {output}. This model's maximum context "
            told += f"length is {script.context} tokens and your request has {prompt} input tokens"
            script = whole({"error": {"message": told, "type": "BadRequestError", "param": None, "code": 400}}, 400)
        self._say(script)

    def _say(self, script: Script) -> None:
        self.send_response(script.status)
        self.send_header("content-type", script.kind)
        self.send_header("connection", "close")
        for name, value in script.headers.items():
            self.send_header(name, value)
        self.end_headers()
        time.sleep(script.after_s)
        for piece in script.pieces:
            self.wfile.write(piece)
            self.wfile.flush()
        if script.hangs:
            self.connection.settimeout(WAIT_S)
            if self.connection.recv(1) == b"":
                self.server.place.gone.set()


@contextmanager
def standing_in() -> Iterator[Place]:
    made = Server(("127.0.0.1", 0), Handler)
    made.place = Place(port=made.server_port)
    thread = threading.Thread(target=made.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield made.place
    finally:
        made.shutdown()
        thread.join()
        made.server_close()


def whole(body: Any, status: int = 200, **more: Any) -> Script:
    """A reply that comes as one JSON object."""
    return Script([json.dumps(body).encode()], status, "application/json", **more)


def chat_events(*events: Any) -> list[bytes]:
    return [f"data: {json.dumps(event)}\n\n".encode() for event in events] + [b"data: [DONE]\n\n"]


def message_events(*events: dict[str, Any]) -> list[bytes]:
    return [f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events]


def message_start(**usage: int) -> dict[str, Any]:
    message = {"id": "msg_1", "type": "message", "role": "assistant", "model": "vendor", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def block(index: int, begin: dict[str, Any], *deltas: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"type": "content_block_start", "index": index, "content_block": begin},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


def words(index: int, *said: str) -> list[dict[str, Any]]:
    return block(index, {"type": "text", "text": ""}, *({"type": "text_delta", "text": text} for text in said))


def use(index: int, name: str, *said: str) -> list[dict[str, Any]]:
    begin = {"type": "tool_use", "id": f"toolu_{index}", "name": name, "input": {}}
    return block(index, begin, *({"type": "input_json_delta", "partial_json": part} for part in said))


def message_end(reason: str, tokens: int, stop: str | None = None) -> list[dict[str, Any]]:
    delta = {"stop_reason": reason, "stop_sequence": stop}
    return [
        {"type": "message_delta", "delta": delta, "usage": {"output_tokens": tokens}},
        {"type": "message_stop"},
    ]
