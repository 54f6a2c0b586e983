"""`predict serving --options`: the options of an engine as text, and their effect on a predicted closed loop."""

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.needs import SLO
from archwright.contract.plan import EngineOptions, OptionEffect
from archwright.contract.record import Record, replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.errors import argument_error
from archwright.sizing.inference import engine_options, option_effects
from archwright.sizing.inference.closed_loop import predict_engine_loop
from archwright.sizing.inference.deployment_layout import build_engine
from archwright.sizing.inference.engine_instance import EngineInstance, RequestLengths, build_fixed_lengths
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

    Without a known draft of the model, speculation assumes a separate one.
    """
    stated_options = _read_options(text)
    costs = engine_options.read_costs(catalog)
    options = EngineOptions(
        prefix_hits=stated_options.prefix * costs["prefix.hits"],
        chunk_tokens=stated_options.chunk,
        kv_format=stated_options.kv,
        adapters=stated_options.adapters,
    )
    if not stated_options.speculation:
        return options
    row = catalog.drafts.get(model)
    if row is None:
        acceptance = costs[f"{engine_options.SEPARATE_DRAFT}.acceptance"]
        options = replace(options, acceptance=acceptance, draft=f"a draft of {model}")
    else:
        options = replace(options, **engine_options.draft_options(row, costs))
    return replace(options, draft_tokens=stated_options.speculation)


def _read_options(text: str) -> StatedOptions:
    values = dict[str, str]()
    try:
        for part in filter(None, "".join(text.lower().split()).split(",")):
            name, _, value = part.partition("=")
            if name in values:
                raise msgspec.ValidationError("an option is stated twice")
            values[name] = value
        return msgspec.convert(values, StatedOptions, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error).replace(" - at `$.", " for `")
        message = f"a part of {text[:100]!r} is no engine option: {reason}"
        raise argument_error("AW-USE-23", message, "options", f"write for example {EXAMPLE}") from error


def tune_predicted(engine: EngineInstance | None, options: EngineOptions, catalog: Catalog) -> EngineInstance:
    """Return the engine with `options`. Raises UsageError AW-USE-21 if it has no options or the model does not fit.

    Weights of eight bits were fitted with a cache of eight bits, so "fp8" changes nothing there.
    """
    tuned = None
    if engine is not None and engine.frame is not None:
        is_narrow = engine.frame.worker.number.cache_bits == CACHE_BITS
        if is_narrow and options.kv_format == engine_options.NARROW_CACHE:
            options = replace(options, kv_format="")
        tuned = engine_options.tune_engine(engine, options, engine_options.read_costs(catalog))
    if tuned is None:
        hint = "ask for more devices or fewer adapters; processors and split deployments have no engine options"
        raise argument_error("AW-USE-21", "the engine does not run with these options", "options", hint)
    return tuned


def note_cache_format(
    predicted: SizingPrediction, options: EngineOptions, *, tuned: EngineInstance, device: Accelerator
) -> SizingPrediction:
    """Return the prediction with what became of a KV cache in fp8: fitted already, or a format the device lacks."""
    if options.kv_format != engine_options.NARROW_CACHE:
        return predicted
    if engine_options.NARROW_CACHE not in device.flops:
        text = f"{device.id} does not compute in fp8: an engine may refuse this cache"
        predicted = replace(predicted, weak=(*predicted.weak, text))
    if tuned.options.kv_format != options.kv_format:
        text = "KV cache: eight bits, as beside fitted weights of eight bits"
        predicted = replace(predicted, assumed=(*predicted.assumed, text))
    return predicted


def apply_options(
    predicted: SizingPrediction, options: EngineOptions, *, query: ServingQuery, subjects: BenchmarkNameResolver
) -> SizingPrediction:
    """Return the `predicted` closed loop of `query` with `options`, and their effects.

    Each figure is multiplied by its ratio in the engine's closed loop with and without the options; each row of the
    options adds its band in quadrature. Raises UsageError AW-USE-21 as `tune_predicted` does.
    """
    catalog = subjects.catalog
    device = subjects.accelerator(query.accelerator)
    plain = None
    if device.kind != HOST_KIND:
        plain = build_engine(resolve_deployment(query, subjects), _read_lengths(query))
    tuned = tune_predicted(plain, options, catalog)
    estimates = _scale_estimates(predicted.estimates, query, plain=plain or tuned, tuned=tuned, catalog=catalog)
    effects = describe_predicted(tuned, query, catalog)
    predicted = replace(predicted, estimates=estimates, options=effects)
    return note_cache_format(predicted, options, tuned=tuned, device=device)


def _scale_estimates(
    estimates: dict[str, Estimate],
    query: ServingQuery,
    *,
    plain: EngineInstance,
    tuned: EngineInstance,
    catalog: Catalog,
) -> dict[str, Estimate]:
    plain_loop = _run_loop(plain, query)
    tuned_loop = _run_loop(tuned, query)
    varied_loops: list[dict[str, float]] = []
    for name in engine_options.list_uncertain_rows(tuned.options):
        for slower, faster in engine_options.vary_engine(tuned, name, catalog):
            varied_loops += [_run_loop(slower, query), _run_loop(faster, query)]

    scaled: dict[str, Estimate] = {}
    for name, estimate in estimates.items():
        figure = name.split("_")[0]
        factors = [estimate.scaled(tuned_loop[figure] / plain_loop[figure])]
        for loop in varied_loops:
            share = loop[figure] / tuned_loop[figure]
            factors.append(Estimate(value=1.0, low=min(share, 1.0), high=max(share, 1.0), unit=""))
        scaled[name] = multiply_estimates(factors, estimate.unit, estimate.basis)
    return scaled


def describe_predicted(engine: EngineInstance, query: ServingQuery, catalog: Catalog) -> tuple[OptionEffect, ...]:
    """Return the options of the engine with their effects on the load of `query`."""
    reads, writes = _read_lengths(query)
    load = TextLoad("predict", reads, writes, SLO(), engine.options.prefix_hits, engine.options.adapters)
    return option_effects.describe_options(engine, load, catalog)


def _read_lengths(query: ServingQuery) -> RequestLengths:
    prompt_tokens = max(query.input_tokens or 1.0, 1.0)
    answer_tokens = max(query.output_tokens or 1.0, 1.0)
    return build_fixed_lengths(prompt_tokens, answer_tokens)


def _run_loop(engine: EngineInstance, query: ServingQuery) -> dict[str, float]:
    prompt_tokens = query.input_tokens or 1.0
    answer_tokens = query.output_tokens or 1.0
    in_flight = float(engine.slots)
    if query.concurrency is not None:
        in_flight = query.concurrency / engine.copies
    loop = predict_engine_loop(engine, in_flight, prompt_tokens, answer_tokens)
    answer_s = loop.ttft_s + answer_tokens * loop.tpot_s
    return {"tpot": loop.tpot_s, "ttft": loop.ttft_s, "tokens": in_flight / answer_s}
