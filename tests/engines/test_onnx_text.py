"""The engine of embedders and rerankers: vectors and scores are PyTorch's, and a broken model never listens."""

from __future__ import annotations

import asyncio
import math
import re
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper

from archwright.engines import onnx_text
from archwright.engines.engine_config import EngineConfig
from archwright.engines.model_store import add_model
from archwright.engines.onnx_text import make_batches, sigmoid
from archwright.home import Home
from archwright.http_client.client import EngineClient, EngineRefused

from ..tools.checks import WAIT_S, refuses, until_async
from ..tools.text_models import EMBEDDER, QUERY, RERANKER, TEXTS, TextModels, find_text_models
from .conftest import Act, make_config, serve_until_done
from .text_folders import (
    GOOD,
    HIDDEN,
    LOGITS,
    LOOK_UP,
    SIZES,
    TABLE,
    TOKENIZER,
    build_graph,
    build_reranker,
    write_folder,
)

pytestmark = pytest.mark.usefixtures("terminate_handler")
DIGEST = "d" * 64


def _config(digest: str, context_tokens: int = 512, **settings: Any) -> EngineConfig:
    fields = {"socket": "text", "slots": 2, "model_sha256": digest, "context_tokens": context_tokens}
    return make_config("onnx-text", settings=settings, **fields)


def _serve(home: Home, config: EngineConfig, act: Act) -> Any:
    return serve_until_done(onnx_text.serve, home, config, act)[0]


@pytest.fixture(scope="module")
def text_models(tmp_path_factory: pytest.TempPathFactory) -> TextModels:
    return find_text_models(tmp_path_factory.getbasetemp())


@pytest.mark.nightly
@pytest.mark.model
def test_vectors_are_those_of_the_original_model(text_models: TextModels, tmp_path: Path) -> None:
    text_models.put(Home(tmp_path))
    together = {"input": list(TEXTS), "model": "small", "encoding_format": "float", "dimensions": 384}

    async def act(client: EngineClient) -> list[dict[str, Any]]:
        # One batch of all, batches of one, and a text alone: padding and order change nothing.
        return [await client.post("/embeddings", {**together, "input": given}) for given in (list(TEXTS), TEXTS[1])]

    for batch_tokens in (4096, 8):
        whole, alone = _serve(Home(tmp_path), _config(EMBEDDER, batch_tokens=batch_tokens), act)
        found = np.array([row["embedding"] for row in whole["data"]])
        assert [row["index"] for row in whole["data"]] == [*range(len(TEXTS))]
        assert (found * np.array(text_models.vectors)).sum(1).min() > 0.9999
        assert np.linalg.norm(found, axis=1) == pytest.approx(1, abs=1e-5)
        assert alone["data"][0]["embedding"] == pytest.approx(found[1].tolist(), abs=1e-5)
        assert whole["usage"]["prompt_tokens"] == whole["usage"]["total_tokens"] > alone["usage"]["prompt_tokens"] == 10


@pytest.mark.nightly
@pytest.mark.model
def test_scores_are_the_sigmoid_of_the_original_logits_best_first(text_models: TextModels, tmp_path: Path) -> None:
    text_models.put(Home(tmp_path))

    async def act(client: EngineClient) -> list[dict[str, Any]]:
        body = {"query": QUERY, "documents": list(TEXTS)}
        return [await client.post("/v1/rerank", {**body, "top_n": top_n}) for top_n in (None, 2, 99)]

    whole, two, more = _serve(Home(tmp_path), _config(RERANKER, task="rerank", batch_tokens=64), act)
    scores = {row["index"]: row["relevance_score"] for row in whole["results"]}
    assert [scores[index] for index in range(len(TEXTS))] == pytest.approx(
        [sigmoid(logit) for logit in text_models.logits], abs=1e-5
    )
    assert [*scores.values()] == sorted(scores.values(), reverse=True) and len(set(scores.values())) == len(TEXTS)
    assert two["results"] == whole["results"][:2] and more["results"] == whole["results"]
    assert whole["usage"] == two["usage"] and whole["usage"]["prompt_tokens"] > len(TEXTS) * 7


