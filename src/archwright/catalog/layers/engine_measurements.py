"""The measured layer: this machine's rates, and the steps of its engines, which take precedence over shipped rows."""

import math
from collections.abc import Iterable, Sequence
from typing import Literal, NamedTuple

import msgspec

from archwright.catalog.tables.records import ModelSpec
from archwright.contract.engine_measurement import EngineMeasurement, EngineReport, StepTime
from archwright.contract.plan import Artefact, MachineFacts
from archwright.contract.record import replace
from archwright.home import Home, write_json

# Earlier rounds count as at most this many, so a changed machine shows after a few measurements.
MOST_EARLIER_ROUNDS = 5
# How a measurement relates to a file: it is of this file, of another file in its shape and format, or of another model
# in its format.
MeasurementRelation = Literal["file", "shape", "format"]


class MeasuredLayer(NamedTuple):
    """Measurements of this machine: its rates (None before a probe), and its engines."""

    machine: MachineFacts | None = None
    engines: tuple[EngineMeasurement, ...] = ()


class RelatedMeasurement(NamedTuple):
    """A measurement that says something about a file."""

    measurement: EngineMeasurement
    relation: MeasurementRelation


NOT_MEASURED = MeasuredLayer()


def read_engine_measurements(home: Home) -> tuple[EngineMeasurement, ...]:
    """Return the measurements of `home`, none if the file is missing, unreadable or of an older version."""
    try:
        return msgspec.json.decode(home.engine_measurements.read_bytes(), type=tuple[EngineMeasurement, ...])
    except (OSError, ValueError):
        return ()


def save_engine_measurements(home: Home, measurements: Iterable[EngineMeasurement]) -> None:
    """Add measurements to those of `home`; a measurement of the same engine is combined with the earlier one."""
    by_key = {earlier.key: earlier for earlier in read_engine_measurements(home)}
    for measurement in measurements:
        earlier = by_key.pop(measurement.key, None)
        by_key[measurement.key] = measurement if earlier is None else combine_measurements(earlier, measurement)
    home.folder("measured")
    write_json(home.engine_measurements, list(by_key.values()))


def combine_measurements(earlier: EngineMeasurement, newer: EngineMeasurement) -> EngineMeasurement:
    """Return the newer measurement with steps that are the geometric means over the rounds of both.

    The spread covers the difference between both.
    """
    earlier_rounds = min(earlier.rounds, MOST_EARLIER_ROUNDS)
    earlier_s = {step.kind: step.step_s for step in earlier.steps}
    newer_s = {step.kind: step.step_s for step in newer.steps}
    steps: list[StepTime] = []
    spread = max(earlier.spread, newer.spread) if earlier_rounds < MOST_EARLIER_ROUNDS else newer.spread
    for step in (*newer.steps, *(step for step in earlier.steps if step.kind not in newer_s)):
        before_s = earlier_s.get(step.kind, step.step_s)
        distance = math.log(step.step_s / before_s)
        mean_s = before_s * math.exp(distance * newer.rounds / (newer.rounds + earlier_rounds))
        spread = max(spread, math.exp(abs(distance) / 2))
        steps.append(replace(step, step_s=mean_s))
    steps.sort(key=lambda step: step.kind)
    rounds = earlier_rounds + newer.rounds
    return replace(newer, steps=tuple(steps), spread=spread, rounds=rounds, runs=earlier.runs + newer.runs)


def find_related(
    measurements: Sequence[EngineMeasurement], report: EngineReport, model: ModelSpec, artefact: Artefact
) -> tuple[RelatedMeasurement, ...]:
    """Return the measurements of this engine on this processor that say most about a file, one per thread count.

    The nearest relation wins; among other models in the format, the model with the most similar number of parameters.
    """
    same_format = [
        measurement
        for measurement in measurements
        if measurement.report == report and measurement.quantisation == artefact.quantisation
    ]
    of_file = [one for one in same_format if one.is_of_file and one.model_sha256 == artefact.sha256]
    if of_file:
        return tuple(RelatedMeasurement(measurement, "file") for measurement in of_file)
    of_shape = [measurement for measurement in same_format if measurement.model == model.id]
    if of_shape:
        return tuple(RelatedMeasurement(measurement, "shape") for measurement in _newest_by_threads(of_shape))
    of_nearest = _select_nearest_model(same_format, model)
    return tuple(RelatedMeasurement(measurement, "format") for measurement in _newest_by_threads(of_nearest))


def _select_nearest_model(measurements: Sequence[EngineMeasurement], model: ModelSpec) -> list[EngineMeasurement]:
    """Return the measurements of the one model whose number of parameters is most similar."""
    if not measurements:
        return []
    nearest = min(measurements, key=lambda measurement: abs(math.log(measurement.parameters / model.parameters)))
    return [measurement for measurement in measurements if measurement.model == nearest.model]


def _newest_by_threads(measurements: Sequence[EngineMeasurement]) -> list[EngineMeasurement]:
    newest = sorted(measurements, key=lambda measurement: measurement.measured_at)
    return list({measurement.threads: measurement for measurement in newest}.values())
