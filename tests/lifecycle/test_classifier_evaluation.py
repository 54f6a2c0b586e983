"""The examination of classifiers with real runs, a real engine, and what must not pass."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from examples.full.corpus import write_shuttle

from archwright.contract.lineage import DatasetVersion, Gate, ModelVersion, Score
from archwright.contract.record import replace
from archwright.engines.onnx_file import ModelSignature
from archwright.home import Home
from archwright.lake.ingestion import IngestRequest, ingest_files
from archwright.lifecycle import classifier_evaluation, model_registry
from archwright.lifecycle.classifier_evaluation import EXPORT_GATE, QUALITY_GATE, evaluate_classifier
from archwright.lifecycle.production_gate import NOT_WORSE_GATE
from archwright.store import Store
from archwright.training import image_classifier, run_execution
from archwright.training.classifier_data import TrainedClassifier
from archwright.training.training_spec import Columns, ImageSpec, TrainSpec

from ..tools.checks import refuses
from ..training.classifier_rows import CANCER, DIGITS, brought_in, cancer, digits, trained_run
from .conftest import finished_run


class Shop(NamedTuple):
    """A home with two data sets."""

    home: Home
    store: Store
    digits: DatasetVersion
    cancer: DatasetVersion

    def model(self, spec: TrainSpec) -> ModelVersion:
        version = self.digits if spec.task == "image-classifier" else self.cancer
        run = trained_run(self.home, spec, version)
        record = finished_run(run, spec, version.id)
        return model_registry.register_model(self.store, self.home, record, run_execution.read_result(self.home, run))

    def promote(self, model: ModelVersion) -> None:
        seen = model_registry.promotion_history(self.store, model.name)
        model_registry.append_promotion(self.store, seen, "promote", (model.name, model.id), "test")


@pytest.fixture(scope="module")
def shop(learning: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    folder = tmp_path_factory.mktemp("shop")
    home = Home(folder / "home")
    store = Store(home.store_url)
    columns = {"digits": digits(), "cancer": cancer(absent=0.1)}
    yield Shop(home, store, *(brought_in(home, name, columns[name], folder) for name in columns))
    store.close()


@pytest.fixture(scope="module")
def good(shop: Shop) -> ModelVersion:
    return shop.model(DIGITS)


def evaluate(shop: Shop, model: ModelVersion) -> tuple[tuple[Score, ...], tuple[Gate, ...]]:
    return evaluate_classifier(shop.store, shop.home, model, production=model_registry.find_rival(shop.store, model))


def _by_name(found: tuple[tuple[Score, ...], tuple[Gate, ...]]) -> tuple[dict[str, Score], dict[str, Gate]]:
    scores, gates = found
    return {score.metric: score for score in scores}, {gate.name: gate for gate in gates}


def test_a_good_image_classifier_passes_with_figures(shop: Shop, good: ModelVersion) -> None:
    scores, gates = _by_name(evaluate(shop, good))
    assert set(gates) == {EXPORT_GATE, QUALITY_GATE} and all(gate.passed for gate in gates.values())
    right = scores["accuracy"]
    assert right.low < right.value < right.high and right.value > 0.93 and 450 < right.items < 620
    assert right.baseline is not None and 0.05 < right.baseline < 0.15 and right.baseline_name.startswith("always '")
    assert scores["balanced_accuracy"].baseline == 0.1
    export = gates[EXPORT_GATE]
    assert export.value is not None and export.value < 1e-5 and export.limit == 1e-4
    assert export.control is not None and export.control > 0.5
    assert f"over {right.items} rows" in export.detail and "the served model is the trained model" in export.detail


def test_a_tabular_classifier_too_with_missing_values_and_few_rows(shop: Shop) -> None:
    model = shop.model(replace(CANCER, name="tumours", held_out=0.15))
    scores, gates = _by_name(evaluate(shop, model))
    assert all(gate.passed for gate in gates.values())
    # Only in the export gate, training rows complete the minimum.
    assert scores["accuracy"].items < classifier_evaluation.MIN_EXPORT_ROWS
    assert f"over {classifier_evaluation.MIN_EXPORT_ROWS} rows" in gates[EXPORT_GATE].detail


@pytest.mark.nightly
def test_the_whole_shuttle_data_set(tmp_path: Path) -> None:
    """49,097 readings of nine sensors, 7 of 100 an anomaly; from river's wheel on the package index."""
    assert write_shuttle(tmp_path / "shuttle" / "shuttle.csv.gz").startswith("1ed4bfa77233d95b")
    home = Home(tmp_path / "home")
    store = Store(home.store_url)
    version = ingest_files(home, store, IngestRequest(tmp_path / "shuttle", "shuttle", "CC-BY-4.0")).version
    assert version.rows == 49_097
    spec = replace(CANCER, name="shuttle", steps=60, held_out=0.1, columns=Columns(label="anomaly"))
    model = Shop(home, store, version, version).model(spec)
    scores, gates = _by_name(evaluate_classifier(store, home, model, production=None))
    store.close()
    assert all(gate.passed for gate in gates.values())
    assert scores["balanced_accuracy"].low > 0.98 and scores["accuracy"].items > 4500


