"""What an engine streams, decoded once and passed on: as the client's stream, or kept for one reply.

Runs within the event loop's own callback, once per read of the engine's socket: the events of a read are decoded
together, and what they become leaves in one write.
"""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import msgspec

from archwright.engines.client import EngineClient
from archwright.engines.http import Sink
from archwright.engines.sse import EventParser
from archwright.serving.exchange import STALL, Exchange
from archwright.serving.shapes import Chunks, Piece, Shape, Wanted, entries, usage

STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]


# Decoded by the thousand and dropped at once, never part of a cycle: not for the collector to look at.
class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta | None = None
    text: str | None = None
    finish_reason: str | None = None
    logprobs: Any = None


class _Event(msgspec.Struct, gc=False):
    """What passes of an engine's event; whatever else it adds (timings, file names, its own ids) stays inside."""

    choices: list[_Choice] | None = None
    usage: Any = None
    error: Any = None
    prompt_progress: Any = None


_EVENT = msgspec.json.Decoder(_Event)
_EVENTS = msgspec.json.Decoder(list[_Event])
DONE = b"[DONE]"
END = b"\n\ndata: [DONE]"


class Meter:
    """When things happened, on the exchange's clock; what was counted."""

    def __init__(self, received_at: float) -> None:
        self.received_at = received_at
        self.asked_at = received_at
        self.queued_s = 0.0
        self.event_at = received_at
        self.first_at: float | None = None
        self.last_at: float | None = None
        self.chunks = 0
        self.used: dict[str, Any] | None = None

    @property
    def tokens(self) -> int:
        """Generated tokens: by the engine's count, else by the pieces delivered."""
        return int(self.used["completion_tokens"]) if self.used else self.chunks

    @property
    def tpot_s(self) -> float | None:
        if self.first_at is None or self.last_at is None or self.tokens < 2:
            return None
        return (self.last_at - self.first_at) / (self.tokens - 1)

    def own_s(self, now: float) -> float:
        """Our own share so far: before the engine was asked, less the wait for a slot, and since its last word."""
        return self.asked_at - self.received_at - self.queued_s + now - self.event_at

    def overhead(self, now: float) -> tuple[bytes, bytes]:
        return (b"x-archwright-overhead-us", b"%d" % round(self.own_s(now) * 1e6))


