"""`predict serving --options`: the options of an engine as text, and their effect on a predicted closed loop."""

from collections.abc import Callable
from typing import NoReturn

from archwright.api.argument_errors import argument_error
from archwright.api.prediction_result import SizingPrediction
from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.plan import EngineOptions, OptionEffect
from archwright.contract.record import replace
from archwright.sizing.inference import engine_options, option_effects
from archwright.sizing.inference.closed_loop import predict_engine_loop
from archwright.sizing.inference.deployment_layout import build_engine
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths
from archwright.sizing.inference.serving_capacity import TextLoad
from archwright.sizing.inference.serving_prediction import ServingQuery, resolve_deployment
from archwright.sizing.step_time.extrapolation import HOST_KIND

EXAMPLE = "prefix=0.4,chunk=2048,speculation=3,kv=fp8,adapters=4"
FIELDS = {"prefix": "prefix_hits", "chunk": "chunk_tokens", "kv": "kv_format", "adapters": "adapters"}
CACHE_BITS = 8.0
MOST = {"chunk": 1 << 20, "adapters": 1000, "speculation": 16}


def parse_engine_options(text: str, model: str, catalog: Catalog) -> EngineOptions:
    """Parse options such as EXAMPLE; `prefix` is the shared share of prompt tokens.

    Raises UsageError AW-USE-23 for anything else."""
    costs, found = engine_options.read_costs(catalog), dict[str, object]()
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, value = part.partition("=")
        if name == "prefix":
            share = _read(part, float, value)
            found[FIELDS[name]] = share * costs["prefix.hits"] if 0 <= share < 1 else _refuse(part)
        elif name == "kv":
            found[FIELDS[name]] = value if value in ("fp8", "bf16") else _refuse(part)
        elif name in MOST:
            count = round(_read(part, int, value))
            if not 0 < count <= MOST[name]:
                _refuse(part)
            found |= _speculate(model, count, catalog) if name == "speculation" else {FIELDS[name]: count}
        else:
            _refuse(part)
    return replace(EngineOptions(), **found)


def _speculate(model: str, tokens: int, catalog: Catalog) -> dict[str, object]:
    """Return the options of the model's draft, or of an assumed separate draft."""
    costs, row = engine_options.read_costs(catalog), catalog.drafts.get(model)
    if row is not None:
        return engine_options.draft_options(row, costs, tokens)
    method = engine_options.SEPARATE_DRAFT
    return {"draft_tokens": tokens, "acceptance": costs[f"{method}.acceptance"], "draft": f"a draft of {model}"}


def _read(part: str, kind: Callable[[str], float], value: str) -> float:
    try:
        return kind(value)
    except ValueError:
        _refuse(part)


def _refuse(part: str) -> NoReturn:
    raise argument_error("AW-USE-23", f"{part!r} is no engine option", "options", f"write for example {EXAMPLE}")


def tune_predicted(engine: EngineInstance | None, options: EngineOptions, catalog: Catalog) -> EngineInstance:
    """Return the engine with `options`. Raises UsageError AW-USE-21 if it has no options or the model does not fit.

    Weights of eight bits were fitted with a cache of eight bits, so "fp8" changes nothing there."""
    tuned = None
    if engine is not None and engine.frame is not None:
        if options.kv_format == engine_options.NARROW_CACHE and engine.frame.worker.number.cache_bits == CACHE_BITS:
            options = replace(options, kv_format="")
        tuned = engine_options.tune_engine(engine, options, engine_options.read_costs(catalog))
    if tuned is None:
        hint = "ask for more devices or fewer adapters; processors and split deployments have no engine options"
        raise argument_error("AW-USE-21", "the engine does not run with these options", "options", hint)
    return tuned


def apply_options(
    found: SizingPrediction, query: ServingQuery, options: EngineOptions, subjects: BenchmarkNameResolver
) -> SizingPrediction:
    """Return the closed loop of `query` that was `found`, with `options`, and their effects.

    Each figure is multiplied by its ratio in the engine's closed loop with and without the options; each row of the
    options adds its band in quadrature. Raises UsageError AW-USE-21 as `tune_predicted` does."""
    catalog, host = subjects.catalog, subjects.accelerator(query.accelerator).kind == HOST_KIND
    engine = None if host else build_engine(resolve_deployment(query, subjects), RequestLengths(*_list_lengths(query)))
    tuned = tune_predicted(engine, options, catalog)
    varied = [
        one
        for option in engine_options.list_uncertain_rows(tuned.options)
        for end in ("low", "high")
        for _, one in engine_options.vary_engine(tuned, option, catalog, end)
    ]
    plain, value, *ends = (_run_loop(one, query) for one in (engine or tuned, tuned, *varied))
    estimates = dict[str, Estimate]()
    for name, estimate in found.estimates.items():
        figure = name.split("_")[0]
        shares = [end[figure] / value[figure] for end in ends]
        bands = [Estimate(value=1.0, low=min(share, 1.0), high=max(share, 1.0), unit="") for share in shares]
        scaled = estimate.scaled(value[figure] / plain[figure])
        estimates[name] = multiply_estimates([scaled, *bands], estimate.unit, estimate.basis)
    return replace(found, estimates=estimates, options=describe_predicted(tuned, query, catalog))


def describe_predicted(engine: EngineInstance, query: ServingQuery, catalog: Catalog) -> tuple[OptionEffect, ...]:
    load = TextLoad("predict", *_list_lengths(query), SLO(), engine.options.prefix_hits, engine.options.adapters)
    return option_effects.describe_options(engine, load, catalog)


def _list_lengths(query: ServingQuery) -> tuple[TokenLength, TokenLength]:
    prompt, answer = (max(size or 1.0, 1.0) for size in (query.input_tokens, query.output_tokens))
    return TokenLength(mean=prompt, p95=prompt), TokenLength(mean=answer, p95=answer)


def _run_loop(engine: EngineInstance, query: ServingQuery) -> dict[str, float]:
    prompt, answer = query.input_tokens or 1.0, query.output_tokens or 1.0
    sent = float(engine.slots) if query.concurrency is None else query.concurrency / engine.copies
    found = predict_engine_loop(engine, sent, prompt, answer)
    return {"tpot": found.tpot_s, "ttft": found.ttft_s, "tokens": sent / (found.ttft_s + answer * found.tpot_s)}
