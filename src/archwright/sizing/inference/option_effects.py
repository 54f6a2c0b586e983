"""The chosen options of an engine in words and factors, for the plan: setting, reason, effect with its band, flag.

An effect is the figure with the option / the figure without it, all other options unchanged. Its band comes from the
rows of the option (engine_options.csv). Latencies are compared at the rate that both engines carry.
"""

from collections.abc import Iterator
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import EngineSpec
from archwright.contract.estimate import Estimate
from archwright.contract.plan import EngineOptions, OptionEffect
from archwright.contract.record import as_dict, replace
from archwright.sizing.inference import engine_options
from archwright.sizing.inference.engine_instance import EngineInstance
from archwright.sizing.inference.engine_options import LARGE_CHUNK, NARROW_CACHE, PREFILL_CHUNK_TOKENS, ROW, WIDE_CACHE
from archwright.sizing.inference.serving_capacity import TextLoad, find_engine_load


class _Choice(NamedTuple):
    setting: str
    reason: str
    plain: dict[str, object]
    flag: str


def describe_options(engine: EngineInstance, load: TextLoad, catalog: Catalog) -> tuple[OptionEffect, ...]:
    """Describe the options of `engine` that differ from plain settings, with their effects on `load`."""
    return tuple(
        OptionEffect(
            option=name,
            setting=choice.setting,
            reason=choice.reason,
            source="; ".join(catalog.parts[f"{ROW}{row}"].source for row in _list_rows(engine.options, name)),
            effects=_compare(engine, name, choice, load, catalog),
            flag=format_flag(engine.product, engine.options, choice.flag),
        )
        for name, choice in _list_choices(engine.options, load, catalog)
    )


def _list_choices(options: EngineOptions, load: TextLoad, catalog: Catalog) -> Iterator[tuple[str, _Choice]]:
    if options.prefix_hits:
        reason = f"{load.shared_prefix:.0%} of the prompt tokens are shared by many requests"
        yield "prefix", _Choice("prefix caching", reason, {"prefix_hits": 0.0}, "prefix")
    if options.chunk_tokens not in (0, PREFILL_CHUNK_TOKENS):
        large = options.chunk_tokens == LARGE_CHUNK
        reason = "long prompts take fewer steps" if large else "long prompts delay running answers less"
        setting = f"prompt chunks of {options.chunk_tokens:,} tokens"
        yield "chunk", _Choice(setting, reason, {"chunk_tokens": 0}, "chunk")
    if options.draft_tokens:
        method = engine_options.draft_method(options)
        setting = f"speculative decoding, {options.draft_tokens} draft tokens per step ({options.draft})"
        reason = "decode steps wait for memory, so that verifying drafts costs little"
        yield "drafts", _Choice(setting, reason, {"draft_tokens": 0}, method)
    if options.kv_format == NARROW_CACHE:
        loss = catalog.parameter(f"{ROW}kv-fp8.quality")
        reason = f"the cache limits the engine; scores fall by {loss.low:.0%} to {loss.high:.0%}"
        yield "kv", _Choice("KV cache in fp8", reason, {"kv_format": WIDE_CACHE}, "kv")
    if options.adapters:
        reason = f"{options.adapters} fine-tuned variants share the weights of the model"
        yield "adapters", _Choice(f"adapters: {options.adapters}", reason, {"adapters": 0}, "adapters")


def _list_rows(options: EngineOptions, name: str) -> tuple[str, ...]:
    return engine_options.list_uncertain_rows(options).get(name, ())


def format_flag(product: EngineSpec, options: EngineOptions, name: str) -> str:
    return product.option_flags.get(name, "").format(**as_dict(options))


def list_flags(product: EngineSpec, options: EngineOptions) -> tuple[str, ...]:
    """Return the options as arguments of the engine's command line."""
    used = {
        "prefix": options.prefix_hits,
        "chunk": options.chunk_tokens,
        engine_options.draft_method(options): options.draft_tokens,
        "kv": options.kv_format == NARROW_CACHE,
        "adapters": options.adapters,
    }
    flags = (format_flag(product, options, name) for name, value in used.items() if value)
    return tuple(flag for flag in flags if flag)


def _compare(
    engine: EngineInstance, name: str, choice: _Choice, load: TextLoad, catalog: Catalog
) -> dict[str, Estimate]:
    """Return the factors on requests/s and p95 latencies; empty if the engine does not run without the option."""
    costs = engine_options.read_costs(catalog)
    plain = engine_options.tune_engine(engine, replace(engine.options, **choice.plain), costs)
    if plain is None:
        return {}
    ends = [one for end in ("low", "high") for _, one in engine_options.vary_engine(engine, name, catalog, end)]
    rates = [find_engine_load(load, one).planned for one in (plain, engine, *ends)]
    loops = [engine_options.open_loop_of(one, load.flow) for one in (plain, engine, *ends)]
    at = [loop.at_rate(min(rates[:2])) for loop in loops]
    found = {"requests/s": _band(rates)}
    for figure, quantity in (("ttft_p95_s", "TTFT p95"), ("tpot_p95_s", "TPOT p95")):
        found[quantity] = _band([getattr(point, figure) for point in at])
    if name == "prefix":
        found["prefill work"] = _band([_prefill_s(one, load) for one in (plain, engine, *ends)])
    return found


def _prefill_s(engine: EngineInstance, load: TextLoad) -> float:
    prompt, cached = load.flow.prompt, engine.pace.tokens.cached
    return engine.pace.prefill_s(prompt * (1 - cached), prompt**2 / 2 * (1 - cached**2))


def _band(figures: list[float]) -> Estimate:
    """Return second / first figure, with the band of the others / first."""
    plain, value, *ends = figures
    ratios = [end / plain for end in (value, *ends)]
    return Estimate(value=value / plain, low=min(ratios), high=max(ratios), unit="ratio")
