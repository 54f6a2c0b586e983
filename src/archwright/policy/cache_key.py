"""Which answers may be given again, and what makes two questions the same one: pure rules."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

CachePolicy = Literal["off", "deterministic", "all"]
RequestKind = Literal["chat", "completion", "messages", "embedding", "predict"]

# What does not decide the answer: who asks, how it is delivered, what the provider should keep or bill.
IGNORED_PARAMETERS = frozenset(
    {"user", "metadata", "stream", "stream_options", "store", "service_tier"}
    | {"safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
DECLINING = frozenset({"no-store", "no-cache"})
_SAMPLED = frozenset({"chat", "completion", "messages"})
_ENCODER = msgspec.json.Encoder(order="sorted")


class CacheKeyParts(NamedTuple):
    """A question as far as a cache needs it: `version` is the model version that would answer, `parameters` the
    validated body of the request, messages and all, `beside` what decides the answer and stands in no body."""

    kind: RequestKind
    version: str
    parameters: Mapping[str, object]
    beside: tuple[object, ...] = ()


def is_cacheable(policy: CachePolicy, asked: CacheKeyParts, cache_control: str) -> bool:
    """True if this question's answer may come from the cache and go into it; the client can decline.

    `deterministic`: only with temperature 0 or a seed; kinds that do not sample always."""
    if policy == "off":
        return False
    if cache_control and not DECLINING.isdisjoint(word.strip().lower() for word in cache_control.split(",")):
        return False
    if policy == "all" or asked.kind not in _SAMPLED:
        return True
    parameters = asked.parameters
    return parameters.get("temperature") == 0 or parameters.get("seed") is not None


def build_canonical_key(asked: CacheKeyParts) -> bytes:
    """Equal for equal questions: sorted JSON of kind, version and what decides the answer, unknown parameters
    included."""
    parameters = asked.parameters
    if not IGNORED_PARAMETERS.isdisjoint(parameters):
        parameters = {name: value for name, value in parameters.items() if name not in IGNORED_PARAMETERS}
    return _ENCODER.encode((asked.kind, asked.version, parameters, *asked.beside))
