"""Relay of an engine's reply: passed on as the client's stream, or kept as a whole.

Design: the HTTP client pushes each read into a relay, so there is no task and no queue per chunk. All events of one
read are decoded together and leave in one write; a read of the same form as the last is not decoded at all.
"""

from collections import defaultdict
from collections.abc import Callable
from http import HTTPStatus
from operator import attrgetter
from typing import Any

import msgspec

from archwright.errors import EngineError
from archwright.http_client.client import EngineClient
from archwright.http_client.connection_pool import ClientConnection, ResponseSink
from archwright.http_client.json_constants import replace_constants
from archwright.http_client.sse import EventParser, ServerSentEvent
from archwright.serving.admission.metering import RequestCharge
from archwright.serving.events.choice_accumulator import ChoiceAccumulator, build_piece
from archwright.serving.events.complete_reply import EVENT_STREAM, CompleteReplyParser
from archwright.serving.events.engine_events import (
    DONE_MARK,
    ChoiceDelta,
    CompletionChoice,
    EngineEvent,
    EventReader,
    ToolCall,
    decode_events,
    extract_plain_text,
    read_event,
)
from archwright.serving.events.event_template import EventTemplate, derive_template
from archwright.serving.events.response_formats import (
    ResponsePiece,
    ResponseWriter,
    add_usage,
    is_count,
    parse_usage,
)
from archwright.serving.events.stream_replay import encode_pieces
from archwright.serving.events.timing import RequestTiming
from archwright.serving.http.http_response import HeaderField, HttpResponse
from archwright.serving.requests.request_validation import CHARACTERS_PER_TOKEN

