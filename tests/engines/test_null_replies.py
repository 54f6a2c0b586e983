from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.engines.null_replies import DEPTH_LIMIT, ErrorReply, NullReply, build_reply, build_vector, split_tokens


def _draft(body: dict[str, Any], *, context: int = 100, default: int = 8) -> NullReply:
    return build_reply({"prompt": "a b", **body}, "one two three", context, default)


def _document(schema: object, **more: object) -> NullReply:
    return _draft({"response_format": {"type": "json_schema", "json_schema": {"schema": schema}}, **more})


@given(st.text())
def test_tokens_hold_all_of_the_text_but_space_at_its_end(text: str) -> None:
    assert "".join(split_tokens(text)).strip() == text.strip()


def test_words_go_round_up_to_the_limit() -> None:
    assert "".join(_draft({"max_tokens": 5}).tokens) == "one two three one two"
    assert len(_draft({}).tokens) == 8
    assert len(_draft({"max_completion_tokens": 2, "max_tokens": 5}).tokens) == 2
    assert _draft({"max_tokens": 50}, context=10) == (2, _draft({"max_tokens": 8}).tokens, "length")


@pytest.mark.parametrize("stop", ["two", ["nowhere", " two"]])
def test_stops_before_the_first_stop_string(stop: object) -> None:
    reply = _draft({"stop": stop})
    assert (reply.tokens, reply.finish_reason) == (["one"], "stop")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "integer", "minimum": 3}}, "required": ["a"]},
        {"type": "object", "properties": {"a": {"type": "number"}}},
        {"type": "array", "items": {"type": "boolean"}, "minItems": 2},
        *({"type": "string", "minLength": 3}, {"type": "null"}, {"enum": ["x", "y"]}, {"const": {"k": 1}}, {}),
    ],
)
def test_a_schemas_document_is_json(schema: dict[str, Any]) -> None:
    reply = _document(schema, max_tokens=40)
    assert reply.finish_reason == "stop"
    json.loads("".join(reply.tokens))


def test_a_document_that_does_not_fit_is_cut_and_other_formats() -> None:
    reply = _document({"type": "array", "items": {"type": "null"}, "minItems": 20}, max_tokens=3)
    assert (len(reply.tokens), reply.finish_reason) == (3, "length")
    assert _draft({"response_format": {"type": "json_object"}}).tokens == ["{}"]
    assert _draft({"response_format": {"type": "text"}, "max_tokens": 1}).tokens == ["one"]


def _deep(levels: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "null"}
    for _ in range(levels):
        schema = {"type": "array", "items": schema, "minItems": 1}
    return schema


TOO_LONG = {"messages": [{"content": "w " * 100}]}
WRONG_SCHEMAS = ({"type": "array", "minItems": 1}, {"type": "banana"}, _deep(DEPTH_LIMIT), "x")


@pytest.mark.parametrize(
    "body",
    [
        *({"prompt": 1}, {"messages": "x"}, {"messages": ["x"]}, {"max_tokens": 0}, {"max_tokens": "x"}),
        {"response_format": {"type": "json_schema"}},
        *({"response_format": {"type": "json_schema", "json_schema": {"schema": wrong}}} for wrong in WRONG_SCHEMAS),
        TOO_LONG,
    ],
)
def test_what_makes_no_sense_is_refused_and_a_long_prompt_says_its_length(body: dict[str, Any]) -> None:
    with pytest.raises(ErrorReply) as refused:
        _draft(body)
    error = refused.value.body["error"]
    assert refused.value.status == 400 and error["message"]
    if body == TOO_LONG:
        assert (error["n_prompt_tokens"], error["n_ctx"], error["type"]) == (100, 100, "exceed_context_size_error")


@given(st.text(), st.integers(1, 64))
def test_vectors_have_length_one_and_depend_on_the_text_alone(text: str, dimensions: int) -> None:
    first = build_vector(text, dimensions)
    assert first == build_vector(text, dimensions) and len(first) == dimensions
    assert sum(value * value for value in first) == pytest.approx(1)
