"""`predict serving` for requests in flight: a deployment of accelerators or processors without a plan."""

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.tables.records import Accelerator
from archwright.contract.estimate import Estimate
from archwright.contract.record import replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.errors import UsageError, argument_error
from archwright.sizing.inference import processor_servers, serving_prediction
from archwright.sizing.inference.serving_prediction import DeploymentPrediction, ResolvedDeployment, ServingQuery
from archwright.sizing.model.numeric_precision import parse_precision
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.step_time.extrapolation import HOST_KIND, pair_engine

# A wider interval of TTFT names the run that narrows it.
MOST_TTFT_SPAN = 5.0
RUN = "archwright bench http://HOST:8000/v1 --against plan.json"
_DEFINITIONS = {
    "tpot_s": "mean time between tokens of an answer in a closed loop, first token excluded",
    "ttft_s": "mean time from request to first token in a closed loop, first burst and queue included",
    "tokens_per_s": "output tokens/s of all the devices together",
}
_PERCENTILE_DEFINITION = "over the requests of the same closed loop"
_PHYSICS = "memory, compute and launches of a step, with prompts read between decode steps"
_FORMULA = f"sizing/step_time/step_time_model.py: {_PHYSICS}"
_SERVER_FORMULA = (
    "sizing/inference/processor_servers.py: fixed time, memory and arithmetic of a step, with a correction by trees"
)
_HOST_FORMULA = (
    "sizing/inference/cpu_inference.py: roofline of the engine's efficiency row, with prompts read between decode steps"
)


def predict_closed_loop(query: ServingQuery, on: str, subjects: BenchmarkNameResolver) -> SizingPrediction:
    """Predict TPOT, TTFT (means and percentiles) and output tokens/s of a deployment on the devices `on`.

    Without a count of requests in flight, as many as fit: then only TPOT and tokens/s.
    Raises UsageError AW-USE-21 if the weights and the cache of one request do not fit.
    """
    accelerator = subjects.accelerator(query.accelerator)
    model = subjects.model(query.model)
    if accelerator.kind == HOST_KIND:
        loop = serving_prediction.predict_deployment(query, subjects)
        formula = _HOST_FORMULA
        sources = [model.source, accelerator.source]
        if loop.stratum == serving_prediction.PROCESSOR_SERVER:
            formula = _SERVER_FORMULA
            fit = fitted_tables.load_table(processor_servers.TABLE)
            sources.insert(0, fit.provenance.citation)
    else:
        loop = _predict_fitted_loop(query, on, subjects)
        formula = _FORMULA
        sources = [fitted_tables.load_table("serving").provenance.citation, model.source, accelerator.source]

    estimates = _list_estimates(loop, is_offline=query.concurrency is None)
    strata = filter(None, (loop.stratum, loop.regime))
    return SizingPrediction(
        model=model.id,
        accelerator=accelerator.id,
        devices=query.devices,
        stratum=", ".join(strata),
        estimates=estimates,
        definitions={name: _DEFINITIONS.get(name, _PERCENTILE_DEFINITION) for name in estimates},
        formula=formula,
        sources=tuple(sources),
        weak=loop.weak,
        assumed=loop.assumed,
    )


def _predict_fitted_loop(query: ServingQuery, on: str, subjects: BenchmarkNameResolver) -> DeploymentPrediction:
    deployment = serving_prediction.resolve_deployment(query, subjects)
    context_tokens = deployment.case.prompt + deployment.case.answer
    if deployment.worker.capacity(deployment.device.memory, context_tokens) < 1:
        raise _memory_error(deployment, on, context_tokens)
    return serving_prediction.predict_on_accelerators(deployment)


def _memory_error(deployment: ResolvedDeployment, on: str, context_tokens: float) -> UsageError:
    worker = deployment.worker
    query = deployment.asked
    weights_gb = worker.weight_bytes() / 1e9
    cache_gb = worker.request_cache_bytes(context_tokens) / 1e9
    device_gb = deployment.device.memory / 1e9
    sizes = (
        f"{weights_gb:.3g} GB of weights and {cache_gb:.3g} GB of cache for one request of {context_tokens:,.0f} tokens"
    )
    subject = f"{query.model} in {worker.number.name}"
    message = f"{subject} does not fit {on}: {sizes} on a device of {device_gb:.3g} GB"
    hint = "ask for more devices or shorter requests"
    if parse_precision(query.precision, query.model).stated:
        hint += ", or a narrower format in the layout"
    return argument_error("AW-USE-21", message, "on", hint)


def _list_estimates(loop: DeploymentPrediction, *, is_offline: bool) -> dict[str, Estimate]:
    """Return the figures that the load defines; requests that come all at once have no TTFT."""
    estimates = dict[str, Estimate]()
    if loop.tpot_s is not None:
        estimates["tpot_s"] = loop.tpot_s
    if loop.ttft_s is not None and not is_offline:
        estimates["ttft_s"] = loop.ttft_s
    estimates["tokens_per_s"] = loop.tokens_per_s
    if not is_offline:
        estimates |= loop.percentiles
    return estimates


def find_usual_engine(accelerator: Accelerator, subjects: BenchmarkNameResolver) -> str:
    """Return the engine of the measured rows on accelerators of this vendor; empty if the default engine has some.

    A processor takes the engine for processors: that of its vendor's accelerators does not run there.
    """
    if accelerator.kind == HOST_KIND:
        return ""
    pairs = fitted_tables.load_table("serving").seen["engine_vendor"]
    if pair_engine(subjects.catalog.default_engine.id, accelerator) in pairs:
        return ""
    for pair in pairs:
        engine, _, vendor = pair.partition(" ")
        if vendor == accelerator.vendor and subjects.engine_family(engine).id == engine:
            return engine
    return ""


def note_usual_engine(predicted: SizingPrediction, engine: str) -> SizingPrediction:
    """Return the prediction with the assumption of `find_usual_engine`."""
    if not engine:
        return predicted
    text = f"engine: {engine}, as the measured devices of this vendor; --engine changes it"
    return replace(predicted, assumed=(*predicted.assumed, text))


def note_wide_ttft(predicted: SizingPrediction) -> SizingPrediction:
    """Return the prediction with the run that narrows its TTFT, if the interval is wide.

    The fit's rows come from clients that start their requests in different ways, so only a run of the own load helps.
    """
    ttft = predicted.estimates.get("ttft_p50_s")
    if ttft is None:
        return predicted
    span = ttft.high / ttft.low
    if span <= MOST_TTFT_SPAN:
        return predicted
    text = f"TTFT spans a factor of {span:.0f}, as publishers' clients differ; to narrow it, measure your load: {RUN}"
    assumed = [*predicted.assumed]
    assumed.append(text)
    return replace(predicted, assumed=tuple(assumed))
