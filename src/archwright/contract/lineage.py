"""Where things come from: file, data set version, training run, model version, promotion, answer, and the edges.

Ids are for people and are unique in a home: data set version "NAME@v3", run "r-...", model version "NAME@v2",
answer (the gateway's request id) "aw-...". An edge's ends are written "KIND:ID" (`format_node`).
"""

from __future__ import annotations

from typing import Literal

from archwright.contract.evidence import Basis, Deviation, Prediction
from archwright.contract.record import Record

NodeKind = Literal["file", "dataset", "run", "model", "answer"]
Task = Literal["text-lora", "image-classifier", "tabular-classifier"]
RunStatus = Literal["running", "interrupted", "failed", "finished"]
ModelFormat = Literal["gguf", "onnx", "safetensors"]


def format_node(kind: NodeKind, name: str) -> str:
    """How an edge names one of its ends."""
    return f"{kind}:{name}"


class LineageEdge(Record):
    """`child` was made from `parent`; both as `format_node` writes them."""

    at: float
    child: str
    parent: str
    relation: Literal["ingested", "refined", "trained-on", "produced-by", "answered-by"]


class SourceFile(Record):
    """A file as it was ingested; `path` is relative to what was ingested (its name, when that was one file)."""

    path: str
    sha256: str
    size_bytes: int
    rows: int
    quarantined: int = 0


class DatasetVersion(Record):
    """One immutable state of a data set: a tag of its table.

    `drops` counts the rows that did not come along, by reason: quarantined ones at ingest, dropped ones at refine;
    `changes` counts the rows that were altered (redacted values by kind). `parent` is the version it was made of.
    """

    id: str
    dataset: str
    version: int
    at: float
    action: Literal["ingest", "refine"]
    parent: str | None
    rows: int
    size_bytes: int
    columns: dict[str, str]
    drops: dict[str, int]
    changes: dict[str, int]
    files: tuple[SourceFile, ...]
    content_sha256: str
    licence: str = ""
    recipe: str = ""


class TrainingRun(Record):
    """A run as it stood at `at`; the newest record of an id is the run's state.

    `resumed` counts how often it went on after a break. `order_sha256` digests the ids of the rows in training order,
    `weights_sha256` the trained weights: both equal with or without a break. `predictions` were made before the first
    step and rest on `bases` (or `not_predicted` says why there are none); `deviations` hold them against what happened.
    """

    id: str
    at: float
    name: str
    task: Task
    status: RunStatus
    created_at: float
    dataset_version: str
    base: str = ""
    base_sha256: str = ""
    seed: int = 0
    workers: int = 1
    step: int = 0
    steps: int = 0
    resumed: int = 0
    loss_first: float | None = None
    loss_last: float | None = None
    train_s: float = 0.0
    tokens_per_s: float | None = None
    order_sha256: str = ""
    weights_sha256: str = ""
    predictions: tuple[Prediction, ...] = ()
    bases: tuple[Basis, ...] = ()
    not_predicted: str = ""
    deviations: tuple[Deviation, ...] = ()
    model: str | None = None
    error: str = ""


class Score(Record):
    """A measured quality with its 95 % interval over `items` held-out items; `baseline` is what it is held against."""

    metric: str
    value: float
    low: float
    high: float
    items: int
    baseline: float | None = None
    baseline_name: str = ""


class Gate(Record):
    """A check a model version must pass before it may be promoted. `control` is the same figure for the negative
    control, which has to fail `limit` for the check to mean anything."""

    name: str
    passed: bool
    detail: str
    value: float | None = None
    limit: float | None = None
    control: float | None = None


class ModelVersion(Record):
    """A model file that can be served under the endpoint `name`.

    A text model is an adapter over the quantised base `base_sha256`; a classifier stands alone (`base` empty).
    `labels` name a classifier's outputs in order; `input_shape` is one item's shape.
    """

    id: str
    name: str
    version: int
    at: float
    task: Task
    format: ModelFormat
    sha256: str
    size_bytes: int
    run: str
    dataset_version: str
    base: str = ""
    base_sha256: str = ""
    licence: str = ""
    labels: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()


class Evaluation(Record):
    """The scores and gates of a model version as found at `at`; the newest counts."""

    id: str
    at: float
    model: str
    scores: tuple[Score, ...]
    gates: tuple[Gate, ...]

    @property
    def passed(self) -> bool:
        return bool(self.gates) and all(gate.passed for gate in self.gates)


class Promotion(Record):
    """One change of what an endpoint serves, never altered: history is the list of them.

    `model` is served from `at` on; None is the plan's own model (nothing for a classifier). `by` says who did it.
    """

    id: str
    at: float
    action: Literal["promote", "rollback"]
    endpoint: str
    model: str | None
    previous: str | None
    by: str
    reason: str = ""