def test_other_weights_than_those_served_fail_the_export_gate(shop: Shop) -> None:
    model = shop.model(replace(DIGITS, name="swapped", steps=30))
    other = shop.model(replace(DIGITS, name="swapped", steps=30, seed=2))
    weights = [shop.home.run(one.run) / "result" / image_classifier.WEIGHTS_FILE for one in (model, other)]
    shutil.copyfile(weights[1], weights[0])
    gate = _by_name(evaluate(shop, model))[1][EXPORT_GATE]
    assert not gate.passed and gate.value is not None and gate.value > 0.1
    assert "the served model differs from the trained model" in gate.detail
    weights[0].unlink()
    with refuses("AW-MOD-32") as gone:
        evaluate(shop, model)
    assert "model.safetensors" in str(gone.value.where)


def test_a_model_that_learned_nothing_passes_neither_gate(shop: Shop) -> None:
    model = shop.model(replace(DIGITS, name="idle", steps=1, learning_rate=1e-9))
    gates = _by_name(evaluate(shop, model))[1]
    assert not gates[EXPORT_GATE].passed and "a control passes too" in gates[EXPORT_GATE].detail
    assert not gates[QUALITY_GATE].passed and "not shown to be better than" in gates[QUALITY_GATE].detail


def test_against_production_the_same_is_not_worse_and_the_worse_is_refused(shop: Shop, good: ModelVersion) -> None:
    first = shop.model(replace(DIGITS, name="reader"))
    shop.promote(first)
    assert NOT_WORSE_GATE not in _by_name(evaluate(shop, first))[1]  # not against itself
    scores, gates = _by_name(evaluate(shop, shop.model(replace(DIGITS, name="reader"))))
    assert gates[NOT_WORSE_GATE].passed and scores["balanced_accuracy_gain"].value == 0.0
    assert scores["balanced_accuracy_gain"].baseline_name == "reader@v1"
    worse = shop.model(replace(DIGITS, name="reader", steps=15))
    scores, gates = _by_name(evaluate(shop, worse))
    assert gates[QUALITY_GATE].passed and not gates[NOT_WORSE_GATE].passed
    assert scores["balanced_accuracy_gain"].high < 0.0 and "worse than reader@v1" in gates[NOT_WORSE_GATE].detail


def test_rows_that_production_was_trained_on_do_not_count(shop: Shop) -> None:
    shop.promote(shop.model(replace(DIGITS, name="shares", held_out=0.1)))
    scores, gates = _by_name(evaluate(shop, shop.model(replace(DIGITS, name="shares"))))
    assert scores["balanced_accuracy_gain"].items < 0.5 * scores["accuracy"].items
    assert "items held out for both" in gates[NOT_WORSE_GATE].detail
    shop.promote(shop.model(replace(DIGITS, name="shares", held_out=0.0, steps=5)))
    model = shop.model(replace(DIGITS, name="shares", steps=5))
    gate = _by_name(evaluate(shop, model))[1][NOT_WORSE_GATE]
    assert not gate.passed and "no row is held out for both" in gate.detail


def test_a_rival_of_other_columns_is_asked_with_its_own(shop: Shop) -> None:
    narrow = Columns(label="kind", features=("m20", "m23"))
    shop.promote(shop.model(replace(CANCER, name="columns", columns=narrow)))
    scores, gates = _by_name(evaluate(shop, shop.model(replace(CANCER, name="columns"))))
    assert gates[NOT_WORSE_GATE].passed and scores["balanced_accuracy_gain"].value > -0.05


def test_a_rival_that_would_refuse_rows_is_wrong_about_them(shop: Shop, tmp_path: Path) -> None:
    whole = brought_in(shop.home, "whole", cancer(), tmp_path)
    strict = shop._replace(cancer=whole)
    rival = strict.model(replace(CANCER, name="strict"))
    shop.promote(rival)
    scores = _by_name(evaluate(shop, shop.model(replace(CANCER, name="strict"))))[0]
    # A tenth of ten columns is missing: two rows in three lack some value, and production would answer none of them.
    assert scores["balanced_accuracy_gain"].low > 0.4


