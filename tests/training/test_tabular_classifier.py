"""The tabular classifier: it learns, goes on exactly, and ONNX says what its trees say."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from archwright.contract.record import replace
from archwright.engines.onnx import Classifier
from archwright.engines.onnx_file import read_onnx
from archwright.training import classifier_data, tabular_classifier
from archwright.training.training_spec import Columns, TrainSpec

from ..tools.checks import refuses
from .classifier_rows import CANCER, Pair, accuracy, cancer, data_of, setup_of, steps

# LightGBM trains for real here.
pytestmark = pytest.mark.model

KINDS = ("benign", "malignant")


def _trained(columns: dict[str, Any], spec: TrainSpec, folder: Path, rounds: int = 20) -> Any:
    """A trainer after some rounds, with its result saved."""
    trainer = tabular_classifier.make_trainer(setup_of(columns, spec, folder))
    steps(trainer, 0, rounds)
    trainer.save(folder)
    return trainer


def _differences(folder: Path, columns: dict[str, Any], spec: TrainSpec) -> tuple[float, float]:
    """How far the served answers are from the trees', and from an untrained model's; over every row."""
    data = data_of(columns, spec)
    served = Classifier(read_onnx(folder / "model.onnx"))
    trained = tabular_classifier.load_trained(folder, data, spec, served.notes.labels)
    assert trained.notes == served.notes
    found = []
    for part in (data.train, data.held_out):
        rows = classifier_data.build_feature_matrix(part, list(served.notes.features), data)
        answers = served.predict_probabilities(rows)
        found.append([np.abs(answers - other(rows)).max() for other in (trained.answers, trained.untrained)])
    return float(max(one[0] for one in found)), float(min(one[1] for one in found))


def test_it_learns_and_serves_what_it_learned(tmp_path: Path) -> None:
    spec, data = CANCER, data_of(cancer(), CANCER)
    trainer = tabular_classifier.make_trainer(setup_of(cancer(), spec, tmp_path))
    assert trainer.budget() == len(trainer.lengths()) == len(data.train.ids)
    losses = steps(trainer, 0, spec.steps)
    assert losses == sorted(losses, reverse=True) and losses[-1] < 0.2
    result = trainer.save(tmp_path)
    assert (result.format, result.labels, result.input_shape) == ("onnx", KINDS, (30,))
    trained = tabular_classifier.load_trained(tmp_path, data, spec, KINDS)
    rows = classifier_data.build_feature_matrix(data.held_out, list(trained.notes.features), data)
    assert accuracy(trained.answers(rows), data, spec, KINDS) > 0.9
    assert accuracy(trained.untrained(rows), data, spec, KINDS) < 0.7
    near, far = _differences(tmp_path, cancer(), spec)
    assert near < 1e-6 and far > 0.3
    # One output of the right shape: the converter's second one has the engine warn at every call.
    assert [output.name for output in onnx.load(tmp_path / "model.onnx").graph.output] == ["probabilities"]


def test_missing_values_are_learned_from_and_allowed_where_they_were(tmp_path: Path) -> None:
    columns = cancer(absent=0.2)
    _trained(columns, CANCER, tmp_path)
    assert read_onnx(tmp_path / "model.onnx").notes.missing == tuple(f"m{place:02d}" for place in range(10))
    near, far = _differences(tmp_path, columns, CANCER)
    assert near < 1e-6 and far > 0.3


def test_rows_too_few_to_split_are_the_shares_of_their_classes(tmp_path: Path) -> None:
    columns = {name: column[:15] for name, column in cancer().items()}
    spec = replace(CANCER, held_out=0.0)
    columns["kind"] = np.array(["benign"] * 5 + ["malignant"] * 10)
    trainer = tabular_classifier.make_trainer(setup_of(columns, spec, tmp_path))
    steps(trainer, 0, 3)
    again = tabular_classifier.make_trainer(setup_of(columns, spec, tmp_path))
    again.restore(trainer.state())
    steps(again, 3, 5)
    steps(trainer, 3, 5)
    assert again.weights_sha256() == trainer.weights_sha256()
    trainer.save(tmp_path)
    data, served = data_of(columns, spec), Classifier(read_onnx(tmp_path / "model.onnx"))
    rows = classifier_data.build_feature_matrix(data.train, list(served.notes.features), data)
    assert served.predict_probabilities(rows) == pytest.approx(np.tile([1 / 3, 2 / 3], (15, 1)), abs=1e-6)


def _neighbours() -> dict[str, Any]:
    """Values so close together that a threshold between two of them is none in 32 bits."""
    chance, steps_up = np.random.default_rng(0), np.arange(200, dtype=np.int32)
    ladder = (np.float32(1000.1).view(np.int32) + steps_up).view(np.float32)
    up, down = ladder[chance.integers(0, 200, 3000)], -ladder[chance.integers(0, 200, 3000)]
    return {"up": up, "down": down, "kind": (up.view(np.int32) + down.view(np.int32)) % 3}


def test_thresholds_between_close_floats_keep_their_sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = replace(CANCER, learning_rate=0.5)
    _trained(_neighbours(), spec, tmp_path)
    near, far = _differences(tmp_path, _neighbours(), spec)
    assert near < 1e-5 and far > 0.2
    monkeypatch.setattr(tabular_classifier, "round_thresholds", lambda text: text)  # the converter alone
    _trained(_neighbours(), spec, tmp_path)
    assert _differences(tmp_path, _neighbours(), spec)[0] > 0.05


def test_thresholds_are_rounded_down(tmp_path: Path) -> None:
    given = "tree_sizes=1 2\nthreshold=0.1 -0.1 1e300 -1e300 0.5\nvalue=0.1\n"
    lines = tabular_classifier.round_thresholds(given).splitlines()
    values = [float(text) for text in lines[0].partition("=")[2].split()]
    assert lines[1:] == ["value=0.1"]
    assert values[0] < 0.1 and values[1] < -0.1 and values[0] == pytest.approx(0.1) and values[4] == 0.5
    assert values[2:4] == [classifier_data.FLOAT32_MAX, -classifier_data.FLOAT32_MAX]
    assert all(float(np.float32(value)) == value for value in (values[0], values[1], values[4]))


def test_constant_columns_and_several_classes(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    signal = chance.normal(size=900)
    columns = {
        "still": np.full(900, 7.0),
        "signal": signal,
        "name": ["text"] * 900,
        "level": np.digitize(signal, [-0.5, 0.5]) * 10,
    }
    spec = replace(CANCER, columns=Columns(label="level"))
    trainer = tabular_classifier.make_trainer(setup_of(columns, spec, tmp_path))
    steps(trainer, 0, 10)
    assert trainer.save(tmp_path).labels == ("0", "10", "20")
    assert read_onnx(tmp_path / "model.onnx").notes.features == ("still", "signal")
    near, far = _differences(tmp_path, columns, spec)
    assert near < 1e-6 and far > 0.3


def test_features_are_taken_in_the_order_they_are_named_and_several_workers_are_refused(tmp_path: Path) -> None:
    spec = replace(CANCER, columns=Columns(label="kind", features=("m20", "m03")))
    _trained(cancer(), spec, tmp_path, 2)
    assert read_onnx(tmp_path / "model.onnx").notes.features == ("m20", "m03")
    with refuses("AW-TRN-45") as refused:
        tabular_classifier.make_trainer(setup_of(cancer(), CANCER, tmp_path, Pair(0, threading.Barrier(2), {})))
    assert refused.value.where.field == "workers"
