"""Engines that speak as we do; the calls of those that enforce none are made by a schema (`serving.tools`).

Decides that an engine is told the length of an answer as `max_tokens`, which all know, until it asks for
`max_completion_tokens`, as OpenAI's models that reason do: they refuse the older word, others do not know the newer.
"""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from archwright.http_client.client import EngineClient, EngineRefused
from archwright.serving.events import tool_call_emulation
from archwright.serving.http.errors import bad
from archwright.serving.providers.protocol import Asked

CHAT = "/chat/completions"
# The template has written the marks of a conversation: they are tokens of their own, and the first is not doubled.
SPECIAL = {"add_special": False, "parse_special": True}
LENGTH, NEWER_LENGTH = "max_tokens", "max_completion_tokens"
STREAMED = {"stream": True, "stream_options": {"include_usage": True}}


class OpenAI:
    def __init__(self, *, enforces_tools: bool) -> None:
        self._enforces_tools = enforces_tools
        self._length = LENGTH

    def headers(self, key: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def ask(
        self, path: str, body: dict[str, Any], native: dict[str, Any] | None, *, whole: bool = False, betas: str = ""
    ) -> Asked:
        del native, betas  # the same question in a language this engine does not speak
        if self._length != LENGTH and LENGTH in body and path == CHAT:
            body = {**body, self._length: body[LENGTH]}
            del body[LENGTH]
        if self._enforces_tools or not tool_call_emulation.spoken_of(body):
            return Asked(path, body, None, True) if whole else Asked(path, {**body, **STREAMED})
        told, reader = tool_call_emulation.enforced(body)
        return Asked(path, {**told, **STREAMED}, reader)

    def corrected(self, asked: Asked, error: EngineRefused) -> bool:
        if error.status != HTTPStatus.BAD_REQUEST or LENGTH not in asked.body or asked.path != CHAT:
            return False
        detail = error.body.get("error")
        if not isinstance(detail, dict) or NEWER_LENGTH not in str(detail.get("message")):
            return False
        self._length = NEWER_LENGTH
        return True

    async def count(
        self, client: EngineClient, body: dict[str, Any], native: dict[str, Any] | None, betas: str = ""
    ) -> int:
        """As llama.cpp counts: the template's words, then their tokens. The interface itself has no such question."""
        asked = self.ask("/chat/completions", body, native, betas=betas).body
        try:
            prompt = (await client.post("/apply-template", {"messages": asked["messages"]})).get("prompt")
            tokens = (await client.post("/tokenize", {"content": prompt, **SPECIAL})).get("tokens")
        except EngineRefused as error:
            if error.status in (HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED):
                raise bad("this model's engine does not count tokens", "model", "unsupported_model") from error
            raise
        return len(tokens) if type(tokens) is list else 0
