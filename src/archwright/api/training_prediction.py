"""Predict the time, speed and memory of a training run before it begins.

The spec and the data set become a load, the machine is probed at every run (the load of a shared machine changes), and
`sizing` predicts. A run without a measured basis gets no prediction, and the run records the reason.
"""

import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.probe.host_resources import training_instruction_set
from archwright.catalog.probe.machine_probe import probe_machine
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Basis, Prediction
from archwright.contract.lineage import DatasetVersion
from archwright.contract.plan import MachineFacts
from archwright.errors import CatalogError, MissingError
from archwright.home import Home
from archwright.lake.formats.column_kinds import SYSTEM_COLUMNS
from archwright.lake.tables import iceberg_tables, version_index
from archwright.sizing.hardware.roofline import count_engine_threads
from archwright.sizing.training.local_training import TrainingLoad, predict_training
from archwright.sizing.training.training_flops import BoostedTreesStep, LoraStep, NetworkStep, build_convolution_step
from archwright.store import Store
from archwright.training import image_classifier
from archwright.training.training_data import required_columns
from archwright.training.training_spec import TrainSpec

# Rows that are read to estimate the length of texts.
SAMPLE_ROWS = 4096
# For text in a language with spaces; the band spans prose and source code.
CHARACTERS_PER_TOKEN = 4.0
CHARACTERS_BAND = 1.3
# A step ends at the row that brings it nearest to its budget: measured means lie within this factor of the budget.
STEP_BAND = 1.1
# The last step of an epoch is short, which matters if an epoch has few steps.
MANY_EPOCH_STEPS = 8
FEW_STEPS_BAND = 1.4
NUMERIC = ("boolean", "integer", "number")
# The number of classes of pictures hardly changes the work.
PICTURE_CLASSES = 10

Row = tuple[object, ...]
Probe = Callable[[Home, Path | None], MachineFacts]


class RunForecast(NamedTuple):
    """Predictions with their bases; `reason` says why there are no predictions."""

    predictions: tuple[Prediction, ...] = ()
    bases: tuple[Basis, ...] = ()
    reason: str = ""


class Unpredictable(Exception):
    """A run cannot be predicted, for this reason."""


def probe_machine_now(home: Home, model_file: Path | None) -> MachineFacts:
    return probe_machine(home, model_file, now=time.time)


def forecast_run(spec: TrainSpec, home: Home, store: Store, probe: Probe = probe_machine_now) -> RunForecast:
    """Predict a run; if a prediction is impossible, return the reason.

    Raises DataError AW-DATA-10 and AW-DATA-11 if the data set does not match the spec.
    """
    catalog = load_catalog(home)
    try:
        work = estimate_step_work(spec, home, version_index.find_version(store, spec.dataset), catalog)
        row = catalog.training_efficiency(spec.task, training_instruction_set())
        artefact = catalog.artefacts.get(spec.base)
        machine = probe(home, None if artefact is None else home.model(artefact.sha256))
    except Unpredictable as reason:
        return RunForecast(reason=str(reason))
    except (CatalogError, MissingError) as error:
        return RunForecast(reason=error.message)
    made = TrainingLoad(
        name=spec.name,
        task=spec.task,
        steps=spec.steps,
        threads=spec.threads or count_engine_threads(machine),
        units=work.units,
        largest=work.largest,
        learned=work.learned,
        work=work.kind,
        busy=os.getloadavg()[0],
    )
    return RunForecast(*predict_training(made, machine, row))


class StepWork(NamedTuple):
    """The work of a step according to the spec and the rows; the fields of TrainingLoad."""

    units: Estimate
    largest: Estimate
    learned: Estimate
    kind: LoraStep | NetworkStep | BoostedTreesStep


