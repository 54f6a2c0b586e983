"""Providers translate requests to an engine's protocol: one module per protocol, selected here."""

from archwright.serving.providers.anthropic import AnthropicProvider
from archwright.serving.providers.openai import OpenAIProvider
from archwright.serving.providers.protocol import Provider
from archwright.serving.settings.config import EnginePoolSpec


def create_provider(spec: EnginePoolSpec) -> Provider:
    if spec.protocol == "anthropic":
        return AnthropicProvider()
    return OpenAIProvider(spec.tool_side, spec.key_header)
