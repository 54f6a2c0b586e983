"""`predict serving` for random arrivals, by the simulation that plans use."""

from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.plan import EngineOptions, LoadSpec
from archwright.contract.record import replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.errors import UsageError, argument_error
from archwright.simulate.pool_simulation import PoolScenario, predict_latencies
from archwright.sizing.inference import engine_options, option_prediction, serving_prediction
from archwright.sizing.inference.deployment_layout import build_engine
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths, build_fixed_lengths
from archwright.sizing.inference.open_loop import OpenLoop, RequestProfile, build_request_profile
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.step_time import extrapolation, fitted_tables

PEAK_S = 45.0
DEFINITION = "over requests with random arrivals (Poisson), lengths as stated"
FORMULA = "continuous batching event by event with the fitted steps (simulate/pool_simulation.py)"
# Engines that answer less than this share of the rate fall behind.
KEEPS_UP = 0.99
LEAST_ANSWER_TOKENS = 2.0


class _StatedEngine(NamedTuple):
    """The engine of a deployment; None if its layout cannot be simulated. `sources`: of what its speed is fitted to."""

    model: ModelSpec
    engine: EngineInstance | None
    sources: tuple[str, ...] = ()
    weak: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()


def predict_at_rate(
    query: ServingQuery, rate: float, subjects: BenchmarkNameResolver, *, options: EngineOptions | None = None
) -> SizingPrediction:
    """Predict percentiles of TTFT and TPOT at `rate` requests/s over all engines of the deployment.

    Raises CatalogError AW-CAT-01 for an unknown name, UsageError AW-USE-21 if no engine of this layout can be
    simulated, or if the engine does not run with `options`.
    """
    answer_tokens = max(query.output_tokens or 0.0, LEAST_ANSWER_TOKENS)
    lengths = build_fixed_lengths(query.input_tokens or 0.0, answer_tokens)
    accelerator = subjects.accelerator(query.accelerator)
    if accelerator.kind == extrapolation.HOST_KIND:
        model = subjects.model(query.model)
        deployment = _StatedEngine(model, serving_prediction.require_cpu_engine(query, model, lengths, subjects))
    else:
        deployment = _build_fitted_engine(query, lengths, accelerator, subjects=subjects)
    engine = deployment.engine
    if engine is None:
        raise _layout_error(query, accelerator)
    if options is not None:
        profile = build_request_profile(lengths.reads, lengths.writes)
        engine = _tune_engine(engine, options, profile, rate=rate, catalog=subjects.catalog)

    predicted = _simulate(deployment, engine, rate, lengths=lengths)
    predicted = replace(predicted, accelerator=accelerator.id, devices=query.devices)
    if options is None:
        return predicted
    effects = option_prediction.describe_predicted(engine, query, subjects.catalog)
    predicted = replace(predicted, options=effects)
    return option_prediction.note_cache_format(predicted, options, tuned=engine, device=accelerator)


def _build_fitted_engine(
    query: ServingQuery, lengths: RequestLengths, accelerator: Accelerator, *, subjects: BenchmarkNameResolver
) -> _StatedEngine:
    deployment = serving_prediction.resolve_deployment(query, subjects)
    table = fitted_tables.load_table("serving")
    unlike = extrapolation.list_extrapolations(accelerator, deployment.case.engine, table)
    return _StatedEngine(
        model=deployment.model,
        engine=build_engine(deployment, lengths),
        sources=(table.provenance.citation,),
        weak=(*deployment.weak, *unlike),
        assumed=tuple(text for text in deployment.assumed if "in flight" not in text),
    )


def _layout_error(query: ServingQuery, accelerator: Accelerator) -> UsageError:
    hint = "use tensor and expert ranks only, with memory for one request; or state requests in flight: 64x1024+512"
    message = f"no engine of {query.model} on {query.devices} x {accelerator.id} in this layout can be simulated"
    return argument_error("AW-USE-21", message, "layout", hint)


def _tune_engine(
    engine: EngineInstance, options: EngineOptions, profile: RequestProfile, *, rate: float, catalog: Catalog
) -> EngineInstance:
    """Return the engine with `options`, and with their bands at its share of `rate`."""
    tuned = option_prediction.tune_predicted(engine, options, catalog)
    operating_point = engine_options.open_loop_of(tuned, profile).at_rate(rate / tuned.copies)
    return engine_options.widen_for_options(tuned, profile, operating_point.batch, catalog)


def _simulate(
    deployment: _StatedEngine, engine: EngineInstance, rate: float, *, lengths: RequestLengths
) -> SizingPrediction:
    """Return the latencies of the pool at `rate`; the caller states its accelerators."""
    model = deployment.model
    load = build_stated_load(model.id, lengths, rate, slots=engine.copies)
    estimates = predict_latencies(PoolScenario(model.id, engine, engine.copies, load))
    return SizingPrediction(
        model=model.id,
        accelerator="",
        devices=0,
        stratum=engine.speed.stratum,
        estimates=estimates,
        definitions=dict.fromkeys(estimates, DEFINITION),
        formula=FORMULA,
        sources=(*deployment.sources, model.source, *engine.speed.facts),
        weak=deployment.weak + _note_overload(engine, rate, lengths),
        assumed=deployment.assumed + engine.assumptions,
    )


def build_stated_load(model: str, lengths: RequestLengths, rate: float, *, slots: int) -> LoadSpec:
    """Return a load of `rate` requests/s (0: a closed loop) that is simulated for at least one request."""
    peak_s = PEAK_S
    if rate:
        peak_s = max(PEAK_S, 1 / rate)
    return LoadSpec(
        workload="predict",
        model=model,
        requests_per_second=rate,
        input_tokens=lengths.reads,
        output_tokens=lengths.writes,
        concurrency=slots,
        peak_s=peak_s,
    )


def _note_overload(engine: EngineInstance, rate: float, lengths: RequestLengths) -> tuple[str, ...]:
    profile = build_request_profile(lengths.reads, lengths.writes)
    open_loop = OpenLoop(engine.pace, profile, engine.slots, engine.chunk)
    answered_per_s = open_loop.at_rate(rate / engine.copies).rate * engine.copies
    if answered_per_s >= KEEPS_UP * rate:
        return ()
    return (f"the engines answer at most {answered_per_s:,.1f} requests/s, so the waiting time grows without limit",)
