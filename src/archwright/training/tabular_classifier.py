"""Tabular classifier: gradient-boosted trees of LightGBM over numeric columns. A step is one round of boosting.

Every round looks at all rows this process has, whatever rows the loop names: that is what boosting is, and `budget`
asks for them all. One worker only: rounds of several workers would need the library's own network.

What is decided about data: a missing value is a value (trees learn which way it goes), and serving takes null for a
feature only if training saw it missing; a constant column is never split on and does no harm; text columns are not
features; a rare class is not weighted up, so that probabilities stay probabilities. Rows are 32-bit floats, as ONNX
trees compare them: on the way there each threshold is rounded down to 32 bits, which changes no answer (rounded to
nearest, as the converter does, it may land on the other side of a value).

The same rows, seed and threads give the same trees, also when training goes on from the text of half the trees.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from archwright.engines.onnx_file import Notes
from archwright.errors import ErrorLocation, TrainError, require_extra
from archwright.home import write_atomic
from archwright.training import classifier_data
from archwright.training.classifier_data import Trained
from archwright.training.trainer import Result, Setup, StepResult
from archwright.training.training_data import TrainingData, features
from archwright.training.training_spec import TrainSpec

LEARNING_RATE = 0.1
TREES_FILE = "model.txt"
OPSET = 15
SIZES = re.compile(r"^tree_sizes=.*\n", re.M)
THRESHOLDS = re.compile(r"^threshold=(.+)$", re.M)
# What the answers follow from; the rest of the text is about how the trees came to be.
WEIGHTS = re.compile(
    r"^(?:num_leaves|split_feature|threshold|decision_type|left_child|right_child|leaf_value)=.*$", re.M
)


def make(setup: Setup) -> Trainer:
    return Trainer(setup)


class Trainer:
    def __init__(self, setup: Setup) -> None:
        spec, data = setup.spec, setup.data
        if setup.crew.size > 1:
            message = "a tabular classifier trains on one worker"
            raise TrainError("AW-TRN-45", message, where=ErrorLocation(field="workers"), hint="workers: 1")
        self._library = library()
        names = features(data.train.table, spec)
        labels = classifier_data.classes(data, spec)
        self._rows = classifier_data.matrix(data.train, names, data)
        self._truth = classifier_data.truth(data.train, data, spec, labels)
        self._notes = notes_of(names, labels, self._rows)
        self._given = parameters(spec, len(labels), setup.threads)
        self._kept: str | None = None
        self._booster: Any = None

    def lengths(self) -> Sequence[int]:
        return [1] * len(self._truth)

    def budget(self) -> int:
        return len(self._truth)

    def step(self, rows: Sequence[int]) -> StepResult:
        """One more round, on all rows."""
        if self._booster is None:
            self._booster = self._begun()
        else:
            self._booster.update()
        ((_, _, loss, _, *_),) = self._booster.eval_train()
        return StepResult(float(loss), len(self._truth))

    def state(self) -> dict[str, bytes]:
        return {TREES_FILE: self._text().encode()}

    def restore(self, state: Mapping[str, bytes]) -> None:
        self._kept = state[TREES_FILE].decode() or None
        self._booster = None

    def weights_sha256(self) -> str:
        import numpy as np  # noqa: PLC0415

        text = "\n".join(WEIGHTS.findall(self._text()))
        return classifier_data.weights_sha256({"trees": np.frombuffer(text.encode(), np.uint8)})

    def save(self, folder: Path) -> Result:
        text = self._text()
        write_atomic(folder / TREES_FILE, text.encode())
        classifier_data.write_onnx(folder, exported(self._library, text, self._notes), self._notes)
        return Result(
            format="onnx", file=classifier_data.ONNX_FILE, labels=self._notes.labels, input_shape=self._notes.shape
        )

    def _begun(self) -> Any:
        """The first round of this process: on the trees that were kept, if any."""
        table = self._library.Dataset(self._rows, self._truth, params=self._given, free_raw_data=False)
        before = None if self._kept is None else self._library.Booster(model_str=self._kept)
        return self._library.train(self._given, table, 1, init_model=before, keep_training_booster=True)

    def _text(self) -> str:
        """The trees; nothing before the first round."""
        if self._booster is None:
            return self._kept or ""
        return str(self._booster.model_to_string(num_iteration=-1))


def trained(folder: Path, data: TrainingData, spec: TrainSpec, labels: tuple[str, ...]) -> Trained:
    """The trees in a run's `result` folder, answering without ONNX; untrained they know the shares of the classes."""
    import numpy as np  # noqa: PLC0415

    names = features(data.train.table, spec)
    booster = library().Booster(model_str=(folder / TREES_FILE).read_text(encoding="utf-8"))
    truth = classifier_data.truth(data.train, data, spec, labels)
    shares = np.bincount(truth, minlength=len(labels)) / len(truth)
    notes = notes_of(names, labels, classifier_data.matrix(data.train, names, data))
    return Trained(notes, lambda rows: _answers(booster, rows), lambda rows: np.tile(shares, (len(rows), 1)))


