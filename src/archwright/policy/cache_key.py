"""Rules of the response cache: cacheable replies, and the key that identifies equal requests."""

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec

CachePolicy = Literal["off", "deterministic", "all"]
RequestKind = Literal["chat", "completion", "messages", "responses", "embedding", "rerank", "predict"]

# Parameters without effect on the reply: caller, delivery, storage and price at the provider.
IGNORED_PARAMETERS = frozenset(
    {"user", "metadata", "stream", "stream_options", "store", "service_tier"}
    | {"safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
)
DECLINING = frozenset({"no-store", "no-cache"})
_SAMPLED = frozenset({"chat", "completion", "messages", "responses"})
_ENCODER = msgspec.json.Encoder(order="sorted")


class CacheKeyParts(NamedTuple):
    """The parts of a request that determine its reply. `version`: the model version that serves it.

    `parameters`: the validated body, including messages. `beside`: further values that affect the reply."""

    kind: RequestKind
    version: str
    parameters: Mapping[str, object]
    beside: tuple[object, ...] = ()


def is_cacheable(policy: CachePolicy, parts: CacheKeyParts, cache_control: str) -> bool:
    """True if the reply may be read from and written to the cache; cache-control can decline it.

    Policy `deterministic`: only with temperature 0 or a seed; requests that do not sample are always cacheable."""
    if policy == "off":
        return False
    if cache_control and not DECLINING.isdisjoint(directive.strip().lower() for directive in cache_control.split(",")):
        return False
    if policy == "all" or parts.kind not in _SAMPLED:
        return True
    parameters = parts.parameters
    return parameters.get("temperature") == 0 or parameters.get("seed") is not None


def build_canonical_key(parts: CacheKeyParts) -> bytes:
    """Return sorted JSON of kind, version and all parameters that affect the reply, also unknown ones."""
    parameters = parts.parameters
    if not IGNORED_PARAMETERS.isdisjoint(parameters):
        parameters = {name: value for name, value in parameters.items() if name not in IGNORED_PARAMETERS}
    return _ENCODER.encode((parts.kind, parts.version, parameters, *parts.beside))
