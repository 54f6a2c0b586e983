from __future__ import annotations

import numpy as np
import pytest

from archwright.engines.model_store import add_model
from archwright.errors import DataError
from archwright.lake.passages import embedding
from archwright.lake.passages.embedding import embed_cached, find_embedder, remove_embedding_cache

from ...tools.small_embedder import WIDTH, write_small_embedder
from ..temporary_lake import Lake, code


@pytest.fixture
def embedder(lake: Lake) -> embedding.EmbedderFiles:
    folder = write_small_embedder(lake.root / "embedder", ("sea", "ship", "cat", "tree"))
    add_model(folder, "small", "mit", lake.home)
    return find_embedder(lake.home)


def test_a_long_text_is_the_mean_of_its_parts_and_an_empty_one_is_zero(embedder: embedding.EmbedderFiles) -> None:
    short, long, empty = embed_cached(embedder, ["sea ship", "sea ship " * 500, " "])
    assert long @ short == pytest.approx(1, abs=1e-4)
    assert not empty.any()


def test_a_text_is_embedded_once_and_a_removed_cache_is_filled_again(
    lake: Lake, embedder: embedding.EmbedderFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    embed_cached(embedder, ["tree ship"])  # loads the model
    seen: list[str] = []
    embed = embedding.TextEmbedder.embed_texts

    def record(self: embedding.TextEmbedder, texts: list[str]) -> object:
        seen.extend(texts)
        return embed(self, texts)

    monkeypatch.setattr(embedding.TextEmbedder, "embed_texts", record)
    first = embed_cached(embedder, ["sea", "cat", "sea"])
    again = embed_cached(embedder, ["cat", "tree", "sea"])
    assert seen == ["sea", "cat", "tree"]
    assert np.array_equal(first[[1, 0]], again[[0, 2]])
    remove_embedding_cache(lake.home)
    assert np.array_equal(embed_cached(embedder, ["cat"])[0], first[1])
    assert seen[3:] == ["cat"]


def test_the_step_adds_vectors_that_the_table_stores(lake: Lake, embedder: embedding.EmbedderFiles) -> None:
    lake.ingest_rows([{"text": "sea"}, {"text": None}, {"text": "ship"}])
    version = lake.refine("[embed: {}]").version
    assert version.columns["embedding"] == "vector"
    vectors = lake.values(version, "embedding")
    assert [len(vector) for vector in vectors] == [WIDTH] * 3
    assert np.allclose(vectors[0], embed_cached(embedder, ["sea"])[0])
    lake.refine("[embed: {}]")


def test_a_home_without_an_embedder_says_how_to_get_one(lake: Lake) -> None:
    with pytest.raises(DataError) as caught:
        find_embedder(lake.home)
    assert code(caught.value) == "AW-DATA-78"
    assert "archwright models fetch" in caught.value.hint
