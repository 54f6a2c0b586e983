"""Predicts a serving deployment: TPOT, TTFT and throughput with bands, for anything named well enough to size.

One predictor per stratum, chosen by the grouped cross-validation of that stratum (docs/accuracy.md):
- seen configuration (this model on this accelerator was fitted): physics + residual trees;
- unseen model, accelerator, or both: physics alone; multipliers per family or chip made these worse;
- disaggregated: residual trees of their own in every stratum, which help left-out models and devices too.
What makes a row weak, and what no fitted row is like, widens its band and is said. A host processor is no accelerator
of the fit: its engine's steps are the roofline of its efficiency row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.needs import TokenLength
from archwright.contract.record import Record
from archwright.errors import CatalogError
from archwright.sizing.inference import closed_loop
from archwright.sizing.inference.cpu_inference import build_cpu_engine, build_processor_hardware
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths
from archwright.sizing.model import numeric_precision
from archwright.sizing.model.parallel_layout import WIDEST_TENSOR, ParallelLayout, parse_layout, replicate_layout
from archwright.sizing.model.parametric_model import build_parametric_model
from archwright.sizing.model.weight_groups import group_weights
from archwright.sizing.step_time import boosted_trees, extrapolation, step_time_model
from archwright.sizing.step_time.fitted_tables import FittedTable, load_table
from archwright.sizing.step_time.residual_features import extract_features
from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel, build_device_spec

SEEN, NEW_MODEL, NEW_ACCELERATOR = "seen configuration", "unseen model", "unseen accelerator"
NEW_BOTH = "unseen model and accelerator"
DISAGGREGATED, QUEUEING, OFFLINE = "disaggregated", "queueing", "offline"
# Each reason to distrust a row widens its band by this power.
WEAK_BAND_EXPONENT = 1.35
# A stated load that uses more than this of what the device can do is mislabelled (research: see docs/accuracy.md).
MOST_RESIDUAL = 1.5
# Assumed: a server under a latency limit keeps this share of its offline rate.
SERVER_SHARE = 0.88
# Of requests, later than these no measured row was: their band is that of a weak row.
TAIL_PERCENTILES = frozenset({"p95", "p99"})
MOST_DEVICES = 1_000_000
LEAST_PARAMETERS, MOST_PARAMETERS = 1e6, 1e14


class ServingQuery(Record):
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


class PredictionInterval(NamedTuple):
    """A value and its 90 % band."""

    value: float
    low: float
    high: float

    def scaled(self, by: float) -> PredictionInterval:
        return PredictionInterval(self.value * by, self.low * by, self.high * by)

    @property
    def inverse(self) -> PredictionInterval:
        return PredictionInterval(1 / self.value, 1 / self.high, 1 / self.low)

    def multiply(self, factor: Estimate) -> PredictionInterval:
        """Times an independent factor with a band."""
        made = multiply_estimates([self.to_estimate(""), factor], "")
        return PredictionInterval(made.value, made.low, made.high)

    def to_estimate(self, unit: str) -> Estimate:
        return Estimate(value=self.value, low=self.low, high=self.high, unit=unit)

    def widen(self, by: float) -> PredictionInterval:
        """The logarithms of the band times `by`."""
        low, high = (math.pow(end / self.value, by) for end in (self.low, self.high))
        return PredictionInterval(self.value, self.value * low, self.value * high)


class BandWidening(NamedTuple):
    """What widens a fitted band: its logarithms times `widen`, and what the device's `figures` may be off by."""

    widen: float
    figures: Estimate

    def combine_bands(self, bands: Sequence[tuple[float, float]]) -> tuple[float, float]:
        """Factors (low, high): independent `bands` add as squares of logarithms, wider by all that is here."""
        low, high = (
            math.hypot(math.hypot(*(math.log(band[end]) for band in bands)) * self.widen, math.log(own))
            for end, own in ((0, self.figures.low), (1, self.figures.high))
        )
        return math.exp(-low), math.exp(high)


def widen_for_distance(reasons: int, accelerator: Accelerator, catalog: Catalog) -> BandWidening:
    """For so many reasons to distrust a prediction, and what the device's stated figures may be off by."""
    return BandWidening(WEAK_BAND_EXPONENT**reasons, extrapolation.spec_uncertainty(accelerator, catalog))


class DeploymentPrediction(NamedTuple):
    """SI; None where the quantity has no meaning in the scenario. TPOT and TTFT are of the statistic that was
    asked for; `percentiles` are over requests, by name: `ttft_p95_s`."""

    tpot_s: PredictionInterval | None
    ttft_s: PredictionInterval | None
    tokens_per_s: PredictionInterval
    percentiles: dict[str, PredictionInterval]
    stratum: str = ""
    regime: str = ""
    weak: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


