"""Shared by the classifiers: classes of the label column, feature matrix, signature for serving.

Design: training uses the numbers that serving uses, 32-bit floats in an order that is stored in the model's file.
Classes are the label's values in the training rows, numbers by size before texts by code points. A held-out row whose
class is not among them counts as wrong.
"""

import difflib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from archwright.engines.onnx_file import LABEL_LIMIT, SIGNATURE_KEY, ModelSignature
from archwright.errors import ErrorLocation, TrainError
from archwright.home import write_atomic
from archwright.lake.lazy_modules import np, pa
from archwright.training.trainer import TrainedArtefact
from archwright.training.training_data import DataSplit, TrainingData
from archwright.training.training_spec import TrainSpec

FLOAT32_MAX = 3.4028235e38
UNKNOWN_LABEL = -1
ONNX_FILE = "model.onnx"
ProbabilityFunction = Callable[[Any], Any]
"""Features (items x features, float32) -> class probabilities (items x classes, float64)."""


class TrainedClassifier(NamedTuple):
    """The trained and the untrained classifier, whose answers are compared with served answers."""

    notes: ModelSignature
    answers: ProbabilityFunction
    untrained: ProbabilityFunction


def collect_labels(data: TrainingData, spec: TrainSpec) -> tuple[str, ...]:
    """The ordered labels. Raises TrainError AW-TRN-40 (number of classes), AW-TRN-41 (invalid label)."""
    name = spec.columns.label
    values = set(data.train.table.column(name).unique().to_pylist())
    texts = sorted(values, key=lambda value: (isinstance(value, str), value))
    found = tuple(dict.fromkeys(_format_label(value, data, name) for value in texts))
    if 2 <= len(found) <= LABEL_LIMIT:
        return found
    message = f"the column {name} of {data.version.id} has {len(found):,} different values in the training rows"
    hint = "ingest rows of at least two classes"
    if found[1:]:
        hint = f"name the column of the labels; a classifier has at most {LABEL_LIMIT:,} classes"
    raise TrainError("AW-TRN-40", message, where=ErrorLocation(field="columns: label"), hint=hint)


def encode_labels(part: DataSplit, data: TrainingData, spec: TrainSpec, labels: Sequence[str]) -> Any:
    """The index of each row's class, UNKNOWN_LABEL if it is not among the labels."""
    name, index = spec.columns.label, {label: place for place, label in enumerate(labels)}
    values = part.table.column(name).to_pylist()
    return np.array([index.get(_format_label(value, data, name), UNKNOWN_LABEL) for value in values], np.int64)


def build_feature_matrix(part: DataSplit, names: Sequence[str], data: TrainingData) -> Any:
    """The columns as float32 (rows x columns), NaN for a missing value.

    Raises TrainError AW-TRN-42 (not numeric), AW-TRN-43 (infinite, or beyond 32 bits).
    """
    made = np.empty((len(part.ids), len(names)), np.float32)
    for place, name in enumerate(names):
        column = part.table.column(name)
        if not any(is_a(column.type) for is_a in (pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean)):
            message = f"the column {name} of {data.version.id} contains {column.type}, not numbers"
            hint = "remove it from features, or convert it to numbers"
            raise TrainError("AW-TRN-42", message, where=ErrorLocation(field=f"columns: {name}"), hint=hint)
        wide = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
        wrong = np.flatnonzero(np.abs(wide) > FLOAT32_MAX)
        if wrong.size:
            raise invalid_value_error(part, int(wrong[0]), name, "is infinite or exceeds a 32-bit float")
        made[:, place] = wide
    return made


def invalid_value_error(part: DataSplit, row: int, name: str, what: str) -> TrainError:
    """AW-TRN-43 for an invalid row, located by source file and row if these columns were read."""
    place = part.ids[row]
    if {"source_file", "source_row"} <= set(part.table.column_names):
        file, line = (part.table.column(column)[row].as_py() for column in ("source_file", "source_row"))
        place = f"{file}, row {line}"
    hint = "correct the source and ingest it again, or drop such rows with a recipe"
    return TrainError("AW-TRN-43", f"{name} {what}", where=ErrorLocation(field=place), hint=hint)


def weights_sha256(tensors: Mapping[str, Any]) -> str:
    """The digest of names, types, shapes and values of numpy arrays."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        array = tensors[name]
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def write_onnx(folder: Path, model: Any, notes: ModelSignature) -> TrainedArtefact:
    """Write the ONNX model with its signature, without random names: equal weights give equal bytes."""
    from onnx import helper  # noqa: PLC0415

    model.producer_name, model.doc_string, model.graph.name = "archwright", "", "classifier"
    helper.set_model_props(model, {SIGNATURE_KEY: msgspec.json.encode(notes).decode()})
    write_atomic(folder / ONNX_FILE, model.SerializeToString(deterministic=True))
    return TrainedArtefact(format="onnx", file=ONNX_FILE, labels=notes.labels, input_shape=notes.shape)


def _format_label(value: object, data: TrainingData, name: str) -> str:
    """The label as in JSON; an integral float has the text of the integer. Raises TrainError AW-TRN-41."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value == value and abs(value) <= FLOAT32_MAX:
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, int | str) and value != "":
        return str(value)
    message = f"the column {name} of {data.version.id} contains {str(value) or 'an empty text'!r}, which is not a label"
    hint = "use numbers, texts or booleans as labels"
    near = tuple(difflib.get_close_matches("label", data.version.columns, 1, 0.6))
    raise TrainError("AW-TRN-41", message, where=ErrorLocation(field="columns: label"), hint=hint, nearest=near)
