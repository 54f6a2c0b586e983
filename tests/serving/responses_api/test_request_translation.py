"""Requests of the Responses interface as chats."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.serving.admission.metering import estimate_worst_case
from archwright.serving.events.responses_writer import ResponsesOptions
from archwright.serving.http.errors import ApiError
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.request_validation import GenerationRequest
from archwright.serving.responses_api.request_translation import translate_request

from ..conftest import Entry, directory, endpoint


def spec(model: str, address: str, **changes: Any) -> Entry:
    given: dict[str, Any] = {"pool": model, "context_tokens": 9000, **changes}
    return endpoint(model=model, workload=f"{model}-work", addresses=(address,), **given)


ENTRIES = (
    spec("m", "unix:e"),
    spec("far", "https://e/v1", vision=True),
    spec("native", "https://e/v1", vision=True, responses=True, engine_model="vendor", allow_fields=("colour",)),
    spec("dear", "https://e/v1", responses=True, price_in_usd=1e-6, price_out_usd=1e-6),
)
DIRECTORY = ModelDirectory([one.pool for one in ENTRIES], [one.spec for one in ENTRIES], ("pictures.example",))
PARAMETERS = {"type": "object", "properties": {}}
TOOL = {"type": "function", "name": "f", "description": "d", "parameters": PARAMETERS, "strict": False}
PNG = "data:image/png;base64,aGk="


def translate(**fields: Any) -> tuple[GenerationRequest, ResponsesOptions]:
    return translate_request({"model": "far", "input": "hi", **fields}, DIRECTORY, None)


def chat(**fields: Any) -> dict[str, Any]:
    return translate(**fields)[0].body


def call(call_id: str, name: str = "f", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "id": "fc", "call_id": call_id, "name": name, "arguments": "{}", **more}


def output(call_id: str, said: Any = "18") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": said}


def text(said: str, kind: str = "input_text") -> dict[str, Any]:
    return {"type": kind, "text": said}


def refused(**fields: Any) -> ApiError:
    with pytest.raises(ApiError) as caught:
        translate(**fields)
    assert caught.value.status == 400
    return caught.value


def test_a_text_is_a_chat() -> None:
    found, options = translate(instructions="Be brief.", max_output_tokens=5, stream=True, top_p=0.5)
    assert found.body == {
        "model": "far",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}],
        "max_tokens": 5,
        "top_p": 0.5,
    }
    assert found.stream and found.native is None
    assert (options.shown["max_output_tokens"], options.shown["top_p"], options.shown["store"]) == (5, 0.5, False)


def test_the_items_of_a_reply_are_one_message() -> None:
    thought = {"type": "reasoning", "id": "rs", "summary": [text("Hm", "summary_text")], "encrypted_content": "X"}
    said = {"type": "message", "role": "assistant", "id": "msg", "status": "completed", "phase": "commentary"}
    items = [
        {"role": "user", "content": "a"},
        thought,
        {**said, "content": [{**text("b", "output_text"), "annotations": [], "logprobs": []}]},
        call("1"),
        {"type": "reasoning", "summary": [], "content": [text("more", "reasoning_text")]},
        call("2", namespace="ns"),
        output("1"),
        output("2", [text("seen"), {"type": "input_image", "image_url": PNG}]),
        {"role": "assistant", "content": "c"},
        {"role": "assistant", "content": "d"},
        {"role": "developer", "content": "e"},
    ]
    first, reply, one, two, image, *rest = chat(input=items)["messages"]
    assert first == {"role": "user", "content": "a"}
    assert (reply["content"], reply["reasoning_content"]) == ("b", "Hm\n\nmore")
    assert [made["function"]["name"] for made in reply["tool_calls"]] == ["f", "ns__f"]
    assert one == {"role": "tool", "tool_call_id": "1", "content": "18"}
    assert two == {"role": "tool", "tool_call_id": "2", "content": "seen"}
    assert image["role"] == "user" and image["content"][1:] == [{"type": "image_url", "image_url": {"url": PNG}}]
    assert [(message["role"], message["content"]) for message in rest] == [
        ("assistant", "c"),
        ("assistant", "d"),
        ("developer", "e"),
    ]


def test_a_message_after_calls_joins_them() -> None:
    items = [call("1"), {"role": "assistant", "content": "b"}, {"role": "assistant", "content": "c"}, output("1")]
    reply, tool = chat(input=items)["messages"]
    assert reply["content"] == "bc" and len(reply["tool_calls"]) == 1 and tool["role"] == "tool"
    (image,) = chat(input=[output("1", [{"type": "input_image", "image_url": PNG}])])["messages"][1:]
    assert image["role"] == "user"


def test_a_refusal_comes_back() -> None:
    items = [{"role": "assistant", "content": [{"type": "refusal", "refusal": "no"}]}, {"role": "user", "content": "?"}]
    assert chat(input=items)["messages"][0] == {"role": "assistant", "content": None, "refusal": "no"}


def test_tools_and_the_choice_of_one() -> None:
    namespace = {"type": "namespace", "name": "ns", "description": "d", "tools": [{**TOOL, "name": "g"}]}
    custom = {"type": "custom", "name": "patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}}
    search = {"type": "web_search", "external_web_access": False}
    found, options = translate(tools=[TOOL, namespace, custom, search])
    function = {"name": "f", "description": "d", "parameters": PARAMETERS, "strict": False}
    grammar = {"type": "grammar", "grammar": {"syntax": "lark", "definition": "x"}}
    assert found.body["tools"] == [
        {"type": "function", "function": function},
        {"type": "function", "function": {**function, "name": "ns__g"}},
        {"type": "custom", "custom": {"name": "patch", "format": grammar}},
    ]
    assert options.namespaces == {"ns__g": ("ns", "g")}
    assert [tool["type"] for tool in options.shown["tools"]] == ["function", "namespace", "custom"]
    named = chat(tools=[TOOL], tool_choice={"type": "function", "name": "f"})
    assert named["tool_choice"] == {"type": "function", "function": {"name": "f"}}
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "f"}]}
    body = chat(tools=[TOOL, {**TOOL, "name": "h"}], tool_choice=allowed)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["f"] and body["tool_choice"] == "required"
    assert "tools" not in chat(tools=[{**search, "external_web_access": True}], tool_choice="auto")
    assert refused(tools=[{**search, "filters": {}}]).param == "tools[0].type"


def test_the_form_of_the_output() -> None:
    form = {"type": "json_schema", "name": "n", "schema": PARAMETERS, "strict": True}
    body = chat(text={"format": form, "verbosity": "low"}, reasoning={"effort": "high"}, top_logprobs=2)
    assert body["response_format"]["json_schema"] == {"name": "n", "schema": PARAMETERS, "strict": True}
    assert (body["verbosity"], body["reasoning_effort"]) == ("low", "high")
    assert (body["logprobs"], body["top_logprobs"]) == (True, 2)
    assert chat(text={"format": {"type": "json_object"}})["response_format"] == {"type": "json_object"}
    included = chat(include=["message.output_text.logprobs"])
    assert included["logprobs"] is True
    ours = chat(model="m", text={"verbosity": "low"}, reasoning={"effort": "high"})
    assert not {"verbosity", "reasoning_effort"} & set(ours), "hints that our engines do not take"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": "m", "input": [{"role": "user", "content": "a"}, {"role": "user", "content": [{"type": "input_file", "file_data": PNG}]}]}, "input[1].content[0].type"),  # noqa: E501
        ({"model": "m", "instructions": "s", "input": [{"role": "user", "content": [{"type": "input_image", "image_url": PNG}]}]}, "input[0].content[0]"),  # noqa: E501
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x/y.png"}]}]}, "input[0].content[0].image_url.url"),  # noqa: E501
        ({"input": []}, "input"),
        ({"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}, "input"),
        ({"input": [{"type": "function_call", "call_id": "1", "name": "f g", "arguments": ""}]}, "input[0].tool_calls[0].function.name"),  # noqa: E501
        ({"text": {"format": {"type": "xml"}}}, "text.format.type"),
        ({"tool_choice": {"type": "file_search"}, "tools": [TOOL]}, "tool_choice.type"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"reasoning": {"mode": "pro"}}, "reasoning.mode"),
        ({"stop": "x"}, "stop"),
        ({"model": "dear", "service_tier": "flex"}, "service_tier"),
    ],
)  # fmt: skip
def test_errors_name_the_field_of_this_interface(fields: dict[str, Any], param: str) -> None:
    error = refused(**fields)
    assert error.param == param and "messages" not in error.message


def test_an_engine_that_speaks_the_interface_gets_it() -> None:
    thought = {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "X"}
    image = {"type": "input_image", "image_url": PNG}
    items = [{"role": "user", "content": [text("a"), image]}, thought, call("1"), output("1")]
    search = {"type": "web_search", "external_web_access": False}
    fields: dict[str, Any] = {
        "input": items,
        "tools": [TOOL, search],
        "reasoning": {"effort": "high"},
        "store": True,
        "colour": "red",
    }
    found, options = translate(model="native", stream=True, truncation="auto", client_metadata={"a": "b"}, **fields)
    native = found.native
    assert native is not None and native["colour"] == "red"
    assert not {"store", "stream", "truncation", "client_metadata"} & set(native)
    assert options.shown["max_output_tokens"] == 16 and native["tools"] == [TOOL]
    assert [item["type"] for item in native["input"]] == [
        "message",
        "reasoning",
        "function_call",
        "function_call_output",
    ]
    assert not any("id" in item for item in native["input"]) and native["input"][1]["encrypted_content"] == "X"
    assert thought["id"] == "rs", "the body itself is not changed"
    assert options.shown["reasoning"] == {"effort": "high", "summary": None}
    none = translate(model="native", tools=[search], tool_choice="auto")[0].native
    assert none is not None and not {"tools", "tool_choice"} & set(none)
    far = {"type": "input_image", "image_url": "https://pictures.example/a.png"}
    fetched = translate(model="native", input=[{"role": "user", "content": [far]}])[0]
    assert fetched.native is None and fetched.parts.urls, "the gateway inserts the image into a chat"


def test_the_operator_cannot_allow_state() -> None:
    entry = spec("open", "https://e/v1", allow_fields=("background", "reasoning"))
    with pytest.raises(ApiError) as caught:
        translate_request({"model": "open", "input": "hi", "background": True}, directory(entry), None)
    assert caught.value.param == "background"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["type", "text", "a"]), inner, max_size=3)
    ),
    max_leaves=5,
)
ITEM = st.fixed_dictionaries(
    {},
    optional={
        "type": st.sampled_from(["message", "reasoning", "function_call", "function_call_output", "custom_tool_call"])
        | JSON,
        "role": st.sampled_from(["user", "assistant", "system"]) | JSON,
        "content": st.lists(
            st.fixed_dictionaries(
                {"type": st.sampled_from(["input_text", "refusal", "input_image"])},
                optional={"text": st.text(), "refusal": st.text(), "image_url": st.just(PNG) | st.text()},
            ),
            max_size=2,
        )
        | JSON,
        "call_id": st.text(max_size=3) | JSON,
        "name": st.just("f") | JSON,
        "arguments": st.just("{}") | JSON,
        "output": st.text(max_size=3) | JSON,
        "input": JSON,
        "summary": JSON,
    },
)


@pytest.mark.property
@given(st.lists(ITEM, max_size=5) | JSON, st.sampled_from(["m", "far", "native"]), JSON, JSON)
def test_any_input_is_a_chat_or_refused_by_name(items: Any, model: str, tools: Any, choice: Any) -> None:
    body = {"model": model, "input": items, "tools": tools, "tool_choice": choice}
    try:
        found, _ = translate_request(body, DIRECTORY, None)
    except ApiError as error:
        assert error.status == 400 and error.message
        return
    assert found.body["messages"]
    assert estimate_worst_case(found, len(msgspec.json.encode(body))).output_tokens == 16
