"""The context that an upstream has, and what is wrong with its configuration: for clients, in the log, for `status`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
from tests.serving.fake_provider import Place, Script, chat_events, standing_in, whole

from archwright.home import Home
from archwright.operate.gateway_record import list_upstream_problems
from archwright.serving.http.client_limits import ClientLimits

from .conftest import Platform, endpoint, free_port, running, table
from .official_clients import HELLO, anthropic_client, ask, openai_client

if TYPE_CHECKING:
    from .conftest import Reply

pytestmark = pytest.mark.enable_socket
MODELS = "/v1/models"
# Model -> its list of models and its properties.
LISTS: dict[str, dict[str, Script]] = {
    "listed": {MODELS: whole({"data": [{"id": "listed", "max_model_len": 2048}, {"id": "b", "max_model_len": 9}]})},
    "properties": {
        MODELS: whole({"data": [{"id": "/srv/x.gguf", "meta": {"n_ctx_train": 8192}}], "models": []}),
        "/props": whole({"default_generation_settings": {"n_ctx": 1024}}),
    },
    "silent": {MODELS: whole({"detail": "Not Found"}, 404)},
    "responses": {MODELS: whole({"detail": "Not Found"}, 404)},
    "odd": {MODELS: whole({"data": {"listed": 7}})},
    "absent": {MODELS: whole({"data": [{"id": "models/other:latest"}, {"id": "third"}]})},
    "keyless": {MODELS: whole({"error": {"message": "Incorrect API key provided: sk-vendor"}}, 401)},
}
PRICED = {"price_in_usd": 1e-6, "price_out_usd": 1e-5}
WELL = chat_events({"choices": [{"index": 0, "delta": {"content": "a"}, "finish_reason": "stop"}]})


@pytest.fixture(scope="module")
def places() -> Iterator[dict[str, Place]]:
    with ExitStack() as opened:
        yield {name: opened.enter_context(standing_in()) for name in LISTS}


@pytest.fixture(scope="module")
def platform(processes: None, places: dict[str, Place], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """An upstream for each model of LISTS, in two workers' configuration; their context is not configured."""
    entries = []
    for name, place in places.items():
        place.gets = LISTS[name]
        given: dict[str, Any] = {
            "addresses": (place.url,),
            "context_tokens": 0,
            "health_path": "",
            "embeddings": True,
            **PRICED,
        }
        given["responses"] = name == "responses"
        entries.append(endpoint(model=name, workload=name, pool=name, default_max_tokens=4096, **given))
    limits = ClientLimits(health_s=0.1, sweep_s=0.05)
    home = Home(tmp_path_factory.mktemp("upstreams"))
    with running(home, table(*entries, port=free_port(), limits=limits, workers=2)) as made:
        made.until(lambda: all(place.got.count(MODELS) >= 2 for place in places.values()))
        made.until(lambda: len(list_upstream_problems(home, "gateway")) == 2)
        yield made


def sent_length(platform: Platform, place: Place, **fields: Any) -> int:
    place.script = Script(WELL)
    assert platform.chat(**fields).status == 200
    length: int = place.last.body["max_tokens"]
    return length


def test_the_injected_length_fits_the_context_that_the_engine_states(
    platform: Platform, places: dict[str, Place]
) -> None:
    fits = 2048 - 32 - len("Say something.") // 4
    # Each worker has asked for the list; one may not have read the reply yet.
    platform.until(lambda: {sent_length(platform, places["listed"], model="listed") for _ in range(8)} == {fits})
    assert sent_length(platform, places["listed"], model="listed", messages=ask("x" * 9000)) == 256
    assert sent_length(platform, places["properties"], model="properties") < 1024
    assert sent_length(platform, places["odd"], model="odd") == 4096, "no context is known"
    assert sent_length(platform, places["listed"], model="listed", max_tokens=2048) == 2048, "the client's own stays"
    assert all(place.got.count(MODELS) == 2 for place in places.values()), "once a worker, never for a request"


