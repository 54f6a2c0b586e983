"""A reply constrained to a schema is read as a call for any chunk boundaries; the schema bounds all lengths."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from archwright.http_client.sse import ServerSentEvent
from archwright.serving.events.engine_events import DONE_MARK
from archwright.serving.events.schema_bounds import SCHEMA_BOUNDS, bound_schemas
from archwright.serving.events.tool_call_emulation import ToolCallReader, emulate_tools, involves_tools
from archwright.serving.http.errors import ApiError

from ...drawing import draw

USER = {"role": "user", "content": "hi"}
PLACE = {"type": "object", "properties": {"street": {"type": "string"}}, "required": ["street"]}
NODE: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "below": {"type": "array", "items": {"$ref": "#"}}},
}


def tool(name: str, parameters: Any = None) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters or PLACE}}


def asked(**changes: Any) -> dict[str, Any]:
    return {"messages": [USER], "max_tokens": 200, "tools": [tool("f"), tool("g")], **changes}


def cut(whole: str, data: st.DataObject) -> list[str]:
    places = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    return [whole[a:b] for a, b in pairwise([0, *places, len(whole)])]


def event(finish: str | None = None, **delta: Any) -> ServerSentEvent:
    return ServerSentEvent("", json.dumps({"choices": [{"delta": delta, "finish_reason": finish}]}).encode())


def told(pieces: list[str], finish: str = "stop", *, structured: bool = False) -> tuple[str, str, str, str | None]:
    """Return the text, the call's name and arguments, and the finish reason."""
    reader = ToolCallReader(structured=structured)
    text = name = arguments = ""
    found = None
    for one in [*(event(content=piece) for piece in pieces), event(finish), ServerSentEvent("", DONE_MARK)]:
        for seen in reader.read(one):
            for choice in seen.choices or ():
                assert choice.delta is not None
                text += choice.delta.content or ""
                found = choice.finish_reason or found
                for call in choice.delta.tool_calls or ():
                    assert call.function is not None and call.index == 0
                    name += call.function.name or ""
                    arguments += call.function.arguments or ""
    assert reader.done
    return text, name, arguments, found


@draw(50, 300)
@given(
    st.dictionaries(st.text(max_size=4), st.recursive(st.text() | st.integers(), lambda v: st.lists(v)), max_size=3),
    st.data(),
    st.booleans(),
    st.sampled_from(["", " ", "\n  "]),
)
def test_a_call_cut_anywhere(given: dict[str, Any], data: st.DataObject, ascii_only: bool, blank: str) -> None:
    body = json.dumps(given, ensure_ascii=ascii_only)
    whole = f'{blank}{{{blank}"name"{blank}:{blank}"f",{blank}"arguments":{blank}{body}{blank}}}{blank}'
    text, name, arguments, finish = told(cut(whole, data))
    assert (text, name, finish) == ("", "f", "tool_calls")
    assert json.loads(arguments) == given


@draw(50, 300)
@given(st.text(), st.data(), st.booleans())
def test_an_answer_cut_anywhere(said: str, data: st.DataObject, ascii_only: bool) -> None:
    whole = json.dumps({"answer": said}, ensure_ascii=ascii_only)
    assert told(cut(whole, data)) == (said, "", "", "stop")


def test_a_call_that_was_cut_off_says_so() -> None:
    assert told(['{"name": "f", "arguments": {"a": "xy'], "length") == ("", "f", '{"a": "xy', "length")
    assert told(['{"name": "f'], "length") == ("", "", "", "length")


def test_what_is_no_choice_passes() -> None:
    reader = ToolCallReader()
    (only,) = reader.read(ServerSentEvent("", b'{"choices": [], "usage": {"completion_tokens": 3}}'))
    assert only.usage == {"completion_tokens": 3}
    first, _ = reader.read(event(reasoning_content="hm"))
    assert first.choices is not None and first.choices[0].delta is not None
    assert first.choices[0].delta.reasoning_content == "hm"


def test_the_request_names_the_tools_and_holds_the_reply_to_them() -> None:
    system = {"role": "system", "content": "Be brief."}
    body, reader = emulate_tools(asked(messages=[system, USER], tool_choice="required", parallel_tool_calls=True))
    assert reader is not None
    assert set(body) == {"messages", "max_tokens", "response_format"}
    assert body["messages"][0]["content"].startswith("Be brief.\n\nYou can call")
    assert body["messages"][1:] == [USER]
    schema = body["response_format"]["json_schema"]["schema"]
    assert [form["properties"]["name"]["const"] for form in schema["anyOf"]] == ["f", "g"]
    named, _ = emulate_tools(asked(tool_choice={"type": "function", "function": {"name": "g"}}))
    assert named["response_format"]["json_schema"]["schema"]["properties"]["name"] == {"const": "g"}
    free, _ = emulate_tools(asked())
    assert list(free["response_format"]["json_schema"]["schema"]["anyOf"][2]["properties"]) == ["answer"]
    assert "answer" in free["messages"][0]["content"]


