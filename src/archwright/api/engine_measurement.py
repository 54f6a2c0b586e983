"""Measures the embedded engine before a plan promises its speed, and keeps what it measured in the home.

A model file on this machine is measured itself, if the engine is ready and answers within the time that is left. A
model that is not here, or that takes longer, is measured by random weights in its shape and format: about a second.
"""

import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.engine_measurements import find_related, save_engine_measurements
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.engine_measurement import EngineMeasurement, EngineReport
from archwright.contract.needs import TokenLength
from archwright.contract.plan import Artefact, LoadSpec, MachineFacts, Plan
from archwright.engines.synthetic_model import FORMATS, ModelShape, count_layer_bytes, write_synthetic_model
from archwright.errors import ArchwrightError
from archwright.home import Home
from archwright.journal import report_step
from archwright.lifecycle.step_measurement import MOST_ROUNDS, SLOTS, MeasuredFile, measure_steps
from archwright.simulate.local_engine import build_local_spec
from archwright.simulate.serving_simulation import ServingSpec, build_step_times, estimate_engine_startup, fits_hardware
from archwright.sizing.hardware.roofline import EngineStep, count_token_pairs

# A measurement at least needs the start, a block of a prompt and eight steps; derived figures may be wrong by this.
DERIVED_ERROR = 2.0
LEAST_PROMPT, LEAST_STEPS = 64, 10
# The share of the time for the first thread count.
FIRST_SHARE = 0.6
# The stack holds so much of the model that its weights do not fit a processor's cache.
STACK_BYTES = 128 << 20
MOST_STACK_BYTES = 1 << 30
STACK_VOCABULARY = 8192
STACK_SHARE = 0.5
STACK_DIGEST = "0" * 64
CONTEXT_TOKENS = 512
# `up` measures again after this time, and a plan on a busy machine does: the present speed differs.
RECENT_S = 600.0
BUSY_RECENT_S = 60.0
# The first commands measure again for a few seconds, until so many runs are known; a command measures once.
STEADY_RUNS = 3
AGAIN_S = 2.5


class InstalledEngine(NamedTuple):
    """The engine of this installation, with the models of a home and so many cores."""

    home: Home
    report: EngineReport
    cores: int

    def list_threads(self) -> tuple[int, ...]:
        """Return the thread counts to measure: all cores, and one thread, which may be faster on a busy machine."""
        return tuple(dict.fromkeys((self.cores, 1)))


class EngineMeasurer:
    """Measures files until its time is spent; `lasts_s` counts from the first measurement."""

    def __init__(self, home: Home, lasts_s: float) -> None:
        self._home = home
        self._left_s = lasts_s
        self._tried: set[str] = set()

    def measure_unknown(self, artefacts: Iterable[Artefact], machine: MachineFacts | None) -> bool:
        """Measure each file that no measurement describes well enough; return True if there is a new measurement."""
        measured = [self._measure(artefact, machine, recent_s=0.0) for artefact in artefacts]
        return any(measured)

    def measure_again(self, artefacts: Iterable[Artefact], machine: MachineFacts | None) -> None:
        """Measure each file, unless a measurement is recent."""
        for artefact in artefacts:
            self._measure(artefact, machine, recent_s=RECENT_S)

    def _measure(self, artefact: Artefact, machine: MachineFacts | None, *, recent_s: float) -> bool:
        """Measure a file once; `recent_s` above 0: also if enough is known, but not within so many seconds."""
        catalog = load_catalog(self._home)
        model = catalog.models.get(artefact.model)
        if machine is None or machine.engine is None or model is None:
            return False
        if artefact.name in self._tried or self._left_s <= 0:
            return False
        self._tried.add(artefact.name)
        began_at = time.monotonic()
        engine = InstalledEngine(self._home, machine.engine, machine.cores_usable)
        spec = _build_spec(artefact, model, machine, catalog)
        is_measurable = self._is_measurable(artefact, spec)
        related = find_related(catalog.engine_measurements, machine.engine, model, artefact)
        kept = [entry.measurement for entry in related if entry.relation == "file" or not is_measurable]
        kept = [measurement for measurement in kept if measurement.model == model.id]
        lasts_s = self._left_s
        threads = engine.list_threads()
        if kept and not _is_out_of_date(kept, machine):
            if not _is_improvable(kept, recent_s):
                return False
            lasts_s = min(lasts_s, AGAIN_S)
            threads = (spec.threads,)
        report_step(f"measuring {artefact.model} {artefact.quantisation} in the engine")
        measurements: list[EngineMeasurement] = []
        if is_measurable:
            measurements = measure_file(engine, artefact, model, threads, lasts_s=lasts_s)
        elif not kept:
            measurements = measure_stack(engine, artefact, model, lasts_s=STACK_SHARE * lasts_s)
        self._left_s -= time.monotonic() - began_at
        save_engine_measurements(self._home, measurements)
        return bool(measurements)

    def _is_measurable(self, artefact: Artefact, spec: ServingSpec) -> bool:
        """True if the home holds the file and the least questions fit the time, by the speed known so far."""
        if not artefact.sha256 or not self._home.model(artefact.sha256).is_file():
            return False
        error = DERIVED_ERROR if spec.speed is None else 1.0
        return fits_hardware(spec) and error * estimate_least_s(spec) <= self._left_s


