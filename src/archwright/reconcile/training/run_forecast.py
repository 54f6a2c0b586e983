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
from archwright.contract.estimate import Estimate, exact_estimate, within_factor
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


def forecast_run(spec: TrainSpec, home: Home, store: Store, *, probe: Probe = probe_machine_now) -> RunForecast:
    """Predict a run; if a prediction is impossible, return the reason.

    Raises DataError AW-DATA-10 and AW-DATA-11 if the data set does not match the spec.
    """
    catalog = load_catalog(home)
    try:
        version = version_index.find_version(store, spec.dataset)
        work = estimate_step_work(spec, home, version, catalog=catalog)
        row = catalog.training_efficiency(spec.task, training_instruction_set())
        artefact = catalog.artefacts.get(spec.base)
        model_file = None
        if artefact is not None:
            model_file = home.model(artefact.sha256)
        machine = probe(home, model_file)
    except Unpredictable as reason:
        return RunForecast(reason=str(reason))
    except (CatalogError, MissingError) as error:
        return RunForecast(reason=error.message)
    load = TrainingLoad(
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
    predictions, bases = predict_training(load, machine, row)
    return RunForecast(predictions, bases)


class StepWork(NamedTuple):
    """The work of a step according to the spec and the rows; the fields of TrainingLoad."""

    units: Estimate
    largest: Estimate
    learned: Estimate
    kind: LoraStep | NetworkStep | BoostedTreesStep


def estimate_step_work(spec: TrainSpec, home: Home, version: DatasetVersion, *, catalog: Catalog) -> StepWork:
    """Raises Unpredictable."""
    if spec.workers > 1:
        raise Unpredictable("the waiting time of several workers for each other was never measured")
    if spec.task == "text-lora":
        return _estimate_text_work(spec, home, version, catalog=catalog)
    rows = max(1, round(version.rows * (1 - spec.held_out)))
    if spec.task == "tabular-classifier":
        return _estimate_tree_work(spec, home, version, rows=rows)
    return _estimate_picture_work(spec, rows)


def _estimate_tree_work(spec: TrainSpec, home: Home, version: DatasetVersion, *, rows: int) -> StepWork:
    label = spec.columns.label
    classes = len(set(_read_rows(home, version, [label])))
    features = len(spec.columns.features)
    if not features:
        no_features = {*SYSTEM_COLUMNS, label}
        for name, kind in version.columns.items():
            features += kind in NUMERIC and name not in no_features

    step = BoostedTreesStep(
        features=features,
        trees_per_round=1 if classes <= 2 else classes,
        data_rows=rows,
    )
    all_rows = exact_estimate(rows, "rows")
    return StepWork(units=all_rows, largest=all_rows, learned=exact_estimate(1.0, ""), kind=step)


def _estimate_picture_work(spec: TrainSpec, rows: int) -> StepWork:
    assert spec.image is not None  # training.training_spec refuses a spec without an image
    shape = (spec.image.height, spec.image.width, spec.image.channels)
    step = build_convolution_step(shape, image_classifier.CHANNELS, PICTURE_CLASSES, rows)
    epoch_steps = math.ceil(rows / spec.rows_per_step)
    largest = min(rows, spec.rows_per_step)
    return StepWork(
        units=exact_estimate(rows / epoch_steps, "rows"),
        largest=exact_estimate(largest, "rows"),
        learned=exact_estimate(1.0, ""),
        kind=step,
    )


def _estimate_text_work(spec: TrainSpec, home: Home, version: DatasetVersion, *, catalog: Catalog) -> StepWork:
    model = catalog.models.get(spec.base)
    if model is None:
        raise Unpredictable(f"the catalog has no architecture of {spec.base}")
    if model.ffn is None or model.experts:
        raise Unpredictable(f"{spec.base} has experts, and adapters of experts were never measured")

    artefact = catalog.artefacts.get(spec.base)
    names = required_columns(spec)
    template_tokens = 0
    if artefact is not None and len(names) > 1:
        template_tokens = artefact.template_tokens
    sample = _sample_texts(_read_rows(home, version, names, limit=SAMPLE_ROWS), template_tokens, spec.tokens_per_step)

    epoch_tokens = max(1.0, sample.mean * version.rows * (1 - spec.held_out))
    budget = float(spec.tokens_per_step)
    epoch_steps = max(1, round(epoch_tokens / budget))
    band = STEP_BAND
    if epoch_steps < MANY_EPOCH_STEPS:
        band *= FEW_STEPS_BAND
    learned_high = sample.learned * CHARACTERS_BAND
    return StepWork(
        units=within_factor(epoch_tokens / epoch_steps, band, "tokens"),
        largest=_estimate_largest(min(epoch_tokens, budget), sample),
        learned=Estimate(
            value=sample.learned,
            low=sample.learned / CHARACTERS_BAND,
            high=min(1.0, learned_high),
            unit="",
        ),
        kind=LoraStep(model=model, ffn=model.ffn, rank=spec.rank, data_bytes=version.size_bytes),
    )


class TextSample(NamedTuple):
    """Tokens of the sampled rows: their mean, the longest row, the share that is learned."""

    mean: float
    longest: float
    learned: float


def _sample_texts(rows: Sequence[Row], template_tokens: int, limit: int) -> TextSample:
    """Estimate the tokens of rows; the last text of a row is learned, the first has the template."""
    lengths: list[float] = []
    learned = 0.0
    for row in rows:
        counts = [len(str(text)) / CHARACTERS_PER_TOKEN for text in row]
        counts[0] += template_tokens
        length = sum(counts)
        # A row is cut to a step.
        cut = max(1.0, length / limit)
        lengths.append(length / cut)
        learned += counts[-1] / cut
    if not lengths:
        return TextSample(mean=1.0, longest=1.0, learned=1.0)
    return TextSample(statistics.fmean(lengths), max(lengths), learned / sum(lengths))


def _estimate_largest(tokens: float, sample: TextSample) -> Estimate:
    """Return the tokens of the largest step: it ends at the row nearest to its budget, at most half of a row later."""
    usual_excess = max(sample.mean / 2, sample.longest / 3)
    return Estimate(value=tokens + usual_excess, low=tokens, high=tokens + sample.longest / 2, unit="tokens")


def _read_rows(home: Home, version: DatasetVersion, names: Sequence[str], *, limit: int | None = None) -> list[Row]:
    """Return these columns of the first `limit` rows (None: all rows) that have a value in each column."""
    rows: list[Row] = []
    for batch in iceberg_tables.read_batches(home, version, names):
        columns = [batch.column(name).to_pylist() for name in names]
        for row in zip(*columns, strict=True):
            if None not in row:
                rows.append(row)
        if limit is not None and len(rows) >= limit:
            return rows[:limit]
    return rows
