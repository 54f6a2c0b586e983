"""Embedders and rerankers of the home are loaded into a running platform and served by the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright import api
from archwright.contract.plan import Plan
from archwright.home import Home

from ..engines.text_folders import SIZES, build_reranker, write_folder
from .conftest import Stage
from .test_rollout import NULL, Said

pytestmark = pytest.mark.enable_socket
HELLO = [{"role": "user", "content": "hello"}]


def test_an_embedder_and_a_reranker_are_added_loaded_and_asked(home: Home, null_plan: Plan, tmp_path: Path) -> None:
    ranks = {**SIZES, "architectures": ["BertForSequenceClassification"]}
    write_folder(tmp_path / "embedder", **{"config.json": SIZES})
    write_folder(tmp_path / "ranker", **{"config.json": ranks, "model.onnx": build_reranker()})
    for name in ("embedder", "ranker"):
        api.models.add(str(tmp_path / name), name=name, licence="MIT")
    stage = Stage(home, null_plan)
    try:
        stage.up(**NULL)
        for name in ("embedder", "ranker"):
            found = api.models.load(name)
            assert (found.served, found.context_tokens) == (True, 8) and found.predicted_bytes > 100_000_000
        vectors = Said(stage, "/v1/embeddings", {"model": "embedder", "input": ["ship", "sea tax"]})
        assert vectors.body["data"][0]["embedding"] == [0, 1]
        body = {"model": "ranker", "query": "sea", "documents": ["tax", "ship", {"text": "form"}], "top_n": 2}
        assert [row["index"] for row in Said(stage, "/v1/rerank", body).body["results"]] == [2, 1]
        # A request for another task is the client's mistake: the engine stays in service.
        for path, more in (("/v1/rerank", body), ("/v1/chat/completions", {"messages": HELLO})):
            for _ in range(6):
                refused = Said(stage, path, {**more, "model": "embedder"})
                assert (refused.status, refused.body["error"]["code"]) == (400, "unsupported_model")
        assert Said(stage, "/v1/embeddings", {"model": "embedder", "input": "ship"}).status == 200
    finally:
        api.down()
        stage.store.close()