def measure_file(
    engine: InstalledEngine, artefact: Artefact, model: ModelSpec, threads: Sequence[int], *, lasts_s: float
) -> list[EngineMeasurement]:
    """Return the measurements of a file of the home with each thread count, within `lasts_s` seconds."""
    file = MeasuredFile(
        model=model.id,
        quantisation=artefact.quantisation,
        sha256=artefact.sha256,
        layers=model.layers,
        vocabulary=model.vocabulary,
    )
    return _measure_threads(engine, file, threads, lasts_s)


def measure_stack(
    engine: InstalledEngine, artefact: Artefact, model: ModelSpec, *, lasts_s: float
) -> list[EngineMeasurement]:
    """Measure random weights in a folder that is removed afterwards; nothing if the format or size is not offered."""
    shape = choose_stack(model, artefact.quantisation)
    if shape is None:
        return []
    file = MeasuredFile(
        model=model.id,
        quantisation=artefact.quantisation,
        sha256=STACK_DIGEST,
        layers=shape.layers,
        vocabulary=shape.vocabulary,
        is_own=False,
    )
    with tempfile.TemporaryDirectory(prefix="archwright-stack-") as folder:
        scratch = Home(Path(folder))
        path = scratch.model(STACK_DIGEST)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synthetic_model(path, shape, artefact.quantisation)
        return _measure_threads(engine._replace(home=scratch), file, engine.list_threads(), lasts_s)


def list_local_files(plan: Plan) -> list[Artefact]:
    """Return the files that the plan runs in the embedded engine of this machine, in any of its options."""
    pools = [pool for option in plan.options if option.placement == "this-machine" for pool in option.pools]
    own = [pool.artefact for pool in pools if pool.artefact is not None and pool.accelerator_count == 0]
    return [artefact for artefact in own if artefact.form == "gguf"]


def choose_stack(model: ModelSpec, quantisation: str) -> ModelShape | None:
    """Return the shape of the stack; None if the format is not written, or if one layer is too large."""
    width = model.expert_ffn if model.experts else model.ffn
    if quantisation not in FORMATS or width is None or model.heads % max(model.kv_heads, 1):
        return None
    shape = ModelShape(
        layers=1,
        hidden=model.hidden,
        heads=model.heads,
        kv_heads=model.kv_heads,
        head_width=model.head_dim,
        ffn=width,
        vocabulary=STACK_VOCABULARY,
        experts=model.experts,
        experts_active=model.experts_active,
    )
    layer_bytes = count_layer_bytes(shape, quantisation)
    if layer_bytes > MOST_STACK_BYTES:
        return None
    # An even number of layers: every second one has the wider blocks of a mixed format.
    wanted = max(2, -(-STACK_BYTES // layer_bytes))
    return shape._replace(layers=min(model.layers, wanted + wanted % 2))


def estimate_least_s(spec: ServingSpec) -> float:
    """Return the predicted seconds of a start, a block of a prompt and eight steps of an answer."""
    times = build_step_times(spec)
    pairs = count_token_pairs(0, LEAST_PROMPT)
    prompt = EngineStep(prompt_tokens=LEAST_PROMPT, prompt_pairs=pairs, prompts_done=1)
    return estimate_engine_startup(spec).value + times.step_s(prompt) + LEAST_STEPS * times.decode_s(1, LEAST_STEPS)


def _build_spec(artefact: Artefact, model: ModelSpec, machine: MachineFacts, catalog: Catalog) -> ServingSpec:
    length = TokenLength(mean=float(LEAST_PROMPT), p95=float(LEAST_PROMPT))
    load = LoadSpec(
        workload="measurement",
        model=model.id,
        requests_per_second=0.0,
        input_tokens=length,
        output_tokens=length,
        concurrency=SLOTS,
    )
    return build_local_spec(model, artefact, machine, catalog, load, CONTEXT_TOKENS)


def _is_out_of_date(kept: list[EngineMeasurement], machine: MachineFacts) -> bool:
    """True on a busy machine whose present speed was not measured just before the probe."""
    newest_at = max(measurement.measured_at for measurement in kept)
    return machine.is_busy and machine.probed_at - newest_at > BUSY_RECENT_S


def _is_improvable(kept: list[EngineMeasurement], recent_s: float) -> bool:
    """True if another run would say more: the speed of a shared machine differs from minute to minute."""
    if recent_s:
        newest_at = max(measurement.measured_at for measurement in kept)
        return time.time() - newest_at > recent_s
    return max(measurement.runs for measurement in kept) < STEADY_RUNS


def _measure_threads(
    engine: InstalledEngine, file: MeasuredFile, threads: Sequence[int], lasts_s: float
) -> list[EngineMeasurement]:
    """Measure with each thread count; what fails or does not fit the time is left out, with a note."""
    ends_at = time.monotonic() + lasts_s
    measurements: list[EngineMeasurement] = []
    for number, count in enumerate(threads):
        left_s = ends_at - time.monotonic()
        is_last = number == len(threads) - 1
        if measurements and left_s < measurements[0].startup_s * DERIVED_ERROR:
            break
        share = 1.0 if is_last else FIRST_SHARE
        # The first count is the usual choice; one round tells whether a later one is faster.
        rounds = MOST_ROUNDS if number == 0 else 1
        try:
            measurements.append(
                measure_steps(engine.home, engine.report, file, count, lasts_s=share * left_s, rounds=rounds)
            )
        except ArchwrightError as error:
            sys.stderr.write(f"note: {file.model} {file.quantisation} was not measured: {error.message}\n")
            break
    return measurements
