"""The engine is measured before a plan promises its speed: the file itself, or random weights in its shape."""

from __future__ import annotations

import errno
import time
from typing import Any

import pytest

from archwright import api
from archwright.catalog.layers.engine_measurements import read_engine_measurements, save_engine_measurements
from archwright.catalog.load import load_catalog
from archwright.catalog.model_file_names import find_model_file
from archwright.catalog.probe import host_resources
from archwright.catalog.probe.machine_probe import read_machine
from archwright.contract.plan import Artefact
from archwright.contract.record import replace
from archwright.engines.synthetic_model import count_layer_bytes
from archwright.errors import EngineError
from archwright.home import Home, write_json
from archwright.operate.platform_state import acquire_lock, is_serving
from archwright.reconcile.calibration import engine_measurement
from archwright.reconcile.calibration.engine_measurement import (
    AGAIN_S,
    MOST_STACK_BYTES,
    STACK_BYTES,
    STEADY_RUNS,
    EngineMeasurer,
    InstalledEngine,
    Purpose,
    choose_stack,
    estimate_least_s,
    include_measured_steal,
    list_local_files,
)
from archwright.simulate.local_prediction import choose_slots
from archwright.sizing.stated_query import StatedLoad

from ...catalog.layers.test_engine_measurements import FILE, MODEL, measurement
from ...examples import read_example
from ...sizing.conftest import ENGINE, probed_machine

CATALOG = load_catalog()
MACHINE = replace(probed_machine(), probed_at=1e9)
LOAD = StatedLoad(prompt_tokens=64, answer_tokens=64, in_flight=1)


def make_measurer(home: Home, budget_s: float, purpose: Purpose = Purpose.PLAN) -> EngineMeasurer:
    return EngineMeasurer(home, budget_s, purpose, is_serving=is_serving)


def place_file(home: Home, model_home: Home) -> None:
    home.model(FILE.sha256).symlink_to(model_home.model(FILE.sha256).resolve())


@pytest.mark.parametrize("name", ["SmolLM2-135M-Instruct", "Qwen3-4B", "Llama-3.1-70B-Instruct", "Qwen3-30B-A3B"])
def test_a_stack_has_the_shape_and_exceeds_the_caches(name: str) -> None:
    model = CATALOG.models[name]
    shape = choose_stack(model, "Q4_K_M")
    assert shape is not None
    assert (shape.hidden, shape.heads, shape.kv_heads, shape.experts) == (
        model.hidden,
        model.heads,
        model.kv_heads,
        model.experts,
    )
    size = shape.layers * count_layer_bytes(shape, "Q4_K_M")
    assert shape.layers % 2 == 0 or shape.layers == model.layers
    assert size >= min(STACK_BYTES, model.layers * count_layer_bytes(shape, "Q4_K_M"))
    assert count_layer_bytes(shape, "Q4_K_M") <= MOST_STACK_BYTES


def test_no_stack_for_a_format_that_is_not_written_or_a_huge_layer() -> None:
    assert choose_stack(MODEL, "IQ1_S") is None
    huge = replace(CATALOG.models["Qwen3-30B-A3B"], experts=512, hidden=8192, expert_ffn=4096)
    assert choose_stack(huge, "Q8_0") is None


def test_the_least_time_grows_with_the_model() -> None:
    def least_s(name: str) -> float:
        spec = choose_slots(find_model_file(name, CATALOG), MACHINE, LOAD, catalog=CATALOG)
        return estimate_least_s(spec)

    assert least_s("SmolLM2-135M-Instruct") < least_s("Qwen3-4B") < least_s("Qwen3-8B")


