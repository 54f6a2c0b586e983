"""Predicts a serving deployment: TPOT, TTFT and throughput with bands, for anything named well enough to size.

One predictor per stratum, each chosen by the grouped cross-validation of that stratum (docs/accuracy.md):
- seen configuration (this model on this accelerator was fitted): physics + residual trees;
- unseen model, unseen accelerator, or both: physics alone. Multipliers per family or chip made these worse.
- disaggregated: residual trees of their own in every stratum; left-out models and devices are the better for them.
What makes a row weak (a gate), and what no fitted row is like, widens its band and is said. A host processor is no
accelerator of the fit: its engine's steps are the roofline of its efficiency row, batches as there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TokenLength
from archwright.contract.record import Record
from archwright.errors import CatalogError
from archwright.sizing.inference.closed_loop import QUANTILES, Loop, fitted_loop, loop_of, statistic_of
from archwright.sizing.inference.cpu_inference import engine_on, hardware_of_processor
from archwright.sizing.inference.engine_instance import Engine, Requests
from archwright.sizing.model import numeric_precision, parallel_layout
from archwright.sizing.model import parametric_model as made_up
from archwright.sizing.model.weight_groups import shape_of
from archwright.sizing.step_time import boosted_trees, extrapolation, fitted_tables, step_time_model
from archwright.sizing.step_time.residual_features import features
from archwright.sizing.step_time.step_work import Device, Worker, device_of

SEEN, NEW_MODEL, NEW_ACCELERATOR = "seen configuration", "unseen model", "unseen accelerator"
NEW_BOTH = "unseen model and accelerator"
POOLED, SHORT, OFFLINE = "disaggregated", "queueing", "offline"
# Each reason to distrust a row widens its band by this power.
WEAKER = 1.35
# A stated load that uses more than this of what the device can do is mislabelled (research: see docs/accuracy.md).
MOST_RESIDUAL = 1.5
# Assumed: a server under a latency limit keeps this share of its offline rate.
SERVER_SHARE = 0.88
# Of requests, later than these no measured row was: their band is that of a weak row.
TAILS = frozenset({"p95", "p99"})
MOST_DEVICES = 1_000_000
LEAST_PARAMETERS, MOST_PARAMETERS = 1e6, 1e14


class Serving(Record):
    """What is asked: a deployment and its load, as a benchmark row or a user states it. Empty means unstated."""

    model: str
    accelerator: str
    devices: int = 0
    parallelism: str = ""
    precision: str = ""
    engine: str = ""
    scenario: str = ""
    concurrency: float | None = None
    input_tokens: float | None = None
    output_tokens: float | None = None
    parameters: float | None = None
    active_parameters: float | None = None
    ttft_statistic: str = ""
    tpot_statistic: str = ""


class Guess(NamedTuple):
    """A value and its 90 % band."""

    value: float
    low: float
    high: float

    def scaled(self, by: float) -> Guess:
        return Guess(self.value * by, self.low * by, self.high * by)

    @property
    def inverse(self) -> Guess:
        return Guess(1 / self.value, 1 / self.high, 1 / self.low)

    def estimate(self, unit: str) -> Estimate:
        return Estimate(value=self.value, low=self.low, high=self.high, unit=unit)

    def powered(self, by: float) -> Guess:
        """The logarithms of the band times `by`."""
        low, high = (math.pow(end / self.value, by) for end in (self.low, self.high))
        return Guess(self.value, self.value * low, self.value * high)


class Doubt(NamedTuple):
    """What widens a fitted band: its logarithms times `widen`, and what the device's `figures` may be off by."""

    widen: float
    figures: Estimate

    def around(self, bands: Sequence[tuple[float, float]]) -> tuple[float, float]:
        """Factors (low, high): independent `bands` add as squares of logarithms, wider by all that is here."""
        low, high = (
            math.hypot(math.hypot(*(math.log(band[end]) for band in bands)) * self.widen, math.log(own))
            for end, own in ((0, self.figures.low), (1, self.figures.high))
        )
        return math.exp(-low), math.exp(high)


class Answer(NamedTuple):
    """SI; None where the quantity has no meaning in the scenario. Of TPOT and TTFT the statistic that was asked for;
    `percentiles` has those over requests by name, `ttft_p95_s`.
    """

    tpot_s: Guess | None
    ttft_s: Guess | None
    tokens_per_s: Guess
    percentiles: dict[str, Guess]
    stratum: str
    regime: str
    weak: tuple[str, ...]
    assumed: tuple[str, ...]


