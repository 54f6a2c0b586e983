"""Measures the embedded engine before a plan promises its speed, and keeps what it measured in the home.

A model file on this machine is measured itself, if the engine is ready and answers within the time that is left. A
model that is not here, or that takes longer, is measured by random weights in its shape and format: about a second.
Design: this stands in `reconcile`, because the choice needs the design wing, and the engine the run wing.
"""

import fcntl
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import Enum
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.engine_measurements import find_related, save_engine_measurements
from archwright.catalog.load import load_catalog
from archwright.catalog.probe import host_resources
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.engine_measurement import EngineMeasurement, EngineReport
from archwright.contract.needs import TokenLength
from archwright.contract.plan import Artefact, LoadSpec, MachineFacts, Plan
from archwright.contract.record import replace
from archwright.engines.synthetic_model import FORMATS, ModelShape, count_layer_bytes, write_synthetic_model
from archwright.errors import ArchwrightError
from archwright.home import Home
from archwright.journal import report_step
from archwright.lifecycle.step_measurement import MOST_ROUNDS, SLOTS, MeasuredFile, measure_steps
from archwright.simulate.local_engine import build_local_spec
from archwright.simulate.serving_simulation import ServingSpec, build_step_times, estimate_engine_startup, fits_hardware
from archwright.sizing.hardware.roofline import EngineStep, count_token_pairs

# A file is measured if a start, a block of a prompt and eight steps fit the time, even if they take so many times as
# long as a derived row says.
DERIVED_ERROR = 2.0
LEAST_PROMPT = 64
LEAST_STEPS = 10
# The share of the time that is left for a thread count, if another one follows.
FIRST_SHARE = 0.6
# From so many cores on, all but one are measured too: the gateway needs some of a core.
CORES_WITH_ROOM = 4
# The stack holds so much of the model that its weights do not fit a processor's cache.
STACK_BYTES = 128 << 20
MOST_STACK_BYTES = 1 << 30
STACK_VOCABULARY = 8192
STACK_SHARE = 0.5
STACK_DIGEST = "0" * 64
# Kinds of attention that a stack has. Others have layers of other kinds, so a stack would be too slow or too fast.
STACK_ATTENTION = frozenset({"gqa", "mha", "swa_mix"})
CONTEXT_TOKENS = 512
# `up` measures again after this time, and a plan on a busy machine does: the present speed differs.
RECENT_S = 600.0
BUSY_RECENT_S = 60.0
# The first commands measure again for a few seconds, until so many runs are known.
STEADY_RUNS = 3
AGAIN_S = 2.5


class Purpose(Enum):
    """The command that measures: a plan wants a known speed, a start refines one that is not recent."""

    PLAN = "plan"
    START = "start"


class InstalledEngine(NamedTuple):
    """The engine of this installation, with the models of a home and so many cores."""

    home: Home
    report: EngineReport
    cores: int

    def list_threads(self) -> tuple[int, ...]:
        """Return the thread counts to measure; one thread may be faster on a busy machine."""
        counts = [self.cores, 1]
        if self.cores >= CORES_WITH_ROOM:
            counts.insert(1, self.cores - 1)
        return tuple(dict.fromkeys(counts))


class MeasuredSubject(NamedTuple):
    """A file to measure; `is_measurable`: it is here and its least questions fit the time."""

    artefact: Artefact
    model: ModelSpec
    is_measurable: bool


class MeasurementRun(NamedTuple):
    """The thread counts to measure, and the time for all of them."""

    threads: tuple[int, ...]
    budget_s: float


