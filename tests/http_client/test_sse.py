from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.errors import EngineError
from archwright.http_client.sse import EventParser, ServerSentEvent

FIELDS = ("data: {}", "data:x", "data", "data:  two", ": a comment", "event: error", "id: 7", "error: {}", "nonsense")
LINES = st.sampled_from([*FIELDS, "", ""])
ENDS = st.sampled_from(["\n", "\r", "\r\n"])
STREAM = st.lists(st.tuples(LINES, ENDS), max_size=14).map(lambda pairs: "".join(a + b for a, b in pairs).encode())


def _events(*chunks: bytes) -> list[ServerSentEvent]:
    parser = EventParser()
    return [event for chunk in chunks for event in parser.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        (b"data: a\n\n", [ServerSentEvent("", b"a")]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [ServerSentEvent("", b"a"), ServerSentEvent("", b"b")]),
        (b"data: a\r\rdata: b\r\r", [ServerSentEvent("", b"a"), ServerSentEvent("", b"b")]),
        (b"data: a\ndata:b\n\n", [ServerSentEvent("", b"a\nb")]),
        (b": ping\n\ndata: a\n\n", [ServerSentEvent("", b"a")]),
        (b"event: error\ndata: a\n\ndata: b\n\n", [ServerSentEvent("error", b"a"), ServerSentEvent("", b"b")]),
        (b"event: error\n\ndata: b\n\n", [ServerSentEvent("", b"b")]),
        (b'error: {"code":500}\n\n', [ServerSentEvent("error", b'{"code":500}')]),
        (b"\xef\xbb\xbfdata: a\n\n", [ServerSentEvent("", b"a")]),
        (b"data\n\n", [ServerSentEvent("", b"")]),
        (b"data: cut off", []),
        (b"data: cut off\n", []),
    ],
)
def test_events_as_the_standard_says(stream: bytes, expected: list[ServerSentEvent]) -> None:
    assert _events(stream) == expected
    assert _events(*(bytes([byte]) for byte in stream)) == expected


@given(stream=STREAM, cuts=st.lists(st.integers(0, 200), max_size=8))
def test_any_cut_of_the_bytes_gives_the_same_events(stream: bytes, cuts: list[int]) -> None:
    borders = [0, *sorted(cuts), len(stream)]
    pieces = [stream[a:b] for a, b in pairwise(borders)]
    assert _events(*pieces) == _events(stream)


@pytest.mark.parametrize("chunk", [b"data: 0123456789", b"data: 01234\ndata: 01234\n", b"error: 0123456789\n"])
def test_an_event_over_the_limit_is_refused(chunk: bytes) -> None:
    parser = EventParser(limit_bytes=10)
    with pytest.raises(EngineError) as refused:
        parser.feed(chunk)
    assert refused.value.code == "AW-ENG-03"


def test_the_limit_is_for_one_event_not_for_the_stream() -> None:
    parser = EventParser(limit_bytes=20)
    assert len(parser.feed(b"data: 12345678\n\n" * 50)) == 50
