"""A template reads an event as the decoder does, or leaves it to the decoder."""

from __future__ import annotations

import asyncio
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serving.relay_stand import RelayStand, read_chunks

from archwright.engines.http_request_parser import parse_head
from archwright.serving.events.engine_events import decode_event, extract_plain_text
from archwright.serving.events.event_template import derive_template
from archwright.serving.events.response_formats import (
    ResponsePiece,
)
from archwright.serving.handlers.stream_relay import TEMPLATE_INTERVAL

HEAD = parse_head(b"POST /v1/chat/completions HTTP/1.1\r\nhost: g")
# TEXT is replaced by the text of an event.
KINDS = {
    "vllm": b'data: {"id":"c-1","object":"chat.completion.chunk","created":1,"model":"m","choices":[{"index":0,"delta":'
    b'{"content":TEXT},"logprobs":null,"finish_reason":null,"token_ids":null}]}\n\n',
    "llama.cpp": b'data: {"choices":[{"finish_reason":null,"index":0,"delta":{"content":TEXT}}],"created":17,"id":"c",'
    b'"model":"m","object":"chat.completion.chunk"}\n\n',
    "completion": b'data: {"choices": [{"index": 0, "text": TEXT, "logprobs": null}], "model": "m", "usage": null}\n\n',
    "said twice": b'data: {"choices":[{"delta":{"content":"x","role":"assistant","content":TEXT}}]}\n\n',
    "bare": b'data: {"choices":[{"delta":{"content":TEXT}}]}\n\n',
}
WORDS = (
    *("a", "content", "model", "m", "x", " the", '"', "\\", "\n", "\x7f"),
    *("ä", "\u2028", "😀", "c-1", "TEXT", "null", "{"),
)


def event(kind: str, text: str, *, escaped: bool = False) -> bytes:
    return KINDS[kind].replace(b"TEXT", json.dumps(text, ensure_ascii=escaped).encode())


def decoded(data: bytes) -> str | None:
    return extract_plain_text(decode_event(data[6:-2]))


@pytest.mark.parametrize("kind", KINDS)
@given(st.sampled_from(WORDS) | st.text(min_size=1), st.text() | st.sampled_from(WORDS), st.booleans())
def test_what_is_of_the_form_is_what_the_decoder_finds(kind: str, first: str, text: str, escaped: bool) -> None:
    first, text = (one.encode("utf-8", "ignore").decode() for one in (first, text))
    form = derive_template(event(kind, first))
    if form is not None:
        assert form.match_one(event(kind, first)) == first
        assert form.match_one(event(kind, text, escaped=escaped)) == text == decoded(event(kind, text))


@pytest.mark.parametrize(
    "between",
    [
        *(b"null", b"1", b"", b'"', b'"a', b'a"', b'"a""b"', b'"a","role":"b"', b'"\\x"', b'"a\nb"', b'"a\tb"'),
        *(b'"\xff"', b'"a"},"finish_reason":"stop","delta":{"content":"b"', b'["a"]', b'"a" "b"', b'"\\ud800"'),
    ],
)
def test_what_is_no_text_is_left_to_the_decoder(between: bytes) -> None:
    form = derive_template(event("bare", "word"))
    assert form is not None and form.match_one(KINDS["bare"].replace(b"TEXT", between)) is None


@pytest.mark.parametrize("kind", KINDS)
@given(st.lists(st.sampled_from(WORDS) | st.text(min_size=1), min_size=1, max_size=5))
def test_events_together_are_what_they_are_apart(kind: str, texts: list[str]) -> None:
    texts = [text.encode("utf-8", "ignore").decode() or " " for text in texts]
    form = derive_template(event(kind, " word"))
    assert form is not None, "every engine has a template"
    assert form.match_all(b"".join(event(kind, text) for text in texts)) == texts
    assert len(event(kind, "a") * 2) > form.one >= len(event(kind, "a"))


def test_events_that_are_none_alone_are_none_together() -> None:
    form, (before, behind) = derive_template(event("bare", "word")), KINDS["bare"].split(b"TEXT")
    assert form is not None
    broken = b'%b"a","b%b%bc"%b' % (before, behind, before, behind)
    nothing, half = event("bare", "a") + event("bare", ""), event("bare", "a") + event("bare", "b")[:-1]
    other = event("bare", "a") + b": x\n" + event("bare", "b")
    assert [form.match_all(data) for data in (broken, nothing, half, other, b"")] == [None] * 5


