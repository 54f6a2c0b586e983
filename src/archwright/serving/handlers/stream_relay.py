"""Relay of an engine's reply, as the client's stream or kept whole. Each read of the socket is one decode and write."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from http import HTTPStatus
from operator import attrgetter

import msgspec

from archwright.errors import EngineError
from archwright.http_client.client import EngineClient
from archwright.http_client.connection_pool import ResponseSink
from archwright.http_client.sse import EventParser
from archwright.serving.events.choice_accumulator import ChoiceAccumulator, build_piece
from archwright.serving.events.complete_reply import EVENT_STREAM, CompleteReplyParser
from archwright.serving.events.engine_events import (
    DONE_MARK,
    CompletionChoice,
    EngineEvent,
    EventReader,
    ToolCall,
    decode_events,
    extract_plain_text,
    read_event,
)
from archwright.serving.events.event_template import EventTemplate, derive_template
from archwright.serving.events.response_formats import ResponsePiece, ResponseWriter, parse_usage
from archwright.serving.events.stream_replay import encode_pieces
from archwright.serving.events.timing import RequestTiming
from archwright.serving.http.http_exchange import HttpExchange
from archwright.serving.requests.request_validation import CHARACTERS_PER_TOKEN

EVENT_STREAM_TYPE = "text/event-stream; charset=utf-8"
STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
DONE_SUFFIX = b"\n\ndata: [DONE]"
# After how many pieces of a stream its template is derived (the first often names the role), and how often again.
TEMPLATE_AFTER, TEMPLATE_INTERVAL = 2, 16


class BufferedRelay(ResponseSink):
    """Reads one engine's reply, a stream or whole, and keeps it. `begun`: something came, and `on_first` was called;
    `finished`: every choice has a finish reason."""

    begun = False
    choices = 1  # expected
    heard: list[str] | None = None  # the text of the reply, kept to compare it with a shadow's
    reader: EventReader | None = None
    _ends = 0
    _calls: dict[tuple[int, int | None], tuple[str, int]] | None = None
    _whole: CompleteReplyParser | None = None

    def __init__(
        self, exchange: HttpExchange, meter: RequestTiming, client: EngineClient, on_first: Callable[[], None]
    ) -> None:
        self.exchange = exchange
        self.meter = meter
        self.on_first = on_first
        self._client = client
        self._parser = EventParser()
        self._kept: defaultdict[int, ChoiceAccumulator] = defaultdict(ChoiceAccumulator)
        self._told: list[ResponsePiece] = []  # of a reply that came whole

    @property
    def finished(self) -> bool:
        return self._ends >= self.choices

    @property
    def pieces(self) -> list[ResponsePiece]:
        """The reply so far, one piece per choice."""
        if self._told:
            return sorted(self._told, key=attrgetter("number"))
        return [kept.to_piece(index) for index, kept in sorted(self._kept.items())] or [ChoiceAccumulator().to_piece(0)]

    def begin(self, kind: bytes) -> None:
        if not kind.lower().startswith(EVENT_STREAM):
            self._parser = self._whole = CompleteReplyParser()

    def take_choice(self, text: str, choice: CompletionChoice) -> None:
        """Keep one choice of an event and its text."""
        self._kept[choice.index].add(build_piece(text, choice))

    def take_texts(self, texts: list[str]) -> None:
        """Keep the texts of events that bring nothing else."""
        self._kept[0].texts += texts

    def clear(self) -> None:
        """Drop a failed answer: its error refers to this relay, a cycle that the garbage collector finds late."""
        self._kept.clear()
        self._told.clear()
        if self._whole is not None:
            self._whole.body.clear()

    def finish_reply(self) -> None:
        """The engine's reply has ended. Raises EngineError if it is incomplete: a stream needs OpenAI's end mark or,
        since some servers omit it, a finish reason for each choice."""
        if self._whole is not None and self._whole.body:
            self._read_complete(b"".join(self._whole.body))
            self.done = True
        if not self.done and (self.reader is not None or not self.finished):
            raise EngineError("AW-ENG-02", "the engine's stream ended without its end mark")
        if not self.finished:
            raise EngineError("AW-ENG-02", "the engine's stream ended without a finish reason")

    def feed(self, data: bytes) -> None:
        self._decode(data)
        exchange, meter, bill = self.exchange, self.meter, self.exchange.bill
        if bill is not None and meter.chunks > bill.most and not self.finished:
            bill.check_spend(meter.chunks, meter.event_at)
        exchange.extend_stall_deadline(meter.event_at)

    def _decode(self, data: bytes) -> None:
        self.meter.event_at = self.exchange.now()
        if self.reader is not None:
            self._feed_reader(self.reader, data)
            return
        plain = self._parser.take_plain_events(data)
        events = None if plain is None else self._decode_batch(plain)
        if events is not None:
            self._process_events(events)
            return
        for event in self._parser.feed(data) if plain is None else self._parser.parse_plain_events(plain):
            if event.data == DONE_MARK:
                self.done = True
                return
            if event.kind == "error":
                raise self._client.reported_error(self._client.decode_event(event))
            try:
                seen = read_event(event.data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise self._client.invalid_reply_error(error) from error
            self._process_event(seen)

    def _feed_reader(self, reader: EventReader, data: bytes) -> None:
        for event in self._parser.feed(data):
            try:
                seen = list(reader.read(event))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise self._client.invalid_reply_error(error) from error
            for one in seen:
                self._process_event(one)
            if reader.done:
                self.done = True
                return

    def _decode_batch(self, plain: bytes) -> list[EngineEvent] | None:
        """The events of one read, decoded at once; None unless each is one line of JSON."""
        done = plain.endswith(DONE_SUFFIX)
        if done:
            plain = plain[: -len(DONE_SUFFIX)]
        try:
            events = decode_events(b"[%b]" % plain[6:].replace(b"\n\ndata: ", b","))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        # As many lines as events: no event had two lines and no line two events.
        if plain.count(b"\n") != 2 * max(0, len(events) - 1):
            return None
        self.done = done
        return events

    def _process_events(self, events: list[EngineEvent]) -> None:
        """Take events that bring only text, as nearly all do, together."""
        texts: list[str] = []
        for event in events:
            text = extract_plain_text(event)
            if text:
                texts.append(text)
                continue
            if texts:
                self._process_texts(texts)
                texts = []
            self._process_event(event)
        if texts:
            self._process_texts(texts)

    def _process_texts(self, texts: list[str]) -> None:
        meter = self.meter
        if not self.begun:
            self.begun = True
            self.on_first()
        meter.chunks += len(texts)
        meter.last_at = meter.event_at
        if meter.first_at is None:
            meter.first_at = meter.event_at
        if self.heard is not None:
            self.heard += texts
        self.take_texts(texts)

    def _process_event(self, event: EngineEvent) -> None:
        """Note usage and take the choices of one event."""
        meter = self.meter
        if event.error is not None:
            raise self._client.reported_error(event.error)
        if event.prompt_progress is not None:
            return
        if not self.begun:
            self.begun = True
            self.on_first()
        if event.usage is not None:
            meter.used = parse_usage(event.usage) or meter.used
        for choice in event.choices or ():
            self._process_choice(choice)

    def _check_index(self, choice: CompletionChoice) -> None:
        if not 0 <= choice.index < self.choices:
            raise self._client.invalid_reply_error("a choice nobody asked for")

    def _process_choice(self, choice: CompletionChoice) -> None:
        meter, delta = self.meter, choice.delta
        self._check_index(choice)
        text = (delta.content if delta is not None else choice.text) or ""
        if text or (delta is not None and (delta.reasoning_content or delta.reasoning or delta.tool_calls)):
            meter.chunks += 1
            meter.last_at = meter.event_at
            if meter.first_at is None:
                meter.first_at = meter.event_at
        elif choice.finish_reason and meter.first_at is not None:
            # The last token is often the invisible end mark, which usage counts: the end is its time.
            meter.last_at = meter.event_at
        if delta is not None and delta.tool_calls:
            self._renumber_calls(choice.index, delta.tool_calls)
        if choice.finish_reason:
            self._ends += 1
        if self.heard is not None:
            self.heard.append(text)
        self.take_choice(text, choice)

    def _renumber_calls(self, choice: int, calls: list[ToolCall]) -> None:
        """Number the calls of a choice in the order they began. Some servers number each of several calls 0: a call
        with a name and another id than the known one is a new one. The key (choice, None) holds the count."""
        if self._calls is None:
            self._calls = {}
        known = self._calls
        for call in calls:
            before, number = known.get((choice, call.index), ("", -1))
            if number < 0 or (before and call.id and call.id != before and call.called_function.name):
                number = known.get((choice, None), ("", 0))[1]
                known[choice, None] = "", number + 1
                known[choice, call.index] = call.id or "", number
            call.index = number

    def _read_complete(self, body: bytes) -> None:
        """Take a reply that came whole; the times of its tokens are unknown."""
        meter = self.meter
        if self.reader is not None:
            raise self._client.invalid_reply_error("one object, where only a stream can be read")
        meter.event_at = self.exchange.now()
        try:
            reply = read_event(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._client.invalid_reply_error(error) from error
        if reply.error is not None:
            raise self._client.reported_error(reply.error)
        self.begun = True
        self.on_first()
        meter.used = parse_usage(reply.usage)
        characters = 0
        for choice in reply.choices or ():
            self._check_index(choice)
            said = choice.delta = choice.message
            text = (said.content if said is not None else choice.text) or ""
            for number, call in enumerate(said.tool_calls or () if said is not None else ()):
                call.index = number
            piece = build_piece(text, choice)
            characters += len(text) + len(piece.reasoning) + len(piece.refusal)
            characters += sum(len(call.called_function.arguments or "") for call in piece.calls)
            self._ends += bool(choice.finish_reason)
            self._told.append(piece)
            if self.heard is not None:
                self.heard.append(text)
        if len({piece.number for piece in self._told}) < len(self._told):
            raise self._client.invalid_reply_error("a choice twice")
        # An estimate, if the engine counts nothing.
        meter.chunks = max(len(self._told), characters // CHARACTERS_PER_TOKEN)
        bill = self.exchange.bill
        if bill is not None and not bill.covers(meter.input_tokens, meter.tokens):
            # End it where it exceeds the reservation and bill it up to there, as a stream.
            meter.used, meter.chunks = None, bill.most
            bill.check_spend(bill.most + 1, meter.event_at)


class StreamingRelay(BufferedRelay):
    """Passes the reply on as a stream in the client's format."""

    def configure(self, writer: ResponseWriter, *, logprobs: bool, keeps: bool = False) -> None:
        """`keeps`: also keep the reply, for the cache or the trace."""
        self._writer, self._logprobs, self._keeps = writer, logprobs, keeps
        self._out: list[bytes] = []
        self._form: EventTemplate | None = None  # set only if the next byte begins an event
        self._form_at = TEMPLATE_AFTER

    def feed(self, data: bytes) -> None:
        """Nearly every read is one event of the same form as the last, which takes a short path."""
        form, exchange, meter, bill = self._form, self.exchange, self.meter, self.exchange.bill
        if form is not None and (bill is None or meter.chunks < bill.most):
            texts = None
            if len(data) > form.one:
                texts = form.match_all(data)
            elif text := form.match_one(data):
                if self.heard is None and not self._keeps:
                    meter.event_at = meter.last_at = now = exchange.now()
                    meter.chunks += 1
                    exchange.extend_stall_deadline(now)
                    exchange.write(self._writer.encode_text(text))
                    return
                texts = [text]
            if texts and (bill is None or meter.chunks + len(texts) <= bill.most):
                meter.event_at = now = exchange.now()
                self._process_texts(texts)
                exchange.extend_stall_deadline(now)
                self._flush_output()
                return
        self._form = None
        try:
            super().feed(data)
        finally:
            if self.begun and not exchange.started:
                self._start_response()
            self._flush_output()
        if self.done or self.reader is not None:
            return
        if meter.chunks >= self._form_at:
            form, self._form_at = derive_template(data) or form, meter.chunks + TEMPLATE_INTERVAL
        if self._parser.is_between_events:
            self._form = form

    def _flush_output(self) -> None:
        out = self._out
        if out:
            self.exchange.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def finish_reply(self) -> None:
        super().finish_reply()
        if self._told:
            self._start_response()
            self.exchange.write(b"".join(encode_pieces(self._writer, self.pieces)))

    def take_texts(self, texts: list[str]) -> None:
        self._out += map(self._writer.encode_text, texts)
        if self._keeps:
            super().take_texts(texts)

    def take_choice(self, text: str, choice: CompletionChoice) -> None:
        piece = build_piece(text, choice, logprobs=self._logprobs)
        # A token may bring no text: half of a character, or a possible beginning of a stop text.
        more = piece.reasoning or piece.calls or piece.refusal or piece.signature or piece.entries or piece.redacted
        if text or piece.finish or more:
            self._out.append(self._writer.encode_piece(piece))
        if self._keeps:
            super().take_choice(text, choice)

    def _start_response(self) -> None:
        exchange = self.exchange
        headers = [*STREAM_HEADERS, self.meter.overhead_header(exchange.now())]
        if exchange.bill is not None:
            headers += exchange.bill.headers()
        exchange.start_stream(HTTPStatus.OK, EVENT_STREAM_TYPE, headers)
        first = self._writer.encode_start()
        if first:
            exchange.write(first)
