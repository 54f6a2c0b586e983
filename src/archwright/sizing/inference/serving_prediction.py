"""TPOT, TTFT and throughput of a serving deployment with 90 % intervals, as a benchmark row or a user states it.

One predictor per stratum, chosen by grouped cross-validation of that stratum (docs/accuracy.md):
- seen configuration (this model on this accelerator was fitted): physics + residual trees;
- unseen model, unseen accelerator, or both: physics alone; multipliers per family or chip made these worse;
- disaggregated: separate residual trees in every stratum, which also help left-out models and devices.
Each reason that makes a row weak, and each property that no fitted row has, is reported and widens the band. A CPU is
not an accelerator of the fit: its step times are the roofline of the engine's efficiency row.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver, EngineFamily
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TokenLength
from archwright.contract.record import Record
from archwright.errors import CatalogError
from archwright.sizing.inference import closed_loop, local_devices, processor_servers, processor_speed
from archwright.sizing.inference.cpu_inference import (
    CpuSetup,
    build_cpu_engine,
    build_processor_hardware,
    find_quantisation,
)
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths
from archwright.sizing.inference.local_devices import LocalDeployment
from archwright.sizing.inference.processor_servers import ServerCase, ServerLatency, ServerLoad
from archwright.sizing.inference.processor_speed import HostReport
from archwright.sizing.model import numeric_precision
from archwright.sizing.model.engine_memory import weights_bytes
from archwright.sizing.model.parallel_layout import WIDEST_TENSOR, ParallelLayout, parse_layout, replicate_layout
from archwright.sizing.model.parametric_model import build_parametric_model
from archwright.sizing.model.weight_groups import group_weights
from archwright.sizing.step_time import boosted_trees, extrapolation, step_time_model
from archwright.sizing.step_time.fitted_tables import FittedTable, load_table
from archwright.sizing.step_time.residual_features import extract_features
from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel, build_device_spec

SEEN, NEW_MODEL, NEW_ACCELERATOR = "seen configuration", "unseen model", "unseen accelerator"
NEW_BOTH = "unseen model and accelerator"
NEW_SOURCE = "unseen source"
DISAGGREGATED, QUEUEING, SERVER = "disaggregated", "queueing", "server"
PROCESSOR_SERVER = "server engine on processors"
# Steps of a server do not depend on how its requests come: a plan uses one band for all of them.
SERVER_LOADS = frozenset({step_time_model.CLOSED, step_time_model.OPEN, step_time_model.SINGLE})
# Exponent on the band for each reason that makes a row weak.
WEAK_BAND_EXPONENT = 1.35
# Limit of the residual trees' logarithm: a larger residual means a mislabelled row (docs/accuracy.md).
MOST_RESIDUAL = 1.5
# Kinds of load by the start of a scenario's name; every other scenario is a closed loop.
LOADS = {
    "batch1": step_time_model.BARE,
    "single_stream": step_time_model.SINGLE,
    "mlperf_singlestream": step_time_model.SINGLE,
    "open_loop": step_time_model.OPEN,
    "mlperf_server": step_time_model.OPEN,
    "mlperf_interactive": step_time_model.OPEN,
    "offline_batch": step_time_model.STATIC,
    "offline": step_time_model.OFFLINE,
    "mlperf": step_time_model.OFFLINE,
}
# A format whose measured rows with many requests contradict its rows with one.
UNPACKED = "nf4"
# A closed loop of fewer requests per slot is mostly its first burst.
SHORT_RUN = 4.0
# Percentiles above all measured rows get the band of a weak row.
TAIL_PERCENTILES = frozenset({"p95", "p99"})
MOST_DEVICES = 1_000_000
LEAST_PARAMETERS, MOST_PARAMETERS = 1e6, 1e14


class ServingQuery(Record):
    """Deployment and load as a benchmark row or a user states them; an empty field is unstated.

    `native_format`: without a stated format, the device's own instead of the published one. `requests`: requests of
    the whole run; `slots`: most requests that the engine runs at once."""

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
    native_format: bool = False
    requests: float | None = None
    slots: float | None = None
    host: HostReport = HostReport()


class BandWidening(NamedTuple):
    """Widening of a fitted band: exponent `widen`, and the error band of the device's stated `figures`."""

    widen: float
    figures: Estimate

    def combine_bands(self, bands: Sequence[tuple[float, float]]) -> tuple[float, float]:
        """Return the factors (low, high) of independent `bands`, added in quadrature of logarithms and widened."""
        low, high = (
            math.hypot(math.hypot(*(math.log(band[end]) for band in bands)) * self.widen, math.log(own))
            for end, own in ((0, self.figures.low), (1, self.figures.high))
        )
        return math.exp(-low), math.exp(high)