class EngineMeasurer:
    """Measures files until its time is spent; `budget_s` counts from the first measurement.

    `is_serving`: True if a platform of this home runs. An engine beside it would slow its requests and be slowed by
    them.
    """

    def __init__(
        self,
        home: Home,
        budget_s: float,
        purpose: Purpose = Purpose.PLAN,
        *,
        is_serving: Callable[[Home], bool],
    ) -> None:
        self._home = home
        self._left_s = budget_s
        self._purpose = purpose
        self._is_serving = is_serving
        self._tried: set[tuple[str, str]] = set()

    def measure(self, artefacts: Iterable[Artefact], machine: MachineFacts | None) -> bool:
        """Measure each file whose speed is not known well enough; return True if there is a new measurement.

        One command measures a home at a time. Nothing is measured while the platform of the home serves.
        """
        untried = [artefact for artefact in artefacts if (artefact.name, artefact.sha256) not in self._tried]
        if machine is None or machine.engine is None or not untried or self._left_s <= 0:
            return False
        if self._purpose is Purpose.PLAN and self._is_serving(self._home):
            return False

        cores = min(machine.cores_usable, host_resources.usable_cores())
        engine = InstalledEngine(self._home, machine.engine, cores)
        has_news = False
        with _lock_measurements(self._home):
            for artefact in untried:
                has_news |= self._measure_file(artefact, engine, machine)
        return has_news

    def _measure_file(self, artefact: Artefact, engine: InstalledEngine, machine: MachineFacts) -> bool:
        self._tried.add((artefact.name, artefact.sha256))
        catalog = load_catalog(self._home)
        model = catalog.models.get(artefact.model)
        if model is None:
            return False
        spec = _build_spec(artefact, model, machine, catalog=catalog)
        subject = MeasuredSubject(artefact, model, self._is_measurable(artefact, spec))
        earlier = list_known(subject, engine, catalog)
        run = choose_run(earlier, engine, machine, purpose=self._purpose, chosen_threads=spec.threads)
        if run is None:
            return False

        began_at = time.monotonic()
        report_step(f"measuring {artefact.model} {artefact.quantisation} in the engine")
        measurements = self._run(subject, engine, run._replace(budget_s=min(run.budget_s, self._left_s)))
        self._left_s -= time.monotonic() - began_at
        save_engine_measurements(self._home, measurements)
        return bool(measurements)

    def _run(self, subject: MeasuredSubject, engine: InstalledEngine, run: MeasurementRun) -> list[EngineMeasurement]:
        """Measure the file; if it is not here or fails, random weights in its shape."""
        ends_at = time.monotonic() + run.budget_s
        measurements: list[EngineMeasurement] = []
        if subject.is_measurable:
            measurements = measure_file(engine, subject, run)
        if not measurements:
            left_s = STACK_SHARE * (ends_at - time.monotonic())
            measurements = measure_stack(engine, subject, run._replace(budget_s=left_s))
        return measurements

    def _is_measurable(self, artefact: Artefact, spec: ServingSpec) -> bool:
        if self._home.find_model(artefact.sha256) is None:
            return False
        if not fits_hardware(spec):
            return False
        least_s = estimate_least_s(spec)
        if spec.speed is None:
            least_s *= DERIVED_ERROR
        return least_s <= self._left_s


def list_known(subject: MeasuredSubject, engine: InstalledEngine, catalog: Catalog) -> list[EngineMeasurement]:
    """Return the measurements that describe a file as well as one could: the file itself if it can be measured."""
    related = find_related(catalog.engine_measurements, engine.report, subject.model, subject.artefact)
    enough = {"file"}
    if not subject.is_measurable:
        enough.add("shape")
    return [entry.measurement for entry in related if entry.relation in enough]


def choose_run(
    earlier: Sequence[EngineMeasurement],
    engine: InstalledEngine,
    machine: MachineFacts,
    *,
    purpose: Purpose,
    chosen_threads: int,
) -> MeasurementRun | None:
    """Return the run that says more than the earlier measurements, None if they are enough.

    `chosen_threads`: the thread count that serves by what is known. It comes first among the counts that ran least.
    """
    is_plan = purpose is Purpose.PLAN
    everything = MeasurementRun(engine.list_threads(), float("inf"))
    if not earlier and is_plan:
        return everything
    if not earlier:
        return None

    def rank(measurement: EngineMeasurement) -> tuple[int, bool]:
        return measurement.runs, measurement.threads != chosen_threads

    again = min(earlier, key=rank)
    newest_at = max(measurement.measured_at for measurement in earlier)
    age_s = time.time() - newest_at
    if is_plan and machine.is_busy and age_s > BUSY_RECENT_S:
        return everything
    is_enough = again.runs >= STEADY_RUNS if is_plan else age_s <= RECENT_S
    if is_enough:
        return None
    return MeasurementRun((again.threads,), AGAIN_S)