@pytest.mark.nightly
@pytest.mark.model
def test_it_answers_meanwhile_and_a_cancelled_request_ends_with_its_batch(
    text_models: TextModels, tmp_path: Path
) -> None:
    text_models.put(Home(tmp_path))

    async def count(client: EngineClient, name: str) -> float:
        lines = (await client.get_text("/metrics")).splitlines()
        return next(float(line.split()[1]) for line in lines if line.startswith(f"onnx_text:{name} "))

    async def is_idle(client: EngineClient) -> bool:
        return await count(client, "requests_processing") == 0

    async def act(client: EngineClient) -> tuple[float, float]:
        text = "the ships upon the sea " * 30
        single = await client.post("/embeddings", {"input": text})
        whole = 400 * single["usage"]["prompt_tokens"]
        before = await count(client, "prompt_tokens_total")
        task = asyncio.create_task(client.post("/embeddings", {"input": [text] * 400}))
        await until_async(lambda: count_above(client, before))
        assert await client.healthy(timeout_s=WAIT_S)
        assert await count(client, "requests_processing") == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until_async(lambda: is_idle(client))
        return await count(client, "prompt_tokens_total") - before, whole

    async def count_above(client: EngineClient, limit: float) -> bool:
        return await count(client, "prompt_tokens_total") > limit

    read, whole = _serve(Home(tmp_path), _config(EMBEDDER), act)
    assert read < whole, "the other batches were not read"


def _embed(home: Home, given: Any, **changes: Any) -> Any:
    async def act(client: EngineClient) -> Any:
        return await client.post("/embeddings", {"input": given})

    return [row["embedding"] for row in _serve(home, _config(DIGEST, **changes), act)["data"]]


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(None, (2, 2)), ("mean_tokens", (2, 2)), ("cls_token", (1, 0)), ("lasttoken", (3, 4))],
)
def test_pooling_follows_the_folder_and_padding_takes_no_part(
    tmp_path: Path, mode: str | None, expected: tuple[int, int]
) -> None:
    pooling = {"word_embedding_dimension": 2, "include_prompt": True, f"pooling_mode_{mode}": True}
    write_folder(Home(tmp_path).model_folder(DIGEST), **({} if mode is None else {"1_Pooling/config.json": pooling}))
    row, other = _embed(Home(tmp_path), ["sea tax", "ship ship ship ship"])
    assert row == pytest.approx([one / math.hypot(*expected) for one in expected], abs=1e-6) and other == [0, 1]
    assert _embed(Home(tmp_path), [[1, 3], [2, 2, 2, 2]]) == [row, other]


def test_a_folder_as_makers_publish_it_is_added_and_served(tmp_path: Path) -> None:
    files: dict[str, object] = {"onnx/model.onnx": GOOD, "model.onnx": None, "config.json": SIZES}
    files |= {"sentence_bert_config.json": {"max_seq_length": 3}, "modules.json": []}
    folder = write_folder(
        tmp_path / "published", **files, **{"1_Pooling/config.json": {"pooling_mode_cls_token": True}}
    )
    home = Home(tmp_path / "home")
    stored = add_model(folder, "words", "MIT", home)
    assert (stored.form, stored.task, stored.architecture.context_tokens) == ("onnx", "embed", 8)
    home.model_folder(stored.sha256).rename(home.model_folder(DIGEST))
    assert _embed(home, "ship tax") == [[0, 1]]
    with pytest.raises(EngineRefused, match=r"\(4 of 3 tokens\)"):
        _embed(home, "sea sea sea sea")


