"""The speed of an embedded engine from measurements on this machine, with the band that their kind allows."""

from datetime import UTC, datetime
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.engine_measurements import MeasurementRelation, RelatedMeasurement
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.engine_measurement import EngineMeasurement, StepTime
from archwright.contract.plan import MachineFacts
from archwright.sizing.step_time.measured_steps import StepCosts, describe_measured_model, fit_step_costs

# The least band each way; the spread of the rounds widens it. A file: runs of one engine on one quiet machine differ
# by 5 to 15 % over a day. Random weights in
# the shape of a model: SmolLM2 in Q4_1 answers 1.4 times slower than they do (docs/decisions/036). Another model in the
# format: sizes of one format differ by up to 1.7 (efficiencies.csv).
LEAST_BAND: dict[MeasurementRelation, float] = {"file": 1.25, "shape": 1.5, "format": 2.0}
# Guests of a hypervisor share a processor unseen: on two cores of a quiet Xeon guest without steal, ten measurements of
# six seconds within fifteen minutes read a prompt at 4.3 to 7.8 ms a token.
VIRTUAL_BAND = 1.5
STRATA: dict[MeasurementRelation, str] = {
    "file": "measured here",
    "shape": "measured on random weights",
    "format": "measured on another model",
}
# So few rounds say nothing about their spread.
ROUNDS_WITH_SPREAD = 3
FEW_ROUNDS_BAND = 1.4
# A measurement this close to the probe saw the same other programs.
SAME_MOMENT_S = 300.0
MILLISECONDS = 1e3


class MeasuredSpeed(NamedTuple):
    """Step costs of an engine; a time lies in [value / low_factor, value x high_factor].

    `slowdown`: factor by which other programs slow the engine at present. `startup_s`: None if the file itself was not
    measured.
    """

    costs: StepCosts
    slowdown: float
    low_factor: float
    high_factor: float
    stratum: str
    fact: str
    startup_s: float | None

    @property
    def is_of_file(self) -> bool:
        return self.startup_s is not None


def build_measured_speed(
    related: RelatedMeasurement, model: ModelSpec, machine: MachineFacts, catalog: Catalog, *, context_s: float
) -> MeasuredSpeed | None:
    """Return the speed of `model`; None if the catalog does not know the measured model.

    `context_s`: derived time per context token, used if the measurement has no answers at two depths.
    """
    measurement, relation = related
    known = model if measurement.model == model.id else catalog.models.get(measurement.model)
    if known is None:
        return None
    measured = describe_measured_model(known, measurement)
    slowdown = estimate_slowdown(measurement, machine)
    least_band = max(LEAST_BAND[relation], VIRTUAL_BAND if machine.is_virtual else 1.0)
    if measurement.rounds < ROUNDS_WITH_SPREAD:
        least_band = max(least_band, FEW_ROUNDS_BAND)
    band = max(least_band, measurement.spread)
    return MeasuredSpeed(
        costs=fit_step_costs(measurement, measured, model, context_s),
        slowdown=slowdown,
        # Other programs may end, and they may become twice as many.
        low_factor=band * slowdown,
        high_factor=band * slowdown**0.5,
        stratum=f"{STRATA[relation]}: {measurement.report.engine} {measurement.quantisation}",
        fact=describe_measurement(measurement, slowdown),
        startup_s=measurement.startup_s if relation == "file" else None,
    )


def estimate_slowdown(measurement: EngineMeasurement, machine: MachineFacts) -> float:
    """Return how much other programs slow the engine now: 1 on a machine that is not busy.

    A measurement of this moment tells, else the probe, whose one thread waits less often than an engine.
    """
    if machine.busy_share is None:
        return 1.0
    if measurement.measured_at > machine.probed_at + SAME_MOMENT_S:
        return measurement.slowdown
    if not machine.is_busy:
        return 1.0
    quiet = machine.quiet_matmul_flops_per_s or machine.matmul_flops_per_s
    slowdown = max(1.0, quiet.value / machine.matmul_flops_per_s.value)
    if abs(measurement.measured_at - machine.probed_at) <= SAME_MOMENT_S:
        return max(slowdown, measurement.slowdown)
    return slowdown


def describe_measurement(measurement: EngineMeasurement, slowdown: float) -> str:
    """Return the sentence for a basis: what was measured, where, and the steps."""
    report = measurement.report
    day = datetime.fromtimestamp(measurement.measured_at, UTC).date().isoformat()
    weights = "its file" if measurement.is_of_file else f"random weights, {measurement.layers} layers"
    threads = f"{measurement.threads} thread{'' if measurement.threads == 1 else 's'}"
    steps = ", ".join(_describe_step(step_time) for step_time in measurement.steps)
    present = f"; other programs slow it {slowdown:.2f} times" if slowdown > 1 else ""
    return (
        f"{measurement.model} {measurement.quantisation} ({weights}) in {report.build} with {report.isa} code on "
        f"{report.processor}, {threads}, rounds: {measurement.rounds} until {day}: {steps}{present}"
    )


def _describe_step(step_time: StepTime) -> str:
    milliseconds = f"{step_time.step_s * MILLISECONDS:.3g} ms"
    if step_time.prompt_tokens:
        return f"prompt of {step_time.prompt_tokens} tokens {milliseconds}"
    return f"{step_time.answering} answering at {step_time.context_tokens} tokens {milliseconds}"
