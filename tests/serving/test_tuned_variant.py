"""An adapter beside its base in the same engines: a workload of its own, with the slots of the pool."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.fake_provider import Place, whole
from tests.tools.checks import refuses

from archwright.serving.settings.config import check_table

from .conftest import endpoint, table

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

TUNED = {"workload": "tone", "tuned_model": "tone", "tuned_version": "tone@1a2b3c"}


@pytest.fixture
def platform(start: Start, place: Place) -> Platform:
    pool = {"addresses": (place.url,), "health_path": "/models", "engine": "vllm", "cache": "all"}
    return start([pool, {**pool, **TUNED}], [])


def reply_with(place: Place, text: str) -> None:
    place.script = whole({"choices": [{"index": 0, "message": {"content": text}, "finish_reason": "stop"}]})


@pytest.mark.enable_socket
def test_a_workload_means_its_variant_and_the_model_means_the_base(platform: Platform, place: Place) -> None:
    asked = [("tone", "tone", "tone@1a2b3c"), ("desk", "m", "m"), ("m", "m", "m")]
    for number, (model, sent, version) in enumerate(asked):
        reply_with(place, f"answer {number}")
        reply = platform.chat(model=model, max_tokens=9 + number)  # no reply comes from the cache
        assert reply.json["choices"][0]["message"]["content"] == f"answer {number}"
        assert place.last.body["model"] == sent
        assert reply.headers["x-archwright-model"] == version


@pytest.mark.enable_socket
def test_replies_of_the_variant_and_of_its_base_are_cached_apart(platform: Platform, place: Place) -> None:
    def ask(model: str) -> str:
        answer: str = platform.chat(model=model).json["choices"][0]["message"]["content"]
        return answer

    reply_with(place, "tuned")
    assert ask("tone") == "tuned"
    reply_with(place, "plain")
    assert [ask("desk"), ask("tone"), ask("m")] == ["plain", "tuned", "plain"]


@pytest.mark.enable_socket
def test_a_stream_and_messages_reach_the_variant(platform: Platform, place: Place) -> None:
    reply_with(place, "tuned")
    platform.chat(model="tone", stream=True)
    assert (place.last.body["model"], place.last.body["stream"]) == ("tone", True)
    body = {"model": "tone", "max_tokens": 8, "messages": [{"role": "user", "content": "hello"}]}
    assert platform.ask("POST", "/v1/messages", body).status == 200
    assert place.last.body["model"] == "tone"
    record = platform.served(platform.chat(model="tone", max_tokens=5).headers["x-request-id"])[0]
    assert (record.model, record.workload, record.version) == ("m", "tone", "tone@1a2b3c")


@pytest.mark.parametrize(
    "changes, problem",
    [({"tuned_version": ""}, "must have a tuned_model with its"), ({"embeddings": True}, "which only generates text")],
)
def test_a_variant_without_a_version_or_for_vectors_is_refused(changes: dict[str, Any], problem: str) -> None:
    made = table(endpoint(**{**TUNED, **changes}))
    with refuses("AW-OPS-13", problem):
        check_table(made.pools, made.endpoints)