def widen_for_distance(reasons: int, accelerator: Accelerator, catalog: Catalog) -> BandWidening:
    """Return the widening for `reasons` that make a prediction weak and for the device's figures and their age."""
    return BandWidening(WEAK_BAND_EXPONENT**reasons, catalog.estimate(accelerator, 1.0, ""))


class DeploymentPrediction(NamedTuple):
    """Prediction in SI units; None if the scenario does not define the quantity.

    TPOT and TTFT are of the requested statistic; `percentiles` over requests by name ("ttft_p95_s")."""

    tpot_s: Estimate | None
    ttft_s: Estimate | None
    tokens_per_s: Estimate
    percentiles: dict[str, Estimate]
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
    """Return the key of a model's architecture: fine-tunes and releases of the same shape count as one model."""
    return f"{model.layers}x{model.hidden}x{model.heads}/{model.kv_heads}x{model.experts}"


def resolve_deployment(asked: ServingQuery, subjects: BenchmarkNameResolver) -> ResolvedDeployment:
    """Resolve names and assume what is unstated.

    Raises CatalogError AW-CAT-01 if the accelerator, or a model without stated parameter counts, has no row."""
    accelerator = subjects.accelerator(asked.accelerator)
    model, weak = resolve_model(asked.model, (asked.parameters, asked.active_parameters), subjects)
    prompt, answer, beams, of_load = _resolve_lengths(asked, model, subjects)
    engine = asked.engine.strip() or subjects.catalog.default_engine.id
    family = subjects.engine_family(engine)
    place = (subjects.catalog, family)
    worker, device, of_layout = _place_deployment(asked, model, accelerator, prompt + answer, place)
    if not worker.number.stated:
        weak.append("precision is not stated")
    if worker.number.name == UNPACKED:
        weak.append("4-bit weights are unpacked in each step, several times slower with many requests")
    traffic = _describe_load(asked, prompt, answer, family.slots)
    if traffic.kind == step_time_model.CLOSED and asked.concurrency == 1 and worker.layout.prefill is None:
        traffic = traffic._replace(kind=step_time_model.SINGLE)
    if asked.concurrency is None:
        of_load.append("requests in flight: as many as fit")
        if traffic.kind == step_time_model.OPEN:
            weak.append("the load of a request rate is not stated")
    if not asked.engine.strip():
        of_load.append(f"engine: {engine}")
    case = step_time_model.build_step_inputs(worker, device, family.id, model.attention, traffic)
    # A CPU row states no memory.
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
        assumed=(*of_layout, *of_load),
        catalog=subjects.catalog,
    )


def find_load(scenario: str) -> str:
    """Return the kind of load of a scenario's name."""
    for name, load in LOADS.items():
        if scenario.startswith(name):
            return load
    return step_time_model.CLOSED


