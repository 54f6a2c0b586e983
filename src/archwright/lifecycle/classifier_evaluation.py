"""Evaluation of a classifier with the real engine, on held-out rows in the order of their ids.

export     the largest difference between served probabilities and those of the trained model (PyTorch, LightGBM).
           Two negative controls must exceed the limit: the untrained model, and the trained model's answers
           shifted by one row
quality    the interval of balanced accuracy lies above the score of a constant answer, the most frequent class. Plain
           accuracy would reward a constant answer: with 93 % normal rows, a model that never warns is right in 93 %
not worse than production    the gain of balanced accuracy over rows held out for both models (production_gate.py)
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from archwright.contract.lineage import Gate, ModelVersion, Score
from archwright.contract.record import replace
from archwright.engines.engine_config import EngineConfig
from archwright.engines.onnx import Classifier
from archwright.engines.onnx_file import ModelSignature, read_onnx
from archwright.errors import DataError, EngineError, ErrorLocation, ModelError, TrainError
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.lake.lazy_modules import np
from archwright.lake.tables import version_index
from archwright.lifecycle import classifier_metrics, evaluation_engine, production_gate
from archwright.store import Store
from archwright.training import classifier_data, image_classifier, tabular_classifier, training_data, training_runs
from archwright.training.classifier_data import TrainedClassifier
from archwright.training.training_data import DataSplit, TrainingData
from archwright.training.training_spec import TrainSpec

MAX_ROWS = 10_000
MAX_CELLS = 8_000_000
# Minimum for the export gate; training rows may complete it, since the gate does not measure learning.
MIN_EXPORT_ROWS = 200
EXPORT_LIMIT = 1e-4
# Rows and numbers per request: the engine reads at most 16 MiB, and a number has about 20 bytes of text.
BATCH_ROWS, BATCH_CELLS = 512, 400_000
EXPORT_GATE = "export"
QUALITY_GATE = "quality"


class HeldOutRows(NamedTuple):
    """Held-out rows: ids, split keys, features, and classes as indices of the labels."""

    ids: list[str]
    keys: Sequence[str]
    numbers: Any
    truth: list[int]


def evaluate_classifier(
    store: Store, home: Home, model: ModelVersion, *, production: ModelVersion | None
) -> tuple[tuple[Score, ...], tuple[Gate, ...]]:
    """Scores and gates; `production` is the version to compare with, None if there is none.

    Raises TrainError AW-TRN-22 (no run folder), ModelError AW-MOD-30 (the engine did not start),
    AW-MOD-31 (no held-out rows), AW-MOD-32 (no trained model)."""
    spec = training_runs.load_spec(home, model.run)
    found = training_data.load_version(home, version_index.find_version(store, model.dataset_version), spec)
    trained = _load_trained(home, model, found, spec)
    part = take_rows(found.held_out, row_limit(trained.notes))
    truth = classifier_data.encode_labels(part, found, spec, model.labels).tolist()
    held = HeldOutRows(part.ids, part.keys, _build_inputs(part, trained.notes, found, spec), truth)
    if not held.ids:
        hint = "train it again with held_out: 0.1 and more rows"
        message = f"{model.id} cannot be evaluated: its data set has no held-out row"
        raise ModelError("AW-MOD-31", message, where=ErrorLocation(field=model.dataset_version), hint=hint)
    more = _build_inputs(take_rows(found.train, max(0, MIN_EXPORT_ROWS - len(held.ids))), trained.notes, found, spec)
    queried = np.concatenate([held.numbers, more])
    answers = _query_engine(home, model, queried)
    named = answers[: len(held.ids)].argmax(axis=1).tolist()
    usual = Counter(classifier_data.encode_labels(found.train, found, spec, model.labels).tolist()).most_common(1)[0][0]
    scores, quality = score_quality(held.truth, named, model.labels, usual)
    gates = [check_export(answers, trained, queried), quality]
    if production is not None:
        comparison = _compare_with_production(store, home, production, (model, spec), held, named)
        scores, gates = (*scores, *comparison[0]), [*gates, comparison[1]]
    return scores, tuple(gates)


def row_limit(notes: ModelSignature) -> int:
    return max(MIN_EXPORT_ROWS, min(MAX_ROWS, MAX_CELLS // notes.size))


def take_rows(part: DataSplit, rows: int) -> DataSplit:
    return DataSplit(part.ids[:rows], part.table.slice(0, rows), part.keys[:rows])


def check_export(answers: Any, trained: TrainedClassifier, rows: Any) -> Gate:
    """The gate "export": the engine gives the rows the same probabilities as the trained model."""
    wanted = trained.answers(rows)
    others = (wanted, trained.untrained(rows), np.roll(wanted, 1, axis=0))
    near, untrained, moved = (float(np.abs(answers - other).max()) for other in others)
    control = min(untrained, moved)
    if near > EXPORT_LIMIT:
        verdict = "the served model differs from the trained model"
    elif control <= EXPORT_LIMIT:
        verdict = "a control passes too: the model answers like an untrained model, or gives every row the same answer"
    else:
        verdict = "the served model is the trained model"
    figures = (
        f"probabilities differ by at most {near:.1e} over {len(rows)} rows, limit {EXPORT_LIMIT:.0e}; "
        f"controls: untrained model {untrained:.2g}, answers of the previous row {moved:.2g}"
    )
    passed, detail = near <= EXPORT_LIMIT < control, f"{verdict}: {figures}"
    return Gate(name=EXPORT_GATE, passed=passed, detail=detail, value=near, limit=EXPORT_LIMIT, control=control)


def score_quality(
    truth: Sequence[int], named: Sequence[int], labels: Sequence[str], usual: int
) -> tuple[tuple[Score, ...], Gate]:
    """Scores and the gate "quality"; `usual` is the most frequent class of the training rows."""
    items, counts = len(truth), classifier_metrics.count_recognised(truth, named)
    right = classifier_metrics.wilson_interval(sum(found for found, _ in counts.values()), items)
    even = classifier_metrics.balanced_accuracy(counts)
    name = f"always {labels[usual]!r}"
    share = counts.get(usual, (0, 0))[1] / items
    guess = (1 if usual in counts else 0) / len(counts)
    scores = (right.to_score("accuracy", items, share, name), even.to_score("balanced_accuracy", items, guess, name))
    better = even.low > guess
    verdict = "better than a constant answer" if better else "not shown to be better than a constant answer"
    detail = (
        f"{verdict}: balanced accuracy {even} against {guess:.4f} of {name}; accuracy {right} "
        f"against {share:.4f}; {items} held-out rows of {len(counts)} classes"
    )
    shown = better or even.high <= guess
    return scores, Gate(name=QUALITY_GATE, passed=better, shown=shown, detail=detail, value=even.low, limit=guess)


def _compare_with_production(
    store: Store,
    home: Home,
    production: ModelVersion,
    candidate: tuple[ModelVersion, TrainSpec],
    held: HeldOutRows,
    named: list[int],
) -> tuple[tuple[Score, ...], Gate]:
    model, spec = candidate
    try:
        predicted = _predict_with_production(store, home, production, candidate, len(held.ids))
        share = min(spec.held_out, training_runs.load_spec(home, production.run).held_out)
    except (TrainError, DataError, EngineError) as error:
        return (), production_gate.refuse_comparison(production, error.message)
    # Only rows held out for both models count: those below the smaller of the two shares.
    fair = [place for place, key in enumerate(held.keys) if training_data.is_held_out(key, share)]
    if not fair:
        reason = "no row is held out for both; train with the same held_out"
        return (), production_gate.refuse_comparison(production, reason)
    truth = [held.truth[place] for place in fair]
    wanted = [model.labels[is_a] if is_a != classifier_data.UNKNOWN_LABEL else None for is_a in truth]
    old = [predicted[place] == label for place, label in zip(fair, wanted, strict=True)]
    new = [named[place] == is_a for place, is_a in zip(fair, truth, strict=True)]
    comparison = classifier_metrics.compare_balanced_accuracy(truth, old, new)
    comparison = comparison._replace(remark=f"{sum(new)} right, production {sum(old)}")
    margin = production_gate.choose_margin(spec, comparison.metric)
    return production_gate.decide_not_worse_gate(comparison, margin, production)


def _predict_with_production(
    store: Store, home: Home, production: ModelVersion, candidate: tuple[ModelVersion, TrainSpec], rows: int
) -> list[str | None]:
    """The production version's labels of the first held-out rows; None for a refused row."""
    classifier = Classifier(read_onnx(home.model(production.sha256, "onnx"), production.sha256))
    notes = classifier.notes
    model, spec = candidate
    own_spec = spec if not notes.features else replace(spec, columns=replace(spec.columns, features=notes.features))
    found = training_data.load_version(home, version_index.find_version(store, model.dataset_version), own_spec)
    numbers = _build_inputs(take_rows(found.held_out, rows), notes, found, own_spec)
    if numbers.shape[1:] != (notes.size,):
        message = f"its rows have {notes.size} numbers, the held-out rows {numbers.shape[1]}"
        raise TrainError("AW-TRN-44", message, hint="train with the columns of the version in production")
    required = [name not in notes.missing for name in notes.features or range(notes.size)]
    refused = (np.isnan(numbers) & required).any(axis=1)
    best = classifier.predict_probabilities(numbers).argmax(axis=1)
    return [None if no else notes.labels[place] for no, place in zip(refused.tolist(), best.tolist(), strict=True)]


