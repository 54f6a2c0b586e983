"""The ONNX engine: its answers, its refusals, and that it refuses a bad file before it listens."""

from __future__ import annotations

import asyncio
import io
import json
import math
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from archwright.engines import onnx
from archwright.engines.engine_config import EngineConfig
from archwright.engines.onnx_file import read_onnx
from archwright.home import Home
from archwright.http_client.client import EngineClient, EngineRefused
from archwright.journal import Journal

from ..tools.checks import refuses
from .conftest import Act, Child, make_config, serve_until_done
from .onnx_models import PICTURE, model, put

pytestmark = pytest.mark.usefixtures("terminate_handler")
PATH = "/v1/predict"


def _config(digest: str | None, **settings: Any) -> EngineConfig:
    return make_config("onnx", socket="sorter", alias="sorter@v1", slots=2, model_sha256=digest, settings=settings)


def _serve(folder: Path, act: Act, made: Any = None, **settings: Any) -> Any:
    config = _config(put(Home(folder), (made or model()).SerializeToString()), **settings)
    return serve_until_done(onnx.serve, Home(folder), config, act)[0]


def _ask(folder: Path, inputs: Any, made: Any = None) -> dict[str, Any]:
    async def act(client: EngineClient) -> dict[str, Any]:
        return await client.post(PATH, {"inputs": inputs})

    found: dict[str, Any] = _serve(folder, act, made)
    return found


def _high(total: float) -> float:
    return 1 / (1 + math.exp(-2 * total))


def test_it_answers_each_item_in_order_names_the_classes_and_takes_values_missing_in_training(tmp_path: Path) -> None:
    given = [[0.1, 0.2, 0.3], [1, 0, -2], {"c": 0.5, "a": 0, "b": 0}, [0.1, 0.2, None], {"a": 0.1, "b": 0.2, "c": None}]
    found = _ask(tmp_path, given)
    assert found["labels"] == ["low", "high"]
    wanted = [_high(total) for total in (0.6, -1, 0.5, 0.3, 0.3)]
    assert [row[1] for row in found["probabilities"]] == pytest.approx(wanted, abs=1e-6)
    assert all(sum(row) == pytest.approx(1, abs=1e-6) for row in found["probabilities"])


def test_a_picture_may_be_flat_or_row_by_row(tmp_path: Path) -> None:
    found = _ask(tmp_path, [[1, 0, 0, -3], [[[1], [0]], [[0], [-3]]]], model(PICTURE))
    assert found["probabilities"][0] == found["probabilities"][1]


WRONG = [
    ({"inputs": []}, "1 to 4 items, not of 0"),
    ({"inputs": [[1, 2, 3]] * 5}, "1 to 4 items, not of 5"),
    ({"inputs": [[1, 2, 3], [1, 2]]}, "inputs[1] must be a list of 3, not a list of 2"),
    ({"inputs": [[1, 2, "3"]]}, "inputs[0][2]: Expected"),
    ({"inputs": [[1, True, 3]]}, "inputs[0][1]: Expected"),
    ({"inputs": [[1, [2], 3]]}, "inputs[0][1] must be a number"),
    ({"inputs": [[1, 1e39, 3]]}, "inputs[0][1] must be a number of 32 bits"),
    ({"inputs": [{"a": 1, "b": 1e39, "c": 2}]}, "inputs[0][b] must be a number of 32 bits"),
    ({"inputs": [[1, 2, 3], [None, 2, 3]]}, "inputs[1][a] is missing"),
    ({"inputs": [{"a": 1, "b": 2}]}, "the feature 'c' is missing"),
    ({"inputs": [{"a": 1, "b": 2, "cc": 3}]}, "unknown feature 'cc'; did you mean 'c'?"),
    ({"inputs": [{"a": 1, "b": 2, "zzz": 3}]}, "unknown feature 'zzz'"),
    ({"inputs": 1}, "inputs: Expected `array`"),
    ({"inputs": [1]}, "inputs[0]: Expected"),
    ({"input": [[1, 2, 3]]}, "unknown field"),
    ([1], "the body: Expected `object`"),
    (b"{", "not JSON"),
    (b"\xff", "not JSON"),
    (b'{"inputs": [[NaN, 1, 2]]}', "not JSON"),
    (b'{"inputs":' + b"[" * 5000 + b"]" * 5000 + b"}", ""),
]


WRONG_PICTURES = [
    ([[[1], [0]]], "inputs[0] must be a list of 2, not a list of 1"),
    ([[[1], [0]], [[0]]], "inputs[0][1] must be a list of 2, not a list of 1"),
    ([[[1], [0]], 5], "inputs[0][1] must be a list of 2, not another type"),
    ([[[1], ["x"]], [[0], [1]]], "inputs[0][0][1][0] must be a number"),
    ([[[1], [10**60]], [[0], [1]]], "inputs[0][0][1][0] must be a number of 32 bits"),
    ({"a": 1}, "have no names: send a list of 4 numbers"),
    ([1, 2, None, 4], "inputs[0][2] is missing"),
]