def test_the_first_refusal_states_the_context(platform: Platform, places: dict[str, Place]) -> None:
    place = places["silent"]
    place.script, before = Script(WELL, context=2048), len(place.asked)
    limited = platform.made_key("bounded", budget_usd=1.0)
    reply = platform.chat(limited, model="silent")
    assert reply.status == 200, reply.body
    assert [one.body["max_tokens"] for one in place.asked[before:]] == [4096, 2041], "again once, with what fits"
    (record,) = platform.served(reply.headers["x-request-id"])
    assert record.tries == 1 and (record.reserved_usd or 0) >= 4096e-5 > (record.cost_usd or 0)

    def lengths() -> list[int]:
        before = len(place.asked)
        assert platform.chat(model="silent").status == 200
        return [one.body["max_tokens"] for one in place.asked[before:]]

    platform.until(lambda: lengths() == [2013])  # a worker that has learned it
    texts = "x" * 3000  # 1,500 tokens of the engine, 750 by the gateway's estimate
    assert platform.chat(model="silent", messages=ask(texts)).status == 200
    assert place.last.body["max_tokens"] == 2048 - 1500
    with anthropic_client(platform) as client:  # clients of this interface must send a length, for large models
        client.messages.create(model="silent", max_tokens=32_000, messages=HELLO)
    assert place.last.body["max_tokens"] <= 2047
    place = places["responses"]
    place.script = Script(WELL, context=2048)
    platform.ask("POST", "/v1/responses", {"model": "responses", "input": "hi"})
    assert [one.body["max_output_tokens"] for one in place.asked] == [4096, 2048 // 8]


def test_a_length_that_does_not_fit_is_named_and_not_the_prompt(platform: Platform, places: dict[str, Place]) -> None:
    place = places["listed"]
    place.script, before = Script(WELL, context=2048), len(place.asked)
    for length, said in ((2045, "the prompt has 7. Send at most 2041."), (4000, "holds 2048 tokens")):
        error = platform.chat(model="listed", max_tokens=length).error
        assert (error["param"], error["code"]) == ("max_tokens", "context_length_exceeded")
        assert said in error["message"] and "prompt is too long" not in error["message"]
    assert len(place.asked) == before + 1, "a length of the client is not changed"
    error = platform.chat(model="listed", messages=ask("x" * 5000)).error
    assert error["param"] == "messages" and "prompt is too long: 2500 tokens > 2048" in error["message"]


def journal(platform: Platform, event: str) -> list[str]:
    lines = [json.loads(line) for line in platform.home.log("gateway").read_text().splitlines() if line[:1] == "{"]
    return [line["message"] for line in lines if line["event"] == event]


def problems(platform: Platform) -> set[str]:
    return {text.partition(" (")[0] for text in list_upstream_problems(platform.home, "gateway")}


def refused(platform: Platform, place: Place, script: Script, **fields: Any) -> Reply:
    place.script = script
    reply = platform.chat(**fields)
    assert b"sk-vendor" not in reply.body and "sk-vendor" not in platform.home.log("gateway").read_text()
    return reply


def test_what_is_wrong_is_told_to_the_operator_once(platform: Platform, places: dict[str, Place]) -> None:
    assert problems(platform) == {"upstream absent", "upstream keyless"}
    listed = list_upstream_problems(platform.home, "gateway")
    assert "it lists no model named 'absent', but models/other:latest, third" in listed[0]
    assert listed[1].endswith("it rejects the gateway's key, or needs one (status 401)")
    place, wrong = places["odd"], whole({"error": {"message": "bad key sk-vendor"}}, 403)
    for _ in range(12):
        reply = refused(platform, place, wrong, model="odd")
        assert (reply.status, reply.error["code"]) == (502, "upstream_misconfigured")
        assert reply.headers["x-should-retry"] == "false" and "retry-after" not in reply.headers
    platform.until(lambda: "upstream odd" in problems(platform))
    reply = refused(
        platform, places["absent"], whole({"message": "The model `m` does not exist."}, 404), model="absent"
    )
    assert (reply.status, reply.error["code"]) == (502, "upstream_misconfigured")
    reply = platform.ask("POST", "/v1/embeddings", {"model": "absent", "input": "x"})
    assert reply.error["code"] == "upstream_misconfigured", "and not that the engine has no such path"
    platform.until(lambda: any("status 404" in text for text in list_upstream_problems(platform.home, "gateway")))
    found = [text for text in journal(platform, "upstream misconfigured") if text.startswith("upstream odd")]
    assert len(found) == 1 and "rejects the gateway's key, or needs one (status 403)" in found[0]
    for name in ("odd", "absent", "keyless"):  # a reply shows that nothing is wrong; every worker has to see one
        for _ in range(100):
            sent_length(platform, places[name], model=name)
            if f"upstream {name}" not in problems(platform):
                break
        assert f"upstream {name}" not in problems(platform)
    assert any(text.startswith("upstream odd") for text in journal(platform, "upstream problem ended"))


def test_no_credit_and_a_content_filter_keep_their_meaning(platform: Platform, places: dict[str, Place]) -> None:
    place = places["listed"]
    quota = {"message": "You exceeded your current quota", "type": "insufficient_quota", "code": "insufficient_quota"}
    before = len(place.asked)
    reply = refused(platform, place, whole({"error": quota}, 429, headers={"retry-after": "9"}), model="listed")
    assert (reply.status, reply.error["code"], reply.error["type"]) == (429, "insufficient_quota", "insufficient_quota")
    assert "retry-after" not in reply.headers and "account of the model's provider" in reply.error["message"]
    with openai_client(platform, max_retries=3) as patient, pytest.raises(openai.RateLimitError, match="no credit"):
        patient.chat.completions.create(model="listed", messages=HELLO)
    assert len(place.asked) == before + 2, "neither the gateway nor the client's library tries again"
    filtered = {"message": "The response was filtered", "code": "content_filter", "status": 400, "innererror": {}}
    place.script = whole({"error": filtered}, 400)
    with openai_client(platform) as client, pytest.raises(openai.BadRequestError) as stopped:
        client.chat.completions.create(model="listed", messages=HELLO)
    assert stopped.value.code == "content_filter"
    with anthropic_client(platform) as messages, pytest.raises(anthropic.BadRequestError, match="content filter"):
        messages.messages.create(model="listed", max_tokens=5, messages=HELLO)
    place.script = Script(chat_events({"choices": [{"index": 0, "delta": {}, "finish_reason": "content_filter"}]}))
    assert platform.chat(model="listed").json["choices"][0]["finish_reason"] == "content_filter"
    with anthropic_client(platform) as messages:
        made = messages.messages.create(model="listed", max_tokens=5, messages=HELLO)
    assert made.stop_reason == "refusal"
