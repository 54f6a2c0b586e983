"""Layouts of a text model on a machine: engine, number format, devices per engine, slots and step times.

- Engine: the catalog's default engine on accelerators; the embedded engine on a CPU.
- Format: a four-bit checkpoint keeps its format. Otherwise the format that engine and device both support, eight bits
  before sixteen. If those weights do not fit the whole machine, the widest narrower format that fits, stated as an
  assumption. Request lengths and limits never change the format.
- Layout: TP over 1, 2, 4 or 8 accelerators that divides the heads; experts sharded over the same devices. One whole
  context must fit beside the weights. Slots: the mean requests whose KV cache fits.
- Speed: the conformal band of the stratum, widened by the distance of device and engine from the fit and by the band of
  the device row.
Design: residual trees are not used here, because they are not monotone in the load.
"""

from collections.abc import Iterator

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, EngineSpec, ModelSpec
from archwright.contract.plan import EngineOptions, Parallelism
from archwright.contract.record import replace
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.inference import engine_options, serving_prediction
from archwright.sizing.inference.cpu_inference import build_host_engine
from archwright.sizing.inference.engine_instance import EngineFrame, EngineInstance, EngineSpeed, RequestLengths
from archwright.sizing.model.numeric_precision import WEIGHT_BITS, NumericPrecision, read_published_precision
from archwright.sizing.model.parallel_layout import ParallelLayout, can_split_heads
from archwright.sizing.model.weight_groups import group_weights
from archwright.sizing.step_time import extrapolation, fitted_tables, step_work
from archwright.sizing.step_time.engine_step_times import CoefficientKey
from archwright.sizing.step_time.extrapolation import HOST_KIND, WIDE_FORMAT

TENSOR_WIDTHS = (1, 2, 4, 8)
NARROW, HALF, PUBLISHED = "fp8", "fp16", "fp4"
# Formats whose weights are unpacked by kernels that devices without bf16 do not have.
BF16_KERNEL_FORMATS = frozenset({"fp8", "fp4"})
# Largest share of the usable device memory that weights may take; the rest is for KV cache.
MAX_WEIGHT_SHARE = 0.95
CACHE_FORMATS = (engine_options.WIDE_CACHE, engine_options.NARROW_CACHE)


def list_engine_layouts(
    machine: Machine, model: ModelSpec, requests: RequestLengths, catalog: Catalog
) -> tuple[EngineInstance, ...]:
    """Return the layouts that hold the model, narrowest first; empty if none does or no engine runs on the device."""
    accelerator = machine.accelerator
    if accelerator is None or accelerator.kind == HOST_KIND:
        found = build_host_engine(machine, model, requests, catalog)
        return () if found is None else (found,)
    return tuple(_iterate_accelerator_layouts(machine, accelerator, model, requests, catalog))


def _iterate_accelerator_layouts(
    machine: Machine, accelerator: Accelerator, model: ModelSpec, requests: RequestLengths, catalog: Catalog
) -> Iterator[EngineInstance]:
    product, shape = catalog.default_engine, group_weights(model)
    widths = [width for width in TENSOR_WIDTHS if width <= machine.accelerator_count and can_split_heads(model, width)]
    formats = _candidate_precisions(product, accelerator, model) if accelerator.kind == product.kind else []
    space = accelerator.memory_bytes * step_work.USABLE_MEMORY_SHARE - step_work.WORKSPACE_BYTES
    for number in formats if space > 0 else ():
        if step_work.ShardedModel(shape, number, _tensor_layout(widths[-1])).weight_bytes() / space <= MAX_WEIGHT_SHARE:
            break
    else:
        return
    stated = step_work.build_device_spec(accelerator, number, shape.sparse)
    device = extrapolation.apply_sustained_rates(stated, accelerator, catalog)
    speed = estimate_speed(model, accelerator, product.id, catalog)
    name, native = (_quantisation_name(one, accelerator) for one in (number, formats[0]))
    assumptions = [f"weights in {name} keep the quality that was reported for the model"]
    if number != formats[0]:
        assumptions.append(f"on {accelerator.id} weights are in {name}, because they do not fit in {native}")
        if name == PUBLISHED:
            loss = catalog.parameter("engine.fp4.quality")
            assumptions[0] = (
                f"weights in fp4 lose {loss.value:.1%} of the model's scores ({loss.low:.0%} to {loss.high:.0%})"
            )
    context = requests.context_tokens(model)
    kind = CoefficientKey(product.id, model.attention)
    costs = engine_options.read_costs(catalog)
    for width in widths:
        worker = step_work.ShardedModel(shape, number, _tensor_layout(width))
        frame = EngineFrame(worker, device, kind, requests)
        plain = EngineInstance(
            product=product,
            quantisation=name,
            devices=width,
            copies=machine.accelerator_count // width,
            pace=engine_options.build_step_times(worker, device, kind),
            slots=0,
            context_tokens=context,
            chunk=engine_options.PREFILL_CHUNK_TOKENS,
            parallelism=Parallelism(tensor=width, expert=width if shape.sparse else 1),
            speed=speed,
            assumptions=tuple(assumptions),
            frame=frame,
        )
        # The format of the cache is that of the model's own numbers, unless one context fits in eight bits only.
        caches = CACHE_FORMATS if NARROW in accelerator.flops else CACHE_FORMATS[:1]
        tuned = (engine_options.tune_engine(plain, EngineOptions(kv_format=kv), costs) for kv in caches)
        found = next((engine for engine in tuned if engine is not None), None)
        if found is not None:
            yield found


