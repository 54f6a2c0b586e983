"""A shorter output keeps the share of reasoning, in the form of each interface."""

from __future__ import annotations

from typing import Any

import pytest
from tests.serving.conftest import directory, endpoint

from archwright.contract.record import replace
from archwright.serving.admission.output_shortening import is_single, shorten_output
from archwright.serving.requests.request_validation import GenerationRequest, validate_chat

MESSAGES = [{"role": "user", "content": "Why?"}]


def request(**changes: Any) -> GenerationRequest:
    body = {"model": "m", "messages": MESSAGES, "max_tokens": 4_000}
    return replace(validate_chat(body, directory(endpoint()), None), **changes)


def test_a_chat_is_shortened_with_its_reasoning() -> None:
    options = {"enable_thinking": True, "thinking_budget": 2_000}
    asked = request()
    asked = replace(asked, body={**asked.body, "chat_template_kwargs": options})
    shorter = shorten_output(asked, 1_000)
    assert shorter is not None and shorter.max_tokens == shorter.body["max_tokens"] == 1_000
    assert shorter.body["chat_template_kwargs"] == {"enable_thinking": True, "thinking_budget": 500}
    assert asked.body["max_tokens"] == 4_000 and options["thinking_budget"] == 2_000


@pytest.mark.parametrize(
    ("native", "length", "shorter"),
    [
        ({"max_tokens": 4_000}, 10, {"max_tokens": 10}),
        (
            {"max_tokens": 4_000, "thinking": {"type": "enabled", "budget_tokens": 2_400}},
            2_000,
            {"max_tokens": 2_000, "thinking": {"type": "enabled", "budget_tokens": 1_200}},
        ),
        ({"max_tokens": 4_000, "thinking": {"type": "enabled", "budget_tokens": 2_400}}, 1_000, None),
        (
            {"max_tokens": 4_000, "thinking": {"type": "disabled"}},
            9,
            {"max_tokens": 9, "thinking": {"type": "disabled"}},
        ),
        ({"input": "Why?", "max_output_tokens": 4_000}, 16, {"input": "Why?", "max_output_tokens": 16}),
        ({"input": "Why?"}, 15, None),
    ],
    ids=["messages", "thinking", "too little thinking", "no thinking", "responses", "too short a response"],
)
def test_a_native_body_is_shortened(native: dict[str, Any], length: int, shorter: dict[str, Any] | None) -> None:
    found = shorten_output(request(native=native), length)
    assert (None if found is None else found.native) == shorter


def test_several_outputs_are_not_single() -> None:
    assert is_single(request()) and not is_single(request(choices=2)) and not is_single(request(contexts=2))
