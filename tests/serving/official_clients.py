"""The official clients of both interfaces, unchanged, for a running platform."""

from __future__ import annotations

from typing import Any

import anthropic
import openai
from tests.tools.checks import WAIT_S

from .conftest import Platform

HELLO: Any = [{"role": "user", "content": "hi"}]


def ask(text: str) -> Any:
    return [{"role": "user", "content": text}]


def openai_client(platform: Platform, key: str = "", **more: Any) -> openai.OpenAI:
    fields: dict[str, Any] = {"max_retries": 0, "timeout": 60, **more}
    return openai.OpenAI(base_url=platform.url, api_key=key or platform.key, **fields)


def anthropic_client(platform: Platform, key: str = "", **more: Any) -> anthropic.Anthropic:
    base = platform.url.removesuffix("/v1")
    return anthropic.Anthropic(base_url=base, api_key=key or platform.key, max_retries=0, timeout=WAIT_S, **more)
