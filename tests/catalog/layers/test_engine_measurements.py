"""Measurements of engines in a home: kept by engine, combined over rounds, found by file, shape or format."""

from __future__ import annotations

import math
from typing import Any

import pytest

from archwright.catalog.layers.engine_measurements import (
    combine_measurements,
    find_related,
    read_engine_measurements,
    save_engine_measurements,
)
from archwright.catalog.load import load_catalog
from archwright.contract.engine_measurement import EngineMeasurement, StepTime
from archwright.contract.record import replace
from archwright.home import Home

from ...sizing.conftest import ENGINE

CATALOG = load_catalog()
FILE = CATALOG.artefacts["SmolLM2-135M-Instruct"]
MODEL = CATALOG.models[FILE.model]


def measurement(**changes: Any) -> EngineMeasurement:
    """The small model on one thread, with steps of 20 ms for an answer and 600 ms for a prompt of 64 tokens."""
    made = EngineMeasurement(
        report=ENGINE,
        model=MODEL.id,
        parameters=MODEL.parameters,
        quantisation=FILE.quantisation,
        model_sha256=FILE.sha256,
        layers=MODEL.layers,
        vocabulary=MODEL.vocabulary,
        threads=1,
        steps=(StepTime(answering=1, context_tokens=8, step_s=0.02), StepTime(prompt_tokens=64, step_s=0.6)),
        slowdown=1.0,
        spread=1.0,
        rounds=1,
        runs=1,
        startup_s=1.0,
        measured_at=1e9,
    )
    return replace(made, **changes)


def test_a_home_keeps_one_measurement_per_engine(home: Home) -> None:
    assert read_engine_measurements(home) == () and not home.engine_measurements.exists()
    save_engine_measurements(home, [measurement(), measurement(threads=2)])
    save_engine_measurements(home, [measurement(report=replace(ENGINE, build="xllamacpp 1"))])
    kept = read_engine_measurements(home)
    assert [(one.threads, one.report.build) for one in kept] == [
        (1, ENGINE.build),
        (2, ENGINE.build),
        (1, "xllamacpp 1"),
    ]
    assert load_catalog(home).engine_measurements == kept
    home.engine_measurements.write_text("[{}]", encoding="utf-8")
    assert read_engine_measurements(home) == ()


def test_rounds_are_combined_and_their_difference_is_the_spread(home: Home) -> None:
    slower = measurement(steps=(StepTime(answering=1, context_tokens=8, step_s=0.04),), measured_at=2e9, slowdown=1.5)
    save_engine_measurements(home, [measurement()])
    save_engine_measurements(home, [slower])
    (kept,) = read_engine_measurements(home)
    assert [step.step_s for step in kept.steps] == pytest.approx([math.sqrt(0.02 * 0.04), 0.6])
    assert kept.spread == pytest.approx(math.sqrt(2)) and (kept.rounds, kept.runs) == (2, 2)
    assert (kept.measured_at, kept.slowdown) == (2e9, 1.5)


def test_old_rounds_never_outweigh_a_machine_that_changed() -> None:
    kept = measurement(rounds=1000)
    for _ in range(12):
        kept = combine_measurements(kept, measurement(steps=(StepTime(answering=1, context_tokens=8, step_s=0.04),)))
    assert kept.steps[0].step_s == pytest.approx(0.04, rel=0.1)


def test_the_file_itself_says_more_than_its_shape_and_its_shape_more_than_its_format() -> None:
    of_format = measurement(model="Qwen3-4B", parameters=4 * 10**9, model_sha256="b" * 64)
    of_shape = measurement(model_sha256="", layers=4, vocabulary=8192)
    of_file = measurement(threads=2)
    foreign = measurement(report=replace(ENGINE, processor="GenuineIntel 6-207-2"))
    other_format = measurement(quantisation="Q8_0")

    def relations(*kept: EngineMeasurement) -> list[tuple[str, int]]:
        related = find_related(kept, ENGINE, MODEL, FILE)
        return [(entry.relation, entry.measurement.threads) for entry in related]

    assert relations(foreign, other_format) == []
    assert relations(of_format, foreign) == [("format", 1)]
    assert relations(of_format, of_shape) == [("shape", 1)]
    assert relations(of_format, of_shape, of_file, measurement()) == [("file", 2), ("file", 1)]


def test_one_other_model_stands_for_the_format_with_all_its_threads() -> None:
    near = [measurement(model="near", parameters=200 * 10**6, model_sha256="n", threads=n) for n in (1, 2)]
    far = [measurement(model="far", parameters=9 * 10**9, model_sha256="f", threads=n, measured_at=2e9) for n in (1, 4)]
    related = find_related([*far, *near], ENGINE, MODEL, FILE)
    assert {(entry.measurement.model, entry.measurement.threads) for entry in related} == {("near", 1), ("near", 2)}


def test_a_file_that_is_not_here_takes_the_newest_measurement_of_its_shape() -> None:
    absent = replace(FILE, sha256="")
    kept = [measurement(model_sha256="", measured_at=at, spread=at) for at in (1.0, 3.0, 2.0)]
    (entry,) = find_related(kept, ENGINE, MODEL, absent)
    assert (entry.relation, entry.measurement.measured_at) == ("shape", 3.0)