@contextmanager
def _lock_measurements(home: Home) -> Iterator[None]:
    """Let one command at a time measure: two engines at once would measure each other."""
    with (home.folder("measured") / "engine-steps.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def measure_file(engine: InstalledEngine, subject: MeasuredSubject, run: MeasurementRun) -> list[EngineMeasurement]:
    """Return the measurements of a file of the home."""
    file = MeasuredFile(
        model=subject.model.id,
        parameters=subject.model.parameters,
        quantisation=subject.artefact.quantisation,
        sha256=subject.artefact.sha256,
        layers=subject.model.layers,
        vocabulary=subject.model.vocabulary,
    )
    return _measure_threads(engine, file, run)


def measure_stack(engine: InstalledEngine, subject: MeasuredSubject, run: MeasurementRun) -> list[EngineMeasurement]:
    """Measure random weights in a folder that is removed afterwards; nothing if there is no such stack or no room."""
    shape = choose_stack(subject.model, subject.artefact.quantisation)
    if shape is None:
        return []
    file = MeasuredFile(
        model=subject.model.id,
        parameters=subject.model.parameters,
        quantisation=subject.artefact.quantisation,
        sha256=STACK_DIGEST,
        layers=shape.layers,
        vocabulary=shape.vocabulary,
        is_own=False,
    )
    # A run that was killed left its folder; the lock of the measurements is held.
    scratch = Home(engine.home.folder("measured", "stack"))
    shutil.rmtree(scratch.root)
    began_at = time.monotonic()
    try:
        path = scratch.model(STACK_DIGEST)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_synthetic_model(path, shape, subject.artefact.quantisation)
        left_s = run.budget_s - (time.monotonic() - began_at)
        return _measure_threads(engine._replace(home=scratch), file, run._replace(budget_s=left_s))
    except OSError as error:
        _note_failure(file, f"no random weights could be written: {error.strerror}")
        return []
    finally:
        shutil.rmtree(scratch.root, ignore_errors=True)


def _measure_threads(engine: InstalledEngine, file: MeasuredFile, run: MeasurementRun) -> list[EngineMeasurement]:
    """Measure with each thread count; what fails or does not fit the time is left out, with a note."""
    ends_at = time.monotonic() + run.budget_s
    measurements: list[EngineMeasurement] = []
    for number, threads in enumerate(run.threads):
        left_s = ends_at - time.monotonic()
        if measurements and left_s < 2 * measurements[0].startup_s:
            _note_failure(file, f"no time was left to measure it with {threads} threads")
            break
        if number + 1 < len(run.threads):
            left_s *= FIRST_SHARE
        # The first count is the usual choice; one round tells whether a later one is faster.
        rounds = MOST_ROUNDS if number == 0 else 1
        ticks_before = host_resources.read_cpu_ticks()
        try:
            measurement = measure_steps(engine.home, engine.report, file, threads, budget_s=left_s, rounds=rounds)
        except ArchwrightError as error:
            _note_failure(file, error.message)
            break
        steal_share = host_resources.compute_steal_share(ticks_before, host_resources.read_cpu_ticks())
        measurements.append(replace(measurement, steal_share=steal_share))
    return measurements


def _note_failure(file: MeasuredFile, reason: str) -> None:
    sys.stderr.write(f"note: {file.model} {file.quantisation} was not measured in full: {reason}\n")


def include_measured_steal(machine: MachineFacts | None, catalog: Catalog) -> MachineFacts | None:
    """Return the machine with the steal that its engine met: a hypervisor takes more from an engine on all cores.

    The probe has one thread. Without this, a bench would meet a steal that no plan has seen.
    """
    if machine is None or machine.engine is None:
        return machine
    steal_share = machine.steal_share
    for measurement in catalog.engine_measurements:
        if measurement.report == machine.engine and measurement.steal_share:
            steal_share = max(steal_share or 0.0, measurement.steal_share)
    return replace(machine, steal_share=steal_share)


def list_local_files(plan: Plan) -> list[Artefact]:
    """Return the files that the plan runs in the embedded engine of this machine, in any of its options."""
    files: list[Artefact] = []
    for option in plan.options:
        if option.placement != "this-machine":
            continue
        for pool in option.pools:
            file = pool.artefact
            if file is not None and file.form == "gguf" and pool.accelerator_count == 0:
                files.append(file)
    return files


def choose_stack(model: ModelSpec, quantisation: str) -> ModelShape | None:
    """Return the shape of the stack; None if its format or layers are not written, or if one layer is too large."""
    width = model.expert_ffn if model.experts else model.ffn
    has_other_layers = model.attention not in STACK_ATTENTION or model.shared_experts > 0
    has_uneven_heads = model.heads % max(model.kv_heads, 1) > 0
    if quantisation not in FORMATS or width is None or has_other_layers or has_uneven_heads:
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
    startup_s = estimate_engine_startup(spec).value
    answer_s = LEAST_STEPS * times.decode_s(1, LEAST_STEPS)
    return startup_s + times.step_s(prompt) + answer_s


def _build_spec(artefact: Artefact, model: ModelSpec, machine: MachineFacts, *, catalog: Catalog) -> ServingSpec:
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