def _describe_load(asked: ServingQuery, prompt: float, answer: float, slots: float) -> step_time_model.RequestLoad:
    kind = find_load(asked.scenario)
    first = 0.1
    if asked.concurrency and asked.requests:
        first = min(asked.concurrency / asked.requests, 1.0)
        if kind == step_time_model.CLOSED and asked.requests < SHORT_RUN * asked.concurrency:
            kind = step_time_model.BURST
    return step_time_model.RequestLoad(asked.concurrency, prompt, answer, kind, first, slots)


def _place_deployment(
    asked: ServingQuery,
    model: ModelSpec,
    accelerator: Accelerator,
    context: float,
    environment: tuple[Catalog, EngineFamily],
) -> tuple[ShardedModel, DeviceSpec, list[str]]:
    """Return the worker, its device and the assumptions about them.

    Without a stated format: the most likely one in which weights and a sequence of `context` tokens fit, else the most
    likely one."""
    catalog, family = environment
    named = numeric_precision.parse_precision(asked.precision, asked.model)
    shape = group_weights(model)
    layout = parse_layout(asked.parallelism)
    if layout is None and family.local and asked.devices > 1:
        layout = ParallelLayout(pp=min(asked.devices, MOST_DEVICES))
    placements = []
    listed = numeric_precision.list_candidate_precisions(model, accelerator, native=asked.native_format)
    for number in [named] if named.stated else listed:
        stated = build_device_spec(accelerator, number, shape.sparse)
        device = extrapolation.apply_sustained_rates(stated, accelerator, catalog)
        if family.local:
            device = extrapolation.apply_local_rates(device, accelerator)
        placed = layout or _narrowest_layout(ShardedModel(shape, number, ParallelLayout()), device, asked.devices)
        worker = ShardedModel(shape, number, replicate_layout(placed, min(asked.devices, MOST_DEVICES)))
        placements.append((worker, device, [] if layout else [f"parallelism: TP{placed.tp}"]))
        if worker.capacity(device.memory, context) >= 1:
            break
    else:
        placements = placements[:1]
    worker, device, assumed = placements[-1]
    if not named.stated:
        narrowed = "the widest that fits" if len(placements) > 1 else "16 bits"
        published = worker.number == numeric_precision.read_published_precision(model)
        other = (
            ""
            if worker.number.name == extrapolation.WIDE_FORMAT
            else f"; --layout {extrapolation.WIDE_FORMAT} changes it"
        )
        stated_why = "as published" if published else f"the device's native format{other}"
        assumed.append(f"format: {worker.number.name}, {stated_why if worker.number.stated else narrowed}")
    return worker, device, assumed


def _resolve_lengths(
    asked: ServingQuery, model: ModelSpec, subjects: BenchmarkNameResolver
) -> tuple[float, float, int, list[str]]:
    """Return prompt tokens, output tokens, beams, and the assumptions about the lengths."""
    usual_prompt, usual_answer, beams = subjects.scenario_load(asked.scenario, model.id)
    prompt = asked.input_tokens
    answer = asked.output_tokens
    is_known = prompt is not None and answer is not None
    assumed = [] if is_known else ["prompt and output length"]
    return usual_prompt if prompt is None else prompt, usual_answer if answer is None else answer, beams, assumed


def resolve_model(
    name: str, counts: tuple[float | None, float | None], subjects: BenchmarkNameResolver
) -> tuple[ModelSpec, list[str]]:
    """Return the model's row, or an assumed architecture of the stated `counts`, and the reasons that make it weak."""
    try:
        return subjects.model(name), []
    except CatalogError:
        parameters = counts[0] or counts[1] or 0.0
        if not name or not LEAST_PARAMETERS <= parameters <= MOST_PARAMETERS:
            raise
        return build_parametric_model(name, parameters, counts[1] or parameters), ["its shape is assumed from its size"]


