"""Lineage: file, data set version, training run, model version, promotion, answer, and the edges.

Ids are readable and unique in a home: data set version "NAME@v3", run "r-...", model version "NAME@v2", answer (the
gateway's request id) "aw-...". The ends of an edge are written "KIND:ID" (`format_node`).
"""

from typing import Literal

from archwright.contract.evidence import Basis, Deviation, Prediction
from archwright.contract.record import Record

NodeKind = Literal["file", "dataset", "run", "model", "answer"]
Task = Literal["text-lora", "image-classifier", "tabular-classifier"]
RunStatus = Literal["running", "interrupted", "failed", "finished"]
ModelFormat = Literal["gguf", "onnx", "safetensors"]


def format_node(kind: NodeKind, name: str) -> str:
    return f"{kind}:{name}"


class LineageEdge(Record):
    """`child` was made from `parent`; both in the form of `format_node`."""

    at: float
    child: str
    parent: str
    relation: Literal["ingested", "extended", "refined", "trained-on", "produced-by", "answered-by"]


class SourceFile(Record):
    """An ingested file; `path` is relative to the ingested folder, or the name of a single ingested file.

    A file with the same `signature` is unchanged and is not read again; an empty signature never matches.
    `content_sha256` is the digest over the values of its rows in the table.
    """

    path: str
    sha256: str
    size_bytes: int
    rows: int
    quarantined: int = 0
    signature: str = ""
    content_sha256: str = ""
    encoding: str = "utf-8"


class DataFile(Record):
    """A Parquet file of a version; `path` is below the folder of its table, `sha256` covers the bytes of the file.

    `part` is the number of the part whose rows it holds, in a refined version.
    """

    path: str
    sha256: str
    size_bytes: int
    rows: int
    part: int = 0


class TokenShard(Record):
    """A file of packed tokens of `bits` each, in sequences of `length`; `end` is the token after each document."""

    path: str
    tokeniser_sha256: str
    bits: int
    end: int
    length: int
    sha256: str = ""
    size_bytes: int = 0
    documents: int = 0
    tokens: int = 0


ExpectedValue = bool | int | float | str


class Expectation(Record):
    """One check of the rows of a data set: `check` names it, `bound` is the stated limit, value or list of values."""

    check: str
    columns: tuple[str, ...] = ()
    bound: ExpectedValue | tuple[ExpectedValue, ...]


class ExpectationResult(Expectation):
    """An expectation that a version meets; `measured` is the figure that was compared with the bound."""

    measured: float | str


class DatasetVersion(Record):
    """One immutable state of a data set: a tag of its table.

    `drops` counts removed rows by reason: quarantined at ingest, dropped at refine. `changes` counts altered rows
    (redacted values by kind). `parent` is the version from which this version was made. `content_sha256` is the digest
    over the values of its units: source files, or the parts of a refined version, whose digests `part_sha256` lists.
    `token_shards` lie beside the table, in lake/shards/<id>. A version `dropped_at` some time has no rows any more: its
    record tells what they were. `erasures` has the rows that each erasure removed, by the id of its receipt.
    `source_files` counts the files of
    `lake.tables.source_file_list`.
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
    content_sha256: str
    source_files: int = 0
    licence: str = ""
    recipe: str = ""
    data_files: tuple[DataFile, ...] = ()
    part_sha256: tuple[str, ...] = ()
    token_shards: tuple[TokenShard, ...] = ()
    expectations: tuple[ExpectationResult, ...] = ()
    dropped_at: float | None = None
    erasures: dict[str, int] = {}


class TrainingRun(Record):
    """The state of a run at `at`; the newest record of an id is the current state.

    `resumed` counts the resumptions after an interruption. `order_sha256` digests the ids of the rows in training
    order, `weights_sha256` the trained weights: an interruption changes neither. `predictions` are made before the
    first step and depend on `bases`, or `not_predicted` gives the reason for none; `deviations` compare them with
    measurements.
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
    """A quality with its 95 % interval over `items` held-out items, and the `baseline` to compare with."""

    metric: str
    value: float
    low: float
    high: float
    items: int
    baseline: float | None = None
    baseline_name: str = ""


class Gate(Record):
    """A check that a model version must pass before promotion.

    `shown` is False if the items were too few to decide; such a gate is not passed.
    `control` is the same figure for the negative control, which must fail `limit`, or the check proves nothing.
    """

    name: str
    passed: bool
    detail: str
    value: float | None = None
    limit: float | None = None
    control: float | None = None
    shown: bool = True

    @property
    def verdict(self) -> Literal["passed", "failed", "not shown"]:
        if self.passed:
            return "passed"
        if self.shown:
            return "failed"
        return "not shown"


class ModelVersion(Record):
    """A model file that can be served under the endpoint `name`.

    A text model is an adapter over the quantised base `base_sha256`; a classifier has no base (`base` empty).
    `sha256`: digest of the file for our own engines. `peft_sha256`: digest of the folder with the adapter in its own
    format (PEFT), which engines on accelerators load; empty for a classifier, and for an adapter of an older release.
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
    peft_sha256: str = ""
    licence: str = ""
    labels: tuple[str, ...] = ()
    input_shape: tuple[int, ...] = ()


class Evaluation(Record):
    """The scores and gates of a model version, measured at `at`; the newest evaluation counts.

    `production` is the version that was in production then and was compared; empty if none was, and for an evaluation
    of an older release.
    """

    id: str
    at: float
    model: str
    scores: tuple[Score, ...]
    gates: tuple[Gate, ...]
    production: str = ""

    @property
    def passed(self) -> bool:
        return bool(self.gates) and all(gate.passed for gate in self.gates)


class Promotion(Record):
    """One change of the model that an endpoint serves.

    Promotions are never altered: their list is the history. `model` is served from `at` on; None is the plan's own
    model (nothing for a classifier). `by` names the user.
    """

    id: str
    at: float
    action: Literal["promote", "rollback"]
    endpoint: str
    model: str | None
    previous: str | None
    by: str
    reason: str = ""
