"""Shards of tokens: whole sequences, an index of documents, documents that can be removed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from archwright.contract.lineage import DatasetVersion
from archwright.lake import refinement
from archwright.lake.lazy_modules import pq
from archwright.lake.steps import token_shards

from ...tools.checks import refuses
from ..temporary_lake import Lake

WORDS = ["<end>", "a", "b", "c", "d"]


def write_tokeniser(path: Path) -> None:
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<end>"}
    path.write_text(json.dumps({"version": "1.0", "pre_tokenizer": {"type": "WhitespaceSplit"}, "model": model}))


def make_shards(lake: Lake, options: str = "") -> DatasetVersion:
    write_tokeniser(lake.root / "tokenizer.json")
    steps = "[{drop-empty: {}}]"
    shards = f"{{tokeniser: tokenizer.json, end: <end>, length: 4{options}}}"
    return lake.refine(f"{steps}\ntoken-shards: {shards}").version


def read_tokens(lake: Lake, version: DatasetVersion) -> list[list[int]]:
    folder = refinement.shards_folder(lake.home, version)
    return [row for shard in version.token_shards for row in token_shards.open_shard(folder, shard).tolist()]


def test_documents_are_packed_into_sequences(lake: Lake) -> None:
    lake.ingest_rows([{"text": "a b c"}, {"text": " "}, {"text": "d a"}])
    version = make_shards(lake)
    assert read_tokens(lake, version) == [[1, 2, 3, 0], [4, 1, 0, 0]]
    [shard] = version.token_shards
    assert (shard.documents, shard.tokens, shard.bits, shard.size_bytes) == (2, 7, 16, 16)
    index = pq.read_table(token_shards.index_path(refinement.shards_folder(lake.home, version) / shard.path))
    assert [(row["offset"], row["tokens"]) for row in index.to_pylist()] == [(0, 4), (4, 3)]


def test_a_document_is_removed_with_its_tokens(lake: Lake) -> None:
    lake.ingest_rows([{"text": "a b c"}, {"text": "d d d"}, {"text": "b"}])
    version = make_shards(lake)
    [shard], folder = version.token_shards, refinement.shards_folder(lake.home, version)
    gone = lake.values(version, "record_id")[1]
    new = token_shards.remove_documents(folder, shard, {gone})
    assert token_shards.open_shard(folder, new).tolist() == [[1, 2, 3, 0], [2, 0, 0, 0]]
    assert (new.documents, new.sha256 != shard.sha256) == (2, True)
    assert token_shards.remove_documents(folder, new, {gone}) == new
    with refuses("AW-DATA-66"):
        token_shards.open_shard(folder, shard)
    assert {path.suffix for path in folder.iterdir()} == {".bin", ".parquet"}


@pytest.mark.parametrize(
    ("options", "code", "words"),
    [
        ("tokeniser: ./none.json, end: <end>", "AW-DATA-65", "no tokeniser at"),
        ("tokeniser: ./tokenizer.json, end: <e>", "AW-DATA-65", "no token"),
        ("tokeniser: ./tokenizer.json, end: <end>, column: no", "AW-DATA-22", "no column"),
    ],
)
def test_shards_are_refused_before_any_step_runs(lake: Lake, options: str, code: str, words: str) -> None:
    lake.ingest_rows([{"text": "a"}])
    write_tokeniser(lake.root / "tokenizer.json")
    with refuses(code, words):
        lake.refine(f"[{{drop-empty: {{}}}}]\ntoken-shards: {{{options}}}")
    assert not refinement.work_folder(lake.home, "docs-clean").exists()


def test_a_damaged_shard_is_noticed(lake: Lake) -> None:
    lake.ingest_rows([{"text": "a b"}])
    version = make_shards(lake)
    path = refinement.shards_folder(lake.home, version) / version.token_shards[0].path
    raw = bytearray(path.read_bytes())
    raw[0] ^= 1
    path.write_bytes(raw)
    with refuses("AW-DATA-66"):
        read_tokens(lake, version)
