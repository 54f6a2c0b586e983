"""Packed shards of tokens for pretraining, with an index of their documents.

A shard is a file of little-endian integers: the tokens of its documents one after the other, each with the end token
behind it. It is padded with end tokens to whole sequences: sequence n is tokens[n * length : (n + 1) * length]. The
index beside it (Parquet) has record_id, offset and tokens of each document, so that a document can be removed.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple, Self

import msgspec

from archwright.contract.lineage import TokenShard
from archwright.contract.record import Record, replace
from archwright.engines import model_store
from archwright.errors import DataError, ErrorLocation, missing_extra
from archwright.home import Home
from archwright.lake.formats.source_files import compute_file_digest
from archwright.lake.lazy_modules import np, pa, pc, pq
from archwright.lake.part_files import read_part
from archwright.lake.steps.text_columns import resolve_columns

INDEX_COLUMNS = {"record_id": "id", "offset": "integer", "tokens": "integer"}
BATCH_TEXTS = 256


class TokenShards(Record):
    """`tokeniser` is a tokenizer.json or a stored model with one; `length` is the tokens of a sequence.

    `end` is the token between documents.
    """

    column: str = "text"
    tokeniser: str
    end: str
    length: Annotated[int, msgspec.Meta(ge=2)] = 2048

    def locate(self, folder: Path) -> Self:
        path = folder / self.tokeniser
        return replace(self, tokeniser=str(path)) if path.is_file() else self


class ShardTask(NamedTuple):
    """Tokenise the `column` of the part `source` into `target` (a .bin file)."""

    source: Path
    column: str
    tokeniser: Path
    end: str
    length: int
    target: Path


def find_tokeniser(home: Home, name: str) -> Path:
    """The tokenizer.json at a path, or of a model in the home. Raises DataError AW-DATA-65."""
    path = Path(name)
    if not path.is_file() and "/" not in name:
        stored = model_store.find_stored_model(home, name)
        path = model_store.locate_stored_model(stored, home) / "tokenizer.json"
    if not path.is_file():
        message, hint = f"there is no tokeniser at {name}", "name a tokenizer.json, or a stored model that has one"
        raise DataError("AW-DATA-65", message, where=ErrorLocation(field="token-shards.tokeniser"), hint=hint)
    return path


@lru_cache(maxsize=2)
def load_tokeniser(path: Path) -> Any:
    try:
        from tokenizers import Tokenizer  # noqa: PLC0415
    except ImportError as error:
        raise missing_extra("predict", "tokenizers", "shards of tokens") from error
    return Tokenizer.from_file(str(path))


def prepare_tokeniser(home: Home, shards: TokenShards, columns: Mapping[str, str]) -> Path:
    """The file of the tokeniser, before any step runs. Raises DataError AW-DATA-22 (column), -65."""
    resolve_columns((shards.column,), columns)
    path = find_tokeniser(home, shards.tokeniser)
    find_end_token(path, shards.end)
    return path


def find_end_token(path: Path, name: str) -> int:
    """The number of the token between documents. Raises DataError AW-DATA-65."""
    end: int | None = load_tokeniser(path).token_to_id(name)
    if end is None:
        message, hint = f"the tokeniser has no token {name!r}", "name its token for the end of a text"
        raise DataError("AW-DATA-65", message, where=ErrorLocation(None, None, "token-shards.end"), hint=hint)
    return end


def write_shard(task: ShardTask) -> TokenShard:
    """Returns the shard; one that is complete already is not written again. Raises DataError AW-DATA-62, -65."""
    record = task.target.with_suffix(".json")
    if record.exists():
        return msgspec.json.decode(record.read_bytes(), type=TokenShard)
    tokeniser, end = load_tokeniser(task.tokeniser), find_end_token(task.tokeniser, task.end)
    tokens = TokenShard(
        path=task.target.name,
        tokeniser_sha256=sha256(task.tokeniser.read_bytes()).hexdigest(),
        bits=16 if tokeniser.get_vocab_size() <= 1 << 16 else 32,
        end=end,
        length=task.length,
    )
    made = _write_documents(task.target, tokens, _encode_documents(task, tokeniser, end))
    record.write_bytes(msgspec.json.encode(made))
    return made


def _encode_documents(task: ShardTask, tokeniser: Any, end: int) -> Iterator[tuple[bytes, Any]]:
    for batch in read_part(task.source, {"record_id": "id", task.column: "text"}):
        for start in range(0, batch.num_rows, BATCH_TEXTS):
            rows = batch.slice(start, BATCH_TEXTS)
            rows = rows.filter(pc.is_valid(rows.column(task.column)))
            encoded = tokeniser.encode_batch_fast(rows.column(task.column).to_pylist(), add_special_tokens=False)
            for record, one in zip(rows.column("record_id").to_pylist(), encoded, strict=True):
                yield record, [*one.ids, end]


def _write_documents(path: Path, shard: TokenShard, documents: Iterable[tuple[bytes, Any]]) -> TokenShard:
    """Write a shard and its index under draft names, then rename: the index last."""
    kind = np.dtype("<u2" if shard.bits == 16 else "<u4")
    digest, offset = sha256(), 0
    ids: list[bytes] = []
    offsets: list[int] = []
    lengths: list[int] = []
    draft = path.with_suffix(".draft")
    with open(draft, "wb") as file:
        for record, tokens in documents:
            raw = np.asarray(tokens, kind).tobytes()
            file.write(raw)
            digest.update(raw)
            ids.append(record)
            offsets.append(offset)
            lengths.append(len(tokens))
            offset += len(tokens)
        padding = np.full(-offset % shard.length, shard.end, kind).tobytes()
        file.write(padding)
        digest.update(padding)
    index = pa.table([pa.array(ids, pa.binary(16)), offsets, lengths], names=list(INDEX_COLUMNS))
    index_draft = path.with_suffix(".index.draft")
    pq.write_table(index, index_draft, compression="zstd", write_page_checksum=True)
    draft.replace(path)
    index_draft.replace(index_path(path))
    size = path.stat().st_size
    return replace(shard, sha256=digest.hexdigest(), size_bytes=size, documents=len(ids), tokens=offset)


def index_path(shard: Path) -> Path:
    return shard.with_suffix(".parquet")


def open_shard(folder: Path, shard: TokenShard) -> Any:
    """The sequences of a shard as a memory-mapped array (sequences x length). Raises DataError AW-DATA-66."""
    path = folder / shard.path
    kind = np.dtype("<u2" if shard.bits == 16 else "<u4")
    if not path.is_file() or compute_file_digest(path) != (shard.sha256, shard.size_bytes):
        hint = "refine again: archwright data refine recipe.yaml"
        raise DataError("AW-DATA-66", "the shard is missing or damaged", where=ErrorLocation(str(path)), hint=hint)
    if not shard.size_bytes:
        return np.empty((0, shard.length), kind)  # all its documents were removed
    return np.memmap(path, kind, "r").reshape(-1, shard.length)


def remove_documents(folder: Path, shard: TokenShard, records: set[bytes]) -> TokenShard:
    """Write the shard again without the documents; the former files are gone. Returns the new record.

    After a kill, call it again with the same record: if the tokens are new already, only their index is old."""
    path = folder / shard.path
    index = pq.read_table(index_path(path))
    stays = pc.invert(pc.is_in(index.column("record_id"), pa.array(sorted(records), pa.binary(16))))
    unchanged = compute_file_digest(path)[0] == shard.sha256
    if unchanged and pc.all(stays).as_py() is not False:
        return shard
    tokens = np.fromfile(path, np.dtype("<u2" if shard.bits == 16 else "<u4"))
    rows = index.filter(stays).to_pylist()
    packed = itertools.accumulate((row["tokens"] for row in rows), initial=0)
    starts = [row["offset"] for row in rows] if unchanged else list(packed)[:-1]
    documents = (
        (row["record_id"], tokens[start : start + row["tokens"]]) for row, start in zip(rows, starts, strict=True)
    )
    return _write_documents(path, shard, documents)
