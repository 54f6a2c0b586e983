"""Reads a model folder of an embedder or reranker: configuration, pooling, tokenizer, and the longest text.

Layout as sentence-transformers writes it: config.json, tokenizer.json, and optionally tokenizer_config.json,
sentence_bert_config.json (max_seq_length), modules.json and 1_Pooling/config.json. Without a pooling it is the mean.
"""

from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

from archwright.errors import EngineError, ErrorLocation, InternalError, boundary, require_extra

Pooling = Literal["mean", "cls", "last"]
POOLING_PREFIX = "pooling_mode_"
POOLINGS: dict[str, Pooling] = {"mean_tokens": "mean", "cls_token": "cls", "lasttoken": "last"}
CONFIG_LIMIT_BYTES, TOKENIZER_LIMIT_BYTES = 4 << 20, 128 << 20
LOAD_HINT = "add the model again from a complete folder, or choose another model"
# The positions of these architectures begin after the id of the padding.
POSITIONS_AFTER_PADDING = ("roberta", "xlm-roberta", "xlm-roberta-xl", "camembert", "mpnet")
MAX_TOKEN_ID = 2**31 - 1
ENDLESS_TOKENS = 1_000_000  # tokenizer_config.json states a number above this if the maker gave no limit

T = TypeVar("T")


class TextModelFolder(NamedTuple):
    """`context_tokens`: the longest text, None if the folder states no limit. `vectors_complete`: no layer follows the
    pooling, so pooled and normalised tokens are the vectors of the maker.
    """

    path: Path
    tokenizer: Any
    pooling: Pooling
    padding_id: int
    context_tokens: int | None
    vectors_complete: bool


class _Config(msgspec.Struct):
    """The fields of config.json, then of sentence_bert_config.json and of tokenizer_config.json."""

    model_type: str | None = None
    max_position_embeddings: int | None = None
    pad_token_id: int | None = None
    max_seq_length: int | None = None
    model_max_length: float | None = None


def read_model_folder(path: Path) -> TextModelFolder:
    """Raises EngineError AW-ENG-10 (a file missing, damaged or unsupported), MissingError AW-GET-01 (no tokenizers)."""
    config = _read_json(path / "config.json", _Config)
    # Some makers write -1 for none.
    padding_id = stated_id if 0 <= (stated_id := config.pad_token_id or 0) <= MAX_TOKEN_ID else 0
    limits = [
        _read_json(path / "sentence_bert_config.json", _Config, _Config()).max_seq_length,
        _read_json(path / "tokenizer_config.json", _Config, _Config()).model_max_length,
    ]
    if config.max_position_embeddings is not None:
        skipped = padding_id + 1 if config.model_type in POSITIONS_AFTER_PADDING else 0
        limits.append(config.max_position_embeddings - skipped)
    stated = [int(limit) for limit in limits if limit is not None and 0 < limit < ENDLESS_TOKENS]
    modules = _read_json(path / "modules.json", list[dict[str, Any]], [])
    kinds = {str(module.get("type")).rpartition(".")[2] for module in modules}
    return TextModelFolder(
        path=path,
        tokenizer=_read_tokenizer(path / "tokenizer.json"),
        pooling=_read_pooling(path / "1_Pooling" / "config.json"),
        padding_id=padding_id,
        context_tokens=min(stated, default=None),
        vectors_complete=kinds <= {"Transformer", "Pooling", "Normalize"},
    )


def _read_pooling(path: Path) -> Pooling:
    stated = _read_json(path, dict[str, Any], {f"{POOLING_PREFIX}mean_tokens": True})
    named = {name.removeprefix(POOLING_PREFIX): value for name, value in stated.items() if POOLING_PREFIX in name}
    modes = [name for name, value in named.items() if value is True]
    if len(modes) != 1 or modes[0] not in POOLINGS:
        raise _damaged(path, f"the pooling {' with '.join(modes) or '(none)'} is not supported")
    return POOLINGS[modes[0]]


def _read_tokenizer(path: Path) -> Any:
    with require_extra("predict", "serving an embedder or reranker"):
        import tokenizers  # noqa: PLC0415  the heavy extra of this adapter
    data = _read_file(path, TOKENIZER_LIMIT_BYTES)
    try:
        with boundary("tokenizer"):  # the package raises plain exceptions, and panics
            tokenizer = tokenizers.Tokenizer.from_buffer(data)
    except InternalError as error:
        raise _damaged(path, f"not a tokenizer: {str(error.__cause__)[:200]}") from error
    # Cutting and padding are decided here, not by the settings that the file was saved with.
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def encode_text(tokenizer: Any, given: str | tuple[str, str]) -> Any:
    """The tokens of a text or a pair. Raises EngineError AW-ENG-13 if the tokenizer contradicts itself."""
    try:
        with boundary("tokenizer"):
            # A batch frees the interpreter, a single text does not; a batch of several would use all processors.
            (encoded,) = tokenizer.encode_batch_fast([given])
    except InternalError as error:
        message = f"the tokenizer failed on a text: {str(error.__cause__)[:200]}"
        raise EngineError("AW-ENG-13", message, hint=LOAD_HINT) from error
    return encoded


def _read_json(path: Path, kind: type[T], default: T | None = None) -> T:
    if default is not None and not path.exists():
        return default
    try:
        return msgspec.json.decode(_read_file(path, CONFIG_LIMIT_BYTES), type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise _damaged(path, str(error)) from error


def _read_file(path: Path, limit_bytes: int) -> bytes:
    """Raises EngineError AW-ENG-10 if the file is missing or too large."""
    if not path.is_file():
        raise _damaged(path, "the file is missing")
    with path.open("rb") as file:
        data = file.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise _damaged(path, f"it is larger than {limit_bytes} bytes")
    return data


def _damaged(path: Path, problem: str) -> EngineError:
    message = f"the model folder is not complete: {path.name}: {problem}"
    return EngineError("AW-ENG-10", message, where=ErrorLocation(str(path)), hint=LOAD_HINT)
