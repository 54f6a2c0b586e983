"""An engine's stream through the relay, cut anywhere: what is kept, what is passed on, what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import pytest
from tests.serving.relay_stand import HEAD, RecordingPeer, RelayStand, read_chunks

from archwright.errors import EngineError
from archwright.http_client.client import EngineRefused
from archwright.serving.events.engine_events import FunctionCall, ToolCall
from archwright.serving.events.messages_writer import MessagesWriter
from archwright.serving.events.response_formats import ResponseEnvelope, ResponsePiece
from archwright.serving.events.timing import RequestTiming
from archwright.serving.handlers.stream_relay import BufferedRelay, StreamingRelay
from archwright.serving.http.client_limits import ClientLimits
from archwright.serving.http.http_response import HttpResponse, ResponseBuffer
from archwright.serving.requests.request_validation import CHARACTERS_PER_TOKEN

SOME_RELAY = TypeVar("SOME_RELAY", bound=BufferedRelay)
CHOICES = [
    ({"delta": {"content": "x"}}, ResponsePiece("x", "", [], None, [])),
    ({"delta": {"content": None}, "finish_reason": "stop"}, ResponsePiece("", "", [], "stop", [])),
    ({"delta": {"reasoning_content": "h"}}, ResponsePiece("", "h", [], None, [])),
    ({"delta": {"reasoning": "h"}}, ResponsePiece("", "h", [], None, [])),
    ({"delta": None, "finish_reason": ""}, ResponsePiece("", "", [], None, [])),
    ({"text": "x", "finish_reason": "stop"}, ResponsePiece("x", "", [], "stop", [])),
    ({"text": None, "logprobs": {"content": []}}, ResponsePiece("", "", [], None, [])),
    ({}, ResponsePiece("", "", [], None, [])),
]


def calling(index: int, **said: Any) -> dict[str, Any]:
    known = {"id": said.pop("id")} if "id" in said else {}
    return {"choices": [{"delta": {"tool_calls": [{"index": index, **known, "function": said}]}}]}


def events(*objects: object, end: bytes = b"\n\n") -> bytes:
    return b"".join(b"data: " + json.dumps(one).encode() + end for one in objects) + b"data: [DONE]" + end


def fed(make: Callable[[RelayStand], SOME_RELAY], *pieces: bytes) -> tuple[SOME_RELAY, bytes, RequestTiming]:
    async def run() -> tuple[SOME_RELAY, bytes, RequestTiming]:
        stand = RelayStand()
        relay = make(stand)
        for piece in pieces:
            relay.feed(piece)
        await asyncio.sleep(0)
        return relay, stand.peer.sent, stand.timing

    return asyncio.run(run())


def passed(sent: bytes) -> list[Any]:
    """The events in the chunks a client was sent."""
    return [json.loads(block[6:]) for block in b"".join(read_chunks(sent)).decode().split("\n\n") if block]


@pytest.mark.parametrize(("choice", "piece"), CHOICES)
def test_what_a_choice_says(choice: dict[str, Any], piece: ResponsePiece) -> None:
    relay, _, _ = fed(RelayStand.buffered, events({"choices": [choice]}))
    assert relay.pieces == [piece] and relay.done and relay.begun
    assert relay.finished == bool(piece.finish)


@pytest.mark.parametrize("end", [b"\n\n", b"\r\n\r\n", b"\r\r"])
def test_cut_anywhere_it_is_the_same(end: bytes) -> None:
    said = [{"choices": [{"delta": {"content": text}}]} for text in ("a", "ä\n\n", "c")]
    last = {"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": {"completion_tokens": 3, "x": 1}}
    data = events({"prompt_progress": {"n": 1}}, *said, last, end=end)
    for cut in range(1, len(data)):
        relay, _, meter = fed(RelayStand.buffered, data[:cut], data[cut:])
        assert relay.pieces == [ResponsePiece("aä\n\nc", "", [], "stop", [])] and relay.done, cut
        assert (meter.chunks, meter.used) == (3, {"completion_tokens": 3})
    whole = fed(RelayStand.streaming, *(data[at : at + 1] for at in range(len(data))))[1]
    together = fed(RelayStand.streaming, data)[1]
    assert [e["choices"] for e in passed(whole)] == [e["choices"] for e in passed(together)]
    deltas = [event["choices"][0]["delta"] for event in passed(together)]
    assert deltas == [{"role": "assistant", "content": ""}, *({"content": text} for text in ("a", "ä\n\n", "c")), {}]


def test_an_odd_event_before_half_of_another() -> None:
    """Events that are decoded one by one keep their order with the half event behind them."""
    odd, good = b': comment\ndata: {"choices":\ndata: []}\n\n', b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    relay, _, _ = fed(RelayStand.buffered, good + odd + good[:20], good[20:] + good)
    assert relay.pieces[0].text == "aaa"


def test_the_events_of_one_read_leave_in_one_write() -> None:
    said = fed(RelayStand.streaming, events(*({"choices": [{"delta": {"content": "a"}}]} for _ in range(9))))[1]
    sizes = said.partition(b"\r\n\r\n")[2].split(b"\r\n")[::2]
    assert len([size for size in sizes if size]) == 2, "one of the opening, one of the nine"


@pytest.mark.parametrize(
    ("bad", "status"),
    [
        (b'data: {"choices": 7}\n\n', None),
        (b'data: {"choices": [3]}\n\n', None),
        (b'data: {"choices": [{"delta": [1]}]}\n\n', None),
        (b'data: "no object"\n\n', None),
        (b'data: {"a":"\n\ndata: "}\n\n', None),
        (b"data: {},{}\n\ndata: {}\n\n", None),
        (b'data: "\xff"\n\n', None),
        (b'data: {"choices": [{"index": 1, "delta": {"content": "b"}}]}\n\n', None),
        (b'data: {"choices": [{"index": -1, "delta": {"content": "b"}}]}\n\n', None),
        (b'data: {"error": {"code": 503, "message": "no"}}\n\n', 503),
        (b'data: {"error": "plain"}\n\n', 500),
        (b'event: error\ndata: {"code": 400, "message": "no"}\n\n', 400),
        (b'error: {"code": 503, "message": "no"}\n\n', 503),
    ],
)
@pytest.mark.parametrize("make", [RelayStand.buffered, RelayStand.streaming])
def test_nonsense_ends_it_and_what_came_before_still_counts(make: Any, bad: bytes, status: int | None) -> None:
    good = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    stands: list[RelayStand] = []

    def keep(stand: RelayStand) -> BufferedRelay:
        stands.append(stand)
        relay: BufferedRelay = make(stand)
        return relay

    with pytest.raises(EngineError) as failed:
        fed(keep, good + bad + good)
    assert stands[0].timing.chunks == 1
    assert (failed.value.status if isinstance(failed.value, EngineRefused) else None) == status


def test_calls_and_choices_are_kept_apart_and_passed_on_as_they_came() -> None:
    def two(stand: RelayStand) -> BufferedRelay:
        return stand.buffered(choices=2)

    said = [
        calling(0, id="a", name="f", arguments=""),
        calling(0, arguments='{"x":'),
        calling(1, id="b", name="g", arguments="{}"),
        calling(0, arguments="1}"),
        {"choices": [{"index": 1, "delta": {"content": "other"}}]},
        {"choices": [{"index": 1, "delta": {"refusal": "no"}, "finish_reason": "stop"}]},
        {"choices": [{"delta": {}, "finish_reason": "tool_calls"}]},
    ]
    relay, _, meter = fed(two, events(*said))
    first, second = relay.pieces
    assert first.calls == [ToolCall(0, "a", FunctionCall("f", '{"x":1}')), ToolCall(1, "b", FunctionCall("g", "{}"))]
    assert (second.text, second.refusal, second.number, second.finish) == ("other", "no", 1, "stop")
    assert relay.finished and meter.chunks == 5
    assert not fed(two, events(*said[:-1]))[0].finished
    passed_on = [
        event["choices"][0]["delta"] for event in passed(fed(RelayStand.streaming, events(*said[:4], said[-1]))[1])
    ]
    assert [delta["tool_calls"][0]["index"] for delta in passed_on if "tool_calls" in delta] == [0, 0, 1, 0]


def test_an_event_of_which_nothing_is_told_ends_no_stream() -> None:
    """The finish of a message is told with its end: alone in a read it must not become an empty chunk."""

    def message(stand: RelayStand) -> StreamingRelay:
        return stand.streaming(MessagesWriter(ResponseEnvelope("msg_1", 1, "m", "")))

    text = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
    finish = b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n'
    relay, said, _ = fed(message, text, finish)
    assert relay.finished and b"text_delta" in said
    assert b"\r\n0\r\n" not in said


def replied(stand: RelayStand, kind: bytes = b"application/json", choices: int = 1) -> BufferedRelay:
    relay = stand.buffered(choices)
    relay.begin(kind)
    return relay


def test_what_came_whole_without_a_count_is_estimated_by_all_its_words() -> None:
    calls = [{"id": "c", "function": {"name": "f", "arguments": "y" * 400}}, {"id": "d", "function": None}]
    message = {"content": "x" * 400, "reasoning_content": "z" * 400, "tool_calls": calls}
    body = json.dumps({"choices": [{"message": message, "finish_reason": "stop"}]}).encode()
    relay, _, meter = fed(replied, body[:9], body[9:])
    relay.finish_reply()
    assert (relay.pieces[0].text, meter.used, meter.tokens) == ("x" * 400, None, 1_200 // CHARACTERS_PER_TOKEN)


@pytest.mark.parametrize("kind", [b"text/event-stream; charset=utf-8", b"Text/Event-Stream", b"text/plain"])
@pytest.mark.parametrize("step", [1, 1000])
def test_a_stream_that_comes_instead_of_a_whole_reply_is_read_as_one(kind: bytes, step: int) -> None:
    data = events({"choices": [{"delta": {"content": "x"}, "finish_reason": "stop"}]})
    pieces = [data[at : at + step] for at in range(0, len(data), step)]
    relay, _, meter = fed(partial(replied, kind=kind), *pieces)
    relay.finish_reply()
    assert relay.pieces == [ResponsePiece("x", "", [], "stop", [])]
    assert meter.chunks == 1


def test_a_choice_that_comes_twice_is_nonsense() -> None:
    choice = {"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}
    relay, _, _ = fed(partial(replied, choices=2), json.dumps({"choices": [choice, choice]}).encode())
    with pytest.raises(EngineError, match="twice"):
        relay.finish_reply()


def test_a_bug_in_the_books_leaves_no_client_waiting() -> None:
    gone: list[RecordingPeer] = []
    noticed: list[object] = []

    class Torn(RecordingPeer):
        def abort(self) -> None:
            gone.append(self)

    def broken() -> None:
        raise ValueError("a bug")

    async def run() -> None:
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: noticed.append(context["exception"]))
        response = HttpResponse(HEAD, Torn(), ResponseBuffer(ClientLimits(), loop.time, broken))
        response.send(200, b"{}", "application/json")
        await asyncio.sleep(0)

    asyncio.run(run())
    assert len(gone) == 1 and isinstance(noticed[0], ValueError)