def _narrowest_layout(worker: ShardedModel, device: DeviceSpec, devices: int) -> ParallelLayout:
    """Return the lowest TP degree whose weights leave room, up to the stated devices; else the highest degree."""
    limit = devices if devices >= 1 else WIDEST_TENSOR
    tp = 1
    while tp * 2 <= limit:
        if worker._replace(layout=ParallelLayout(tp=tp, moe_tp=tp, ep=1)).weight_bytes() < 0.75 * device.memory:
            break
        tp *= 2
    return ParallelLayout(tp=tp, moe_tp=tp, ep=1)


def classify_stratum(
    model: ModelSpec, accelerator: Accelerator, engine: str, seen: Mapping[str, tuple[str, ...]]
) -> str:
    """Return the stratum; a seen configuration with an engine family outside the fit counts as an unseen model."""
    seen_model, seen_accelerator = model_identity(model) in seen["model"], accelerator.id in seen["accelerator"]
    if seen_model and seen_accelerator:
        paired = f"{model_identity(model)} {accelerator.id}" in seen["pair"]
        return NEW_ACCELERATOR if not paired else SEEN if engine in seen["engine"] else NEW_MODEL
    return NEW_MODEL if seen_accelerator else NEW_ACCELERATOR if seen_model else NEW_BOTH


def classify_regime(found: ResolvedDeployment) -> str:
    if found.case.prefill_ranks:
        return DISAGGREGATED
    queued = found.case.excess > 0 and found.case.load in (step_time_model.CLOSED, step_time_model.BURST)
    return QUEUEING if queued else found.case.load


def predict_deployment(
    asked: ServingQuery, subjects: BenchmarkNameResolver, fit: FittedTable | None = None
) -> DeploymentPrediction:
    """Predict a deployment. Raises CatalogError AW-CAT-01 if a name has no row."""
    if subjects.accelerator(asked.accelerator).kind == extrapolation.HOST_KIND:
        return _predict_on_cpu(asked, subjects)
    resolved = resolve_deployment(asked, subjects)
    if fit is not None:
        return predict_resolved_deployment(resolved, fit)
    return predict_on_accelerators(resolved)


def predict_on_accelerators(resolved: ResolvedDeployment) -> DeploymentPrediction:
    """Predict by the fit of local engines if it covers the deployment, else by that of servers."""
    local_fit = load_table(local_devices.TABLE)
    local = describe_local_deployment(resolved)
    if local_devices.is_covered(local, local_fit):
        return _predict_local_deployment(resolved, local_fit)
    return predict_resolved_deployment(resolved, load_table("serving"))


def describe_local_deployment(resolved: ResolvedDeployment) -> LocalDeployment:
    return LocalDeployment(
        model=resolved.model,
        accelerator=resolved.accelerator,
        worker=resolved.worker,
        device=resolved.device,
        case=resolved.case,
        engine=resolved.asked.engine,
    )


def _predict_local_deployment(resolved: ResolvedDeployment, fit: FittedTable) -> DeploymentPrediction:
    """Predict one request to a local engine: the physics, with the trees and bands of such devices."""
    serving = load_table("serving")
    local = describe_local_deployment(resolved)
    tpot_s, ttft_s = predict_means(resolved, serving, NEW_BOTH)
    tpot_s = local_devices.correct_mean(local, fit, metric="tpot", mean_s=tpot_s)
    ttft_s = local_devices.correct_mean(local, fit, metric="ttft", mean_s=ttft_s)
    widening = widen_for_distance(len(resolved.weak), resolved.accelerator, resolved.catalog)
    bands: dict[str, Estimate] = {}
    for metric in ("tpot_s", "ttft_s"):
        band = fit.find_band(metric, resolved.accelerator.vendor, "any")
        low, high = widening.combine_bands([(band.low, band.high)])
        bands[metric] = Estimate(value=1.0, low=low, high=high, unit="")
    loop = closed_loop.predict_fitted_loop(resolved.case, serving.coefficients, (tpot_s, ttft_s))
    pace = bands["ttft_s"]
    if resolved.case.answer > 1:
        pace = bands["tpot_s"]
    rate = max(predict_rate(resolved, tpot_s, ttft_s), step_time_model.EPSILON)
    prediction = _assemble_prediction(resolved.asked, loop, bands, pace.scaled(1 / rate, unit="s"))
    return prediction._replace(
        stratum=f"local engine on {resolved.accelerator.vendor}",
        regime=classify_regime(resolved),
        weak=resolved.weak,
        assumed=resolved.assumed,
    )


