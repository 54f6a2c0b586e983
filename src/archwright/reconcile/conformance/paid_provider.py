"""A stand-in for a hosted provider: it bills all tokens that it generates, whether or not its client stays.

The suite runs it as an upstream of the gateway under test, and compares its bill with the gateway's records. Each of
its models makes another thing hard to bill. It needs the standard library only.
"""

from __future__ import annotations

import asyncio
import json
import re
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from typing import Any, NamedTuple

PIECES = "conformance-pieces"
REASONING = "conformance-reasoning"
DOCUMENTS = "conformance-documents"
SOUND = "conformance-sound"
MODELS = (PIECES, REASONING, DOCUMENTS, SOUND)
TOKENS_PER_PIECE = 100
VISIBLE_SHARE = 10  # one of so many tokens of a reasoning model is visible
DOCUMENT_TOKENS = 100_000
SOUND_TOKENS_PER_SECOND, WORDS_PER_SECOND = 50, 2
CHARACTERS_PER_TOKEN = 4
BODY_LIMIT_BYTES = 32 << 20
WORD = "word "
_FORM_FIELD = re.compile(rb'name="(\w+)"[^\r\n]*\r\n(?:[^\r\n]+\r\n)*\r\n')


class Bill(NamedTuple):
    """The tokens that the provider charges. A second of sound is 50 tokens of input."""

    input_tokens: int = 0
    output_tokens: int = 0
    requests: int = 0

    def add(self, input_tokens: int, output_tokens: int) -> Bill:
        return Bill(self.input_tokens + input_tokens, self.output_tokens + output_tokens, self.requests + 1)

    def to_usd(self, input_usd: float, output_usd: float) -> float:
        """Return the sum at these prices of a token."""
        return self.input_tokens * input_usd + self.output_tokens * output_usd