class Relay(Sink):
    """Reads one engine's stream. `begun` once it said anything; `finished` once it gave a finish reason. `on_first`
    is called with its first event."""

    def __init__(self, exchange: Exchange, meter: Meter, client: EngineClient, on_first: Callable[[], None]) -> None:
        self.begun = False
        self.finished = False
        self.exchange = exchange
        self.meter = meter
        self.on_first = on_first
        self._client = client
        self._parser = EventParser()

    def take(self, text: str, choice: _Choice) -> None:
        """One event's choice, and the text it brings."""
        raise AssertionError("a relay knows what to do with an event")

    def take_texts(self, texts: list[str]) -> None:
        """Of some events nothing but the text they bring."""
        raise AssertionError("a relay knows what to do with texts")

    def feed(self, data: bytes) -> None:
        self.meter.event_at = self.exchange.now()
        plain = self._parser.plain(data)
        events = None if plain is None else self._together(plain)
        if events is not None:
            self._see_all(events)
            return
        for event in self._parser.feed(data) if plain is None else self._parser.again(plain):
            if event.data == DONE:
                self.done = True
                return
            if event.kind == "error":
                raise self._client.refused(self._client.decoded(event))
            try:
                seen = _EVENT.decode(event.data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise self._client.nonsense(error) from error
            self._see(seen)

    def _together(self, plain: bytes) -> list[_Event] | None:
        """The events of one read, decoded in one go; None where they are not each one line of JSON."""
        done = plain.endswith(END)
        if done:
            plain = plain[: -len(END)]
        try:
            events = _EVENTS.decode(b"[%b]" % plain[6:].replace(b"\n\ndata: ", b","))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        # As many events as lines, and no line but theirs: none of them was in two pieces or two in one.
        if plain.count(b"\n") != 2 * max(0, len(events) - 1):
            return None
        self.done = done
        return events

    def _see_all(self, events: list[_Event]) -> None:
        """Those that are a piece of text and nothing else, as nearly all are, go together."""
        texts: list[str] = []
        for event in events:
            text = _text_alone(event)
            if text:
                texts.append(text)
                continue
            if texts:
                self._texts_alone(texts)
                texts = []
            self._see(event)
        if texts:
            self._texts_alone(texts)

    def _texts_alone(self, texts: list[str]) -> None:
        meter = self.meter
        if not self.begun:
            self.begun = True
            self.on_first()
        meter.chunks += len(texts)
        meter.last_at = meter.event_at
        if meter.first_at is None:
            meter.first_at = meter.event_at
        self.take_texts(texts)

    def _see(self, event: _Event) -> None:
        """Note its time and the count of tokens; take its one choice, if it has any."""
        meter = self.meter
        if event.error is not None:
            raise self._client.refused(event.error)
        if event.prompt_progress is not None:
            return
        if not self.begun:
            self.begun = True
            self.on_first()
        if event.usage is not None:
            meter.used = usage(event.usage) or meter.used
        if not event.choices:
            return
        choice = event.choices[0]
        delta = choice.delta
        text = (delta.content if delta is not None else choice.text) or ""
        if text or (delta is not None and (delta.reasoning_content or delta.reasoning)):
            meter.chunks += 1
            meter.last_at = meter.event_at
            if meter.first_at is None:
                meter.first_at = meter.event_at
        elif choice.finish_reason and meter.first_at is not None:
            # The end counts as a token's time: the last token is often the invisible end mark, which usage counts.
            meter.last_at = meter.event_at
        if choice.finish_reason:
            self.finished = True
        self.take(text, choice)


def _text_alone(event: _Event) -> str | None:
    """The text of an event that brings nothing else."""
    choices = event.choices
    if not choices or event.usage is not None or event.error is not None or event.prompt_progress is not None:
        return None
    choice = choices[0]
    if choice.finish_reason is not None or choice.logprobs is not None:
        return None
    delta = choice.delta
    if delta is None:
        return choice.text
    return delta.content if delta.reasoning_content is None and delta.reasoning is None else None


class Gathered(Relay):
    """Keeps what comes for one reply."""

    def __init__(self, exchange: Exchange, meter: Meter, client: EngineClient, on_first: Callable[[], None]) -> None:
        super().__init__(exchange, meter, client, on_first)
        self._texts: list[str] = []
        self._reasonings: list[str] = []
        self._entries: list[dict[str, Any]] = []
        self._finish: str | None = None

    def feed(self, data: bytes) -> None:
        super().feed(data)
        self.exchange.phase(STALL, self.exchange.limits.stall_s)

    def take_texts(self, texts: list[str]) -> None:
        self._texts += texts

    def take(self, text: str, choice: _Choice) -> None:
        if text:
            self._texts.append(text)
        if choice.delta is not None and (reasoning := choice.delta.reasoning_content or choice.delta.reasoning):
            self._reasonings.append(reasoning)
        if choice.logprobs:
            self._entries += entries(choice.logprobs) or ()
        self._finish = choice.finish_reason or self._finish

    @property
    def piece(self) -> Piece:
        return Piece("".join(self._texts), "".join(self._reasonings), self._entries, self._finish)


class Streamed(Relay):
    """Passes on what comes, in the client's own form."""

    def set(self, shape: Shape, chunks: Chunks, wanted: Wanted) -> None:
        self._shape, self._chunks, self._wanted = shape, chunks, wanted
        self._out: list[bytes] = []

    def feed(self, data: bytes) -> None:
        out = self._out
        try:
            super().feed(data)
        finally:
            if self.begun and not self.exchange.started:
                self._open()
            if out:
                self.exchange.write(out[0] if len(out) == 1 else b"".join(out))
                out.clear()
        self.exchange.phase(STALL, self.exchange.limits.stall_s)

    def take_texts(self, texts: list[str]) -> None:
        self._out += map(self._chunks.text, texts)

    def take(self, text: str, choice: _Choice) -> None:
        delta, finish = choice.delta, choice.finish_reason
        logprobs = choice.logprobs if self._wanted.top_logprobs is not None else None
        reasoning = (delta.reasoning_content or delta.reasoning or "") if delta is not None else ""
        if text and not finish and not reasoning and not logprobs:
            self._out.append(self._chunks.text(text))
        elif text or reasoning or finish:
            piece = Piece(text, reasoning, entries(logprobs) if logprobs else None, finish)
            self._out.append(self._chunks.choice(self._shape.chunk(piece, self._wanted)))

    def _open(self) -> None:
        exchange = self.exchange
        headers = [*STREAM_HEADERS, self.meter.overhead(exchange.now())]
        exchange.start(HTTPStatus.OK, "text/event-stream; charset=utf-8", headers)
        first = self._shape.first()
        if first is not None:
            exchange.write(self._chunks.choice(first))
