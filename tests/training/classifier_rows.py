"""Rows for the classifiers: as a dataset version holds them, without a lake around them."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from sklearn.datasets import load_breast_cancer, load_digits

from archwright.contract.lineage import DatasetVersion
from archwright.home import Home
from archwright.lake.ingestion import IngestRequest, ingest_files
from archwright.store import Store
from archwright.training import classifier_data, run_execution, training_runs
from archwright.training.trainer import SingleWorker, TaskTrainer, TrainerSetup
from archwright.training.training_data import DataSplit, TrainingData, is_held_out
from archwright.training.training_loop import LoopHooks
from archwright.training.training_spec import Columns, ImageSpec, TrainSpec

from .counting_trainer import version_of

DIGITS = TrainSpec(
    name="digits",
    task="image-classifier",
    dataset="digits",
    steps=150,
    held_out=0.3,
    image=ImageSpec(height=8, width=8, scale=16.0),
)
CANCER = TrainSpec(
    name="cancer", task="tabular-classifier", dataset="cancer", steps=20, held_out=0.3, columns=Columns(label="kind")
)


def digits() -> dict[str, Any]:
    """1,797 handwritten digits: 64 pixel columns and the label."""
    pixels, labels = load_digits(return_X_y=True)
    names = [f"pixel_{number:02d}" for number in range(64)]
    columns = {name: pixels[:, place].astype(np.int64) for place, name in enumerate(names)}
    return {**columns, "label": labels}


def cancer(absent: float = 0.0) -> dict[str, Any]:
    """569 tumours of 30 measurements and their kind as text; a share of the first ten columns' values missing."""
    measured, kinds = load_breast_cancer(return_X_y=True)
    gone = np.random.default_rng(3).random(measured.shape) < absent
    gone[:, 10:] = False
    columns = {f"m{place:02d}": pa.array(measured[:, place], mask=gone[:, place]) for place in range(30)}
    return {**columns, "kind": np.array(["malignant", "benign"])[kinds]}


def data_of(columns: Mapping[str, Any], spec: TrainSpec) -> TrainingData:
    """Like `training.training_data` brings them: by record_id, split by its hash."""
    rows = len(next(iter(columns.values())))
    ids = [hashlib.sha256(str(row).encode()).hexdigest() for row in range(rows)]
    places = {"record_id": ids, "source_file": ["t.csv"] * rows, "source_row": list(range(1, rows + 1))}
    table = pa.table({**places, **columns}).sort_by("record_id")
    side = [is_held_out(name, spec.held_out) for name in sorted(ids)]
    parts = [table.filter(pa.array([out is held for out in side])) for held in (False, True)]
    train, held_out = (DataSplit(part.column("record_id").to_pylist(), part) for part in parts)
    return TrainingData(train, held_out, version_of(columns, rows), 0)


def setup_of(columns: Mapping[str, Any], spec: TrainSpec, folder: Path, group: Any = None) -> TrainerSetup:
    return TrainerSetup(spec, data_of(columns, spec), Home(folder), group or SingleWorker(), 1)


def steps(trainer: TaskTrainer, first: int, last: int, seed: int = 7) -> list[float]:
    """Steps `first` to `last` over rows that depend on the step's number alone; their losses."""
    rows, size = len(trainer.lengths()), trainer.budget()
    made = []
    for number in range(first, last):
        order = np.random.default_rng(seed * 1000 + number).permutation(rows)[:size]
        made.append(trainer.step([int(row) for row in order]).loss)
    return made


def accuracy(answers: Any, data: TrainingData, spec: TrainSpec, labels: Sequence[str]) -> float:
    truth = classifier_data.encode_labels(data.held_out, data, spec, labels)
    return float((answers.argmax(axis=1) == truth).mean())


class Pair:
    """One of two workers in two threads: `mean` waits for the other worker and takes the weighted mean."""

    size = 2

    def __init__(self, rank: int, meeting: threading.Barrier, shared: dict[int, tuple[list[Any], float]]) -> None:
        self.rank = rank
        self._meeting = meeting
        self._shared = shared

    def mean(self, tensors: list[Any], weight: float) -> None:
        self._shared[self.rank] = ([tensor.clone() for tensor in tensors], weight)
        self._meeting.wait()
        whole = sum(given for _, given in self._shared.values())
        for place, tensor in enumerate(tensors):
            tensor.copy_(sum(mine[place] * (given / whole) for mine, given in self._shared.values()))
        self._meeting.wait()


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.csv.write_csv(pa.table(dict(columns)), path)


def brought_in(home: Home, name: str, columns: Mapping[str, Any], folder: Path) -> DatasetVersion:
    """The columns as a version of a data set in the home's lake."""
    write_csv(folder / name / "rows.csv", columns)
    with closing(Store(home.store_url)) as store:
        return ingest_files(home, store, IngestRequest(folder / name, name, "CC-BY-4.0")).version


def begun(home: Home, spec: TrainSpec, version: DatasetVersion) -> str:
    """A run that has a folder and no step yet."""
    job = training_runs.ResolvedJob(id=training_runs.new_id(), version=version, threads=1)
    training_runs.create_run(home, job, spec)
    return job.id


def trained_run(home: Home, spec: TrainSpec, version: DatasetVersion) -> str:
    """A run with all its steps made, in this process."""
    run = begun(home, spec, version)
    run_execution.drive_run(home, run, LoopHooks(lambda _: None))
    return run
