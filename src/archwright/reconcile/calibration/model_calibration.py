"""`models calibrate`: measure the engine of a model for up to a minute, and keep its steps as the measured layer."""

import time

from archwright.catalog.layers.engine_measurements import save_engine_measurements
from archwright.catalog.load import load_catalog
from archwright.catalog.model_file_names import find_model_file
from archwright.catalog.probe.machine_probe import probe_machine
from archwright.contract.engine_measurement import CalibratedFigure, CalibrationReport, EngineMeasurement, StepTime
from archwright.contract.estimate import Estimate
from archwright.contract.evidence import determine_verdict
from archwright.contract.plan import MachineFacts
from archwright.engines.model_files import locate_model
from archwright.errors import missing_extra
from archwright.home import Home
from archwright.journal import report_step
from archwright.reconcile.calibration.engine_measurement import (
    InstalledEngine,
    MeasuredSubject,
    MeasurementRun,
    measure_file,
)
from archwright.simulate.local_prediction import choose_slots
from archwright.simulate.serving_simulation import ServingSpec, estimate_engine_startup
from archwright.simulate.step_prediction import predict_step
from archwright.sizing.stated_query import StatedLoad

RUN_S = 60.0
# Slots for such prompts, as many as a plan would have.
PROMPT_TOKENS = 1024
WIDE_SPREAD = 1.3


def calibrate_model(name: str, home: Home) -> CalibrationReport:
    """Probe, run the engine alone, compare its steps with the prediction, and keep them."""
    artefact = find_model_file(name, load_catalog(home))
    locate_model(artefact, home)
    report_step("probing this machine")
    machine = probe_machine(home, home.find_model(artefact.sha256), now=time.time)
    if machine.engine is None:
        raise missing_extra("local", "xllamacpp", "the embedded engine")
    load = StatedLoad(prompt_tokens=PROMPT_TOKENS, answer_tokens=2)
    before = choose_slots(artefact, machine, load, catalog=load_catalog(home))
    report_step(f"measuring {artefact.model} {artefact.quantisation} in the engine")
    engine = InstalledEngine(home, machine.engine, machine.cores_usable)
    subject = MeasuredSubject(artefact, before.model, is_measurable=True)
    run = MeasurementRun(engine.list_threads(), RUN_S)
    measurements = measure_file(engine, subject, run)
    save_engine_measurements(home, measurements)

    after = choose_slots(artefact, machine, load, catalog=load_catalog(home))
    by_threads = {measurement.threads: measurement for measurement in measurements}
    chosen = by_threads.get(after.threads)
    figures: list[CalibratedFigure] = []
    if chosen is not None:
        figures = _compare_figures(chosen, before, after)
    threads = f"{after.threads} of {machine.cores_usable} threads"
    return CalibrationReport(
        model=artefact.model,
        quantisation=artefact.quantisation,
        isa=machine.engine.isa,
        run=f"{machine.engine.build} on {machine.engine.processor}, {threads}",
        figures=tuple(figures),
        warnings=_list_warnings(machine, chosen),
        file=str(home.engine_measurements),
    )


def _compare_figures(measurement: EngineMeasurement, before: ServingSpec, after: ServingSpec) -> list[CalibratedFigure]:
    figures: list[CalibratedFigure] = []
    for step in measurement.steps:
        figure = _compare(
            _name_step(step),
            predict_step(before, step),
            # The seconds of a step beside the other programs of the moment.
            measured=step.step_s * measurement.slowdown,
            calibrated=predict_step(after, step),
        )
        figures.append(figure)
    startup = _compare(
        "startup_s",
        estimate_engine_startup(before),
        measured=measurement.startup_s,
        calibrated=estimate_engine_startup(after),
    )
    figures.append(startup)
    return figures


def _compare(name: str, predicted: Estimate, *, measured: float, calibrated: Estimate) -> CalibratedFigure:
    return CalibratedFigure(
        name=name,
        predicted=predicted,
        measured=measured,
        verdict=determine_verdict(name, predicted, measured),
        calibrated=calibrated,
    )


def _name_step(step: StepTime) -> str:
    if step.prompt_tokens:
        return f"prompt of {step.prompt_tokens} tokens"
    return f"{step.answering} answering, context of {step.context_tokens} tokens"


def _list_warnings(machine: MachineFacts, measurement: EngineMeasurement | None) -> tuple[str, ...]:
    warnings: list[str] = []
    if machine.is_busy:
        warnings.append(f"other processes used {machine.busy_share:.0%} of the processor: repeat it on a quiet machine")
    if measurement is None:
        warnings.append("the engine was not measured; the note on standard error says why")
    elif measurement.spread > WIDE_SPREAD:
        warnings.append(f"the rounds differ by a factor of {measurement.spread:.2f}, so the interval stays wide")
    return tuple(warnings)
