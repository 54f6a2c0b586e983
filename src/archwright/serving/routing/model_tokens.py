"""Whose special tokens the gateway breaks in texts, and which engines get texts with special tokens.

The embedded engines break them themselves. vLLM does not: the gateway does it for a vLLM of this home, whose files of
the tokeniser it can read. Engines behind a URL have their files elsewhere, and hosted providers do it themselves.
"""

from collections.abc import Iterable

from archwright.engines.engine_config import read_config
from archwright.engines.special_tokens import SpecialTokens, read_tokenizer_files
from archwright.errors import EngineError
from archwright.home import Home
from archwright.serving.settings.config import EnginePoolSpec
from archwright.serving.settings.engine_fields import OPENAI, list_engines

VLLM = "vllm"


def find_special_tokens(spec: EnginePoolSpec, address: str, home: Home) -> SpecialTokens | None:
    """Return the tokens that the gateway must break for the engine at `address`; None for every other engine."""
    if not (spec.strict and spec.engine == VLLM):
        return None
    try:
        config = read_config(home.config(address.removeprefix("unix:")))
    except (OSError, EngineError):
        return None
    if config.model_sha256 is None:
        return None
    return read_tokenizer_files(home.model_folder(config.model_sha256)) or None


def list_unprotected_pools(pools: Iterable[EnginePoolSpec], home: Home) -> tuple[str, ...]:
    """Return the names of pools whose engines may read special tokens in texts of users."""
    return tuple(spec.name for spec in pools if not _is_protected(spec, home))


def _is_protected(spec: EnginePoolSpec, home: Home) -> bool:
    if spec.strict:
        others = spec.engine != VLLM
        return others or all(find_special_tokens(spec, address, home) for address in spec.addresses)
    return spec.engine == OPENAI or spec.engine not in list_engines()