EVENT_STREAM_TYPE = "text/event-stream; charset=utf-8"
STREAM_HEADERS = [(b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
DONE_SUFFIX = b"\n\ndata: [DONE]"
# After how many pieces of a stream its template is derived (the first often names the role), and how often again.
TEMPLATE_AFTER, TEMPLATE_INTERVAL = 2, 16
RETRY_HINT = "send the request again; if it fails again, read the engine's log"


class BufferedRelay(ResponseSink):
    """Reads one engine's reply, a stream or a complete one, and keeps it.

    `begun`: something came, and `on_first` was called; `finished`: every choice has a finish reason; `cut`: the budget
    had no room for more, so the reply ended here. `texts`: the text
    of the reply, if it is kept to compare it with the response of a shadow.
    """

    begun = cut = False
    texts: list[str] | None = None
    _parser: EventParser  # set when the reply's content type is known
    _choices = _prompts = 1
    _counted: dict[str, Any] = {}
    _reader: EventReader | None = None
    _stops = True
    _finished_choices = 0
    _calls: dict[tuple[int, int | None], tuple[str, int]] | None = None
    _complete_parser: CompleteReplyParser | None = None

    def __init__(
        self,
        response: HttpResponse,
        charge: RequestCharge,
        timing: RequestTiming,
        client: EngineClient,
        on_first: Callable[[], None],
    ) -> None:
        self._response = response
        self._charge = charge
        self._timing = timing
        self._on_first = on_first
        self._client = client
        self._accumulators: defaultdict[int, ChoiceAccumulator] = defaultdict(ChoiceAccumulator)
        self._complete_pieces: list[ResponsePiece] = []  # of a complete reply

    def expect(
        self,
        choices: int,
        reader: EventReader | None = None,
        *,
        prompts: int = 1,
        keeps_text: bool = False,
        stops: bool = True,
    ) -> None:
        """Expect this number of choices to `prompts`, read by the provider's `reader` if it has one.

        `stops`: the engine ends its work when its connection closes."""
        self._choices, self._reader, self._prompts, self._stops = choices, reader, prompts, stops
        self.texts = [] if keeps_text else None

    @property
    def finished(self) -> bool:
        return self._finished_choices >= self._choices

    @property
    def pieces(self) -> list[ResponsePiece]:
        """The reply so far, one piece per choice."""
        complete = self._complete_pieces
        if complete:
            return complete if len(complete) == 1 else sorted(complete, key=attrgetter("number"))
        pieces = [kept.to_piece(index) for index, kept in sorted(self._accumulators.items())]
        return pieces or [ChoiceAccumulator().to_piece(0)]

    def begin(self, kind: bytes) -> None:
        if kind.lower().startswith(EVENT_STREAM):
            self._parser = EventParser()
        else:
            self._parser = self._complete_parser = CompleteReplyParser()

    def sent(self, source: ClientConnection) -> None:
        super().sent(source)
        self._charge.mark_sent_to_engine(stops=self._stops)

    def state_input(self, tokens: int) -> None:
        self._timing.state_input(tokens)

    def keep_reading_s(self) -> float:
        return self._response.leave_client() if self._charge.owes_rest else 0.0

    def take_choice(self, text: str, choice: CompletionChoice) -> None:
        self._accumulators[choice.index].add(build_piece(text, choice))

    def take_texts(self, texts: list[str]) -> None:
        """Keep the texts of events that bring nothing else."""
        self._accumulators[0].texts += texts

    def clear(self) -> None:
        """Drop a failed reply: its error refers to this relay, a cycle that the garbage collector finds late."""
        self._accumulators.clear()
        self._complete_pieces.clear()
        if self._complete_parser is not None:
            self._complete_parser.body.clear()

    def finish_reply(self) -> None:
        """End the engine's reply. Raises EngineError if it is incomplete.

        A stream needs OpenAI's end mark or, since some servers omit it, a finish reason for each choice.
        """
        if self._complete_parser is not None and self._complete_parser.body:
            self._read_complete(b"".join(self._complete_parser.body))
            self.done = True
        if not self.done and (self._reader is not None or not self.finished):
            raise EngineError("AW-ENG-02", "the engine's stream ended without its end mark", hint=RETRY_HINT)
        if not self.finished:
            raise EngineError("AW-ENG-02", "the engine's stream ended without a finish reason", hint=RETRY_HINT)

    def feed(self, data: bytes) -> None:
        now = self._response.now()
        self._timing.mark_event(now)
        self._decode(data)
        if self.cut or (self._timing.chunks > self._charge.max_pieces and not self.finished):
            raise self._charge.output_limit_error()  # disconnects from the engine
        self._response.extend_stall_deadline(now)

    def _decode(self, data: bytes) -> None:
        if self._reader is not None:
            self._feed_reader(self._reader, data)
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
                decoded = read_event(event.data)
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                raise self._client.invalid_reply_error(error) from error
            self._process_event(decoded)

    def _feed_reader(self, reader: EventReader, data: bytes) -> None:
        for event in self._parser.feed(data):
            try:
                decoded = list(reader.read(event))
            except (msgspec.DecodeError, UnicodeDecodeError):
                decoded = self._read_repaired(reader, event)
            for one in decoded:
                self._process_event(one)
            if reader.done:
                self.done = True
                return

    def _read_repaired(self, reader: EventReader, event: ServerSentEvent) -> list[EngineEvent]:
        """Read an event with numbers that JSON has not. Raises EngineError AW-ENG-03 for another fault."""
        try:
            return list(reader.read(event._replace(data=replace_constants(event.data))))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._client.invalid_reply_error(error) from error

    def _decode_batch(self, plain: bytes) -> list[EngineEvent] | None:
        """Decode the events of one read at once. Returns None unless each event is one line of JSON."""
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
        """Process events that hold only text, as nearly all do, together."""
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
        if self._timing.chunks + len(texts) > self._charge.max_pieces:
            texts = texts[: self._allow_pieces(len(texts))]
        if not self.begun:
            self.begun = True
            self._on_first()
        self._timing.count_pieces(len(texts), self._timing.event_at)
        if self.texts is not None:
            self.texts += texts
        self.take_texts(texts)

    def _allow_pieces(self, count: int) -> int:
        """Return how many further pieces may be delivered. The reply ends if these are fewer than `count`."""
        if self.cut:
            return 0
        delivered = self._timing.chunks
        allowed = self._charge.allow_pieces(delivered + count) - delivered
        self.cut = allowed < count
        return allowed

    def end_at_budget(self) -> None:
        """End a cut reply as one of the requested length."""
        self.done = True
        self._finished_choices = self._choices
        self.take_choice("", CompletionChoice(delta=ChoiceDelta(), finish_reason="length"))

    def _process_event(self, event: EngineEvent) -> None:
        if self.cut:
            return
        if event.error is not None:
            raise self._client.reported_error(event.error)
        if event.prompt_progress is not None:
            self._take_progress(event.prompt_progress)
            return
        if not self.begun:
            self.begun = True
            self._on_first()
        if event.usage is not None:
            self._take_usage(event)
        for choice in event.choices or ():
            self._process_choice(choice)
        if event.usage is not None and self.finished and self._timing.used is not None:
            self._charge.mark_ended()  # nothing that counts follows

    def _take_progress(self, progress: object) -> None:
        """Take the number of input tokens that the engine states while it reads them, unless it reads several texts."""
        total = progress.get("total") if isinstance(progress, dict) else None
        if self._prompts == 1 and is_count(total):
            self._timing.state_input(total)

    def _take_usage(self, event: EngineEvent) -> None:
        """Set the usage so far. llama.cpp counts each choice when it ends; the sum is complete with the last."""
        choices, usage = event.choices, parse_usage(event.usage)
        if usage is not None and choices and self._choices > 1:
            if not choices[0].finish_reason:
                return
            repeats = choices[0].index % (self._choices // self._prompts)  # the prompt of the choice before
            self._counted = add_usage(self._counted, {**usage, "prompt_tokens": 0} if repeats else usage)
            usage = self._counted if self._finished_choices == self._choices - 1 else None
        self._timing.set_usage(usage or self._timing.used)

    def _check_index(self, choice: CompletionChoice) -> None:
        if not 0 <= choice.index < self._choices:
            raise self._client.invalid_reply_error("a choice was not requested")

    def _process_choice(self, choice: CompletionChoice) -> None:
        timing, delta = self._timing, choice.delta
        self._check_index(choice)
        text = (delta.content if delta is not None else choice.text) or ""
        if text or (delta is not None and (delta.reasoning_content or delta.reasoning or delta.tool_calls)):
            if timing.chunks >= self._charge.max_pieces and not self._allow_pieces(1):
                return
            timing.count_pieces(1, timing.event_at)
        elif choice.finish_reason:
            timing.mark_finish()
        if delta is not None and delta.tool_calls:
            self._renumber_calls(choice.index, delta.tool_calls)
        if choice.finish_reason:
            self._finished_choices += 1
        if self.texts is not None:
            self.texts.append(text)
        self.take_choice(text, choice)

    def _renumber_calls(self, choice: int, calls: list[ToolCall]) -> None:
        """Number the calls of a choice in the order in which they began.

        Some servers number each of several calls 0: a call with a name and another id than the known call is a new
        call. The key (choice, None) of `_calls` holds the number of calls.
        """
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
        """Take a complete reply; the times of its tokens are unknown."""
        timing, charge = self._timing, self._charge
        if self._reader is not None:
            raise self._client.invalid_reply_error("a complete reply instead of a stream")
        timing.mark_event(self._response.now())
        try:
            reply = read_event(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise self._client.invalid_reply_error(error) from error
        if reply.error is not None:
            raise self._client.reported_error(reply.error)
        self.begun = True
        self._on_first()
        timing.set_usage(parse_usage(reply.usage))
        characters = 0
        for choice in reply.choices or ():
            characters += self._take_complete_choice(choice)
        count = len(self._complete_pieces)
        if count > 1 and len({piece.number for piece in self._complete_pieces}) < count:
            raise self._client.invalid_reply_error("a choice occurs twice")
        # An estimate, for an engine that reports no usage.
        timing.set_pieces(max(count, characters // CHARACTERS_PER_TOKEN))
        if not charge.covers(timing.input_tokens, timing.tokens, timing.used):
            timing.set_usage(None)
            raise charge.exceeded_error()

    def _take_complete_choice(self, choice: CompletionChoice) -> int:
        """Keep a choice of a complete reply; returns its characters."""
        self._check_index(choice)
        message = choice.delta = choice.message
        text = (message.content if message is not None else choice.text) or ""
        piece = build_piece(text, choice)
        characters = len(text) + len(piece.reasoning) + len(piece.refusal)
        for number, call in enumerate(piece.calls):
            call.index = number
            characters += len(call.called_function.arguments or "")
        self._finished_choices += bool(choice.finish_reason)
        self._complete_pieces.append(piece)
        if self.texts is not None:
            self.texts.append(text)
        return characters


class StreamingRelay(BufferedRelay):
    """Passes the reply on as a stream in the client's format."""

    def configure(
        self, writer: ResponseWriter, headers: list[HeaderField], *, logprobs: bool, keeps: bool = False
    ) -> None:
        """Set the format and the first headers of the response. `keeps`: keep the reply, for the cache or the trace."""
        self._writer, self._headers, self._logprobs, self._keeps = writer, headers, logprobs, keeps
        self._out: list[bytes] = []
        self._form: EventTemplate | None = None  # set only if the next byte begins an event
        self._form_at = TEMPLATE_AFTER

    def feed(self, data: bytes) -> None:
        """Pass on one read. Nearly every read is one event of the same form as the last, which takes a short path."""
        form, response, timing, max_pieces = self._form, self._response, self._timing, self._charge.max_pieces
        if form is not None and timing.chunks < max_pieces:
            texts = None
            if len(data) > form.one:
                texts = form.match_all(data)
            elif text := form.match_one(data):
                if self.texts is None and not self._keeps:
                    now = response.now()
                    timing.count_pieces(1, now)
                    response.extend_stall_deadline(now)
                    response.write(self._writer.encode_text(text))
                    return
                texts = [text]
            if texts and timing.chunks + len(texts) <= max_pieces:
                now = response.now()
                timing.mark_event(now)
                self._process_texts(texts)
                response.extend_stall_deadline(now)
                self._flush_output()
                return
        self._form = None
        try:
            super().feed(data)
        finally:
            if self.begun and not response.started:
                self._start_response()
            self._flush_output()
        if self.done or self._reader is not None:
            return
        if timing.chunks >= self._form_at:
            form, self._form_at = derive_template(data) or form, timing.chunks + TEMPLATE_INTERVAL
        if self._parser.is_between_events:
            self._form = form

    def _flush_output(self) -> None:
        out = self._out
        if out:
            self._response.write(out[0] if len(out) == 1 else b"".join(out))
            out.clear()

    def finish_reply(self) -> None:
        super().finish_reply()
        if self._complete_pieces:
            self._start_response()
            self._response.write(b"".join(encode_pieces(self._writer, self.pieces)))

    def take_texts(self, texts: list[str]) -> None:
        self._out += map(self._writer.encode_text, texts)
        if self._keeps:
            super().take_texts(texts)

    def end_at_budget(self) -> None:
        super().end_at_budget()
        self._flush_output()

    def take_choice(self, text: str, choice: CompletionChoice) -> None:
        piece = build_piece(text, choice, logprobs=self._logprobs)
        # A token may bring no text: half of a character, or a possible beginning of a stop text.
        more = piece.reasoning or piece.calls or piece.refusal or piece.signature or piece.entries or piece.redacted
        if text or piece.finish or more:
            self._out.append(self._writer.encode_piece(piece))
        if self._keeps:
            super().take_choice(text, choice)

    def _start_response(self) -> None:
        overhead = self._timing.overhead_header(self._response.now())
        headers = [*self._headers, *STREAM_HEADERS, overhead, *self._charge.headers()]
        self._response.start_stream(HTTPStatus.OK, EVENT_STREAM_TYPE, headers)
        first = self._writer.encode_start()
        if first:
            self._response.write(first)