class PaidProvider:
    """One provider. `pause_s`: between the last text and the usage of a stream, and before a complete reply."""

    def __init__(self, pause_s: float) -> None:
        self.bill = Bill()
        self._pause_s = pause_s

    def take_bill(self) -> Bill:
        """Return the bill since the last call."""
        bill, self.bill = self.bill, Bill()
        return bill

    @asynccontextmanager
    async def serve(self, host: str, port: int) -> AsyncIterator[int]:
        """Serve until the end of the block; yields the port. Raises OSError if the address is not free."""
        async with await asyncio.start_server(self._on_connection, host, port, limit=BODY_LIMIT_BYTES) as server:
            yield server.sockets[0].getsockname()[1]

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer, and close the connection at the end: also of an answer that is cancelled before it begins."""
        answer = asyncio.ensure_future(self._answer(reader, writer))
        answer.add_done_callback(lambda _: writer.close())

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            head = await reader.readuntil(b"\r\n\r\n")
            length = re.search(rb"(?i)content-length: *(\d+)", head)
            body = await reader.readexactly(int(length[1])) if length else b""
            path = head.split()[1].decode("latin-1").partition("?")[0]
            await self._dispatch(path, body, writer)

    async def _dispatch(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        if path.endswith("/models"):
            await _send(writer, {"object": "list", "data": [{"id": model, "object": "model"} for model in MODELS]})
        elif path.endswith("/audio/transcriptions"):
            await self._transcribe(body, writer)
        elif path.endswith("/messages"):
            await _send_events(writer, self._write_messages(json.loads(body)))
        elif path.endswith("/chat/completions"):
            await self._chat(json.loads(body), writer)
        else:
            await _send(writer, {"error": {"message": "no such path"}}, "404 Not Found")

    async def _chat(self, body: dict[str, Any], writer: asyncio.StreamWriter) -> None:
        length = int(body.get("max_completion_tokens") or body.get("max_tokens") or 16)
        prompt = max(1, len(json.dumps(body["messages"])) // CHARACTERS_PER_TOKEN)
        self.bill = self.bill.add(prompt, length)
        usage = {"prompt_tokens": prompt, "completion_tokens": length, "total_tokens": prompt + length}
        if body.get("stream"):
            await _send_events(writer, self._write_chunks(body["model"], length, usage))
            return
        await asyncio.sleep(self._pause_s)
        message = {"role": "assistant", "content": WORD * length}
        choice = {"index": 0, "message": message, "finish_reason": "length"}
        await _send(writer, {**_envelope("chat.completion", body["model"]), "choices": [choice], "usage": usage})

    async def _write_chunks(self, model: str, length: int, usage: dict[str, int]) -> AsyncIterator[bytes]:
        visible, size = length, TOKENS_PER_PIECE
        if model == REASONING:
            await asyncio.sleep(self._pause_s)
            visible, size = max(1, length // VISIBLE_SHARE), 1
        head = _envelope("chat.completion.chunk", model)
        for text in _cut(visible, size):
            yield _event({**head, "choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})
        await asyncio.sleep(self._pause_s)
        yield _event({**head, "choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]})
        yield _event({**head, "choices": [], "usage": usage}) + b"data: [DONE]\n\n"

    async def _write_messages(self, body: dict[str, Any]) -> AsyncIterator[bytes]:
        length, text = int(body["max_tokens"]), json.dumps(body["messages"])
        documents = text.count('"type": "document"')
        prompt = documents * DOCUMENT_TOKENS or max(1, len(text) // CHARACTERS_PER_TOKEN)
        self.bill = self.bill.add(prompt, length)
        message = {"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": []}
        started = {"stop_reason": None, "stop_sequence": None, "usage": {"input_tokens": prompt, "output_tokens": 1}}
        yield _event({"type": "message_start", "message": {**message, **started}})
        yield _event({"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}})
        for piece in _cut(length, TOKENS_PER_PIECE):
            delta = {"type": "text_delta", "text": piece}
            yield _event({"type": "content_block_delta", "index": 0, "delta": delta})
        await asyncio.sleep(self._pause_s)
        yield _event({"type": "content_block_stop", "index": 0})
        end = {"stop_reason": "max_tokens", "stop_sequence": None}
        yield _event({"type": "message_delta", "delta": end, "usage": {"output_tokens": length}})
        yield _event({"type": "message_stop"})

    async def _transcribe(self, form: bytes, writer: asyncio.StreamWriter) -> None:
        seconds = measure_first_format(form[_find_file(form) :])
        words = int(seconds * WORDS_PER_SECOND)
        self.bill = self.bill.add(round(seconds * SOUND_TOKENS_PER_SECOND), words * len(WORD) // CHARACTERS_PER_TOKEN)
        await _send(writer, {"text": WORD * words})


def measure_first_format(wave: bytes) -> float:
    """Return the seconds of a WAV file as decoders read it: by its first `fmt ` chunk. 0 if it is none."""
    for name, at, size in list_chunks(wave):
        if name == b"fmt " and size >= 16:
            channels, rate, bits = struct.unpack_from("<2xHI6xH", wave, at)
            return float(len(wave) / max(1, rate * channels * bits // 8))
    return 0.0


def list_chunks(wave: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield name, start of the content and size of each chunk."""
    at = 12
    while at + 8 <= len(wave):
        name, size = wave[at : at + 4], struct.unpack_from("<I", wave, at + 4)[0]
        yield name, at + 8, size
        at += 8 + size + size % 2


def _find_file(form: bytes) -> int:
    return next((field.end() for field in _FORM_FIELD.finditer(form) if field[1] == b"file"), len(form))


def _cut(tokens: int, size: int) -> Iterator[str]:
    """Yield the texts of `tokens` words, `size` of them in a piece."""
    for begun in range(0, tokens, size):
        yield WORD * min(size, tokens - begun)


def _envelope(kind: str, model: str) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": 1, "model": model}


def _event(data: dict[str, Any]) -> bytes:
    kind = f"event: {data['type']}\n" if "type" in data else ""
    return f"{kind}data: {json.dumps(data)}\n\n".encode()


async def _send(writer: asyncio.StreamWriter, body: object, status: str = "200 OK") -> None:
    data = json.dumps(body).encode()
    head = f"HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    writer.write(head.encode() + b"connection: close\r\n\r\n" + data)
    await writer.drain()


async def _send_events(writer: asyncio.StreamWriter, events: AsyncIterator[bytes]) -> None:
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n")
    async for event in events:
        writer.write(event)
        await writer.drain()