def _candidate_precisions(product: EngineSpec, accelerator: Accelerator, model: ModelSpec) -> list[NumericPrecision]:
    """Return the native format, then the engine's narrower ones from wide to narrow.

    Only fp4 if published in fp4; a device that computes in fp4 has it in place of other four-bit formats."""
    published = read_published_precision(model)
    modern = WIDE_FORMAT in accelerator.flops
    if published.name == PUBLISHED:
        return [published] if modern else []
    narrow = NARROW in product.quantisations and NARROW in accelerator.flops
    native = NARROW if narrow else WIDE_FORMAT
    bits = WEIGHT_BITS
    others = [name for name in product.quantisations if name in bits and bits[name] < bits[native]]
    if PUBLISHED in accelerator.flops:
        others = [PUBLISHED if bits[name] == bits[PUBLISHED] else name for name in others]
    if not modern:
        others = [name for name in others if name not in BF16_KERNEL_FORMATS]
    return [NumericPrecision(name) for name in (native, *sorted(others, key=lambda name: -bits[name]))]


def _tensor_layout(width: int) -> ParallelLayout:
    """Return the TP layout of this width; each expert is whole on one device (EP)."""
    return ParallelLayout(tp=width, moe_tp=1, ep=width)


def build_engine(found: serving_prediction.ResolvedDeployment, requests: RequestLengths) -> EngineInstance | None:
    """Return one engine of a stated deployment.

    None for data-parallel, pipeline-parallel and disaggregated layouts, or if no mean request fits with the weights."""
    worker, case, catalog = found.worker, found.case, found.catalog
    placed = worker.layout
    if placed.dp > 1 or placed.pp > 1 or placed.prefill is not None:
        return None
    kind = CoefficientKey(case.engine, found.model.attention)
    engine = EngineInstance(
        product=catalog.engines.get(case.engine) or replace(catalog.default_engine, id=case.engine),
        quantisation=worker.number.name,
        devices=placed.devices,
        copies=placed.copies,
        pace=engine_options.build_step_times(worker, found.device, kind),
        slots=0,
        context_tokens=requests.context_tokens(found.model),
        chunk=engine_options.PREFILL_CHUNK_TOKENS,
        parallelism=Parallelism(tensor=placed.tp, expert=placed.ep if worker.shape.sparse else 1),
        speed=estimate_speed(found.model, found.accelerator, case.engine, catalog, len(found.weak)),
        assumptions=(),
        frame=EngineFrame(worker, found.device, kind, requests),
    )
    return engine_options.tune_engine(engine, EngineOptions(), engine_options.read_costs(catalog))


def estimate_speed(
    model: ModelSpec, accelerator: Accelerator, engine: str, catalog: Catalog, weak: int = 0
) -> EngineSpeed:
    """Return the conformal bands of the physics for the stratum, widened by distance to the fit and `weak` reasons."""
    fit = fitted_tables.load_table("serving")
    found = serving_prediction.classify_stratum(model, accelerator, engine, fit.seen)
    stratum = serving_prediction.NEW_MODEL if found == serving_prediction.SEEN else found
    unlike = extrapolation.list_extrapolations(accelerator, engine, fit)
    doubt = serving_prediction.widen_for_distance(weak + len(unlike), accelerator, catalog)
    steps, first = (
        serving_prediction.find_error_band(fit, (metric, stratum, serving_prediction.SERVER), doubt)
        for metric in ("tpot_s", "ttft_s")
    )
    named = f"{serving_prediction.SEEN}, physics alone" if found == serving_prediction.SEEN else stratum
    made = fit.provenance
    facts = (
        f"{accelerator.id}: {accelerator.memory_bandwidth_bytes_per_s / 1e9:g} GB/s, {accelerator.source} "
        f"({accelerator.as_of or 'undated'}, {accelerator.confidence})",
        f"{model.id}: {model.parameters / 1e9:g}e9 parameters, {model.source}",
        f"coefficients of {made.date} from {made.rows_used} measured rows; band of the stratum {stratum}: "
        f"step time x {steps.low:.2f} to {steps.high:.2f}, TTFT x {first.low:.2f} to {first.high:.2f}",
    )
    return EngineSpeed(steps, first, named, (*facts, *extrapolation.extrapolation_facts(accelerator, catalog)))


def _quantisation_name(number: NumericPrecision, accelerator: Accelerator) -> str:
    """Return the format's name; 16 bits are fp16 on a device without bf16."""
    return HALF if number.name == WIDE_FORMAT and WIDE_FORMAT not in accelerator.flops else number.name
