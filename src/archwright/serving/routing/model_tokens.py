"""Special tokens that the gateway breaks in texts, and the pools whose engines may read them.

An engine that loads one model file breaks the tokens itself, since the file lists them. For an own engine that loads a
model folder the gateway does it, by the folder's files of the tokeniser. Engines behind a URL have their files
elsewhere, and hosted providers do it themselves.
"""

from collections.abc import Iterable
from pathlib import Path

from archwright.engines.engine_config import read_config
from archwright.engines.special_tokens import SpecialTokens, read_tokenizer_files
from archwright.errors import EngineError
from archwright.home import Home
from archwright.serving.settings.config import EnginePoolSpec
from archwright.serving.settings.engine_fields import OPENAI, list_engines


def find_special_tokens(spec: EnginePoolSpec, address: str, home: Home) -> SpecialTokens | None:
    """Return the tokens that the gateway must break for the engine at `address`; None if it breaks none."""
    if not spec.strict:
        return None
    folder = _find_model_folder(address, home)
    if folder is None:
        return None
    return read_tokenizer_files(folder) or None


def list_unprotected_pools(pools: Iterable[EnginePoolSpec], home: Home) -> tuple[str, ...]:
    """Return the names of pools whose engines may read special tokens in texts of users."""
    return tuple(spec.name for spec in pools if not _is_protected(spec, home))


def _is_protected(spec: EnginePoolSpec, home: Home) -> bool:
    if not spec.strict:
        return spec.engine == OPENAI or spec.engine not in list_engines()
    for address in spec.addresses:
        folder = _find_model_folder(address, home)
        if folder is not None and not read_tokenizer_files(folder):
            return False
    return True


def _find_model_folder(address: str, home: Home) -> Path | None:
    """Return the model folder of an own engine; None if it loads a file, or was never started."""
    name = address.removeprefix("unix:")
    try:
        config = read_config(home.config(name))
    except (OSError, EngineError):
        return None
    if config.model_sha256 is None:
        return None
    folder = home.model_folder(config.model_sha256)
    return folder if folder.is_dir() else None
