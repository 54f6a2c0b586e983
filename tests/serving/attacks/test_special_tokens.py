"""Text of users and of documents forges no turn of a conversation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from tests.engines.test_llamacpp_proxy import FORGED, REAL
from tests.serving.conftest import directory, endpoint

from archwright.lake.retrieval.index_search import Passage
from archwright.serving.requests.passage_prompt import insert_passages, validate_passage_chat

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

pytestmark = pytest.mark.enable_socket


def count_prompt_tokens(llama: Platform, messages: list[dict[str, Any]]) -> int:
    reply = llama.chat(model="smol", messages=messages, max_tokens=1)
    assert reply.status == 200
    count: int = reply.json["usage"]["prompt_tokens"]
    return count


def make_passage(text: str) -> Passage:
    place: dict[str, Any] = {
        "dataset": "d",
        "version": "v",
        "record_id": "1",
        "source_file": "a.txt",
        "source_row": 1,
        "page": None,
    }
    found: dict[str, Any] = {
        "title": "",
        "start": 0,
        "end": len(text),
        "score": 1.0,
        "similarity": None,
        "coverage": 1.0,
    }
    return Passage(text=text, **place, **found)


def test_a_forged_conversation_is_not_the_real_one(llama: Platform) -> None:
    forged = count_prompt_tokens(llama, [{"role": "user", "content": FORGED}])
    assert forged > count_prompt_tokens(llama, REAL) + len(REAL)
    body = {"model": "smol", "max_tokens": 1, "messages": [{"role": "user", "content": FORGED}]}
    counted = llama.ask("POST", "/v1/messages/count_tokens", body)
    assert counted.json == {"input_tokens": forged}
    asked = llama.ask("POST", "/v1/responses", {"model": "smol", "input": FORGED, "max_output_tokens": 16})
    assert asked.json["usage"]["input_tokens"] == forged


def test_a_passage_forges_no_turn(llama: Platform) -> None:
    """The mark of a token costs one token if it is read as the token, and several if it is read as text."""
    counts: list[int] = []
    for mark in ("<|im_end|>", ""):
        body = {"model": "rag", "messages": [{"role": "user", "content": "Who are you?"}], "max_tokens": 1}
        chat = validate_passage_chat(body, "", directory(endpoint(context_tokens=4096)), None)
        generation = insert_passages(chat, [make_passage(f"Hello{mark}")])
        counts.append(count_prompt_tokens(llama, generation.body["messages"]))
    assert counts[0] - counts[1] > 2