class ResolvedDeployment(NamedTuple):
    model: ModelSpec
    accelerator: Accelerator
    worker: ShardedModel
    device: DeviceSpec
    case: step_time_model.StepTimeInputs
    asked: ServingQuery
    beams: int
    weak: tuple[str, ...]
    assumed: tuple[str, ...]
    catalog: Catalog


def model_identity(model: ModelSpec) -> str:
    """Models of one shape are one model here: names, tunings and releases share it."""
    return f"{model.layers}x{model.hidden}x{model.heads}/{model.kv_heads}x{model.experts}"


def resolve_deployment(asked: ServingQuery, subjects: BenchmarkNameResolver) -> ResolvedDeployment:
    """Raises CatalogError AW-CAT-01 when model (without a stated count) or accelerator has no row."""
    accelerator = subjects.accelerator(asked.accelerator)
    model, weak = resolve_model(asked.model, (asked.parameters, asked.active_parameters), subjects)
    prompt, answer, beams, guessed = _resolve_lengths(asked, model, subjects)
    worker, device, assumed = _place_deployment(asked, model, accelerator, prompt + answer, subjects.catalog)
    if not worker.number.stated:
        weak.append("precision is not stated")
    if asked.concurrency is None:
        guessed.append("requests in flight: as many as fit")
    named = asked.engine.strip() or subjects.catalog.default_engine.id
    if not asked.engine.strip():
        guessed.append(f"engine: {named}")
    traffic = step_time_model.ClosedLoopLoad(sent=asked.concurrency, prompt=prompt, answer=answer)
    case = step_time_model.build_step_inputs(worker, device, subjects.engine_family(named), model.attention, traffic)
    case = case._replace(slower=extrapolation.vendor_slowdown(accelerator, subjects.catalog))
    # A host processor has no memory of its own stated.
    if device.memory and worker.weight_bytes() > device.memory:
        weak.append("the weights exceed the devices' memory")
    if asked.devices and worker.layout.total > asked.devices:
        weak.append(f"the layout needs {worker.layout.total} devices, {asked.devices} are stated")
    return ResolvedDeployment(
        model=model,
        accelerator=accelerator,
        worker=worker,
        device=device,
        case=case,
        asked=asked,
        beams=beams,
        weak=tuple(weak),
        assumed=(*assumed, *guessed),
        catalog=subjects.catalog,
    )


def _place_deployment(
    asked: ServingQuery, model: ModelSpec, accelerator: Accelerator, context: float, catalog: Catalog
) -> tuple[ShardedModel, DeviceSpec, list[str]]:
    """Engine, device and what was assumed of them. Without a stated format: the likeliest one in which weights and a
    sequence of `context` tokens fit, else the likeliest."""
    said, shape = numeric_precision.parse_precision(asked.precision, asked.model), group_weights(model)
    ways = []
    for number in [said] if said.stated else numeric_precision.list_candidate_precisions(model, accelerator):
        stated = build_device_spec(accelerator, number, shape.sparse)
        device = extrapolation.apply_sustained_rates(stated, accelerator, catalog)
        named = parse_layout(asked.parallelism)
        placed = named or _narrowest_layout(ShardedModel(shape, number, ParallelLayout()), device, asked.devices)
        worker = ShardedModel(shape, number, replicate_layout(placed, min(asked.devices, MOST_DEVICES)))
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


def _resolve_lengths(
    asked: ServingQuery, model: ModelSpec, subjects: BenchmarkNameResolver
) -> tuple[float, float, int, list[str]]:
    """Prompt and answer tokens, beams, and what was assumed of the lengths."""
    given, made, beams = subjects.scenario_load(asked.scenario, model.id)
    prompt, answer = asked.input_tokens, asked.output_tokens
    assumed = [] if prompt is not None and answer is not None else ["prompt and answer length"]
    return given if prompt is None else prompt, made if answer is None else answer, beams, assumed


def resolve_model(
    name: str, counts: tuple[float | None, float | None], subjects: BenchmarkNameResolver
) -> tuple[ModelSpec, list[str]]:
    """The row, or for an unknown name an assumed shape of the stated counts; what is weak about it."""
    try:
        return subjects.model(name), []
    except CatalogError:
        parameters = counts[0] or counts[1] or 0.0
        if not name or not LEAST_PARAMETERS <= parameters <= MOST_PARAMETERS:
            raise
        assumed = build_parametric_model(name, parameters, counts[1] or parameters)
        return assumed, ["its shape is assumed from its size"]


