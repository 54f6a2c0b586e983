"""Tabular classifier: gradient-boosted trees of LightGBM. A step is one boosting round.

Every round uses all rows, so `budget` is all rows. One worker only: several would need LightGBM's own network.

Trees learn the direction of missing values; serving accepts null for a feature only if it was missing in training.
Text columns are not features. Classes are not weighted, so outputs stay probabilities. Rows are float32, as ONNX trees
compare them. The export rounds each threshold down to float32, which changes no answer; the converter's rounding to
nearest may move a threshold past a value. The same rows, seed and threads give the same trees, also if training resumes
from the text of a model.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from archwright.engines.onnx_file import ModelSignature
from archwright.errors import ErrorLocation, TrainError, require_extra
from archwright.home import write_atomic
from archwright.lake.lazy_modules import np
from archwright.training import classifier_data
from archwright.training.classifier_data import FLOAT32_MAX, TrainedClassifier
from archwright.training.trainer import StepResult, TrainedArtefact, TrainerSetup
from archwright.training.training_data import TrainingData, feature_columns
from archwright.training.training_spec import TrainSpec

LEARNING_RATE = 0.1
TREES_FILE = "model.txt"
OPSET = 15
SIZE_LINE = re.compile(r"^tree_sizes=.*\n", re.M)
THRESHOLD_LINES = re.compile(r"^threshold=(.+)$", re.M)
# The lines that determine the answers; other lines describe the training.
WEIGHT_LINES = re.compile(
    r"^(?:num_leaves|split_feature|threshold|decision_type|left_child|right_child|leaf_value)=.*$", re.M
)


class TabularClassifierTrainer:
    def __init__(self, setup: TrainerSetup) -> None:
        spec, data = setup.spec, setup.data
        if setup.group.size > 1:
            message = "a tabular classifier trains on one worker"
            raise TrainError("AW-TRN-45", message, where=ErrorLocation(field="workers"), hint="workers: 1")
        self._library = import_lightgbm()
        names = feature_columns(data.train.table, spec)
        labels = classifier_data.collect_labels(data, spec)
        self._rows = classifier_data.build_feature_matrix(data.train, names, data)
        self._truth = classifier_data.encode_labels(data.train, data, spec, labels)
        self._notes = build_notes(names, labels, self._rows)
        self._given = build_parameters(spec, len(labels), setup.threads)
        self._kept: str | None = None
        self._booster: Any = None

    def lengths(self) -> Sequence[int]:
        return [1] * len(self._truth)

    def budget(self) -> int:
        return len(self._truth)

    def step(self, rows: Sequence[int]) -> StepResult:
        """One boosting round on all rows; the first round of a process continues restored trees."""
        if self._booster is None:
            table = self._library.Dataset(self._rows, self._truth, params=self._given, free_raw_data=False)
            before = None if self._kept is None else self._library.Booster(model_str=self._kept)
            self._booster = self._library.train(self._given, table, 1, init_model=before, keep_training_booster=True)
        else:
            self._booster.update()
        ((_, _, loss, _, *_),) = self._booster.eval_train()
        return StepResult(float(loss), len(self._truth))

    def state(self) -> dict[str, bytes]:
        return {TREES_FILE: self._model_text().encode()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        self._kept = state[TREES_FILE].decode() or None
        self._booster = None

    def weights_sha256(self) -> str:
        text = "\n".join(WEIGHT_LINES.findall(self._model_text()))
        return classifier_data.weights_sha256({"trees": np.frombuffer(text.encode(), np.uint8)})

    def save(self, folder: Path) -> TrainedArtefact:
        text = self._model_text()
        write_atomic(folder / TREES_FILE, text.encode())
        return classifier_data.write_onnx(folder, export_onnx(self._library, text, self._notes), self._notes)

    def _model_text(self) -> str:
        """The trees as text; empty before the first round."""
        if self._booster is None:
            return self._kept or ""
        return str(self._booster.model_to_string(num_iteration=-1))


make_trainer = TabularClassifierTrainer


def load_trained(folder: Path, data: TrainingData, spec: TrainSpec, labels: tuple[str, ...]) -> TrainedClassifier:
    """The trees of a `result` folder, evaluated in LightGBM; untrained answers are the class shares."""
    names = feature_columns(data.train.table, spec)
    booster = import_lightgbm().Booster(model_str=(folder / TREES_FILE).read_text(encoding="utf-8"))
    truth = classifier_data.encode_labels(data.train, data, spec, labels)
    shares = np.bincount(truth, minlength=len(labels)) / len(truth)
    notes = build_notes(names, labels, classifier_data.build_feature_matrix(data.train, names, data))
    answers = partial(_predict_probabilities, booster)
    return TrainedClassifier(notes, answers, lambda rows: np.tile(shares, (len(rows), 1)))


def build_notes(names: list[str], labels: tuple[str, ...], rows: Any) -> ModelSignature:
    absent = np.isnan(rows).any(axis=0)
    missing = tuple(name for name, ever in zip(names, absent, strict=True) if ever)
    return ModelSignature(labels=labels, shape=(len(names),), features=tuple(names), missing=missing)


def build_parameters(spec: TrainSpec, labels: int, threads: int) -> dict[str, Any]:
    """LightGBM parameters; all others have their defaults."""
    two = labels == 2
    return {
        "objective": "binary" if two else "multiclass",
        "metric": "binary_logloss" if two else "multi_logloss",
        "num_class": 1 if two else labels,
        "learning_rate": spec.learning_rate or LEARNING_RATE,
        "seed": spec.seed % (1 << 31),
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }


def import_lightgbm() -> Any:
    with require_extra("train", "training a tabular classifier"):
        import lightgbm  # noqa: PLC0415
    return lightgbm


def export_onnx(lightgbm: Any, text: str, notes: ModelSignature) -> Any:
    """The trees as an ONNX model whose only output is the probabilities."""
    from onnxmltools import convert_lightgbm  # noqa: PLC0415
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    booster = lightgbm.Booster(model_str=round_thresholds(text))
    inputs = [("features", FloatTensorType([None, notes.size]))]
    made = convert_lightgbm(booster, initial_types=inputs, zipmap=False, target_opset=OPSET)
    _keep_output(made.graph, "probabilities")
    # The converter's order varies between processes; sorted, equal trees give equal bytes.
    ordered = sorted(made.opset_import, key=lambda opset: opset.domain)
    del made.opset_import[:]
    made.opset_import.extend(ordered)
    return made


def round_thresholds(text: str) -> str:
    """The trees with thresholds rounded down to float32, without tree sizes, which no longer match."""

    def down(match: re.Match[str]) -> str:
        return "threshold=" + " ".join(repr(_round_down(float(value))) for value in match[1].split())

    return THRESHOLD_LINES.sub(down, SIZE_LINE.sub("", text))


def _round_down(value: float) -> float:
    if abs(value) > FLOAT32_MAX:  # every float32 value lies on the same side of it
        return math.copysign(FLOAT32_MAX, value)
    nearest = np.float32(value)
    return float(nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf)))


def _keep_output(graph: Any, name: str) -> None:
    """Remove the other outputs, whose declared shapes are wrong, and nodes that only they need."""
    kept = [output for output in graph.output if output.name == name]
    del graph.output[:]
    graph.output.extend(kept)
    needed = {name}
    for node in reversed(list(graph.node)):
        if needed & set(node.output):
            needed |= set(node.input)
        else:
            graph.node.remove(node)


def _predict_probabilities(booster: Any, rows: Any) -> Any:
    found = booster.predict(rows, num_iteration=-1)
    return np.stack([1 - found, found], axis=1) if found.ndim == 1 else found
