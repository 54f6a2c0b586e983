"""Embedders and rerankers of the home are loaded into a running platform and served by the gateway."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright import api
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.engines.model_store import list_stored_models
from archwright.home import Home, write_json
from archwright.operate.platform_state import EndpointState, ProcessState, acquire_lock

from ..command_line import CommandLine, error_of
from ..engines.text_folders import SIZES, build_reranker, write_folder
from .conftest import Stage
from .test_rollout import NULL, Said

pytestmark = pytest.mark.enable_socket
HELLO = [{"role": "user", "content": "hello"}]


def _load_beside_a_restarted_supervisor(home: Home, cli: CommandLine) -> None:
    """A supervisor that died while an engine started knows the alias after its restart, and no engine runs."""
    assert "the next `up` will load embedder as embedder, early" in cli.text("models load embedder --alias early")
    cli.run("models unload early")
    endpoint = EndpointState(name="embedder", kind="text", version="embedder", promotion="embedder~2")
    engine = ProcessState(name="engine-plan", pid=4_190_000, ready=False, restarts=0, serves="planned")
    stated = {"url": "", "plan_digest": "", "endpoints": [endpoint], "processes": [engine]}
    write_json(home.state, {"supervisor_pid": 1, "standby_pid": 1, "started_at": 0.0, **stated})
    held = acquire_lock(home)
    assert held is not None
    with held:
        assert "the next request starts the model" in cli.text("models load embedder")
        shown = cli.text("models list --running")
    assert " 4190000" in shown and "requests now" in shown and "unloaded" in shown


@pytest.mark.nightly
def test_an_embedder_and_a_reranker_are_added_loaded_and_asked(
    home: Home, null_plan: Plan, tmp_path: Path, cli: CommandLine
) -> None:
    ranks = {**SIZES, "architectures": ["BertForSequenceClassification"]}
    write_folder(tmp_path / "embedder", **{"config.json": SIZES})
    write_folder(tmp_path / "ranker", **{"config.json": ranks, "model.onnx": build_reranker()})
    for name in ("embedder", "ranker"):
        api.models.add(str(tmp_path / name), name=name, licence="MIT")
    write_folder(tmp_path / "private", **{"config.json": {**SIZES, "_name_or_path": "private"}})
    api.models.add(str(tmp_path / "private"), name="private", licence="cc-by-nc-4.0")
    _load_beside_a_restarted_supervisor(home, cli)
    workloads = tuple(replace(one, licence="commercial") for one in null_plan.workloads)
    stage = Stage(home, replace(null_plan, workloads=workloads))
    try:
        stage.up(**NULL)
        for name in ("embedder", "ranker"):
            found = api.models.load(name)
            assert (found.served, found.context_tokens) == (True, 8) and found.predicted_bytes > 100_000_000
        assert api.models.load("private", dry_run=True).aliases == ("private",)
        error = error_of("AW-OPS-57", api.models.load, "private", alias=[workloads[0].name])
        assert "cc-by-nc-4.0 of private forbids the commercial use" in error.message
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
        file = next(home.stored_models.glob("*.d/model.onnx"))
        file.write_bytes(file.read_bytes()[:-1] + b"x")
        name = next(one.name for one in list_stored_models(home) if file.parent == home.model_folder(one.sha256))
        cli.run(f"models unload {name}")
        assert f"the files of {name} changed" in cli.error(f"models load {name}", 5)
    finally:
        api.down()
        stage.store.close()