def test_ready_vectors_and_other_integers_are_taken_as_they_are(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["position_ids"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["attention_mask"], ["y"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["x", "y"], ["sentence_embedding"]),
    ]
    names = ("position_ids", "attention_mask")
    model = build_graph(nodes, TensorProto.INT32, names, output="sentence_embedding", tensors=[])
    modules = [{"type": "sentence_transformers.models.Transformer"}, {"type": "sentence_transformers.models.Dense"}]
    write_folder(Home(tmp_path).model_folder(DIGEST), **{"model.onnx": model, "modules.json": modules})
    assert _embed(Home(tmp_path), ["sea sea"]) == [pytest.approx([1 / math.sqrt(5), 2 / math.sqrt(5)])]


WRONG: list[tuple[str, Any, str]] = [
    ("/embeddings", {"input": "sea " * 6}, "input[0] exceeds the available context size (6 of 5 tokens)"),
    ("/embeddings", {"input": ["sea", "sea " * 6]}, "input[1] exceeds"),
    ("/embeddings", {"input": [[1, 2], [1] * 6]}, "input[1] exceeds"),
    ("/embeddings", {"input": [[1, 5]]}, "input[0] has a token id that is not from 0 to 4"),
    ("/embeddings", {"input": [-1]}, "input[0] has a token id"),
    ("/embeddings", {"input": [[1], []]}, "input[1] has no tokens"),
    ("/embeddings", {"input": "  "}, "input[0] has no tokens"),
    ("/embeddings", {"input": []}, "1 to 2048"),
    ("/embeddings", {"input": ["sea"] * 2049}, "1 to 2048"),
    ("/embeddings", {"input": ["sea", 1]}, "1 to 2048"),
    ("/embeddings", {"input": [True]}, "input[0]: Expected"),
    ("/embeddings", {"input": "sea", "dimensions": 1}, "dimensions must be 2"),
    ("/embeddings", {"input": "sea", "encoding_format": "base64"}, "encoding_format: Invalid"),
    ("/embeddings", {}, "the body: Object missing required field `input`"),
    ("/embeddings", b"{", "not JSON"),
]


def test_what_is_not_an_input_is_refused_by_its_place(tmp_path: Path) -> None:
    async def act(client: EngineClient) -> None:
        for path, body, said in WRONG:
            with pytest.raises(EngineRefused) as refused:
                await client.post(path, msgspec.Raw(body) if isinstance(body, bytes) else body)  # type: ignore[arg-type]
            assert refused.value.status == 400 and said in refused.value.body["error"]["message"], (body, refused.value)
        assert (await client.post("/embeddings", {"input": "sea"}))["usage"]["prompt_tokens"] == 1

    write_folder(Home(tmp_path).model_folder(DIGEST), **{"config.json": {"max_position_embeddings": 5}})
    _serve(Home(tmp_path), _config(DIGEST), act)


@pytest.mark.parametrize(
    ("files", "limit"),
    [
        ({"sentence_bert_config.json": {"max_seq_length": 3, "do_lower_case": False}}, 3),
        ({"tokenizer_config.json": {"model_max_length": 1e30}, "config.json": {"max_position_embeddings": 4}}, 4),
        ({"config.json": {"model_type": "xlm-roberta", "pad_token_id": 1, "max_position_embeddings": 6}}, 4),
        ({"tokenizer_config.json": {"model_max_length": 7}, "config.json": {"pad_token_id": -1}}, 6),
        ({"config.json": {"pad_token_id": 2**70, "max_position_embeddings": 4}}, 4),
    ],
)
def test_the_longest_text_is_what_folder_and_configuration_allow(
    tmp_path: Path, files: dict[str, object], limit: int
) -> None:
    write_folder(Home(tmp_path).model_folder(DIGEST), **files)
    with pytest.raises(EngineRefused, match=rf"\(99 of {limit} tokens\)"):
        _embed(Home(tmp_path), "sea " * 99, context_tokens=6)
    assert _embed(Home(tmp_path), "sea " * limit, context_tokens=6) == [[1, 0]]


PARTS = [{"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]
# The tokenizer loads, and panics when it is used.
NO_SUCH_TOKEN = {"type": "TemplateProcessing", "single": PARTS, "pair": PARTS, "special_tokens": {}}
COPY = [helper.make_node("Identity", ["input_ids"], [LOGITS])]
TOTAL = helper.make_node("ReduceSum", ["w"], [LOGITS], keepdims=0)


def _external(location: str) -> Any:
    tensor = TensorProto(name="w", dims=TABLE.shape, data_type=TensorProto.FLOAT, data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return build_graph(LOOK_UP, tensors=[tensor])


@pytest.mark.parametrize(
    ("code", "said", "files"),
    [
        ("AW-ENG-10", "missing or empty", {"model.onnx": None}),
        ("AW-ENG-10", "missing or empty", {"model.onnx": b""}),
        ("AW-ENG-10", "not a complete ONNX", {"model.onnx": GOOD[:-9]}),
        ("AW-ENG-10", "config.json: the file is missing", {"config.json": None}),
        ("AW-ENG-10", "config.json: Expected", {"config.json": {"max_position_embeddings": "many"}}),
        ("AW-ENG-10", "tokenizer.json: not a tokenizer", {"tokenizer.json": {"model": {"type": "Mine"}}}),
        ("AW-ENG-10", "tokenizer.json: not a tokenizer", {"tokenizer.json": b"\xff" * 99}),
        ("AW-ENG-13", "no entry found", {"tokenizer.json": {**TOKENIZER, "post_processor": NO_SUCH_TOKEN}}),
        ("AW-ENG-10", "max_tokens is not supported", {"1_Pooling/config.json": {"pooling_mode_max_tokens": True}}),
        ("AW-ENG-10", "(none) is not supported", {"1_Pooling/config.json": {}}),
        ("AW-ENG-11", "'../secret'", {"model.onnx": _external("../secret")}),
        ("AW-ENG-11", "'/etc/passwd'", {"model.onnx": _external("/etc/passwd")}),
        ("AW-ENG-11", "'absent.bin'", {"model.onnx": _external("absent.bin")}),
        ("AW-ENG-12", "mine", {"model.onnx": build_graph([helper.make_node("Run", ["w"], [HIDDEN], domain="mine")])}),
        ("AW-ENG-12", "its input 'pixels'", {"model.onnx": build_graph(LOOK_UP, names=("input_ids", "pixels"))}),
        (
            "AW-ENG-12",
            "(tensor(float)) is none of",
            {"model.onnx": build_graph(COPY, TensorProto.FLOAT, output="logits")},
        ),
        (
            "AW-ENG-12",
            "is tensor(int64), not",
            {"model.onnx": build_graph(COPY, output=LOGITS, kind_out=TensorProto.INT64)},
        ),
        ("AW-ENG-12", "has the shape ()", {"model.onnx": build_graph([TOTAL], output=LOGITS), "rerank": b""}),
        ("AW-ENG-12", "dimension 0", {"model.onnx": build_graph([TOTAL], output=LOGITS)}),
        ("AW-ENG-12", "has the shape (1, 1)", {"model.onnx": build_reranker()}),
        ("AW-ENG-12", "layers after the pooling", {"modules.json": [{"type": "sentence_transformers.models.Dense"}]}),
        ("AW-ENG-12", "has the shape", {"rerank": b""}),
    ],
)
def test_a_broken_or_hostile_folder_is_refused_before_it_listens(
    tmp_path: Path, code: str, said: str, files: dict[str, Any]
) -> None:
    home = Home(tmp_path)
    (tmp_path / "secret").write_bytes(TABLE.tobytes())
    write_folder(home.model_folder(DIGEST), **files)
    with refuses(code, re.escape(said)):
        _serve(home, _config(DIGEST, task="rerank" if "rerank" in files else "embed"), _unreachable)
    assert not home.socket("text").exists()


async def _unreachable(client: EngineClient) -> None:
    raise AssertionError("it was served")


def test_tensors_may_lie_beside_the_model_but_not_behind_a_link(tmp_path: Path) -> None:
    folder = write_folder(
        Home(tmp_path).model_folder(DIGEST), **{"model.onnx": _external("model.bin"), "model.bin": TABLE.tobytes()}
    )
    assert _embed(Home(tmp_path), "ship") == [[0, 1]]
    (folder / "model.bin").rename(tmp_path / "elsewhere")
    (folder / "model.bin").symlink_to(tmp_path / "elsewhere")
    with refuses("AW-ENG-11"):
        _serve(Home(tmp_path), _config(DIGEST), _unreachable)


def test_a_small_reranker_scores_pairs(tmp_path: Path) -> None:
    write_folder(Home(tmp_path).model_folder(DIGEST), **{"model.onnx": build_reranker()})

    async def act(client: EngineClient) -> Any:
        documents = ["tax", "ship", "form", "sea"]
        for body in ({"query": "", "documents": ["x"]}, {"query": "x", "documents": []}, {"query": "x"}):
            with pytest.raises(EngineRefused, match=r"query|documents"):
                await client.post("/rerank", body)
        with pytest.raises(EngineRefused, match=r"documents\[1\] exceeds"):
            await client.post("/rerank", {"query": "sea", "documents": ["sea", "sea " * 8]})
        for path in ("/embeddings", "/chat/completions"):
            with pytest.raises(EngineRefused, match="serves only /v1/rerank") as refused:
                await client.post(path, {"input": "x"})
            assert refused.value.unable, "the client's mistake, and no fault of the engine"
        return await client.post("/rerank", {"query": "sea", "documents": documents, "top_n": 4})

    found = _serve(Home(tmp_path), _config(DIGEST, 8, task="rerank", batch_tokens=4), act)
    scores = [sigmoid(3), sigmoid(2), sigmoid(0), 0.0]
    assert [row["index"] for row in found["results"]] == [2, 3, 1, 0]
    assert [row["relevance_score"] for row in found["results"]] == pytest.approx(scores)
    assert found["usage"] == {"prompt_tokens": 8, "total_tokens": 8}


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=60), batch_tokens=st.integers(1, 200))
def test_batches_hold_every_text_once_within_their_bound(lengths: list[int], batch_tokens: int) -> None:
    batches = list(make_batches(lengths, batch_tokens))
    assert sorted(index for batch in batches for index in batch) == [*range(len(lengths))]
    for batch in batches:
        assert len(batch) == 1 or len(batch) * max(lengths[index] for index in batch) <= batch_tokens


def test_sigmoids_keep_their_order_and_their_range() -> None:
    logits = (-1e4, -50.0, -49.0, 0.0, 3.0, 1e4)
    found = [sigmoid(logit) for logit in logits]
    assert found == sorted(found) and found[0] == 0 and found[3] == 0.5 and found[-1] == 1 and found[1] < found[2]