class Deployment(NamedTuple):
    """A resolved question."""

    model: ModelSpec
    accelerator: Accelerator
    worker: Worker
    device: Device
    case: step_time_model.Case
    asked: Serving
    beams: int
    weak: tuple[str, ...]
    assumed: tuple[str, ...]
    catalog: Catalog


class Load(NamedTuple):
    """Lengths of a question, and what was assumed of them."""

    prompt: float
    answer: float
    beams: int
    assumed: list[str]


def identity(model: ModelSpec) -> str:
    """Models of one shape are one model here: names, tunings and releases share it."""
    return f"{model.layers}x{model.hidden}x{model.heads}/{model.kv_heads}x{model.experts}"


def resolve(asked: Serving, subjects: BenchmarkNameResolver) -> Deployment:
    """Raises CatalogError AW-CAT-01 when model (without a stated count) or accelerator has no row."""
    accelerator = subjects.accelerator(asked.accelerator)
    model, weak = model_of(asked.model, (asked.parameters, asked.active_parameters), subjects)
    load = _load(asked, model, subjects)
    worker, device, assumed = _placed(asked, model, accelerator, load.prompt + load.answer, subjects.catalog)
    placed = worker.layout
    if not worker.number.stated:
        weak.append("precision is not stated")
    if asked.concurrency is None:
        load.assumed.append("requests in flight: as many as fit")
    if not asked.engine.strip():
        load.assumed.append(f"engine: {subjects.catalog.server.id}")
    traffic = step_time_model.Traffic(sent=asked.concurrency, prompt=load.prompt, answer=load.answer)
    engine = subjects.engine(asked.engine.strip() or subjects.catalog.server.id)
    case = step_time_model.case_of(worker, device, engine, model.attention, traffic)
    case = case._replace(slower=extrapolation.slower(accelerator, subjects.catalog))
    weak += _gates(worker, device)
    if asked.devices and placed.total > asked.devices:
        weak.append(f"the layout needs {placed.total} devices, {asked.devices} are stated")
    return Deployment(
        model=model,
        accelerator=accelerator,
        worker=worker,
        device=device,
        case=case,
        asked=asked,
        beams=load.beams,
        weak=tuple(weak),
        assumed=(*assumed, *load.assumed),
        catalog=subjects.catalog,
    )


def _placed(
    asked: Serving, model: ModelSpec, accelerator: Accelerator, context: float, catalog: Catalog
) -> tuple[Worker, Device, list[str]]:
    """Engine, device and what was assumed of them. Without a format, the likeliest one in which weights and one
    sequence of `context` tokens fit; where none does, the likeliest.
    """
    said, shape = numeric_precision.parse(asked.precision, asked.model), shape_of(model)
    ways = []
    for number in [said] if said.stated else numeric_precision.unstated(model, accelerator):
        device = extrapolation.sustaining(device_of(accelerator, number, shape.sparse), accelerator, catalog)
        named = parallel_layout.parse(asked.parallelism)
        placed = named or _fitting(Worker(shape, number, parallel_layout.Layout()), device, asked.devices)
        worker = Worker(shape, number, parallel_layout.spread(placed, min(asked.devices, MOST_DEVICES)))
        ways.append((worker, device, [] if named else [f"parallelism: TP{placed.tp}"]))
        if worker.capacity(device.memory, context) >= 1:
            break
    else:
        ways = ways[:1]
    worker, device, assumed = ways[-1]
    if not said.stated:
        why = "as published" if worker.number.stated else "the widest that fits" if len(ways) > 1 else "16 bits"
        assumed.append(f"format: {worker.number.name}, {why}")
    return worker, device, assumed


def _load(asked: Serving, model: ModelSpec, subjects: BenchmarkNameResolver) -> Load:
    given, made, beams = subjects.load(asked.scenario, model.id)
    prompt, answer = asked.input_tokens, asked.output_tokens
    known = prompt is not None and answer is not None
    return Load(
        given if prompt is None else prompt,
        made if answer is None else answer,
        beams,
        [] if known else ["prompt and answer length"],
    )


def model_of(
    name: str, counts: tuple[float | None, float | None], subjects: BenchmarkNameResolver
) -> tuple[ModelSpec, list[str]]:
    """The row, or for an unknown name an assumed shape of the stated counts; what is weak about it."""
    try:
        return subjects.model(name), []
    except CatalogError:
        parameters = counts[0] or counts[1] or 0.0
        if not name or not LEAST_PARAMETERS <= parameters <= MOST_PARAMETERS:
            raise
        return made_up.model_of(name, parameters, counts[1] or parameters), ["its shape is assumed from its size"]