def test_a_rival_that_cannot_be_asked_is_reported_with_the_way_out(shop: Shop) -> None:
    shop.promote(shop.model(replace(CANCER, name="moved")))
    model = shop.model(replace(DIGITS, name="moved", steps=60))
    gate = _by_name(evaluate(shop, model))[1][NOT_WORSE_GATE]
    assert not gate.passed and "has no column" in gate.detail and "models rollback moved" in gate.detail


def _lists(side: int) -> dict[str, Any]:
    columns = digits()
    label = columns.pop("label")
    pictures = np.stack(list(columns.values()), axis=1).reshape(-1, 8, 8)[:, :side, :side]
    return {"image": [json.dumps(picture.tolist()) for picture in pictures], "label": label}


def test_a_rival_for_pictures_of_another_size_cannot_be_asked(shop: Shop, tmp_path: Path) -> None:
    shapes = {side: brought_in(shop.home, f"lists-{side}", _lists(side), tmp_path) for side in (4, 8)}
    specs = {side: replace(DIGITS, name="sizes", steps=5, image=ImageSpec(height=side, width=side)) for side in shapes}
    shop.promote(shop._replace(digits=shapes[4]).model(specs[4]))
    model = shop._replace(digits=shapes[8]).model(specs[8])
    gate = _by_name(evaluate(shop, model))[1][NOT_WORSE_GATE]
    assert not gate.passed and "its rows have 16 numbers, the held-out rows 64" in gate.detail


def test_no_held_out_rows_or_a_record_of_other_classes_than_the_files_is_refused(
    shop: Shop, good: ModelVersion
) -> None:
    model = shop.model(replace(CANCER, name="all-in", held_out=0.0, steps=2))
    with refuses("AW-MOD-31"):
        evaluate(shop, model)
    with refuses("AW-MOD-33"):
        reversed_labels = replace(good, labels=good.labels[::-1])
        classifier_evaluation._query_engine(shop.home, reversed_labels, np.zeros((1, 64), np.float32))


def test_a_model_that_says_the_same_to_every_row_cannot_pass_the_export_gate() -> None:
    same = np.tile([0.25, 0.75], (300, 1))
    trained = TrainedClassifier(ModelSignature(labels=("a", "b"), shape=(1,)), lambda _: same, lambda _: same[:, ::-1])
    gate = classifier_evaluation.check_export(same, trained, np.zeros((300, 1), np.float32))
    assert gate.value == 0.0 and gate.control == 0.0 and not gate.passed


def test_a_constant_answer_is_no_quality_and_an_unknown_class_counts_as_wrong() -> None:
    truth = [0] * 930 + [1] * 70
    scores, gate = classifier_evaluation.score_quality(truth, [0] * 1000, ("normal", "fault"), 0)
    assert scores[0].value == scores[0].baseline == 0.93 and not gate.passed
    some = [0] * 930 + [1] * 35 + [0] * 35
    scores, gate = classifier_evaluation.score_quality(truth, some, ("normal", "fault"), 0)
    assert gate.passed and scores[0].value < 0.97 and gate.limit == 0.5
    scores, _ = classifier_evaluation.score_quality([0, 1, -1, -1], [0, 1, 0, 1], ("a", "b"), 0)
    assert scores[0].value == 0.5 and scores[1].value == pytest.approx(2 / 3)


def test_large_pictures_are_fewer_rows() -> None:
    def rows(size: int) -> int:
        return classifier_evaluation.row_limit(ModelSignature(labels=("a", "b"), shape=(size,)))

    limits = (classifier_evaluation.MAX_ROWS, 2000, classifier_evaluation.MIN_EXPORT_ROWS)
    assert (rows(9), rows(4000), rows(60_000)) == limits


def test_batches_are_bounded_by_rows_and_by_numbers() -> None:
    class Client:
        def __init__(self) -> None:
            self.sizes: list[int] = []

        async def post(self, _path: str, body: dict[str, Any]) -> dict[str, Any]:
            self.sizes.append(len(body["inputs"]))
            return {"labels": ["a"], "probabilities": [[1.0]] * len(body["inputs"])}

        async def close(self) -> None:
            self.sizes.append(-1)

    for width, rows, sizes in ((1, 1000, [512, 488, -1]), (200_000, 3, [2, 1, -1]), (500_000, 2, [1, 1, -1])):
        client = Client()
        labels, found = asyncio.run(classifier_evaluation._send_rows(client, [[0.0] * width] * rows))  # type: ignore[arg-type]
        assert client.sizes == sizes and labels == ("a",) and len(found) == rows
