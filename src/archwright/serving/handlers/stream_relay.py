"""What an engine says, decoded once and passed on: as the client's stream, or kept for one reply.

Runs within the event loop's own callback, once per read of the engine's socket: the events of a read are decoded
together, and what they become leaves in one write.
"""

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
from archwright.serving.events.complete_reply import EVENT_STREAM as STREAM
from archwright.serving.events.complete_reply import CompleteReplyParser
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
PIECE_NUMBER = attrgetter("number")
# Pieces of a stream: its form is looked for when so many have come (the first often names the role), and no more
# often, for some engines give every event another form.
TEMPLATE_AFTER, TEMPLATE_INTERVAL = 2, 16


class EngineRelay(ResponseSink):
    """Reads one engine's stream. `begun` once it said anything; `finished` once it gave a finish reason. `on_first`
    is called with its first event."""

    begun = False
    choices = 1  # how many replies it brings
    heard: list[str] | None = None  # the text of the reply, where it is compared with another's
    reader: EventReader | None = None
    _ends = 0
    _calls: dict[tuple[int, int | None], tuple[str, int]] | None = None

    def __init__(
        self, exchange: HttpExchange, meter: RequestTiming, client: EngineClient, on_first: Callable[[], None]
    ) -> None:
        self.exchange = exchange
        self.meter = meter
        self.on_first = on_first
        self._client = client
        self._parser = EventParser()

    @property
    def finished(self) -> bool:
        return self._ends >= self.choices

    def take_choice(self, text: str, choice: CompletionChoice) -> None:
        """One choice of an event, and the text it brings."""
        raise AssertionError("a relay knows what to do with an event")

    def take_texts(self, texts: list[str]) -> None:
        """Of some events nothing but the text they bring."""
        raise AssertionError("a relay knows what to do with texts")

    def finish_reply(self) -> None:
        """The engine's reply is over. Raises EngineError where it was no whole answer: without OpenAI's end mark, which
        some servers do not write, it is one where each choice has its finish reason."""
        if not self.done and (self.reader is not None or not self.finished):
            raise EngineError("AW-ENG-02", "the engine's stream ended without its end mark")
        if not self.finished:
            raise EngineError("AW-ENG-02", "the engine's stream ended without a finish reason")

    def feed(self, data: bytes) -> None:
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
        """Read by who knows the engine's language."""
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
        """The events of one read, decoded in one go; None where they are not each one line of JSON."""
        done = plain.endswith(DONE_SUFFIX)
        if done:
            plain = plain[: -len(DONE_SUFFIX)]
        try:
            events = decode_events(b"[%b]" % plain[6:].replace(b"\n\ndata: ", b","))
        except (msgspec.DecodeError, UnicodeDecodeError):
            return None
        # As many events as lines, and no line but theirs: none of them was in two pieces or two in one.
        if plain.count(b"\n") != 2 * max(0, len(events) - 1):
            return None
        self.done = done
        return events

    def _process_events(self, events: list[EngineEvent]) -> None:
        """Those that are a piece of text and nothing else, as nearly all are, go together."""
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
        """Note its time and the count of tokens; take its one choice, if it has any."""
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
            # The end counts as a token's time: the last token is often the invisible end mark, which usage counts.
            meter.last_at = meter.event_at
        if delta is not None and delta.tool_calls:
            self._renumber_calls(choice.index, delta.tool_calls)
        if choice.finish_reason:
            self._ends += 1
        if self.heard is not None:
            self.heard.append(text)
        self.take_choice(text, choice)

    def _renumber_calls(self, choice: int, calls: list[ToolCall]) -> None:
        """In the order they began. Some servers call each of several calls the first: what has a name, and an id that
        the one known by that number has not, is another. Under None stands how many a choice has."""
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


class BufferedRelay(EngineRelay):
    """Keeps what comes for one reply, be it a stream or whole."""

    _whole: CompleteReplyParser | None = None

    def __init__(
        self, exchange: HttpExchange, meter: RequestTiming, client: EngineClient, on_first: Callable[[], None]
    ) -> None:
        super().__init__(exchange, meter, client, on_first)
        self._kept: defaultdict[int, ChoiceAccumulator] = defaultdict(ChoiceAccumulator)
        self._told: list[ResponsePiece] = []

    def begin(self, kind: bytes) -> None:
        if not kind.lower().startswith(STREAM):
            self._parser = self._whole = CompleteReplyParser()

    def finish_reply(self) -> None:
        if self._whole is not None and self._whole.body:
            self._read_complete(b"".join(self._whole.body))
            self.done = True
        super().finish_reply()

    def clear(self) -> None:
        """What came of an answer that failed: its error leads here, in a circle that the collector finds late."""
        self._kept.clear()
        self._told.clear()
        if self._whole is not None:
            self._whole.body.clear()

    def feed(self, data: bytes) -> None:
        super().feed(data)
        exchange, meter = self.exchange, self.meter
        bill = exchange.bill
        if bill is not None and meter.chunks > bill.most and not self.finished:
            bill.check_spend(meter.chunks, meter.event_at)
        exchange.extend_stall_deadline(meter.event_at)

    def take_texts(self, texts: list[str]) -> None:
        self._kept[0].texts += texts

    def take_choice(self, text: str, choice: CompletionChoice) -> None:
        self._kept[choice.index].add(build_piece(text, choice))

    @property
    def pieces(self) -> list[ResponsePiece]:
        if self._told:
            return sorted(self._told, key=PIECE_NUMBER)
        return [kept.to_piece(index) for index, kept in sorted(self._kept.items())] or [ChoiceAccumulator().to_piece(0)]

    def _read_complete(self, body: bytes) -> None:
        """A reply that came whole: nothing is known of its tokens' times."""
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
        # Where the engine counts nothing: what its words are estimated to be.
        meter.chunks = max(len(self._told), characters // CHARACTERS_PER_TOKEN)
        bill = self.exchange.bill
        if bill is not None and not bill.covers(meter.input_tokens, meter.tokens):
            # As a stream would have been: ended where it was longer than reserved, and billed to there.
            meter.used, meter.chunks = None, bill.most
            bill.check_spend(bill.most + 1, meter.event_at)


class StreamingRelay(BufferedRelay):
    """Passes on what comes, in the client's own form."""

    def configure(self, writer: ResponseWriter, *, logprobs: bool, keeps: bool = False) -> None:
        """`keeps`: what comes is kept as well, for the cache."""
        self._writer, self._logprobs, self._keeps = writer, logprobs, keeps
        self._out: list[bytes] = []
        self._form: EventTemplate | None = None  # only where the next byte begins an event
        self._form_at = TEMPLATE_AFTER

    def feed(self, data: bytes) -> None:
        """Nearly every read is one event of the same form as the last, and done with at once."""
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
                self._write_texts(texts)
                return
        self._form = None
        self._feed_decoder(data)
        if self.done or self.reader is not None:
            return
        if meter.chunks >= self._form_at:
            form, self._form_at = derive_template(data) or form, meter.chunks + TEMPLATE_INTERVAL
        if self._parser.is_between_events:
            self._form = form

    def _write_texts(self, texts: list[str]) -> None:
        self.meter.event_at = now = self.exchange.now()
        self._process_texts(texts)
        self.exchange.extend_stall_deadline(now)
        self._flush_output()

    def _feed_decoder(self, data: bytes) -> None:
        try:
            super().feed(data)
        finally:
            if self.begun and not self.exchange.started:
                self._start_response()
            self._flush_output()

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
        # A token may show no text of its own: half of a character, or what a stop text may begin with.
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