def _fitting(worker: Worker, device: Device, devices: int) -> parallel_layout.Layout:
    """The narrowest tensor parallelism whose weights leave room, up to the stated devices; the widest else."""
    limit, tp = max(devices, 1), 1
    if devices < 1:
        limit = parallel_layout.WIDEST_TENSOR
    while tp * 2 <= limit:
        tried = worker._replace(layout=parallel_layout.Layout(tp=tp, moe_tp=tp, ep=1))
        if tried.weights() < 0.75 * device.memory:
            break
        tp *= 2
    return parallel_layout.Layout(tp=tp, moe_tp=tp, ep=1)


def _gates(worker: Worker, device: Device) -> list[str]:
    found = []
    # A host processor has no memory of its own stated.
    if device.memory and worker.weights() > device.memory:
        found.append("the weights exceed the devices' memory")
    return found


def stratum_of(model: ModelSpec, accelerator: Accelerator, engine: str, seen: Mapping[str, tuple[str, ...]]) -> str:
    """A seen configuration needs an engine family of the fit; without one there is the physics of an unseen model."""
    old_model, old_accelerator = identity(model) in seen["model"], accelerator.id in seen["accelerator"]
    if old_model and old_accelerator:
        paired = f"{identity(model)} {accelerator.id}" in seen["pair"]
        return NEW_ACCELERATOR if not paired else SEEN if engine in seen["engine"] else NEW_MODEL
    return NEW_MODEL if old_accelerator else NEW_ACCELERATOR if old_model else NEW_BOTH


def regime_of(found: Deployment) -> str:
    if found.case.prefill_ranks:
        return POOLED
    if found.asked.scenario.startswith(("offline", "mlperf")):
        return OFFLINE
    return SHORT if found.case.sent > found.case.held else ""


def predict(asked: Serving, subjects: BenchmarkNameResolver, fit: fitted_tables.Fit | None = None) -> Answer:
    """Raises CatalogError AW-CAT-01 for a name nobody knows."""
    if subjects.accelerator(asked.accelerator).kind == extrapolation.HOST_KIND:
        return _on_host(asked, subjects)
    return answer(resolve(asked, subjects), fit or fitted_tables.load("serving"))


def answer(found: Deployment, fit: fitted_tables.Fit, stratum: str = "") -> Answer:
    """`stratum` overrides what the fit has seen, for scoring a left-out group."""
    case, asked = found.case, found.asked
    stratum = stratum or stratum_of(found.model, found.accelerator, case.engine, fit.seen)
    regime = regime_of(found)
    tpot, ttft = centre(found, fit, stratum)
    if asked.scenario.startswith("batch1"):
        # A bare engine timed without a server: nothing is scheduled, nothing waits.
        ttft = step_time_model.read_s(case, fit.coefficients["ttft"])
    rate = step_time_model.throughput(case, tpot) / found.beams
    if regime != OFFLINE:
        # Beyond what the cache holds more requests wait, and no more are answered.
        rate = min(rate, case.sent * case.ranks * case.answer / (ttft + case.answer * tpot))
    if asked.scenario == "mlperf_server":
        rate *= SERVER_SHARE
    if asked.scenario == "batch1_prefill" and case.answer <= 1:
        rate = case.prompt / ttft
    unlike = extrapolation.unlike(found.accelerator, case.engine, fit, found.catalog)
    weak = (*found.weak, *unlike)
    doubt = Doubt(WEAKER ** len(weak), extrapolation.figures(found.accelerator, found.catalog))
    pace = banded(1 / max(rate, 1e-9), fit, ("pace_s" if regime == OFFLINE else "tpot_s", stratum, regime), doubt)
    loop = fitted_loop(case, fit.coefficients, (tpot, ttft))
    around = {name: banded(1.0, fit, (name, stratum, regime), doubt) for name in ("tpot_s", "ttft_s")}
    return _told(asked, loop, around, pace)._replace(stratum=stratum, regime=regime, weak=weak, assumed=found.assumed)


