"""An OpenAI engine that reads a request and answers as a model that calls tools and follows schemas would.

The suites of other projects check shapes, not knowledge: arguments and documents are built from the JSON schema, with
numbers and quoted words of the prompt. The same request gets the same reply.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TEXT = "Hello from the scripted engine, how are you today?"
THOUGHT = "The sum is easy."


def read_text(content: Any) -> str:
    """Return the text of a message's content."""
    if isinstance(content, list):
        return " ".join(part.get("text", "") for part in content if isinstance(part, dict))
    return content or ""


def fill_schema(schema: dict[str, Any], prompt: str, root: dict[str, Any] | None = None) -> Any:
    """Return a document of the schema. Texts are the prompt's quoted words, numbers its numbers."""
    root = root or schema
    if "$ref" in schema:
        target: Any = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target[step]
        return fill_schema(target, prompt, root)
    for given in ("const", "default"):
        if given in schema:
            return schema[given]
    if "enum" in schema:
        return schema["enum"][0]
    for choice in ("anyOf", "oneOf", "allOf"):
        if choice in schema:
            return fill_schema(schema[choice][0], prompt, root)
    kinds = schema.get("type", "object")
    kind = kinds[0] if isinstance(kinds, list) else kinds
    if kind == "object":
        return {name: fill_schema(inner, prompt, root) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [fill_schema(schema.get("items", {"type": "string"}), prompt, root)]
    number = int((re.findall(r"\d+", prompt) or ["1"])[0])
    quoted = (re.findall(r"'([^']+)'", prompt) or ["Answer"])[0]
    return {"integer": number, "number": float(number), "boolean": True, "null": None}.get(kind, quoted)


def choose_tool(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the function to call: the one that the request names, or the first one while no result is there."""
    tools: list[dict[str, Any]] = [tool["function"] for tool in body.get("tools") or [] if tool["type"] == "function"]
    choice = body.get("tool_choice") or "auto"
    if not tools or choice == "none":
        return None
    if isinstance(choice, dict):
        return next(tool for tool in tools if tool["name"] == choice["function"]["name"])
    return tools[0] if choice == "required" or body["messages"][-1]["role"] == "user" else None


def write_content(body: dict[str, Any], prompt: str) -> str:
    """Return the text of the reply: a document if a format asks for one, else words up to a stop sequence."""
    wanted = body.get("response_format") or {}
    if wanted.get("type") == "json_schema":
        return json.dumps(fill_schema(wanted["json_schema"]["schema"], prompt))
    if wanted.get("type") == "json_object":
        return json.dumps({name: "Answer" for name in re.findall(r"'(\w+)'", prompt)})
    stops = body.get("stop") or []
    for stop in [stops] if isinstance(stops, str) else stops:
        return TEXT.partition(stop)[0]
    return TEXT


def write_message(body: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """Return the assistant's message and the reason why it ends."""
    asked = [message for message in body["messages"] if message["role"] == "user"]
    prompt = read_text(asked[-1]["content"]) if asked else ""
    message: dict[str, Any] = {"role": "assistant", "content": None, "refusal": None}
    if body.get("reasoning_effort") or (body.get("chat_template_kwargs") or {}).get("enable_thinking"):
        message["reasoning_content"] = THOUGHT
    tool = choose_tool(body)
    if tool is None:
        return message | {"content": write_content(body, prompt)}, "stop"
    arguments = json.dumps(fill_schema(tool.get("parameters") or {}, prompt), ensure_ascii=False)
    call = {"id": "call_1", "type": "function", "function": {"name": tool["name"], "arguments": arguments}}
    return message | {"tool_calls": [call]}, "tool_calls"


def count_usage(prompt: str, reply: str) -> dict[str, int]:
    read, written = max(1, len(prompt) // 4), max(1, len(reply) // 4)
    return {"prompt_tokens": read, "completion_tokens": written, "total_tokens": read + written}


def split_deltas(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Return the pieces of the message as a stream sends them."""
    yield {"role": "assistant", "content": ""}
    if thought := message.get("reasoning_content"):
        yield {"reasoning_content": thought}
    for word in re.findall(r"\S+\s*", message["content"] or ""):
        yield {"content": word}
    for index, call in enumerate(message.get("tool_calls", [])):
        arguments = call["function"]["arguments"]
        yield {"tool_calls": [{**call, "index": index, "function": {**call["function"], "arguments": ""}}]}
        for start in range(0, len(arguments), 7):
            yield {"tool_calls": [{"index": index, "function": {"arguments": arguments[start : start + 7]}}]}


def answer_chat(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Return the complete reply and the same reply as chunks of a stream."""
    message, reason = write_message(body)
    usage = count_usage(json.dumps(body["messages"]), json.dumps(message))
    head = {"id": "chatcmpl-1", "created": 1_700_000_000, "model": body["model"]}
    choices = [
        {"index": index, "message": message, "finish_reason": reason, "logprobs": None}
        for index in range(body.get("n") or 1)
    ]
    whole = {**head, "object": "chat.completion", "choices": choices, "usage": usage}
    chunk = {**head, "object": "chat.completion.chunk"}
    deltas: list[tuple[dict[str, Any], str | None]] = [(delta, None) for delta in split_deltas(message)]
    events = [
        {**chunk, "choices": [{"index": choice["index"], "delta": delta, "finish_reason": finish}]}
        for choice in choices
        for delta, finish in [*deltas, ({}, reason)]
    ]
    return whole, [*events, {**chunk, "choices": [], "usage": usage}]


def answer_completion(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    head = {"id": "cmpl-1", "object": "text_completion", "created": 1_700_000_000, "model": body["model"]}
    choice = {"index": 0, "text": TEXT, "finish_reason": "stop", "logprobs": None}
    usage = count_usage(json.dumps(body["prompt"]), TEXT)
    events = [{**head, "choices": [{**choice, "text": word, "finish_reason": None}]} for word in TEXT.split()]
    last = {**head, "choices": [{**choice, "text": ""}]}
    return {**head, "choices": [choice], "usage": usage}, [*events, last, {**head, "choices": [], "usage": usage}]


def answer_embeddings(body: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    texts = body["input"] if isinstance(body["input"], list) else [body["input"]]
    vectors = [{"object": "embedding", "index": index, "embedding": [0.6, 0.8]} for index, _ in enumerate(texts)]
    usage = {"prompt_tokens": len(texts), "total_tokens": len(texts)}
    return {"object": "list", "model": body["model"], "data": vectors, "usage": usage}, []


ANSWERS = {
    "/v1/chat/completions": answer_chat,
    "/v1/completions": answer_completion,
    "/v1/embeddings": answer_embeddings,
}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # one packet for a reply

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""

    def do_GET(self) -> None:
        self._send(json.dumps({"object": "list", "data": []}).encode(), "application/json")

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.path not in ANSWERS:
            self._send(b'{"error": {"message": "no such path"}}', "application/json", 404)
            return
        whole, events = ANSWERS[self.path](body)
        if not body.get("stream"):
            self._send(json.dumps(whole).encode(), "application/json")
            return
        lines = [f"data: {json.dumps(event)}\n\n" for event in events] + ["data: [DONE]\n\n"]
        self._send("".join(lines).encode(), "text/event-stream")

    def _send(self, data: bytes, kind: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@contextmanager
def scripted_engine() -> Iterator[str]:
    """Run the engine and give its URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
