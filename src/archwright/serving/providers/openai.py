"""Engines that speak as we do; the calls of those that enforce none are made by a schema (`serving.tools`)."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from archwright.engines.client import EngineClient, EngineRefused
from archwright.serving import tools
from archwright.serving.providers.protocol import Asked
from archwright.serving.refusal import bad

# The template has written the marks of a conversation: they are tokens of their own, and the first is not doubled.
SPECIAL = {"add_special": False, "parse_special": True}
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


class OpenAI:
    def __init__(self, *, enforces_tools: bool) -> None:
        self._enforces_tools = enforces_tools

    def headers(self, key: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, path: str, body: dict[str, Any], native: dict[str, Any] | None, *, whole: bool = False) -> Asked:
        del native  # the same question in a language this engine does not speak
        if self._enforces_tools or not tools.spoken_of(body):
            return Asked(path, body, None, True) if whole else Asked(path, {**body, **STREAMED})
        told, reader = tools.enforced(body)
        return Asked(path, {**told, **STREAMED}, reader)

    async def count(self, client: EngineClient, body: dict[str, Any], native: dict[str, Any] | None) -> int:
        """As llama.cpp counts: the template's words, then their tokens. The interface itself has no such question."""
        asked = self.ask("/chat/completions", body, native).body
        try:
            prompt = (await client.post("/apply-template", {"messages": asked["messages"]})).get("prompt")
            tokens = (await client.post("/tokenize", {"content": prompt, **SPECIAL})).get("tokens")
        except EngineRefused as error:
            if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED):
                raise bad("this model's engine does not count tokens", "model", "unsupported_model") from error
            raise
        return len(tokens) if type(tokens) is list else 0