def estimate_step_work(spec: TrainSpec, home: Home, version: DatasetVersion, catalog: Catalog) -> StepWork:
    """Raises Unpredictable."""
    if spec.workers > 1:
        raise Unpredictable("the waiting time of several workers for each other was never measured")
    if spec.task == "text-lora":
        return _estimate_text_work(spec, home, version, catalog)
    rows = max(1, round(version.rows * (1 - spec.held_out)))
    if spec.task == "tabular-classifier":
        classes = len(set(_read_rows(home, version, [spec.columns.label], None)))
        per_round = 1 if classes <= 2 else classes
        mine = {*SYSTEM_COLUMNS, spec.columns.label}
        numeric = [name for name, kind in version.columns.items() if kind in NUMERIC and name not in mine]
        features = len(spec.columns.features) or len(numeric)
        trees = BoostedTreesStep(features=features, trees_per_round=per_round, data_rows=rows)
        return StepWork(exact_estimate(rows, "rows"), exact_estimate(rows, "rows"), exact_estimate(1.0, ""), trees)
    assert spec.image is not None  # training.training_spec refuses a spec without an image
    shape = (spec.image.height, spec.image.width, spec.image.channels)
    most = min(rows, spec.rows_per_step)
    mean = rows / math.ceil(rows / spec.rows_per_step)
    net = build_convolution_step(shape, image_classifier.CHANNELS, PICTURE_CLASSES, rows)
    return StepWork(exact_estimate(mean, "rows"), exact_estimate(most, "rows"), exact_estimate(1.0, ""), net)


def _estimate_text_work(spec: TrainSpec, home: Home, version: DatasetVersion, catalog: Catalog) -> StepWork:
    model = catalog.models.get(spec.base)
    if model is None:
        raise Unpredictable(f"the catalog has no architecture of {spec.base}")
    if model.ffn is None or model.experts:
        raise Unpredictable(f"{spec.base} has experts, and adapters of experts were never measured")
    artefact = catalog.artefacts.get(spec.base)
    names = required_columns(spec)
    template = artefact.template_tokens if artefact is not None and len(names) > 1 else 0
    sample = _read_rows(home, version, names, SAMPLE_ROWS)
    rows = [_estimate_row_tokens(row, template, spec.tokens_per_step) for row in sample]
    lengths = [sum(row) for row in rows] or [1.0]
    mean = statistics.fmean(lengths)
    total = max(1.0, mean * version.rows * (1 - spec.held_out))
    budget = float(spec.tokens_per_step)
    epoch_steps = max(1, round(total / budget))
    units = total / epoch_steps
    # Each step ends at the row nearest to its budget, so it may exceed the budget by half of a long row.
    most, longest = min(total, budget), max(lengths)
    few = FEW_STEPS_BAND if epoch_steps < MANY_EPOCH_STEPS else 1.0
    share = sum(row[-1] for row in rows) / sum(lengths) if rows else 1.0
    kind = LoraStep(model=model, ffn=model.ffn or 0, rank=spec.rank, data_bytes=version.size_bytes)
    return StepWork(
        Estimate(value=units, low=units / (STEP_BAND * few), high=units * STEP_BAND * few, unit="tokens"),
        Estimate(value=most + max(mean / 2, longest / 3), low=most, high=most + longest / 2, unit="tokens"),
        Estimate(value=share, low=share / CHARACTERS_BAND, high=min(1.0, share * CHARACTERS_BAND), unit=""),
        kind,
    )


def _estimate_row_tokens(texts: Row, template: int, limit: int) -> tuple[float, ...]:
    """Estimate the tokens of each text of a row, the prompt with its template; a row is cut to a step."""
    counts = [len(str(text)) / CHARACTERS_PER_TOKEN for text in texts]
    counts[0] += template
    over = max(1.0, sum(counts) / limit)
    return tuple(count / over for count in counts)


def _read_rows(home: Home, version: DatasetVersion, names: Sequence[str], limit: int | None) -> list[Row]:
    """Return these columns of the first `limit` rows (None: all rows) that have a value in each column."""
    found: list[Row] = []
    for batch in iceberg_tables.read_batches(home, version, names):
        columns = (batch.column(name).to_pylist() for name in names)
        found += [row for row in zip(*columns, strict=True) if None not in row]
        if limit is not None and len(found) >= limit:
            return found[:limit]
    return found