def predict_resolved_deployment(found: ResolvedDeployment, fit: FittedTable, stratum: str = "") -> DeploymentPrediction:
    """Predict a resolved deployment; `stratum` overrides the fit's own, to score a left-out group."""
    case, asked = found.case, found.asked
    stratum = stratum or classify_stratum(found.model, found.accelerator, case.engine, fit.seen)
    regime = classify_regime(found)
    tpot, ttft = predict_means(found, fit, stratum)
    rate = predict_rate(found, tpot, ttft)
    weak = (*found.weak, *extrapolation.list_extrapolations(found.accelerator, case.engine, fit))
    widening = widen_for_distance(len(weak), found.accelerator, found.catalog)
    token_s = find_error_band(fit, ("pace_s", stratum, regime), widening).scaled(1 / max(rate, 1e-9), unit="s")
    loop = closed_loop.predict_fitted_loop(case, fit.coefficients, (tpot, ttft))
    bands = {name: find_error_band(fit, (name, stratum, regime), widening) for name in ("tpot_s", "ttft_s")}
    return _assemble_prediction(asked, loop, bands, token_s)._replace(
        stratum=stratum, regime=regime, weak=weak, assumed=found.assumed
    )


def _assemble_prediction(
    asked: ServingQuery,
    loop: closed_loop.ClosedLoopLatency | ServerLatency,
    bands: dict[str, Estimate],
    token_s: Estimate,
) -> DeploymentPrediction:
    """Apply the `bands` around the mean latencies; throughput is the inverse of `token_s`."""

    def of(metric: str, statistic: str) -> Estimate:
        value = getattr(loop, metric) * loop.ratio_to_mean(metric, statistic)
        band = bands[metric].widen(WEAK_BAND_EXPONENT) if statistic in TAIL_PERCENTILES else bands[metric]
        return band.scaled(value, unit="s")

    has_tpot = loop.tpot_s > 0
    metrics = [metric for metric in bands if metric != "tpot_s" or has_tpot]
    percentiles = {f"{metric[:-2]}_{name}_s": of(metric, name) for metric in metrics for name in closed_loop.QUANTILES}
    return DeploymentPrediction(
        tpot_s=of("tpot_s", closed_loop.parse_statistic(asked.tpot_statistic)) if has_tpot else None,
        ttft_s=of("ttft_s", closed_loop.parse_statistic(asked.ttft_statistic)),
        tokens_per_s=token_s.divide_amount(1.0, "tokens/s"),
        percentiles=percentiles,
    )


