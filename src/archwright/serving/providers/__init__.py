"""How a replica is asked, by what it speaks: one file a protocol, one line here."""

from __future__ import annotations

from archwright.serving.providers.anthropic import Anthropic
from archwright.serving.providers.openai import OpenAI
from archwright.serving.providers.protocol import Provider
from archwright.serving.settings.config import PoolSpec


def provider_of(spec: PoolSpec) -> Provider:
    return Anthropic() if spec.protocol == "anthropic" else OpenAI(enforces_tools=spec.enforces_tools)
