"""Engines accept anything; the gateway accepts only the interface and names the invalid field."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from archwright.contract.record import replace
from archwright.policy.usage_limits import TEMPLATE_TOKENS
from archwright.serving.admission.metering import estimate_worst_case
from archwright.serving.http.errors import ApiError
from archwright.serving.providers.anthropic import to_messages_request
from archwright.serving.requests.field_checks import decode_body
from archwright.serving.requests.model_resolution import ModelDirectory
from archwright.serving.requests.request_validation import (
    PAIR_TOKENS,
    GenerationRequest,
    validate_chat,
    validate_completion,
    validate_embedding,
    validate_rerank,
)
from archwright.serving.settings.engine_fields import rules_of_engine

from ..conftest import Entry, directory, endpoint

Validate = Callable[[Mapping[str, Any], ModelDirectory, str | None], GenerationRequest]


def spec(model: str, workload: str, **changes: Any) -> Entry:
    return endpoint(model=model, workload=workload, **{"pool": workload, "context_tokens": 100, **changes})


DIRECTORY = directory(
    spec("m", "desk"),
    spec("m", "night", default_max_tokens=4),
    spec("v", "search", embeddings=True, engine_model="vendor/v"),
    spec("r", "rank", rerank=True, engine_model="vendor/r"),
)
TUNED = directory(spec("m", "desk", version="desk@v2"), spec("m", "night"), spec("m", "late", version="late@v1"))
HELLO = [{"role": "user", "content": "hello"}]
SCHEMA = {"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "object"}}}


def nested(depth: int) -> dict[str, Any]:
    node: dict[str, Any] = {"type": "object"}
    for _ in range(depth):
        node = {"properties": node}
    return node


def with_schema(schema: object) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}


def message(**fields: Any) -> list[dict[str, Any]]:
    return [{"role": "user", "content": "x", **fields}]


def tool(**changes: Any) -> list[dict[str, Any]]:
    return [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}, **changes}}]


def called(**changes: Any) -> dict[str, Any]:
    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}, **changes}
    return {"role": "assistant", "content": None, "tool_calls": [call]}


def rows(param: str, *values: Any, field: str = "") -> list[tuple[dict[str, Any], str]]:
    """Invalid values of `field` (default: `param`), with the `param` that the error names."""
    return [({field or param: value}, param) for value in values]


SCHEMA_AT = "response_format.json_schema.schema"
CACHED = {"cache_control": {"type": "ephemeral"}}
ONE_WRONG: dict[str, Any] = {
    **{"top_k": -1, "min_p": 2, "presence_penalty": 3, "frequency_penalty": -2.5, "logprobs": 1, "top_logprobs": 3},
    **{"store": True, "service_tier": "flex", "modalities": ["audio"], "functions": [1], "reasoning_effort": "high"},
    **{"ignore_eos": "yes", "cache_prompt": 0, "temprature": 1, "prompt": "x", "max_completion_tokens": 0},
    **{"tool_choice": "auto", "stream_options": {"include_usage": True}},
}
WRONG_PARTS: list[Any] = [
    *("x", {"type": "text"}, {"type": "text", "text": "a", "colour": 1}),
    {"type": "image_url", "image_url": {"url": "x"}},
]
WRONG_CHAT: list[tuple[dict[str, Any], str]] = [
    *rows("messages", None, [], "hello", {}),
    ({"messages": ["hello"]}, "messages[0]"),
    *rows("messages[0].role", [{"content": "x"}], message(role="wizard"), field="messages"),
    *rows("messages[0].role", message(role=["user"]), message(role="function"), field="messages"),
    ({"messages": message(role=None)}, "messages[0].role"),
    ({"messages": message(role="tool")}, "messages[0].tool_call_id"),
    ({"messages": [*HELLO, {"role": "user"}]}, "messages[1].content"),
    *rows("messages[0].content", message(content=None), message(content=7), field="messages"),
    ({"messages": message(content=[])}, "messages[0].content"),
    *(({"messages": message(content=[part])}, "messages[0].content[0]") for part in WRONG_PARTS),
    ({"messages": message(content=[{"type": "text", "text": 1}])}, "messages[0].content[0].text"),
    ({"messages": message(content=[{"type": "text", "text": "a"}, {"type": "input_audio"}])}, "messages[0].content[1]"),
    ({"messages": message(colour="red")}, "messages[0].colour"),
    ({"messages": message(name=1)}, "messages[0].name"),
    ({"messages": message(role="assistant", tool_calls=[{"id": "1"}])}, "messages[0].tool_calls[0]"),
    *rows("max_tokens", 0, -1, 1.5, True, "5", 101, 10**30),
    ({"max_completion_tokens": 5, "max_tokens": 6}, "max_completion_tokens"),
    *rows("temperature", -0.1, 2.1, "hot", True, 10**400),
    *rows("top_p", 1.01, []),
    *(({name: value}, name) for name, value in ONE_WRONG.items()),
    *rows("stop", 5, "", ["a", "b", "c", "d", "e"], "x" * 600),
    ({"stop": ["a", ""]}, "stop[1]"),
    *rows("seed", "x", 1.0, 2**63),
    *rows("n", 2, 0, True),
    *rows("stream", "yes", 1),
    ({"stream": True, "stream_options": []}, "stream_options"),
    *(
        ({"stream": True, "stream_options": {name: 1}}, f"stream_options.{name}")
        for name in ("include_usage", "includeusage")
    ),
    ({"response_format": "json"}, "response_format"),
    *rows("response_format.type", {"type": "xml"}, {"type": ["text"]}, field="response_format"),
    ({"response_format": {"type": "text", "more": 1}}, "response_format.more"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}}, "response_format.json_schema.schema"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}, "response_format.json_schema.name"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": {}, "x": 1}}},
        f"{SCHEMA_AT[:-7]}.x",
    ),
    *rows(SCHEMA_AT, with_schema([]), with_schema(nested(70)), field="response_format"),
    ({"response_format": with_schema({"enum": list(range(6000))})}, SCHEMA_AT),
    *(({"logprobs": True, "top_logprobs": count}, "top_logprobs") for count in (21, -1)),
    *rows("logit_bias", [], {"a": 1}, {"²": 1}, {"5": 101}, {"5": None}, {str(i): 1 for i in range(2000)}),
    *rows("user", 1, "u" * 600),
    *rows("metadata", {"a": 1}, []),
    ({"messages": message(reasoning_content="x")}, "messages[0].reasoning_content"),
    ({"messages": message(role="assistant", reasoning_content=[7])}, "messages[0].reasoning_content"),
    *rows("tools[0]", [{"type": "function"}], [{"type": "custom", "custom": {"name": "x"}}], field="tools"),
    *rows("tools", {"type": "function"}, tool() * 129),
    ({"tools": tool(name="a b")}, "tools[0].function.name"),
    *rows("tools[0].function.parameters", tool(parameters=[]), tool(parameters=nested(70)), field="tools"),
    ({"tools": tool(strict="yes")}, "tools[0].function.strict"),
    ({"tools": tool(colour="red")}, "tools[0].function.colour"),
    ({"tools": tool(), "tool_choice": "always"}, "tool_choice"),
    ({"tools": tool(), "tool_choice": {"type": "function", "function": {"name": "g"}}}, "tool_choice"),
    ({"tools": tool(), "tool_choice": {"type": "function", "name": "f"}}, "tool_choice"),
    ({"tools": tool(), "parallel_tool_calls": 1}, "parallel_tool_calls"),
    ({"messages": [called(id=None)]}, "messages[0].tool_calls[0].id"),
    ({"messages": [called(function={"name": "f"})]}, "messages[0].tool_calls[0].function.arguments"),
    ({"messages": [called(function={"name": "f f", "arguments": ""})]}, "messages[0].tool_calls[0].function.name"),
    ({"messages": message(tool_calls=called()["tool_calls"])}, "messages[0].tool_calls"),
    ({"x" * 500: 1}, "x" * 80),
    *rows("model", None, 5, "m" * 500),
]


WRONG_COMPLETION: list[tuple[dict[str, Any], str]] = [
    *rows("prompt", None, "", [], [""], [1, "a"], [[1], "a"], [[]], [-1], [2**31], ["a"] * 129, {"a": 1}),
    *rows("logprobs", 6, True),
    *(({name: value}, name) for name, value in {"echo": True, "best_of": 2, "suffix": "x", "messages": HELLO}.items()),
]


WRONG_EMBEDDING: list[tuple[dict[str, Any], str]] = [
    *rows("input", None, "", [], ["a", ""], [-1], [True], [1.0], [1, "a"], [[1], []], [[1], "a"], [1, [1]]),
    *rows("input", [[[1]]], [2**31], [[1], [2**70]], [[1]] * 3000, [1] * 100_000, ["a"] * 3000),
    *rows("encoding_format", "int8"),
    *(({name: value}, name) for name, value in {"dimensions": 8, "model": "m", "inputs": "x"}.items()),
]


RANKED = {"model": "r", "query": "x", "documents": ["x"]}
WRONG_RERANK: list[tuple[dict[str, Any], str]] = [
    *rows("query", None, "", 5, ["x"]),
    *rows("documents", None, [], "x", ["x"] * 1_025, {"text": "x"}),
    *rows("documents[1]", ["x", 5], ["x", ""], ["x", None], field="documents"),
    *rows("documents[0].text", [{"text": ""}], [{}], [{"text": 7}], field="documents"),
    ({"documents": ["x", {"text": "y", "title": "z"}]}, "documents[1].title"),
    *rows("top_n", 0, -1, 1.5, True, "1"),
    *rows("return_documents", 1, "yes"),
    *(({name: value}, name) for name, value in {"model": "v", "max_tokens": 1, "priority": 1}.items()),
    ({"truncate_prompt_tokens": 9}, "truncate_prompt_tokens"),
]


WRONG = [
    *((validate_chat, {"model": "m", "messages": HELLO, **changes}, param) for changes, param in WRONG_CHAT),
    *((validate_completion, {"model": "m", "prompt": "x", **changes}, param) for changes, param in WRONG_COMPLETION),
    *((validate_embedding, {"model": "v", "input": "x", **changes}, param) for changes, param in WRONG_EMBEDDING),
    *((validate_rerank, {**RANKED, **changes}, param) for changes, param in WRONG_RERANK),
]


@pytest.mark.parametrize(("check", "body", "param"), WRONG, ids=[str(body)[:60] for _, body, _ in WRONG])
def test_an_invalid_field_is_named(check: Validate, body: dict[str, Any], param: str) -> None:
    with pytest.raises(ApiError) as caught:
        check(body, DIRECTORY, None)
    assert (caught.value.status, caught.value.param) == (400, param)
    assert param in caught.value.message and caught.value.openai_code


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"{", b"[]", b"3", b"null", b'"text"', b"\xff\xfe", b"\xef\xbb\xbf{}", b"\x00", b'{"a": 1} {"b": 2}'),
        *(b'{"a": %b}' % value for value in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b'"\xff"', b'"\\ud800"')),
        *(b'{"a":' * 100_000, b"[" * 100_000, b'{"a": ' + b"[" * 5_000 + b"]" * 5_000 + b"}"),
    ],
    ids=range(19),
)
def test_a_body_that_is_no_json_object(data: bytes) -> None:
    with pytest.raises(ApiError) as caught:
        decode_body(data)
    assert caught.value.status == 400


def test_text_that_no_encoding_can_hold_is_named() -> None:
    assert decode_body(b'{"a": "\\ud83d\\ude00 \\\\ud800"}') == {"a": "\U0001f600 \\ud800"}
    for text, reason in [
        (b"\\ud800", "the escape \\ud800 is one half"),
        (b"\\uD83D\\uDE00 \\uDBFF!", "the escape \\uDBFF is one half"),
        (b"\\ude00", "the escape \\ude00 is one half"),
        (b"\xed\xa0\x80", "it is not UTF-8"),
        (b'\\ud83d\\ude00 \\\\ud800", ', "truncated"),
    ]:
        with pytest.raises(ApiError) as caught:
            decode_body(b'{"a": "%b"}' % text)
        assert reason in caught.value.message


@pytest.mark.parametrize("check", [validate_chat, validate_completion])
def test_a_model_that_writes_no_text_says_what_it_does(check: Validate) -> None:
    only = directory(spec("v", "x", embeddings=True, generates=False), spec("r", "y", rerank=True, generates=False))
    for model, reason in [("v", "only embeds texts, at /v1/embeddings"), ("r", "only ranks documents, at /v1/rerank")]:
        with pytest.raises(ApiError) as caught:
            check({"model": model, "messages": HELLO, "prompt": "x"}, only, None)
        assert (caught.value.status, caught.value.param) == (400, "model")
        assert reason in caught.value.message and caught.value.openai_code == "unsupported_model"


@pytest.mark.parametrize("check", [validate_chat, validate_completion, validate_embedding, validate_rerank])
def test_unknown_model_is_404(check: Validate) -> None:
    with pytest.raises(ApiError) as caught:
        check({**RANKED, "model": "nobody", "messages": HELLO, "prompt": "x", "input": "x"}, DIRECTORY, None)
    assert (caught.value.status, caught.value.openai_code, caught.value.param) == (404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("model", "workload", "default"),
    [("m", None, 16), ("desk", None, 16), ("night", None, 4), ("m", "night", 4), ("m", "desk", 16)],
)
def test_model_or_workload_chooses_the_endpoint(model: str, workload: str | None, default: int) -> None:
    question = validate_chat({"model": model, "messages": HELLO}, DIRECTORY, workload)
    assert (question.model, question.body["model"], question.body["max_tokens"]) == (model, "m", default)


def test_a_name_of_a_workload_means_that_workload_first() -> None:
    """A loaded model is an endpoint under its own name and under each alias."""
    found = directory(endpoint(workload="fast", model="small"), endpoint(workload="small", model="small"))
    assert [spec.workload for spec in found.resolve("small", None).endpoints] == ["small", "fast"]
    assert found.resolve("fast", None).endpoints[0].workload == "fast"


def test_a_workload_that_does_not_use_the_model_is_404() -> None:
    with pytest.raises(ApiError, match="for the workload") as caught:
        validate_chat({"model": "m", "messages": HELLO}, DIRECTORY, "search")
    assert caught.value.status == 404


SCREENSHOT = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}}
LABEL = {"type": "text", "text": "Images of the tool result a:"}


def result(call: str, *content: Any) -> dict[str, Any]:
    return {"role": "tool", "tool_call_id": call, "content": [{"type": "text", "text": "7"}, *content]}


@pytest.mark.parametrize(
    ("after", "sent"),
    [
        ([], [{"role": "user", "content": [LABEL, SCREENSHOT]}]),
        (HELLO, [{"role": "user", "content": [LABEL, SCREENSHOT, {"type": "text", "text": "hello"}]}]),
        (message(content=[SCREENSHOT]), [{"role": "user", "content": [LABEL, SCREENSHOT, SCREENSHOT]}]),
        (
            [{"role": "assistant", "content": "so"}, *HELLO],
            [{"role": "user", "content": [LABEL, SCREENSHOT]}, {"role": "assistant", "content": "so"}, *HELLO],
        ),
    ],
)
def test_images_of_a_tool_move_to_the_user_message_that_follows(after: list[Any], sent: list[Any]) -> None:
    found = directory(spec("m", "desk", addresses=("http://e/v1",), vision=True))
    turns = [*HELLO, called(id="a"), result("a", SCREENSHOT), result("b"), *after]
    request = validate_chat({"model": "m", "messages": turns}, found, None)
    texts = [{"role": "tool", "content": "7", "tool_call_id": call} for call in ("a", "b")]
    assert request.body["messages"] == [*HELLO, called(id="a"), *texts, *sent]
    assert request.parts.images == str(sent).count("aGk=")


def test_images_of_a_tool_stay_for_a_provider_that_takes_them() -> None:
    found = directory(spec("m", "desk", addresses=("http://e/v1",), vision=True, protocol="anthropic"))
    request = validate_chat({"model": "m", "messages": [*HELLO, result("a", SCREENSHOT)]}, found, None)
    image = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
    (user,) = to_messages_request(request.body)["messages"]
    assert user["content"][1] == {
        "type": "tool_result",
        "tool_use_id": "a",
        "content": [{"type": "text", "text": "7"}, image],
    }
    with pytest.raises(ApiError, match="takes text only"):
        validate_chat({"model": "m", "messages": [*HELLO, result("a", SCREENSHOT)]}, DIRECTORY, None)


def test_chat_body_for_the_engine() -> None:
    asked = {
        "model": "m",
        "messages": [
            {"role": "developer", "content": "be brief", "name": "ops"},
            {"role": "assistant", "content": "yes", "refusal": None, "tool_calls": None, "annotations": []},
            {"role": "assistant", "content": "so", "reasoning_content": "of our reply", "reasoning": None},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b", **CACHED}]},
        ],
        "max_completion_tokens": 7,
        "prompt_cache_retention": "24h",
        **{"temperature": 1, "stop": "x", "seed": -1, "response_format": SCHEMA, "logprobs": True},
        **{"user": "u", "metadata": {"a": "b"}, "store": False, "tools": [], "functions": [], "n": 1, "top_p": None},
        **{"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}},
    }
    question = validate_chat(asked, DIRECTORY, None)
    assert question.body == {
        "model": "m",
        "messages": [
            {"role": "system", "content": "be brief"},
            {"role": "assistant", "content": "yes"},
            {"role": "assistant", "content": "so", "reasoning_content": "of our reply"},
            {"role": "user", "content": "ab"},
        ],
        **{"max_tokens": 7, "temperature": 1.0, "stop": ["x"], "seed": 2**32 - 2},
        **{"response_format": SCHEMA, "logprobs": True, "top_logprobs": 1},
    }
    assert (question.stream, question.include_usage, question.top_logprobs) == (True, True, 0)
    assert question.work_tokens == 7 + 15 // 4


def test_a_cancelled_request_is_charged_for_all_that_the_engine_reads() -> None:
    """An engine that was stopped reports no usage, so an estimate is charged."""
    text = "word " * 50
    function = {"name": "f", "description": text}
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": json.dumps(text)}}
    called = [*HELLO, {"role": "assistant", "tool_calls": [call]}, {"role": "tool", "tool_call_id": "a", "content": ""}]
    schema = {"type": "object", "description": text}
    for more in (
        {"tools": [{"type": "function", "function": function}]},
        {"messages": called},
        {"response_format": {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}},
    ):
        body = {"model": "m", "messages": HELLO, **more}
        worst = estimate_worst_case(validate_chat(body, DIRECTORY, None), len(json.dumps(body)))
        assert worst.input_estimate >= len(text) // 4, more


@pytest.mark.parametrize("given", [{"type": "json_object"}, SCHEMA, {"type": "text"}])
def test_response_formats_pass(given: dict[str, Any]) -> None:
    body = validate_chat({"model": "m", "messages": HELLO, "response_format": given}, DIRECTORY, None).body
    assert body.get("response_format") == (None if given["type"] == "text" else given)


def test_how_the_answer_comes_is_not_part_of_the_question() -> None:
    question = validate_completion({"model": "m", "prompt": ["x"], "logprobs": 0, "echo": False}, DIRECTORY, None)
    assert "stream" not in question.body and "stream_options" not in question.body
    assert question.stream is False
    assert (question.body["prompt"], question.body["logprobs"], question.top_logprobs) == ("x", 1, 0)


def test_embedding_body_for_the_engine() -> None:
    sent = {"model": "v", "input": "x", "encoding_format": "base64", "user": "u"}
    question = validate_embedding(sent, DIRECTORY, None)
    assert question.body == {"model": "v", "input": ["x"], "encoding_format": "float"}
    assert question.base64
    assert not validate_embedding({"model": "search", "input": ["x", "y"]}, DIRECTORY, None).base64


def test_token_ids_are_as_many_tokens_as_there_are() -> None:
    alone, more = ({"model": "v", "input": given} for given in ([5, 0, 2**31 - 1], [[1, 2], [3]]))
    question = validate_embedding(alone, DIRECTORY, None)
    assert question.body["input"] == [alone["input"]]
    assert (question.input_tokens, question.contexts, question.work_tokens) == (3, 1, 3)
    question = validate_embedding(more, DIRECTORY, None)
    assert question.body["input"] == more["input"]
    assert (question.input_tokens, question.contexts) == (3, 2)
    texts = validate_embedding({"model": "v", "input": ["x", "y"]}, DIRECTORY, None)
    assert (texts.input_tokens, texts.contexts) == (None, 2)


def test_refusals_are_openai_errors_with_a_suggestion() -> None:
    for name, code, text in (
        ("temperature", "invalid_value", "'temperature': expected float <= 2.0"),
        ("temprature", "unknown_parameter", "unknown field 'temprature'; did you mean 'temperature'?"),
    ):
        with pytest.raises(ApiError) as caught:
            validate_chat({"model": "m", "messages": HELLO, name: 9}, DIRECTORY, None)
        error = {"message": text, "type": "invalid_request_error", "code": code, "param": name}
        assert json.loads(caught.value.encode_body()) == {"error": error}


@pytest.mark.parametrize(
    ("model", "workload", "endpoint", "plain"),
    [
        ("desk", None, "desk", False),
        ("m", None, "night", True),
        ("m", "desk", "desk", False),
        ("late", None, "late", False),
    ],
)
def test_the_models_own_name_means_the_model_itself(
    model: str, workload: str | None, endpoint: str, plain: bool
) -> None:
    """A pool without an adapter serves the model best. The name of a workload means its version."""
    question = validate_chat({"model": model, "messages": HELLO}, TUNED, workload)
    assert (question.endpoint.workload, question.plain) == (endpoint, plain)
    assert TUNED.names == ("m", "desk", "night", "late")


def test_rerank_body_for_the_engine() -> None:
    sent = {**RANKED, "query": "où?", "documents": ["aa", {"text": "b"}], "top_n": 1, "return_documents": True}
    question = validate_rerank(sent, DIRECTORY, None)
    assert question.body == {"model": "r", "query": "où?", "documents": ["aa", "b"]}
    assert (question.top_n, question.return_documents, question.contexts) == (1, True, 2)
    # The engine reads the query with each document.
    assert (question.prompt_characters, question.repeated_bytes) == (9, 4 + 2 * PAIR_TOKENS)
    assert estimate_worst_case(question, 60).tokens == 2 * 100
    roomy = replace(question, endpoint=replace(question.endpoint, input_bound=4_096))
    assert estimate_worst_case(roomy, 60).tokens == 60 + 4 + 2 * PAIR_TOKENS + TEMPLATE_TOKENS
    assert validate_rerank({**RANKED, "model": "rank", "top_n": None}, DIRECTORY, None).top_n is None


def test_classifiers_are_no_models_of_a_generation() -> None:
    both = directory(spec("m", "desk"), spec("wear", "wear", kind="predict", version="wear@v1"))
    assert both.names == ("m", "desk")
    with pytest.raises(ApiError):
        both.resolve("wear", None)
    found = both.find_classifier("wear")
    assert found is not None and (found.kind, found.workload) == ("predict", "wear")
    assert both.find_classifier("desk") is None


ABROAD = directory(
    spec("far", "there", addresses=("https://e/v1",), vision=True, embeddings=True),
    spec("blind", "blind", addresses=("https://e/v1",)),
    spec("other", "other", addresses=("https://a/v1",), protocol="anthropic"),
    spec("sees", "sees", vision=True),
)
CHOICE = {"type": "custom", "custom": {"name": "x"}}
SOUND = {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "wav"}}
PICTURE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGVsbG8=", "detail": "high"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"n": 3},
        {"user": "u", "metadata": {"a": "b"}, "store": True, "service_tier": "flex", "seed": -1},
        {"reasoning_effort": "high", "verbosity": "low", "prediction": {"type": "content", "content": "x"}},
        {"repetition_penalty": 1.1, "stop_token_ids": [1], "chat_template_kwargs": {"enable_thinking": False}},
        {"tools": [{"type": "custom", "custom": {"name": "x"}}], "tool_choice": CHOICE},
        {"tools": tool(strict=True, description="d"), "parallel_tool_calls": False},
        {"messages": [{"role": "developer", "content": "x", "name": "n"}]},
        {"messages": [{**called(), "refusal": "no"}]},
        {"messages": message(content=[SOUND, PICTURE])},
        {"messages": message(content=[{"type": "text", "text": "x", "annotated": 1}, PICTURE]), "logit_bias": {"5": 1}},
    ],
    ids=str,
)
def test_what_the_rows_name_passes_to_a_url(fields: dict[str, Any]) -> None:
    body = validate_chat({"model": "far", "messages": HELLO, **fields}, ABROAD, None).body
    kept = {name: value for name, value in fields.items() if name != "messages"}
    assert {name: body[name] for name in kept} == kept
    for given, sent in zip(fields.get("messages", ()), body["messages"], strict=False):
        assert {name: sent[name] for name in given if name != "content"} == {
            name: value for name, value in given.items() if name != "content"
        }


LONGER = ({"n_predict": 9}, {"max_new_tokens": 9}, {"n_cmpl": 9}, {"use_beam_search": True}, {"best_of": 2})
NEVER = [name for name, rule in rules_of_engine("openai")["chat"].fields.items() if rule.handling == "never"]
OPERATED = [{name: {"x": 1}} for name in sorted(NEVER)]


@pytest.mark.parametrize("fields", [*LONGER, {"best_of": 3, "n": 2}, *OPERATED], ids=str)
@pytest.mark.parametrize(
    ("body", "check"), [({"messages": HELLO}, validate_chat), ({"prompt": "x"}, validate_completion)]
)
def test_nothing_exceeds_the_reservation_or_operates_the_engine(
    body: dict[str, Any], check: Validate, fields: dict[str, Any]
) -> None:
    name = next(iter(fields))
    with pytest.raises(ApiError) as caught:
        check({"model": "far", **body, **fields}, ABROAD, None)
    assert (caught.value.status, caught.value.param) == (400, name)
    if name in NEVER:
        assert check({"model": "far", **body, name: None}, ABROAD, None).body["model"] == "far"


def test_what_passes_still_has_to_be_well_formed() -> None:
    at = "messages[0].content[0]"
    for fields, param in (
        *(*rows("n", 0, 129), *rows("temperature", 3)),
        ({"messages": message(content=[{"type": "image_url"}])}, f"{at}.image_url"),
        ({"messages": message(content=[with_image("http://x/y.png")])}, f"{at}.image_url.url"),
        ({"messages": message(content=[with_image("data:text/html;base64,aa")])}, f"{at}.image_url.url"),
        ({"messages": message(content=[with_image("https://x/y", "fine")])}, f"{at}.image_url.detail"),
        ({"messages": message(role="system", content=[PICTURE])}, at),
    ):
        with pytest.raises(ApiError) as caught:
            validate_chat({"model": "far", "messages": HELLO, **fields}, ABROAD, None)
        assert (caught.value.status, caught.value.param) == (400, param)


def with_image(url: str, detail: str = "auto") -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, "detail": detail}}


def test_images_where_the_model_takes_them() -> None:
    body = {"messages": message(content=[PICTURE])}
    for model in ("far", "sees"):
        assert validate_chat({"model": model, **body}, ABROAD, None).body["messages"][0]["content"] == [PICTURE]
    for model in ("blind", "other"):
        with pytest.raises(ApiError, match="takes text only"):
            validate_chat({"model": model, **body}, ABROAD, None)


def test_one_choice_where_a_model_makes_one() -> None:
    for model in ("other", "sees"):
        assert "n" not in validate_chat({"model": model, "messages": HELLO, "n": 1}, ABROAD, None).body
        with pytest.raises(ApiError):
            validate_chat({"model": model, "messages": HELLO, "n": 2}, ABROAD, None)
    assert validate_chat({"model": "far", "messages": HELLO, "n": 2}, ABROAD, None).choices == 2


def test_dimensions_pass_to_a_url() -> None:
    sent = {"model": "far", "input": "x", "dimensions": 8, "encoding_format": "base64"}
    body = validate_embedding(sent, ABROAD, None).body
    assert (body["dimensions"], body["encoding_format"]) == (8, "float")


def test_a_context_that_an_engine_states_limits_requests_and_not_reservations() -> None:
    """The smaller context of an engine is no bound of what another pool reads, nor of what it charges."""
    small = endpoint(pool="small", addresses=("http://h/v1",), context_tokens=64).pool
    entry = endpoint(addresses=("http://h/v1",), context_tokens=0, default_max_tokens=4096, fallback=("small",))
    body = {"model": "m", "messages": [{"role": "user", "content": "x" * 8000}]}
    for contexts, length, limit in (({}, 8, 64), ({"p": 40}, 5, 40), ({"p": 99, "small": 9}, 8, 64)):
        directory = ModelDirectory([entry.pool, small], [entry.spec], contexts=contexts)
        (found,) = directory.endpoints
        assert (found.context_tokens, found.input_bound) == (limit, 1 << 20)
        chat = validate_chat(body, directory, None)
        assert (chat.max_tokens, chat.may_shorten) == (length, True)
        assert estimate_worst_case(chat, 8100).tokens == 8100 + TEMPLATE_TOKENS + length
        assert not validate_chat({**body, "max_tokens": 3}, directory, None).may_shorten