def _told(asked: Serving, loop: Loop, around: dict[str, Guess], pace: Guess) -> Answer:
    """Latencies with the bands `around` their means, and the rate whose inverse is `pace`."""

    def of(metric: str, statistic: str) -> Guess:
        value = getattr(loop, metric) * loop.over_mean(metric, statistic)
        band = around[metric].powered(WEAKER) if statistic in TAILS else around[metric]
        return band.scaled(value)

    writes = loop.tpot_s > 0
    percentiles = {
        f"{metric[:-2]}_{name}_s": of(metric, name)
        for metric in around
        for name in QUANTILES
        if metric != "tpot_s" or writes
    }
    return Answer(
        tpot_s=of("tpot_s", statistic_of(asked.tpot_statistic)) if writes else None,
        ttft_s=of("ttft_s", statistic_of(asked.ttft_statistic)),
        tokens_per_s=pace.inverse,
        percentiles=percentiles,
        stratum="",
        regime="",
        weak=(),
        assumed=(),
    )


def _on_host(asked: Serving, subjects: BenchmarkNameResolver) -> Answer:
    """By the embedded engine's steps at the processor's own rates. Raises CatalogError AW-CAT-30 without an engine."""
    model, weak = model_of(asked.model, (asked.parameters, asked.active_parameters), subjects)
    load = _load(asked, model, subjects)
    reads, writes = (TokenLength(mean=max(size, 1.0), p95=max(size, 1.0)) for size in (load.prompt, load.answer))
    engine = host_engine(asked, model, Requests(reads, writes), subjects)
    if asked.concurrency is None:
        load.assumed.append(f"requests in flight: {engine.slots}, all places of the engine")
    loop = loop_of(engine, asked.concurrency or float(engine.slots), reads.mean, writes.mean)
    widen = WEAKER ** len(weak)
    around = {
        name: Guess(1.0, band.low, band.high).powered(widen)
        for name, band in (("tpot_s", engine.speed.steps), ("ttft_s", engine.speed.first))
    }
    told = loop.ttft_s + writes.mean * loop.tpot_s
    pace = told / ((asked.concurrency or engine.slots) * writes.mean if loop.tpot_s else reads.mean)
    return _told(asked, loop, around, around["tpot_s"].scaled(pace))._replace(
        stratum=engine.speed.stratum,
        weak=tuple(weak),
        assumed=(*load.assumed, f"weights in {engine.quantisation}", f"engine: {engine.product.id}"),
    )


def host_engine(asked: Serving, model: ModelSpec, requests: Requests, subjects: BenchmarkNameResolver) -> Engine:
    """The embedded engine on the processor that is asked for. Raises CatalogError AW-CAT-30 without one."""
    accelerator, catalog = subjects.accelerator(asked.accelerator), subjects.catalog
    hardware = hardware_of_processor(accelerator, max(asked.devices, 1), catalog)
    engine = engine_on(hardware, model, requests, catalog, asked.precision)
    if engine is None:
        raise CatalogError("AW-CAT-30", "no engine in the catalog runs on processors", hint="add a row to engines")
    return engine


def centre(found: Deployment, fit: fitted_tables.Fit, stratum: str) -> tuple[float, float]:
    """TPOT and TTFT without a band, in seconds; outside of what was seen physics alone, but for disaggregated rows."""
    case, tables = found.case, fit.residuals
    tpot = step_time_model.tpot_s(case, fit.coefficients["tpot"])
    step = step_time_model.step_s(case, fit.coefficients["tpot"])
    ttft = step_time_model.ttft_s(case, fit.coefficients["ttft"], step, tpot)
    if stratum != SEEN and not case.prefill_ranks:
        return tpot, ttft
    seen = features(case, found.worker, found.device, found.asked.engine, fit.seen["engine"])
    tpot *= _correction(tables["tpot.pool" if case.prefill_ranks else "tpot"], seen)
    return tpot, ttft * _correction(tables["ttft"], seen) if stratum == SEEN else ttft


def _correction(table: tuple[boosted_trees.Tree, ...], seen: list[float]) -> float:
    return math.exp(min(max(boosted_trees.total(table, seen), -MOST_RESIDUAL), MOST_RESIDUAL))


def banded(value: float, fit: fitted_tables.Fit, place: tuple[str, str, str], doubt: Doubt) -> Guess:
    """`place`: metric, stratum, regime. Where model and accelerator are both new, the two bands add as squares."""
    metric, stratum, regime = place
    names = (NEW_MODEL, NEW_ACCELERATOR) if stratum == NEW_BOTH else (stratum,)
    low, high = doubt.around([(band.low, band.high) for band in (fit.band(metric, name, regime) for name in names)])
    return Guess(value, value * low, value * high)
