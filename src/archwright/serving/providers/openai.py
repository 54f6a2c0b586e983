"""Engines that speak as we do; the calls of those that enforce none are made by a schema (`serving.tools`)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from archwright.serving import tools
from archwright.serving.providers.protocol import Asked


class OpenAI:
    def __init__(self, *, enforces_tools: bool) -> None:
        self._enforces_tools = enforces_tools

    def headers(self, key: str) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def ask(self, path: str, body: dict[str, Any], native: dict[str, Any] | None) -> Asked:
        del native  # the same question in a language this engine does not speak
        if self._enforces_tools or not tools.spoken_of(body):
            return Asked(path, body)
        told, reader = tools.enforced(body)
        return Asked(path, told, reader)
