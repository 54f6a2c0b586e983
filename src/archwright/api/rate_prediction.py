"""`predict serving` for requests that come at random: the plan's own simulation of one engine's share."""

from __future__ import annotations

from archwright.api import prediction_result
from archwright.api.argument_errors import argument_error
from archwright.api.prediction_result import SizingPrediction
from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.contract.needs import TokenLength
from archwright.contract.plan import LoadSpec
from archwright.simulate.pool_simulation import PoolScenario, predict_latencies
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.deployment_layout import build_engine
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths
from archwright.sizing.inference.open_loop import OpenLoop, build_request_profile
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.step_time import extrapolation, fitted_tables

PEAK_S = 45.0


def predict_at_rate(asked: ServingQuery, rate: float, subjects: BenchmarkNameResolver) -> SizingPrediction:
    """Percentiles of TTFT and TPOT at `rate` requests/s over all engines of the deployment.

    Raises CatalogError AW-CAT-01 for a name nobody knows, UsageError AW-USE-20 for no rate, AW-USE-21 where no engine
    of such a layout could be simulated."""
    if rate <= 0 or asked.input_tokens is None or asked.output_tokens is None:
        raise argument_error("AW-USE-20", f"not a rate: {rate:g}/s", "load", "for example 2.5/s")
    reads, writes = (TokenLength(mean=size, p95=size) for size in (asked.input_tokens, max(asked.output_tokens, 2.0)))
    accelerator, host = subjects.accelerator(asked.accelerator), False
    weak: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()
    lengths = RequestLengths(reads, writes)
    engine: EngineInstance | None
    if accelerator.kind == extrapolation.HOST_KIND:
        model, host = subjects.model(asked.model), True
        engine = serving_prediction.require_cpu_engine(asked, model, lengths, subjects)
    else:
        found, table = serving_prediction.resolve_deployment(asked, subjects), fitted_tables.load_table("serving")
        unlike = extrapolation.list_extrapolations(accelerator, found.case.engine, table, subjects.catalog)
        model, weak = found.model, (*found.weak, *unlike)
        assumed = tuple(text for text in found.assumed if "in flight" not in text)
        engine = build_engine(found, lengths)
    if engine is None:
        hint = "tensor and expert ranks only, and memory for one request; or state requests in flight, 64x1024+512"
        message = f"no engine of {asked.model} on {asked.devices} x {accelerator.id} in this layout could be simulated"
        raise argument_error("AW-USE-21", message, "layout", hint)
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
        weak = (*weak, f"the engines answer {most:.3g} requests/s at most: the wait grows with time")
    estimates = predict_latencies(PoolScenario(model.id, engine, engine.copies, load))
    return SizingPrediction(
        model=model.id,
        accelerator=accelerator.id,
        devices=asked.devices,
        stratum=engine.speed.stratum,
        estimates=estimates,
        definitions=dict.fromkeys(estimates, "over requests that come at random (Poisson), lengths as stated"),
        formula="continuous batching event by event with the fitted steps (simulate/pool_simulation.py)",
        sources=(*(() if host else prediction_result.cite_fitted_table("serving")), model.source, *engine.speed.facts),
        weak=weak,
        assumed=(*assumed, *engine.assumptions),
    )
