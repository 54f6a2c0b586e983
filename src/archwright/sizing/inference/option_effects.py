"""The chosen options of an engine in words and factors, for the plan: setting, reason, effect with its band, flag.

An effect is the figure with the option / the figure without it, all other options unchanged. Its band comes from the
rows of the option (engine_options.csv). Latencies are compared at the rate that both engines carry.
"""

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import EngineSpec
from archwright.contract.estimate import Estimate
from archwright.contract.plan import EngineOptions, OptionEffect
from archwright.contract.record import as_dict, replace
from archwright.sizing.inference import engine_options
from archwright.sizing.inference.engine_instance import EngineInstance
from archwright.sizing.inference.engine_options import LARGE_CHUNK, ROW
from archwright.sizing.inference.serving_capacity import TextLoad, find_engine_load

LOSS = f"{ROW}kv-fp8.quality"


def describe_options(engine: EngineInstance, load: TextLoad, catalog: Catalog) -> tuple[OptionEffect, ...]:
    """Describe the options of `engine` that differ from plain settings, with their effects on `load`."""
    options, flags, loss = engine.options, list_flags(engine.product, engine.options), catalog.parameter(LOSS)
    large = options.chunk_tokens == LARGE_CHUNK
    texts = {
        "prefix": (
            "prefix caching",
            f"{load.shared_prefix:.0%} of the prompt tokens are shared by many requests of one tenant",
        ),
        "chunk": (
            f"prompt chunks of {options.chunk_tokens:,} tokens",
            "long prompts take fewer steps" if large else "long prompts delay running answers less",
        ),
        "drafts": (
            f"speculative decoding, {options.draft_tokens} draft tokens per step ({options.draft})",
            "decode steps wait for memory, so that verifying drafts costs little",
        ),
        "kv": ("KV cache in fp8", f"the cache limits the engine; scores fall by {loss.low:.0%} to {loss.high:.0%}"),
        "adapters": (
            f"adapters: {options.adapters}",
            f"{options.adapters} fine-tuned variants share the weights of the model",
        ),
    }
    uncertain = engine_options.list_uncertain_rows(options)
    return tuple(
        OptionEffect(
            option=name,
            setting=texts[name][0],
            reason=texts[name][1],
            source="; ".join(catalog.parts[f"{ROW}{row}"].source for row in uncertain.get(name, ())),
            effects=_compare(engine, name, load, catalog),
            flag=flags.get(name, ""),
        )
        for name in engine_options.list_used(options)
    )


def list_flags(product: EngineSpec, options: EngineOptions) -> dict[str, str]:
    """Return the arguments of the engine's command line by option."""
    names = {name: name for name in engine_options.list_used(options)} | {
        "drafts": engine_options.draft_method(options)
    }
    templates = {name: product.option_flags.get(flag, "") for name, flag in names.items()}
    return {name: template.format(**as_dict(options)) for name, template in templates.items() if template}


def _compare(engine: EngineInstance, name: str, load: TextLoad, catalog: Catalog) -> dict[str, Estimate]:
    """Return the factors on requests/s and p95 latencies; empty if the engine does not run without the option."""
    field, settings = engine_options.OPTIONS[name]
    options = replace(engine.options, **{field: settings[-1] if name == "kv" else settings[0]})
    plain = engine_options.tune_engine(engine, options, engine_options.read_costs(catalog))
    if plain is None:
        return {}
    ends = [one for pair in engine_options.vary_engine(engine, name, catalog) for one in pair]
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
