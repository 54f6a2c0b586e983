"""`predict serving` for random arrivals, by the simulation that plans use."""

from archwright.api import option_prediction
from archwright.api.argument_errors import argument_error
from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.contract.needs import TokenLength
from archwright.contract.plan import EngineOptions, LoadSpec
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.simulate.pool_simulation import PoolScenario, predict_latencies
from archwright.sizing.inference import engine_options, serving_prediction
from archwright.sizing.inference.deployment_layout import build_engine
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths
from archwright.sizing.inference.open_loop import OpenLoop, build_request_profile
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.step_time import extrapolation, fitted_tables

PEAK_S = 45.0


def predict_at_rate(
    query: ServingQuery, rate: float, subjects: BenchmarkNameResolver, options: EngineOptions | None = None
) -> SizingPrediction:
    """Predict percentiles of TTFT and TPOT at `rate` requests/s over all engines of the deployment.

    Raises CatalogError AW-CAT-01 for an unknown name, UsageError AW-USE-20 for a rate of 0, AW-USE-21 if no engine of
    this layout can be simulated.
    """
    if rate <= 0 or query.input_tokens is None or query.output_tokens is None:
        raise argument_error(
            "AW-USE-20", f"{rate:g}/s is not a rate", "load", "write a rate above 0, for example 2.5/s"
        )
    reads, writes = (TokenLength(mean=size, p95=size) for size in (query.input_tokens, max(query.output_tokens, 2.0)))
    accelerator, host = subjects.accelerator(query.accelerator), False
    weak: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    lengths = RequestLengths(reads, writes)
    engine: EngineInstance | None
    if accelerator.kind == extrapolation.HOST_KIND:
        model, host = subjects.model(query.model), True
        engine = serving_prediction.require_cpu_engine(query, model, lengths, subjects)
    else:
        found, table = serving_prediction.resolve_deployment(query, subjects), fitted_tables.load_table("serving")
        unlike = extrapolation.list_extrapolations(accelerator, found.case.engine, table)
        model, weak = found.model, (*found.weak, *unlike)
        assumed = tuple(text for text in found.assumed if "in flight" not in text)
        engine = build_engine(found, lengths)
    if engine is None:
        hint = "use tensor and expert ranks only, with memory for one request; or state requests in flight: 64x1024+512"
        message = f"no engine of {query.model} on {query.devices} x {accelerator.id} in this layout can be simulated"
        raise argument_error("AW-USE-21", message, "layout", hint)
    if options is not None:
        engine = option_prediction.tune_predicted(engine, options, subjects.catalog)
        flow, share = build_request_profile(reads, writes), rate / engine.copies
        batch = engine_options.open_loop_of(engine, flow).at_rate(share).batch
        engine = engine_options.widen_for_options(engine, flow, batch, subjects.catalog)
    load = LoadSpec(
        workload="predict",
        model=model.id,
        requests_per_second=rate,
        input_tokens=reads,
        output_tokens=writes,
        concurrency=engine.copies,
        peak_s=max(PEAK_S, 1 / rate),
    )
    loop = OpenLoop(engine.pace, build_request_profile(reads, writes), engine.slots, engine.chunk)
    most = loop.at_rate(rate / engine.copies).rate * engine.copies
    if most < 0.99 * rate:
        weak = (*weak, f"the engines answer at most {most:,.1f} requests/s, so the waiting time grows without limit")
    estimates = predict_latencies(PoolScenario(model.id, engine, engine.copies, load))
    predicted = SizingPrediction(
        model=model.id,
        accelerator=accelerator.id,
        devices=query.devices,
        stratum=engine.speed.stratum,
        estimates=estimates,
        definitions=dict.fromkeys(estimates, "over requests with random arrivals (Poisson), lengths as stated"),
        formula="continuous batching event by event with the fitted steps (simulate/pool_simulation.py)",
        sources=(
            *(() if host else (fitted_tables.load_table("serving").provenance.citation,)),
            model.source,
            *engine.speed.facts,
        ),
        weak=weak,
        assumed=(*assumed, *engine.assumptions),
        options=option_prediction.describe_predicted(engine, query, subjects.catalog) if options is not None else (),
    )
    return predicted if options is None else option_prediction.remark_cache(predicted, options, engine, accelerator)