def _predict_on_cpu(asked: ServingQuery, subjects: BenchmarkNameResolver) -> DeploymentPrediction:
    """Predict by the engine's steps at the processor's rates. Raises CatalogError AW-CAT-30 without engine."""
    model, weak = resolve_model(asked.model, (asked.parameters, asked.active_parameters), subjects)
    prompt, answer, _, assumed = _resolve_lengths(asked, model, subjects)
    reads = TokenLength(mean=max(prompt, 1.0), p95=max(prompt, 1.0))
    writes = TokenLength(mean=max(answer, 1.0), p95=max(answer, 1.0))
    engine = require_cpu_engine(asked, model, RequestLengths(reads, writes), subjects)
    if asked.concurrency is None:
        assumed.append(f"requests in flight: {engine.slots}, all slots of the engine")
    device = subjects.accelerator(asked.accelerator)
    facts = processor_speed.describe_processor(device, max(asked.devices, 1), asked.host)
    if facts is not None and processor_servers.is_fitted(engine.product.id):
        bits = find_quantisation(asked.precision, engine.product.quantisations[0], subjects.catalog)[1]
        weights = weights_bytes(model, bits)
        load = _describe_server_load(asked, engine, prompt=reads.mean, answer=writes.mean)
        layout = parse_layout(asked.parallelism)
        replicas = 1 if layout is None else layout.dp
        case = processor_servers.describe_case(facts, model, weights, load=load, replicas=replicas)
        prediction = _predict_processor_server(asked, case, reasons=len(weak))
        assumed.append(f"weights in {engine.quantisation}")
        assumed.append(f"engine: {engine.product.id}")
        assumed.append(facts.describe_rates())
        return prediction._replace(weak=tuple(weak), assumed=tuple(assumed))
    # Equal requests to a server with slow prompts stay in step: measured waits are 0.6 to 2 times the whole burst's.
    burst = 1.0
    if asked.scenario.startswith("open_loop"):
        burst = 0.0
    elif engine.product.embedded:
        burst = closed_loop.USUAL_BURST
    sent = asked.concurrency or float(engine.slots)
    loop = closed_loop.predict_engine_loop(engine, sent, reads.mean, writes.mean, burst)
    widen = WEAK_BAND_EXPONENT ** len(weak)
    speeds = {"tpot_s": engine.speed.steps, "ttft_s": engine.speed.first}
    bands = {name: band.widen(widen) for name, band in speeds.items()}
    latency_s = loop.ttft_s + writes.mean * loop.tpot_s
    token_s = latency_s / (sent * writes.mean if loop.tpot_s else reads.mean)
    prediction = _assemble_prediction(asked, loop, bands, bands["tpot_s"].scaled(token_s, unit="s"))
    assumed += [f"weights in {engine.quantisation}", f"engine: {engine.product.id}", engine.speed.facts[0]]
    return prediction._replace(stratum=engine.speed.stratum, weak=tuple(weak), assumed=tuple(assumed))


def _describe_server_load(asked: ServingQuery, engine: EngineInstance, *, prompt: float, answer: float) -> ServerLoad:
    load = find_load(asked.scenario)
    slots = asked.slots or 0.0
    requests = asked.concurrency
    if requests is None:
        requests = float(engine.slots)
        slots = requests
    kind = processor_servers.classify_load(load, requests)
    return ServerLoad(kind, requests, prompt, answer, slots)


def _predict_processor_server(asked: ServingQuery, case: ServerCase, *, reasons: int) -> DeploymentPrediction:
    """Predict by the fit of server engines on processors; `reasons` that make the prediction weak widen its bands."""
    fit = load_table(processor_servers.TABLE)
    times = processor_servers.predict_times(case, fit)
    loop = processor_servers.describe_latency(times, case, fit)
    widen = WEAK_BAND_EXPONENT**reasons
    bands: dict[str, Estimate] = {}
    for metric in processor_servers.METRICS:
        band = processor_servers.quote_band(case, metric, fit)
        bands[metric] = band.widen(widen)
    token_s = times.pace_s
    if loop.tpot_s == 0:
        prompt_tokens = case.load.requests * case.load.prompt
        token_s = loop.ttft_s / prompt_tokens
    pace = bands.pop("pace_s")
    token_of_all = pace.scaled(token_s / case.replicas, unit="s")
    prediction = _assemble_prediction(asked, loop, bands, token_of_all)
    regime = processor_servers.name_server_stratum(case)
    return prediction._replace(stratum=PROCESSOR_SERVER, regime=regime)