def test_other_bytes_are_left_to_the_decoder() -> None:
    one = event("vllm", "word")
    form = derive_template(one)
    assert form is not None
    others = [
        *(one + one, one[:-1], one[1:], one[:40], b"", b'"word"', one.replace(b"c-1", b"c-2"), b": x\n" + one),
        *(one.replace(b'"finish_reason":null', b'"finish_reason":"stop"'), one[one.index(b'"word"') :]),
        *(one[: one.index(b"}")], one.replace(b"\n\n", b"\r\n\r\n"), b"data: [DONE]\n\n"),
    ]
    assert [form.match_one(other) for other in others] == [None] * len(others)


@pytest.mark.parametrize(
    "data",
    [
        *(b"data: [DONE]\n\n", b"data: {}\n\n", b"data: nonsense\n\n", b"", b"data: \n\n", b"data: \xff\n\n"),
        event("bare", "a") + b": x\n\n",
        event("bare", "a").replace(b"\n\n", b"\r\n\r\n"),
        b"id: 1\n" + event("bare", "a"),
        event("bare", ""),
        event("bare", "ä", escaped=True),  # our encoder writes another form, so the text is not found
        KINDS["bare"].replace(b"TEXT", b'"a","reasoning":"b"'),
        b'data: {"choices":[{"delta":{"content":"a","refusal":"a"}}]}\n\n',
        b'data: {"choices":[{"index":1,"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}},{"delta":{"content":"a"}}]}\n\n',
        b'data: {"choices":[{"delta":{"content":"a"}}],"id":"a"}\n\n',  # its last "a" is not the text
        b'data: {"choices":[{"delta":{"content":"delta","delta":1}}]}\n\n',
    ],
)
def test_what_has_no_form(data: bytes) -> None:
    assert derive_template(data) is None


def relayed(
    reads: list[bytes], kind: bytes, *, whole: bool = False
) -> tuple[list[bytes], list[ResponsePiece], int, bool]:
    """Return the client's events, the pieces for the cache, the count of pieces, and whether the relay is done."""

    async def run() -> tuple[list[bytes], list[ResponsePiece], int, bool]:
        stand = RelayStand()
        relay = stand.streaming(keeps=True)
        relay.begin(kind)
        formed = 0
        for read in reads:
            relay.feed(read)
            await asyncio.sleep(0)
            formed += relay._form is not None
        assert (formed > len(reads) / 2) is whole
        sent = b"".join(read_chunks(stand.peer.sent))
        return sent.split(b"\n\n"), relay.pieces, stand.timing.chunks, relay.done

    return asyncio.run(run())


@pytest.mark.parametrize("seed", range(8))
def test_a_stream_read_by_forms_is_the_same_stream(seed: int) -> None:
    """In whole events, where templates are found and lost repeatedly, and in half events, where none is found."""
    chance = random.Random(seed)
    events: list[bytes] = []
    kind = "vllm"
    for number in range(4 * TEMPLATE_INTERVAL):
        if number % TEMPLATE_INTERVAL == TEMPLATE_INTERVAL // 2:
            kind = chance.choice(list(KINDS))
        events.append(event(kind, chance.choice(WORDS) * chance.choice((1, 1, 2)), escaped=chance.random() < 0.2))
        if chance.random() < 0.1:
            odd = (
                b": wait\n\n",
                event(kind, ""),
                b'data: {"choices":[{"delta":{"reasoning":"hm"}}]}\n\n',
                b'data: {"choices":[],"usage":{"completion_tokens":3}}\n\n',
                event(kind, "\ufffd").replace(b"\n", b"\r\n"),
            )
            events.append(chance.choice(odd))
    events += [b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n', b"data: [DONE]\n\n"]
    halves, shifted = [part for one in events for part in (one[:9], one[9:])], b"".join(events)
    some = [shifted[at : at + 150] for at in range(0, len(shifted), 150)]
    groups, at = list[bytes](), 0
    while at < len(events):
        count = chance.choice((1, 1, 1, 2, 5))
        groups.append(b"".join(events[at : at + count]))
        at += count
    said = chance.choice((b"text/event-stream", b"text/plain"))  # an engine may declare another content type
    whole, together = relayed(events, said, whole=True), relayed(groups, said, whole=True)
    assert whole == together == relayed(halves, said) == relayed(some, said)