class Runs:
    """Counts the runs of the engine that a measurer starts; twice the threads are twice as fast."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started = list[tuple[str, int, float]]()
        self.refused = ""
        monkeypatch.setattr("archwright.reconcile.calibration.engine_measurement.measure_steps", self.run)

    def run(self, home: Home, report: Any, file: Any, threads: int, *, budget_s: float, rounds: int) -> Any:
        self.started.append((file.sha256 if file.is_own else "", threads, budget_s))
        sha256 = file.sha256 if file.is_own else ""
        if sha256 and sha256 == self.refused:
            raise EngineError("AW-ENG-05", "damaged on purpose")
        known = measurement(
            report=report,
            model=file.model,
            parameters=file.parameters,
            quantisation=file.quantisation,
            model_sha256=sha256,
            threads=threads,
        )
        steps = tuple(replace(step, step_s=step.step_s / threads) for step in known.steps)
        return replace(known, steps=steps, measured_at=time.time())


def test_nothing_is_measured_without_time_an_engine_or_a_known_model(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch)
    assert not make_measurer(home, 0).measure([FILE], MACHINE)
    assert not make_measurer(home, 600).measure([FILE], replace(MACHINE, engine=None))
    assert not make_measurer(home, 600).measure([FILE], None)
    assert not make_measurer(home, 600).measure([replace(FILE, model="somebodys")], MACHINE)
    assert runs.started == [] and not home.engine_measurements.exists()


def test_a_file_is_measured_with_each_thread_count_until_both_are_known(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    home.model(FILE.sha256).write_bytes(b"weights")
    runs = Runs(monkeypatch)
    for _ in range(2 * STEADY_RUNS + 2):
        make_measurer(home, 600).measure([FILE, FILE], MACHINE)
    threads = [count for _, count, _ in runs.started]
    # All cores first; of the counts that ran least, the one that serves comes first.
    assert threads == [2, 1] * STEADY_RUNS
    assert {sha256 for sha256, _, _ in runs.started} == {FILE.sha256}
    assert max(budget_s for *_, budget_s in runs.started[2:]) <= AGAIN_S
    assert {kept.runs for kept in read_engine_measurements(home)} == {STEADY_RUNS}


def test_a_busy_machine_is_measured_at_each_plan(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.model(FILE.sha256).write_bytes(b"weights")
    known = [measurement(report=ENGINE, threads=threads, runs=9, measured_at=1e9 - 3600) for threads in (1, 2)]
    save_engine_measurements(home, known)
    runs = Runs(monkeypatch)
    assert not make_measurer(home, 600).measure([FILE], MACHINE)
    assert make_measurer(home, 600).measure([FILE], replace(MACHINE, busy_share=0.9))
    assert len(runs.started) == 2


def test_a_start_measures_again_what_was_not_measured_just_now(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.model(FILE.sha256).write_bytes(b"weights")
    save_engine_measurements(home, [measurement(runs=9, measured_at=time.time())])
    runs = Runs(monkeypatch)
    make_measurer(home, 600, Purpose.START).measure([FILE], MACHINE)
    assert runs.started == []
    save_engine_measurements(home, [measurement(runs=1, measured_at=time.time() - 3600)])
    make_measurer(home, 600, Purpose.START).measure([FILE], MACHINE)
    assert len(runs.started) == 1


def test_a_model_that_is_not_here_or_takes_too_long_is_measured_by_its_shape(
    home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch)
    absent = find_model_file("Qwen3-0.6B:Q4_K_M", CATALOG)
    assert make_measurer(home, 600).measure([absent], MACHINE)
    home.model(FILE.sha256).write_bytes(b"weights")
    assert make_measurer(home, 0.5).measure([FILE], MACHINE), "a start alone takes longer"
    assert {sha256 for sha256, _, _ in runs.started} == {""}
    assert not make_measurer(home, 600).measure([replace(absent, quantisation="IQ1_S", name="x")], MACHINE)


def test_a_file_that_the_engine_refuses_is_measured_by_its_shape(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.model(FILE.sha256).write_bytes(b"damaged")
    runs = Runs(monkeypatch)
    runs.refused = FILE.sha256
    assert make_measurer(home, 600).measure([FILE], MACHINE)
    assert [sha256 for sha256, _, _ in runs.started] == [FILE.sha256, "", ""]
    assert "damaged on purpose" in capsys.readouterr().err


def test_nothing_is_measured_beside_a_platform_that_serves(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.model(FILE.sha256).write_bytes(b"weights")
    runs = Runs(monkeypatch)
    held = acquire_lock(home)
    assert held is not None
    try:
        assert not make_measurer(home, 600).measure([FILE], MACHINE) and runs.started == []
    finally:
        held.close()
    assert make_measurer(home, 600).measure([FILE], MACHINE)


def test_a_full_disk_costs_the_stack_and_not_the_plan(
    home: Home, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(engine_measurement, "write_synthetic_model", refuse)
    runs = Runs(monkeypatch)
    assert not make_measurer(home, 600).measure([find_model_file("Qwen3-0.6B", CATALOG)], MACHINE)
    assert "No space left" in capsys.readouterr().err and runs.started == []
    assert not (home.root / "measured" / "stack").exists()


def test_a_machine_of_another_plan_lends_no_cores(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.model(FILE.sha256).write_bytes(b"weights")
    runs = Runs(monkeypatch)
    make_measurer(home, 600).measure([FILE], replace(MACHINE, cores_usable=4096))
    assert max(count for _, count, _ in runs.started) <= host_resources.usable_cores()


def test_a_plan_knows_the_steal_that_its_engine_met(home: Home) -> None:
    assert include_measured_steal(None, CATALOG) is None
    assert include_measured_steal(MACHINE, CATALOG) == MACHINE
    foreign = replace(ENGINE, build="xllamacpp 1")
    kept = [measurement(steal_share=0.06), measurement(threads=2), measurement(report=foreign, steal_share=0.5)]
    save_engine_measurements(home, kept)
    found = include_measured_steal(replace(MACHINE, steal_share=0.01), load_catalog(home))
    assert found is not None and found.steal_share == 0.06


def test_layers_of_other_kinds_have_no_stack() -> None:
    linear = next(model for model in CATALOG.models.values() if model.attention == "hybrid_linear")
    assert choose_stack(linear, "Q4_K_M") is None


@pytest.mark.nightly
def test_a_plan_measures_the_engine_and_says_so(
    home: Home, model_home: Home, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    place_file(home, model_home)
    monkeypatch.setenv("ARCHWRIGHT_ENGINE_MEASUREMENT_S", "60")
    monkeypatch.setattr(engine_measurement, "MOST_ROUNDS", 1)
    needs = tmp_path / "needs.yaml"
    needs.write_text(read_example("desk"), encoding="utf-8")
    made = api.plan(str(needs), best_effort=True)
    (artefact,) = list_local_files(made)
    assert isinstance(artefact, Artefact) and artefact.sha256 == FILE.sha256
    assert "measured here: llamacpp Q4_1" in {basis.stratum for basis in made.bases}
    kept = read_engine_measurements(home)
    machine = made.machine
    assert machine is not None and machine.engine is not None
    assert {one.threads for one in kept} == {machine.cores_usable, 1} and kept[0].report == machine.engine
    settings = made.pools[0].launch.settings
    assert settings["threads"] in {one.threads for one in kept}
    facts = [fact for basis in made.bases for fact in basis.facts]
    assert any(machine.engine.build in fact and machine.engine.processor in fact for fact in facts)


@pytest.mark.nightly
@pytest.mark.parametrize("name", ["SmolLM2-360M-Instruct:Q8_0", "Qwen3-30B-A3B:Q4_K_M"])
def test_the_real_engine_runs_random_weights_in_the_shape_of_a_model(
    home: Home, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(engine_measurement, "MOST_ROUNDS", 1)
    artefact = find_model_file(name, CATALOG)
    machine = read_machine(home, home.find_model(artefact.sha256))
    assert make_measurer(home, 120).measure([artefact], machine)
    kept = read_engine_measurements(home)
    assert {one.model for one in kept} == {artefact.model}
    assert all(one.model_sha256 == "" and one.steps for one in kept)
    predicted = api.predict_serving(name, on="this-machine", load="1x64+16")
    assert predicted.stratum.startswith("measured on random weights: llamacpp")
    assert any("random weights" in line for line in predicted.weak)


def test_the_engine_of_one_core_has_one_thread_count(home: Home) -> None:
    assert InstalledEngine(home, ENGINE, 1).list_threads() == (1,)
    assert InstalledEngine(home, ENGINE, 2).list_threads() == (2, 1)
    assert InstalledEngine(home, ENGINE, 8).list_threads() == (8, 7, 1), "a core for the gateway"


def test_a_broken_file_of_measurements_is_measured_again(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    home.model(FILE.sha256).write_bytes(b"weights")
    home.folder("measured")
    write_json(home.engine_measurements, {"not": "a list"})
    runs = Runs(monkeypatch)
    assert make_measurer(home, 600).measure([FILE], MACHINE) and runs.started