def require_cpu_engine(
    asked: ServingQuery, model: ModelSpec, requests: RequestLengths, subjects: BenchmarkNameResolver
) -> EngineInstance:
    """Return the engine on the stated processor. Raises CatalogError AW-CAT-30 if none runs there."""
    accelerator = subjects.accelerator(asked.accelerator)
    catalog = subjects.catalog
    count = max(asked.devices, 1)
    hardware = build_processor_hardware(accelerator, count, catalog)
    setup = CpuSetup(
        engine=subjects.engine_family(asked.engine).id,
        precision=asked.precision,
        isa=processor_speed.read_instruction_set(accelerator),
        processor=processor_speed.describe_processor(accelerator, count, asked.host),
        kernels=processor_speed.find_kernels(asked.engine),
    )
    engine = build_cpu_engine(hardware, model, requests, catalog, setup)
    if engine is None:
        hint = "add a row for an embedded CPU engine to the catalog's engines table"
        raise CatalogError("AW-CAT-30", "no engine in the catalog runs on CPUs", hint=hint)
    return engine


def predict_means(found: ResolvedDeployment, fit: FittedTable, stratum: str) -> tuple[float, float]:
    """Return mean TPOT and TTFT in seconds. Residual trees apply to closed loops and to disaggregated layouts.

    The TTFT of a closed loop on an unseen accelerator has trees without properties of models and devices."""
    case, tables = found.case, fit.residuals
    name = step_time_model.select_ttft(case.load)
    tpot = step_time_model.mean_tpot_s(case, fit.coefficients["tpot"])
    step = step_time_model.decode_step_s(case, fit.coefficients["tpot"])
    ttft = step_time_model.mean_ttft_s(case, fit.coefficients[name], step, tpot)
    pool = ".pool" if case.prefill_ranks else ""
    looped = case.load in step_time_model.LOOPS
    used = {
        "tpot": f"tpot{pool}" if pool or (stratum == SEEN and looped) else "",
        "ttft": f"ttft{pool}" if stratum == SEEN and looped else "",
    }
    if stratum == NEW_ACCELERATOR and looped and not pool:
        used["ttft"] = f"{name}.{NEW_ACCELERATOR}"
    if not any(used.values()):
        return tpot, ttft
    features = extract_features(case, found.worker, found.device, found.asked.engine, fit.seen["families"])
    factors = {key: _residual_factor(tables[table], features) if table else 1.0 for key, table in used.items()}
    return tpot * factors["tpot"], ttft * factors["ttft"]


def predict_rate(found: ResolvedDeployment, tpot: float, ttft: float) -> float:
    """Return output tokens/s of the deployment at its mean `tpot` and `ttft`; input tokens/s for a prompt alone."""
    case = found.case
    if case.load == step_time_model.BARE:
        return case.prompt / ttft if case.answer <= 1 else 1 / tpot / found.beams
    rate = case.requests * case.ranks / max(tpot, step_time_model.EPSILON)  # every slot in use
    if case.load not in (step_time_model.STATIC, step_time_model.OFFLINE) and case.excess <= 0:
        # Requests that exceed the KV cache only wait: they neither raise nor lower the throughput.
        rate = min(rate, case.sent * case.ranks * case.answer / (ttft + case.answer * tpot))
    return rate / found.beams


def _residual_factor(table: tuple[boosted_trees.RegressionTree, ...], features: list[float]) -> float:
    return math.exp(min(max(boosted_trees.sum_trees(table, features), -MOST_RESIDUAL), MOST_RESIDUAL))


def find_error_band(fit: FittedTable, key: tuple[str, str, str], widening: BandWidening) -> Estimate:
    """Return the fit's band of `key` (metric, stratum, regime) around 1, widened.

    If model and accelerator are both unseen, the bands of both strata add in quadrature."""
    metric, stratum, regime = key
    strata = (NEW_MODEL, NEW_ACCELERATOR) if stratum == NEW_BOTH else (stratum,)
    bands = (fit.find_band(metric, name, regime) for name in strata)
    low, high = widening.combine_bands([(band.low, band.high) for band in bands])
    return Estimate(value=1.0, low=low, high=high, unit="")