@pytest.mark.parametrize(
    ("made", "wrong"),
    [(None, WRONG), (model(PICTURE), [({"inputs": [item]}, said) for item, said in WRONG_PICTURES])],
    ids=["features", "picture"],
)
def test_what_does_not_fit_is_refused_by_its_place(tmp_path: Path, made: Any, wrong: list[tuple[Any, str]]) -> None:
    async def act(client: EngineClient) -> None:
        for body, said in wrong:
            with pytest.raises(EngineRefused) as refused:
                await client.post(PATH, msgspec.Raw(body) if isinstance(body, bytes) else body)  # type: ignore[arg-type]
            assert refused.value.status == 400, body
            error = refused.value.body["error"]
            assert error["type"] == "invalid_request_error" and said in error["message"], (said, error)
        # Numbers that are finite, with scores that are not: an error of ours.
        for path, inputs, status in (("/v1/nothing", [], 404), (PATH, [[3e38] * (4 if made else 3)], 500)):
            with pytest.raises(EngineRefused) as refused:
                await client.post(path, {"inputs": inputs})
            assert refused.value.status == status and (status == 404 or "not finite" in refused.value.message)

    _serve(tmp_path, act, made, batch_items=4)


def test_health_and_counts(tmp_path: Path) -> None:
    async def act(client: EngineClient) -> str:
        assert await client.healthy()
        await asyncio.gather(*(client.post(PATH, {"inputs": [[1, 2, 3]] * 3}) for _ in range(5)))
        return await client.get_text("/metrics")

    counts = dict(line.split() for line in _serve(tmp_path, act).splitlines())
    assert counts["onnx:predictions_total"] == "15" and float(counts["onnx:prediction_seconds_total"]) > 0
    assert counts["onnx:requests_processing"] == counts["onnx:requests_deferred"] == "0"


def _put_damaged(home: Home) -> str:
    digest = put(home, model().SerializeToString())
    home.model(digest, "onnx").write_bytes(b"")
    return digest


def _put_unfit(case: str) -> Callable[[Home], str]:
    made = model(outputs=3) if case == "outputs" else model()
    if case == "inputs":
        made.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 7
    elif case == "operator":
        made.graph.node[0].op_type = "Banana"
    elif case == "constant":
        made.graph.output.append(made.graph.output[0])
    return lambda home: put(home, made.SerializeToString())


@pytest.mark.parametrize(
    ("digest", "settings", "code"),
    [
        (lambda home: None, {}, "AW-ENG-06"),
        (lambda home: "0" * 64, {}, "AW-GET-02"),
        *((_put_unfit(""), wrong, "AW-ENG-06") for wrong in ({"threads": 0}, {"batch_items": 0}, {"gpu": True})),
        (_put_damaged, {}, "AW-ENG-10"),
        *((_put_unfit(case), {}, "AW-ENG-12") for case in ("outputs", "inputs", "operator", "constant")),
        (_put_unfit(""), {}, "AW-GET-01"),
    ],
)
def test_what_cannot_be_served_does_not_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, digest: Callable[[Home], str | None], settings: Any, code: str
) -> None:
    home = Home(tmp_path)
    config = _config(digest(home), **settings)
    if code == "AW-GET-01":
        monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with refuses(code) as refused:
        onnx.serve(config, home, Journal("onnx", io.StringIO()))
    assert not home.socket(config.socket).exists()
    assert code != "AW-GET-01" or refused.value.hint == "pip install 'archwright[predict]'"


@pytest.mark.process
def test_as_a_process_it_starts_answers_and_leaves(tmp_path: Path) -> None:
    home = Home(tmp_path)
    child = Child(home, _config(put(home, model().SerializeToString())))
    child.start()

    async def act() -> dict[str, Any]:
        client = EngineClient(child.address)
        try:
            return await client.post(PATH, {"inputs": [[0, 0, 0]]})
        finally:
            await client.close()

    assert asyncio.run(act())["probabilities"] == [[0.5, 0.5]]
    assert child.end(signal.SIGTERM) == 0
    assert not home.socket("sorter").exists()
    assert [json.loads(line)["event"] for line in child.log.read_text().splitlines()] == ["ready"]


def test_rows_become_floats_of_32_bits(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(model().SerializeToString())
    classifier = onnx.Classifier(read_onnx(path))
    rows = classifier.build_rows([[0.1, 2, 3], {"a": 1, "b": 2, "c": None}])
    assert rows.dtype == np.float32 and np.isnan(rows[1, 2]) and rows.shape == (2, 3)
    assert classifier.predict_probabilities(rows).shape == (2, 2)
    with refuses("AW-ENG-13"):
        classifier.predict_probabilities(rows[:, :2])
