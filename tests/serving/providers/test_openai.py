"""How the tokens of a prompt are counted by different engines."""

from __future__ import annotations

import asyncio
from typing import Any, cast

import pytest

from archwright.errors import ErrorLocation
from archwright.http_client.client import EngineClient, EngineRefused
from archwright.serving.providers.openai import OpenAIProvider

BODY = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 3}


class Engine:
    """Answers the paths that it has, and counts what it is asked."""

    def __init__(self, status: int = 404, **replies: dict[str, Any]) -> None:
        self.replies, self.status = replies, status
        self.asked: list[tuple[str, dict[str, Any]]] = []

    async def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        self.asked.append((path, body))
        found = self.replies.get(path.strip("/").replace("-", "_"))
        if found is None:
            raise EngineRefused(self.status, {}, ErrorLocation("e"))
        return found


def count(provider: OpenAIProvider, engine: Engine) -> int | None:
    return asyncio.run(provider.count_tokens(cast(EngineClient, engine), dict(BODY), None))


def test_llama_cpp_counts_its_own_prompt() -> None:
    engine = Engine(apply_template={"prompt": "<s>hi"}, tokenize={"tokens": [1, 2, 3]})
    assert count(OpenAIProvider("engine"), engine) == 3
    assert engine.asked[1][1]["content"] == "<s>hi"


def test_vllm_counts_the_messages_and_is_asked_once_for_the_other_path() -> None:
    provider, engine = OpenAIProvider("engine"), Engine(tokenize={"count": 2, "tokens": [1, 2]})
    assert [count(provider, engine) for _ in range(2)] == [2, 2]
    messages = {"model": "m", "messages": BODY["messages"]}
    assert engine.asked == [("/apply-template", messages), ("/tokenize", messages), ("/tokenize", messages)]


def test_an_engine_without_a_tokenizer_counts_nothing() -> None:
    assert count(OpenAIProvider("engine"), Engine()) is None


def test_a_failure_is_no_missing_path() -> None:
    with pytest.raises(EngineRefused):
        count(OpenAIProvider("engine"), Engine(503))