def test_history_is_told_in_words() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"street": "x"}'}}
    said = {"role": "assistant", "content": "well", "tool_calls": [call]}
    history = [USER, said, {"role": "tool", "tool_call_id": "c", "content": "7"}]
    body, reader = emulate_tools(asked(messages=history, tool_choice="none"))
    assert reader is None
    assert involves_tools({"messages": history}) and not involves_tools({"messages": [USER]})
    called = {"role": "assistant", "content": 'well\n{"name": "f", "arguments": {"street": "x"}}'}
    assert body["messages"] == [USER, called, {"role": "user", "content": "Result of c: 7"}]
    assert set(body) == {"messages", "max_tokens"}


def test_log_probabilities_are_those_of_no_such_reply() -> None:
    with pytest.raises(ApiError) as caught:
        emulate_tools(asked(logprobs=True))
    assert (caught.value.status, caught.value.param) == (400, "logprobs")


def test_an_answer_beside_the_tools_is_held_to_the_format() -> None:
    wanted = {"type": "json_schema", "json_schema": {"name": "n", "schema": NODE}}
    body, _reader = emulate_tools(asked(response_format=wanted))
    told_schema = body["response_format"]["json_schema"]["schema"]
    Draft202012Validator.check_schema(told_schema)
    fits = Draft202012Validator(told_schema).is_valid
    assert fits({"answer": {"name": "a", "below": [{"name": "b"}]}})
    assert fits({"name": "g", "arguments": {"street": ""}})
    assert not fits({"answer": "text"}) and not fits({"answer": {"below": [{"name": 7}]}})
    assert json.dumps(NODE, separators=(",", ":")) in body["messages"][0]["content"]
    free = emulate_tools(asked(response_format={"type": "json_object"}))[0]["response_format"]["json_schema"]["schema"]
    assert Draft202012Validator(free).is_valid({"answer": {"any": 1}})
    made = emulate_tools(asked(response_format=wanted, tool_choice="required"))
    assert made[0] == emulate_tools(asked(tool_choice="required"))[0]


@draw(50, 100)
@given(st.dictionaries(st.text(max_size=4), st.text() | st.integers(), max_size=3), st.data(), st.booleans())
def test_a_formed_answer_cut_anywhere(said: dict[str, Any], data: st.DataObject, blank: bool) -> None:
    whole = json.dumps({"answer": said}, indent=2 if blank else None)
    text, name, arguments, finish = told(cut(whole, data), structured=True)
    assert (json.loads(text), name, arguments, finish) == (said, "", "", "stop")


@pytest.mark.parametrize("tokens", [60, 200, 4000])
def test_open_ends_are_bounded_by_the_reply(tokens: int) -> None:
    given = {
        "names": {"type": "array", "items": {"type": "string"}},
        "note": {"type": ["string", "null"]},
        "short": {"type": "string", "maxLength": 3},
        "kind": {"type": "string", "enum": ["a", "b"]},
    }
    (placed,), defined = bound_schemas([{"type": "object", "properties": given}], tokens)
    fields = placed["properties"]
    characters, items = fields["note"]["maxLength"], fields["names"]["maxItems"]
    assert (characters, items) in SCHEMA_BOUNDS
    assert characters * (items + 1) < max(tokens, 40)
    assert fields["names"]["items"]["maxLength"] == characters
    assert fields["short"]["maxLength"] == 3 and "maxLength" not in fields["kind"] and not defined
    Draft202012Validator.check_schema(placed)


def test_references_begin_where_the_tool_now_stands() -> None:
    shared = {"type": "object", "properties": {"at": {"$ref": "#/$defs/P"}}, "$defs": {"P": PLACE}}
    found, defined = bound_schemas([PLACE, shared, NODE], 500)
    assert found[1:] == [{"$ref": "#/$defs/tool1"}, {"$ref": "#/$defs/tool2"}]
    assert defined["tool1"]["properties"]["at"] == {"$ref": "#/$defs/tool1/$defs/P"}
    assert defined["tool2"]["properties"]["below"]["items"] == {"$ref": "#/$defs/tool2"}
    # A recursive schema has no longest document, so it gets the smallest bound.
    assert defined["tool2"]["properties"]["name"]["maxLength"] == SCHEMA_BOUNDS[-1].characters
    validator = Draft202012Validator({"$ref": "#/$defs/tool1", "$defs": defined})
    assert validator.is_valid({"at": {"street": "x"}})
    assert not validator.is_valid({"at": {"street": 7}})


@pytest.mark.parametrize(
    "odd",
    [
        {"type": "object", "properties": 7, "anyOf": 3, "enum": {}},
        {"type": [], "items": 5, "maxItems": "many", "$ref": 7},
        {"type": "object", "properties": {n: {"$ref": "#"} for n in "abcdefgh"}},
        {"$ref": "#/$defs/nowhere"},
        {"type": "array", "items": [{"type": "string"}], "minItems": 99},
    ],
)
def test_odd_schemas_are_the_engines_to_refuse(odd: dict[str, Any]) -> None:
    found, _ = bound_schemas([odd], 100)
    assert len(found) == 1
