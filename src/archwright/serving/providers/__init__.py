"""How a replica is asked, by what it speaks: one file a protocol, one line here."""

from __future__ import annotations

from archwright.serving.providers.anthropic import AnthropicProvider
from archwright.serving.providers.openai import OpenAIProvider
from archwright.serving.providers.protocol import Provider
from archwright.serving.settings.config import EnginePoolSpec


def create_provider(spec: EnginePoolSpec) -> Provider:
    return AnthropicProvider() if spec.protocol == "anthropic" else OpenAIProvider(enforces_tools=spec.enforces_tools)
