"""Personal data anywhere in a request's text raises the class; nothing else does."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.lake.personal_data.span_finder import PersonalSpan, find_spans
from archwright.serving.routing import pii_detection
from archwright.serving.routing.pii_detection import (
    DATA_CLASS_BY_KIND,
    DETECTED_KINDS,
    detect_data_class,
    extract_texts,
    normalise_text,
)

ROW = "Bob;Ünal;bob@example.org\n".encode()
CARD = 4111111111111111
SHORT, LONG = (base64.b64encode(ROW * count).decode() for count in (1, 40))
SOUND = base64.b64encode(b"RIFF\x90\xff\x01\x00WAVE" + ROW * 40).decode()


ENCODED = (
    *("see https://example.org/unsubscribe?who=bob%40example.org&x=1", "<td>bob&#64;example.org</td>"),
    *("bob&commat;example&period;org, 100% sure & well", "ＩＢＡＮ ＤＥ８９３７０４００４４０５３２０１３０００"),
    *("bob＠example．org", "IBAN DE89\u00a03704\u00a00044\u00a00532\u00a00130\u00a000", "+49\u201130\u20111234567"),
    *("mu\u0308ller@example.org", "é" * 127 + " bob@example.org " + "é" * 127, "اتصل على +٤٩ ٣٠ ١٢٣٤٥٦٧"),
)


def chat(*contents: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": content} for content in contents]}


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (chat("hello there, nothing to see"), None),
        (chat("Version 1.2.3.4 of 2024-05-06, ISBN 978-3-16-148410-0"), None),
        (chat("fine", "mail bob@example.org"), "personal"),
        (chat("my IBAN is DE89 3704 0044 0532 0130 00"), "personal"),
        (chat("call me at +49 30 1234567"), "personal"),
        (chat("her SSN is 123-45-6789"), "personal"),
        (chat("mail bob@example.org about 4111 1111 1111 1111"), "payment"),
        (chat([{"type": "text", "text": "mail bob@example.org"}]), "personal"),
        (chat([{"type": "image_url", "image_url": {"url": "data:image/png;base64,DE89370400440532013000=="}}]), None),
        (chat([{"type": "image", "source": {"type": "base64", "data": "DE89370400440532013000" + "/" * 600}}]), None),
        (chat("data: bob@example.org wants his money back"), "personal"),
        (chat('{"note": "\\n4111111111111111\\n"}'), "payment"),
        (chat('{"note": "IBAN:\\nDE89 3704 0044 0532 0130 00"}'), "personal"),
        (chat('{"phone": "\\u002B49 30 1234567", "path": "C:\\\\new"}'), "personal"),
        (chat('{"inner": "{\\"ip\\": \\"\\\\n93.184.216.34\\"}"}'), "personal"),
        (chat("C:\\new\\readme.txt and \\d+ and a\\"), None),
        (chat("data:text/plain;base64,AAAA says bob@example.org"), "personal"),
        (chat([{"type": "tool_use", "input": {"data": "DE89370400440532013000"}}]), "personal"),
        (chat([{"type": "tool_use", "input": {"bob@example.org": {"DE89370400440532013000": 1}}}]), "personal"),
        *((body, "personal") for body in ({"prompt": "bob@example.org"}, {"input": ["one thing", "bob@example.org"]})),
        *(({name: [[3, 4], [5]]}, found) for name, found in (("input", "payment"), ("inputs", None))),
        ({"tools": [{"function": {"description": "writes to bob@example.org"}}]}, "personal"),
        ({"max_tokens": CARD, "stream": True}, None),
        *((chat([{"type": "tool_use", "input": {"card": card}}]), "payment") for card in (CARD, float(CARD))),
        ({"tools": [{"input_schema": {"enum": [1, CARD]}}]}, "payment"),
        (chat([{"type": "tool_use", "input": {"at": 1732600000000, "n": -3, "ok": True}}]), None),
        (chat([{"type": "tool_use", "input": {"data": "DE89370400440532013000\n" * 30}}]), "personal"),
        *((chat(text), "personal") for text in ENCODED),
        (chat("4111\u200b1111\u200b1111\u200b1111"), "payment"),
        (chat("naïve café, 100 % of 50&nbsp;kg"), None),
        (chat([{"type": "file", "file": {"file_data": f"data:text/csv;base64,{SHORT}"}}]), "personal"),
        (chat([{"type": "document", "source": {"media_type": "text/plain", "data": LONG}}]), "personal"),
        (chat([{"type": "file", "file": {"file_data": LONG}}]), "personal"),
        (chat([{"type": "image_url", "image_url": {"url": "data:image/svg+xml;base64," + LONG}}]), "personal"),
        (chat([{"type": "input_audio", "input_audio": {"format": "wav", "data": SOUND}}]), None),
    ],
)
def test_found_wherever_it_stands(body: dict[str, Any], expected: str | None) -> None:
    assert detect_data_class(body) == expected


HOSTILE = (
    *("a@", "@a.", "+1", "1", "0()", "tel 1 ", "DE89", "4111 ", "2222:", "\\", "%41", "&#1;", "\u00a0", "a"),
    "\u0301\u0323",
)


@pytest.mark.parametrize("unit", HOSTILE)
def test_hostile_texts_take_no_longer_than_their_length(unit: str) -> None:
    """A quadratic search of these texts would block a worker for hours."""
    assert detect_data_class({"prompt": unit * (400_000 // len(unit))}) is None


PIECE = st.one_of(
    st.text(max_size=30),
    st.sampled_from(["bob@example.org", "4111111111111111", "+49 30 1234567", "10.1.2.3", "DE89370400440532013000"]),
)


def find_all(text: str) -> list[PersonalSpan]:
    return find_spans(text, DETECTED_KINDS) + find_spans(normalise_text(text), DETECTED_KINDS)


@given(st.lists(PIECE, max_size=6))
def test_never_more_than_the_finders_find(pieces: list[str]) -> None:
    """The pre-check changes no result: exactly the matches of the finders raise the class."""
    body = {"input": pieces}
    classes = {DATA_CLASS_BY_KIND[span.kind] for text in extract_texts(body) for span in find_all(text)}
    found = detect_data_class(body)
    # A finder alone may match a span that another finder has priority for; never the reverse.
    assert not classes or found is not None
    assert "payment" not in classes or found == "payment"


CUT_PIECE = st.one_of(
    st.text("ab \n.@+-:%&;\\u1٣é", max_size=12),
    st.sampled_from(
        [" bob@example.org", " 4111 1111 1111 1111", "tel 030 1234567", " 10.1.2.3", "DE89370400440532013000"]
    ),
    st.sampled_from(
        [" upgraded to ", " mac os x ", " version ", "%40example.org", "&#64;", "\\u0041", " so ", "\nand "]
    ),
)


@given(st.lists(CUT_PIECE, min_size=10, max_size=60).map(" so ".join))
def test_pieces_find_what_the_whole_text_has(text: str) -> None:
    """Wherever a text is cut between words, the class is the one of the whole text."""
    with pytest.MonkeyPatch.context() as patch:
        whole = detect_data_class({"prompt": text})
        patch.setattr(pii_detection, "PIECE_CHARACTERS", 100)
        assert detect_data_class({"prompt": text}) == whole


def test_a_text_without_words_is_searched_across_its_cuts() -> None:
    """Whatever stands around a cut is in the overlap."""
    cut = 2 * pii_detection.PIECE_CHARACTERS
    for at in range(cut - 60, cut + 20, 7):
        text = "X" * at + ";bob%40example.org;"
        assert detect_data_class({"prompt": text + "X" * (2 * cut)}) == "personal"


def test_a_search_that_is_stopped_ends() -> None:
    answers = iter([False, True])
    text = "so it goes " * 10_000 + "bob@example.org"
    assert detect_data_class({"prompt": text}, lambda: next(answers)) is None