def _load_trained(home: Home, model: ModelVersion, found: TrainingData, spec: TrainSpec) -> TrainedClassifier:
    task = image_classifier.load_trained if model.task == "image-classifier" else tabular_classifier.load_trained
    folder = home.run(model.run) / "result"
    try:
        return task(folder, found, spec, model.labels)
    except FileNotFoundError as error:
        hint = "train it again: the export gate compares the served model with the trained model"
        message = f"the trained model of {model.id} is missing"
        raise ModelError("AW-MOD-32", message, where=ErrorLocation(str(error.filename or folder)), hint=hint) from error


def _build_inputs(part: DataSplit, notes: ModelSignature, found: TrainingData, spec: TrainSpec) -> Any:
    names = list(notes.features)
    if spec.task == "image-classifier":
        return image_classifier.build_pixel_matrix(part, names or [image_classifier.IMAGE_COLUMN], found, spec)
    return classifier_data.build_feature_matrix(part, names, found)


def _query_engine(home: Home, model: ModelVersion, rows: Any) -> Any:
    config = EngineConfig(
        engine="onnx",
        socket=evaluation_engine.socket_name(),
        alias=model.id,
        slots=1,
        context_tokens=1,
        default_max_tokens=1,
        model_sha256=model.sha256,
    )
    listed = [[None if value != value else value for value in row] for row in rows.tolist()]
    with evaluation_engine.run_engine(home, config) as engine:
        labels, found = asyncio.run(_send_rows(EngineClient(engine.address), listed))
    if labels != model.labels:
        message = f"the file of {model.id} has other classes than its record"
        raise ModelError("AW-MOD-33", message, where=ErrorLocation(field=model.id), hint="train the model again")
    return np.array(found, np.float64)


async def _send_rows(client: EngineClient, rows: list[list[float | None]]) -> tuple[tuple[str, ...], list[list[float]]]:
    """Returns (classes, probabilities of each row)."""
    found: list[list[float]] = []
    labels: tuple[str, ...] = ()
    batch = max(1, min(BATCH_ROWS, BATCH_CELLS // len(rows[0])))
    try:
        for begin in range(0, len(rows), batch):
            reply = await client.post("/v1/predict", {"inputs": rows[begin : begin + batch]})
            found += reply["probabilities"]
            labels = tuple(reply["labels"])
    finally:
        await client.close()
    return labels, found
