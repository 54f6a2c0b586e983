"""`predict serving --options`: the options of an engine as text, and their effect on a predicted closed loop."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from archwright.api.argument_errors import argument_error
from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.needs import SLO, TokenLength
from archwright.contract.plan import EngineOptions, OptionEffect
from archwright.contract.record import Record, replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.sizing.inference import engine_options, option_effects
from archwright.sizing.inference.closed_loop import predict_engine_loop
from archwright.sizing.inference.deployment_layout import build_engine
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths
from archwright.sizing.inference.serving_capacity import TextLoad
from archwright.sizing.inference.serving_prediction import ServingQuery, resolve_deployment
from archwright.sizing.step_time.extrapolation import HOST_KIND

EXAMPLE = "prefix=0.4,chunk=2048,speculation=3,kv=fp8,adapters=4"
CACHE_BITS = 8.0


class StatedOptions(Record):
    """Engine options as a user states them; `prefix`: shared share of the prompt tokens."""

    prefix: Annotated[float, Meta(ge=0, lt=1)] = 0.0
    chunk: Annotated[int, Meta(ge=128, le=1 << 20)] = 0
    speculation: Annotated[int, Meta(ge=1, le=16)] = 0
    kv: Literal["", "fp8", "bf16"] = ""
    adapters: Annotated[int, Meta(ge=1, le=1000)] = 0


def parse_engine_options(text: str, model: str, catalog: Catalog) -> EngineOptions:
    """Parse options such as EXAMPLE. Raises UsageError AW-USE-23 for anything else, and for an option stated twice.

    Without a known draft of the model, speculation assumes a separate one."""
    parts = [part.partition("=") for part in "".join(text.lower().split()).split(",") if part]
    named, costs = {name: value for name, _, value in parts}, engine_options.read_costs(catalog)
    try:
        if len(named) < len(parts):
            raise msgspec.ValidationError("an option is stated twice")
        stated = msgspec.convert(named, StatedOptions, strict=False)
    except msgspec.ValidationError as error:
        said = str(error).replace(" - at `$.", " for `")
        message = f"a part of {text[:100]!r} is no engine option: {said}"
        raise argument_error("AW-USE-23", message, "options", f"write for example {EXAMPLE}") from error
    found = EngineOptions(
        prefix_hits=stated.prefix * costs["prefix.hits"],
        chunk_tokens=stated.chunk,
        kv_format=stated.kv,
        adapters=stated.adapters,
    )
    if not stated.speculation:
        return found
    row, method = catalog.drafts.get(model), engine_options.SEPARATE_DRAFT
    assumed = {"acceptance": costs[f"{method}.acceptance"], "draft": f"a draft of {model}"}
    drafted = assumed if row is None else engine_options.draft_options(row, costs)
    return replace(found, **{**drafted, "draft_tokens": stated.speculation})


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


def remark_cache(
    found: SizingPrediction, options: EngineOptions, tuned: EngineInstance, device: Accelerator
) -> SizingPrediction:
    """Return the prediction with what became of a KV cache in fp8: fitted already, or a format the device lacks."""
    if options.kv_format != engine_options.NARROW_CACHE:
        return found
    if engine_options.NARROW_CACHE not in device.flops:
        text = f"{device.id} does not compute in fp8: an engine may refuse this cache"
        found = replace(found, weak=(*found.weak, text))
    if tuned.options.kv_format != options.kv_format:
        text = "KV cache: eight bits, as beside fitted weights of eight bits"
        found = replace(found, assumed=(*found.assumed, text))
    return found


def apply_options(
    found: SizingPrediction, query: ServingQuery, options: EngineOptions, subjects: BenchmarkNameResolver
) -> SizingPrediction:
    """Return the closed loop of `query` that was `found`, with `options`, and their effects.

    Each figure is multiplied by its ratio in the engine's closed loop with and without the options; each row of the
    options adds its band in quadrature. Raises UsageError AW-USE-21 as `tune_predicted` does."""
    catalog, device = subjects.catalog, subjects.accelerator(query.accelerator)
    host = device.kind == HOST_KIND
    engine = None if host else build_engine(resolve_deployment(query, subjects), RequestLengths(*_list_lengths(query)))
    tuned = tune_predicted(engine, options, catalog)
    names = engine_options.list_uncertain_rows(tuned.options)
    varied = [one for name in names for pair in engine_options.vary_engine(tuned, name, catalog) for one in pair]
    plain, value, *ends = (_run_loop(one, query) for one in (engine or tuned, tuned, *varied))
    estimates = dict[str, Estimate]()
    for name, estimate in found.estimates.items():
        figure = name.split("_")[0]
        shares = [end[figure] / value[figure] for end in ends]
        bands = [Estimate(value=1.0, low=min(share, 1.0), high=max(share, 1.0), unit="") for share in shares]
        scaled = estimate.scaled(value[figure] / plain[figure])
        estimates[name] = multiply_estimates([scaled, *bands], estimate.unit, estimate.basis)
    found = replace(found, estimates=estimates, options=describe_predicted(tuned, query, catalog))
    return remark_cache(found, options, tuned, device)


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