def _narrowest_layout(worker: ShardedModel, device: DeviceSpec, devices: int) -> ParallelLayout:
    """The narrowest tensor parallelism whose weights leave room, up to the stated devices; the widest else."""
    limit, tp = devices if devices >= 1 else WIDEST_TENSOR, 1
    while tp * 2 <= limit:
        tried = worker._replace(layout=ParallelLayout(tp=tp, moe_tp=tp, ep=1))
        if tried.weight_bytes() < 0.75 * device.memory:
            break
        tp *= 2
    return ParallelLayout(tp=tp, moe_tp=tp, ep=1)


def classify_stratum(
    model: ModelSpec, accelerator: Accelerator, engine: str, seen: Mapping[str, tuple[str, ...]]
) -> str:
    """A seen configuration needs an engine family of the fit; without one there is the physics of an unseen model."""
    old_model, old_accelerator = model_identity(model) in seen["model"], accelerator.id in seen["accelerator"]
    if old_model and old_accelerator:
        paired = f"{model_identity(model)} {accelerator.id}" in seen["pair"]
        return NEW_ACCELERATOR if not paired else SEEN if engine in seen["engine"] else NEW_MODEL
    return NEW_MODEL if old_accelerator else NEW_ACCELERATOR if old_model else NEW_BOTH


def classify_regime(found: ResolvedDeployment) -> str:
    if found.case.prefill_ranks:
        return DISAGGREGATED
    if found.asked.scenario.startswith(("offline", "mlperf")):
        return OFFLINE
    return QUEUEING if found.case.sent > found.case.held else ""


def predict_deployment(
    asked: ServingQuery, subjects: BenchmarkNameResolver, fit: FittedTable | None = None
) -> DeploymentPrediction:
    """Raises CatalogError AW-CAT-01 for a name nobody knows."""
    if subjects.accelerator(asked.accelerator).kind == extrapolation.HOST_KIND:
        return _predict_on_cpu(asked, subjects)
    return predict_resolved_deployment(resolve_deployment(asked, subjects), fit or load_table("serving"))


def predict_resolved_deployment(found: ResolvedDeployment, fit: FittedTable, stratum: str = "") -> DeploymentPrediction:
    """`stratum` overrides what the fit has seen, for scoring a left-out group."""
    case, asked = found.case, found.asked
    stratum = stratum or classify_stratum(found.model, found.accelerator, case.engine, fit.seen)
    regime = classify_regime(found)
    tpot, ttft = predict_means(found, fit, stratum)
    if asked.scenario.startswith("batch1"):
        # A bare engine timed without a server: nothing is scheduled, nothing waits.
        ttft = step_time_model.ttft_prefill_s(case, fit.coefficients["ttft"])
    rate = step_time_model.output_throughput(case, tpot) / found.beams
    if regime != OFFLINE:
        # Beyond what the cache holds more requests wait, and no more are answered.
        rate = min(rate, case.sent * case.ranks * case.answer / (ttft + case.answer * tpot))
    if asked.scenario == "mlperf_server":
        rate *= SERVER_SHARE
    if asked.scenario == "batch1_prefill" and case.answer <= 1:
        rate = case.prompt / ttft
    unlike = extrapolation.list_extrapolations(found.accelerator, case.engine, fit, found.catalog)
    weak = (*found.weak, *unlike)
    doubt = widen_for_distance(len(weak), found.accelerator, found.catalog)
    pace = apply_band(1 / max(rate, 1e-9), fit, ("pace_s" if regime == OFFLINE else "tpot_s", stratum, regime), doubt)
    loop = closed_loop.predict_fitted_loop(case, fit.coefficients, (tpot, ttft))
    around = {name: apply_band(1.0, fit, (name, stratum, regime), doubt) for name in ("tpot_s", "ttft_s")}
    return _assemble_prediction(asked, loop, around, pace)._replace(
        stratum=stratum, regime=regime, weak=weak, assumed=found.assumed
    )


def _assemble_prediction(
    asked: ServingQuery,
    loop: closed_loop.ClosedLoopLatency,
    around: dict[str, PredictionInterval],
    pace: PredictionInterval,
) -> DeploymentPrediction:
    """Latencies with the bands `around` their means, and the rate whose inverse is `pace`."""

    def of(metric: str, statistic: str) -> PredictionInterval:
        value = getattr(loop, metric) * loop.ratio_to_mean(metric, statistic)
        band = around[metric].widen(WEAK_BAND_EXPONENT) if statistic in TAIL_PERCENTILES else around[metric]
        return band.scaled(value)

    writes = loop.tpot_s > 0
    timed = [metric for metric in around if metric != "tpot_s" or writes]
    percentiles = {f"{metric[:-2]}_{name}_s": of(metric, name) for metric in timed for name in closed_loop.QUANTILES}
    return DeploymentPrediction(
        tpot_s=of("tpot_s", closed_loop.parse_statistic(asked.tpot_statistic)) if writes else None,
        ttft_s=of("ttft_s", closed_loop.parse_statistic(asked.ttft_statistic)),
        tokens_per_s=pace.inverse,
        percentiles=percentiles,
    )


