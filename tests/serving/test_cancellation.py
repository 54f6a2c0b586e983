"""A client that disconnects stops the engine's work: in decode, in the queue, while a prompt is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

LONG: dict[str, Any] = {"model": "smol", "ignore_eos": True, "max_tokens": 900, "temperature": 0}
STREAMED = pytest.mark.parametrize("streamed", [True, False], ids=["stream", "plain"])


def count(platform: Platform, name: str) -> float:
    """A count of the engine: `prompt_tokens_total` are read, `tokens_predicted_total` are written."""
    return platform.engine_metrics("llama")[f"llamacpp:{name}"]


def answer_shortly(platform: Platform) -> None:
    assert platform.chat(model="smol", max_tokens=4, temperature=0).status == 200


@STREAMED
def test_eight_cancelled_requests_are_not_finished_before_the_next_answer(llama: Platform, streamed: bool) -> None:
    written = count(llama, "tokens_predicted_total")
    # One tenant would leave a slot free for tenants of other tests.
    connections = [llama.open_chat(**LONG, stream=streamed) for _ in range(4)]
    llama.key, key = llama.made_key("other"), llama.key
    connections += [llama.open_chat(**LONG, stream=streamed) for _ in range(4)]
    llama.key = key
    llama.until(lambda: llama.in_flight() == 8)
    if streamed:
        assert connections[0].recv(1000)
    else:
        llama.until(lambda: count(llama, "requests_processing") == 2)
    for connection in connections:
        connection.close()
    answer_shortly(llama)
    llama.until(lambda: llama.in_flight() == 0)
    assert count(llama, "tokens_predicted_total") - written < LONG["max_tokens"], "one whole answer"


@STREAMED
def test_cancelled_while_a_prompt_is_read(llama: Platform, streamed: bool) -> None:
    read, written = count(llama, "prompt_tokens_total"), count(llama, "tokens_predicted_total")
    words = [f"{streamed} {number}" for number in range(200)]
    prompt = " ".join(words)
    connection = llama.open_chat(**LONG, stream=streamed, messages=[{"role": "user", "content": prompt}])
    llama.until(lambda: count(llama, "requests_processing") == 1)
    connection.close()
    llama.until(lambda: llama.in_flight() == 0)
    llama.until(lambda: count(llama, "requests_processing") == 0)
    assert count(llama, "prompt_tokens_total") - read < 2 * len(words), "less than the whole prompt"
    assert count(llama, "tokens_predicted_total") == written
    answer_shortly(llama)


@STREAMED
def test_the_engine_sees_it_at_once(start: Start, streamed: bool) -> None:
    platform = start([{"slots": 2}], [{"slots": 2, "tpot_s": 0.05}])
    with platform.open_chat(max_tokens=4000, stream=streamed):
        platform.until(lambda: platform.engine_metrics()["null:tokens_predicted_total"] > 2)
    platform.until(lambda: platform.engine_metrics()["null:requests_cancelled_total"] == 1)
    written = platform.engine_metrics()["null:tokens_predicted_total"]
    platform.until(lambda: 'status="cancelled"' in platform.get("/metrics", key=platform.owner).body.decode())
    counted = platform.metrics()['archwright_output_tokens_total{model="m",pool="p",workload="desk"}']
    assert written - 2 <= counted <= written


def test_a_waiting_request_that_leaves_never_reaches_the_engine(start: Start) -> None:
    platform = start([{"slots": 1}], [{"slots": 4, "tpot_s": 0.05}])
    running = platform.open_chat(max_tokens=4000, stream=True)
    assert running.recv(100)
    waiting = [platform.open_chat(max_tokens=4000) for _ in range(5)]
    platform.until(lambda: platform.in_flight() == 6)
    assert platform.engine_metrics()["null:requests_processing"] == 1
    for connection in waiting:
        connection.close()
    platform.until(lambda: platform.in_flight() == 1)
    running.close()
    platform.until(lambda: platform.in_flight() == 0)
    assert platform.engine_metrics()["null:requests_cancelled_total"] == 1
    assert platform.chat(max_tokens=1).status == 200


def test_embeddings_that_wait_for_a_slot_can_be_cancelled(start: Start) -> None:
    platform = start([{"slots": 1, "embeddings": True}], [{"slots": 1, "tpot_s": 0.05, "embeddings": True}])
    running = platform.open_chat(max_tokens=4000, stream=True)
    assert running.recv(100)
    waiting = platform.open_request("/v1/embeddings", {"model": "m", "input": "x"})
    platform.until(lambda: platform.in_flight() == 2)
    waiting.close()
    platform.until(lambda: platform.in_flight() == 1)
    assert platform.requests("cancelled") == 1