def notes_of(names: list[str], labels: tuple[str, ...], rows: Any) -> Notes:
    import numpy as np  # noqa: PLC0415

    absent = np.isnan(rows).any(axis=0)
    missing = tuple(name for name, ever in zip(names, absent, strict=True) if ever)
    return Notes(labels=labels, shape=(len(names),), features=tuple(names), missing=missing)


def parameters(spec: TrainSpec, labels: int, threads: int) -> dict[str, Any]:
    """Everything that decides the trees; what is not here is the library's default."""
    two = labels == 2
    return {
        "objective": "binary" if two else "multiclass",
        "metric": "binary_logloss" if two else "multi_logloss",
        "num_class": 1 if two else labels,
        "learning_rate": classifier_data.rate(spec, LEARNING_RATE),
        "seed": spec.seed % (1 << 31),
        "num_threads": threads,
        "deterministic": True,
        "force_row_wise": True,
        "verbose": -1,
    }


def library() -> Any:
    with require_extra("train", "training a tabular classifier"):
        import lightgbm  # noqa: PLC0415
    return lightgbm


def exported(lightgbm: Any, text: str, notes: Notes) -> Any:
    """The trees as an ONNX model with one output, the probabilities."""
    from onnxmltools import convert_lightgbm  # noqa: PLC0415
    from onnxmltools.convert.common.data_types import FloatTensorType  # noqa: PLC0415

    booster = lightgbm.Booster(model_str=rounded(text))
    made = convert_lightgbm(
        booster,
        initial_types=[("features", FloatTensorType([None, notes.size]))],
        zipmap=False,
        target_opset=OPSET,
    )
    _keep_only(made.graph, "probabilities")
    # The converter keeps them in a set, whose order changes from process to process: equal trees are equal bytes.
    ordered = sorted(made.opset_import, key=lambda one: one.domain)
    del made.opset_import[:]
    made.opset_import.extend(ordered)
    return made


def rounded(text: str) -> str:
    """The trees with every threshold at the largest 32-bit float not above it. The sizes that go with the text are
    left out: they no longer hold, and the library reads trees without them."""

    def down(match: re.Match[str]) -> str:
        return "threshold=" + " ".join(repr(_down(float(value))) for value in match[1].split())

    return THRESHOLDS.sub(down, SIZES.sub("", text))


def _down(value: float) -> float:
    import numpy as np  # noqa: PLC0415

    if abs(value) > classifier_data.LARGEST:  # above every value there is
        return math.copysign(classifier_data.LARGEST, value)
    nearest = np.float32(value)
    return float(nearest if float(nearest) <= value else np.nextafter(nearest, np.float32(-np.inf)))


def _keep_only(graph: Any, name: str) -> None:
    """Take away the other outputs, whose declared shapes are wrong, and what only they need."""
    kept = [output for output in graph.output if output.name == name]
    del graph.output[:]
    graph.output.extend(kept)
    needed = {name}
    for node in reversed(list(graph.node)):
        if needed & set(node.output):
            needed |= set(node.input)
        else:
            graph.node.remove(node)


def _answers(booster: Any, rows: Any) -> Any:
    import numpy as np  # noqa: PLC0415

    found = booster.predict(rows, num_iteration=-1)
    return np.stack([1 - found, found], axis=1) if found.ndim == 1 else found