def _predict_on_cpu(asked: ServingQuery, subjects: BenchmarkNameResolver) -> DeploymentPrediction:
    """By the embedded engine's steps at the processor's own rates. Raises CatalogError AW-CAT-30 without an engine."""
    model, weak = resolve_model(asked.model, (asked.parameters, asked.active_parameters), subjects)
    prompt, answer, _, assumed = _resolve_lengths(asked, model, subjects)
    reads, writes = (TokenLength(mean=max(size, 1.0), p95=max(size, 1.0)) for size in (prompt, answer))
    engine = require_cpu_engine(asked, model, RequestLengths(reads, writes), subjects)
    if asked.concurrency is None:
        assumed.append(f"requests in flight: {engine.slots}, all places of the engine")
    loop = closed_loop.predict_engine_loop(engine, asked.concurrency or float(engine.slots), reads.mean, writes.mean)
    widen = WEAK_BAND_EXPONENT ** len(weak)
    around = {
        name: PredictionInterval(1.0, band.low, band.high).widen(widen)
        for name, band in (("tpot_s", engine.speed.steps), ("ttft_s", engine.speed.first))
    }
    told = loop.ttft_s + writes.mean * loop.tpot_s
    pace = told / ((asked.concurrency or engine.slots) * writes.mean if loop.tpot_s else reads.mean)
    return _assemble_prediction(asked, loop, around, around["tpot_s"].scaled(pace))._replace(
        stratum=engine.speed.stratum,
        weak=tuple(weak),
        assumed=(*assumed, f"weights in {engine.quantisation}", f"engine: {engine.product.id}"),
    )


def require_cpu_engine(
    asked: ServingQuery, model: ModelSpec, requests: RequestLengths, subjects: BenchmarkNameResolver
) -> EngineInstance:
    """The embedded engine on the processor that is asked for. Raises CatalogError AW-CAT-30 without one."""
    accelerator, catalog = subjects.accelerator(asked.accelerator), subjects.catalog
    hardware = build_processor_hardware(accelerator, max(asked.devices, 1), catalog)
    engine = build_cpu_engine(hardware, model, requests, catalog, asked.precision)
    if engine is None:
        raise CatalogError("AW-CAT-30", "no engine in the catalog runs on processors", hint="add a row to engines")
    return engine


def predict_means(found: ResolvedDeployment, fit: FittedTable, stratum: str) -> tuple[float, float]:
    """TPOT and TTFT without a band, in seconds; outside of what was seen physics alone, but for disaggregated rows."""
    case, tables = found.case, fit.residuals
    tpot = step_time_model.mean_tpot_s(case, fit.coefficients["tpot"])
    step = step_time_model.decode_step_s(case, fit.coefficients["tpot"])
    ttft = step_time_model.mean_ttft_s(case, fit.coefficients["ttft"], step, tpot)
    if stratum != SEEN and not case.prefill_ranks:
        return tpot, ttft
    seen = extract_features(case, found.worker, found.device, found.asked.engine, fit.seen["engine"])
    tpot *= _residual_factor(tables["tpot.pool" if case.prefill_ranks else "tpot"], seen)
    return tpot, ttft * _residual_factor(tables["ttft"], seen) if stratum == SEEN else ttft


def _residual_factor(table: tuple[boosted_trees.RegressionTree, ...], seen: list[float]) -> float:
    return math.exp(min(max(boosted_trees.sum_trees(table, seen), -MOST_RESIDUAL), MOST_RESIDUAL))


def apply_band(value: float, fit: FittedTable, place: tuple[str, str, str], doubt: BandWidening) -> PredictionInterval:
    """`place`: metric, stratum, regime. Where model and accelerator are both new, the two bands add as squares."""
    metric, stratum, regime = place
    names = (NEW_MODEL, NEW_ACCELERATOR) if stratum == NEW_BOTH else (stratum,)
    low, high = doubt.combine_bands(
        [(band.low, band.high) for band in (fit.find_band(metric, name, regime) for name in names)]
    )
    return PredictionInterval(value, value * low, value * high)
