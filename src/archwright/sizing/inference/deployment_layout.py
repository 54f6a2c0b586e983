"""How a text model stands on a machine: engine, number format, devices of one engine, places, what its steps take.

- Engine: the catalog's first that runs on accelerators and answers over HTTP; on a host processor the embedded one.
- Format: a four-bit checkpoint stays so. Of others what engine and device both multiply, eight bits before sixteen; if
  those weights do not fit the whole machine, the widest narrower format that does, and that is said. Lengths and limits
  never change the format.
- Layout: tensor parallel over 1, 2, 4 ... accelerators that divide the heads, experts over the same devices. One whole
  context must fit beside the weights; places are what fits of mean requests.
- Speed: the fit's conformal band of the stratum, widened by the distance of device and engine to the fit and by the
  device row's band. Residual trees are left out: they are not monotone in the load.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, EngineSpec, ModelSpec
from archwright.contract.plan import Parallelism
from archwright.contract.record import replace
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.cpu_inference import build_host_engine
from archwright.sizing.inference.engine_instance import EngineInstance, EngineSpeed, RequestLengths
from archwright.sizing.model.numeric_precision import WEIGHT_BITS, NumericPrecision, read_published_precision
from archwright.sizing.model.parallel_layout import ParallelLayout
from archwright.sizing.model.tensor_parallel import can_split_heads
from archwright.sizing.model.weight_groups import group_weights
from archwright.sizing.step_time import extrapolation, fitted_tables, step_work
from archwright.sizing.step_time.engine_step_times import CoefficientKey, FittedStepTimes
from archwright.sizing.step_time.extrapolation import HOST_KIND, WIDE_FORMAT

TENSOR_WIDTHS = (1, 2, 4, 8)
NARROW, HALF, PUBLISHED = "fp8", "fp16", "fp4"
# Widened at every multiplication by kernels that devices without bf16 lack.
BF16_KERNEL_FORMATS = frozenset({"fp8", "fp4"})
# Weights may fill so much of what a device leaves them: the rest is for caches.
MAX_WEIGHT_SHARE = 0.95
# Places beyond these are not used by default, and prompt tokens read in a step: a common default of servers.
MOST_SLOTS = 256
PREFILL_CHUNK_TOKENS = 2048


def list_engine_layouts(
    machine: Machine, model: ModelSpec, requests: RequestLengths, catalog: Catalog
) -> tuple[EngineInstance, ...]:
    """Every layout that holds the model, narrowest first; none where none does or no engine drives the device."""
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
    wanted = _candidate_precisions(product, accelerator, model) if accelerator.kind == product.kind else []
    room = accelerator.memory_bytes * step_work.USABLE_MEMORY_SHARE - step_work.WORKSPACE_BYTES
    for number in wanted if room > 0 else ():
        if step_work.ShardedModel(shape, number, _tensor_layout(widths[-1])).weight_bytes() / room <= MAX_WEIGHT_SHARE:
            break
    else:
        return
    stated = step_work.build_device_spec(accelerator, number, shape.sparse)
    device = extrapolation.apply_sustained_rates(stated, accelerator, catalog)
    speed = estimate_speed(model, accelerator, product.id, catalog)
    said = _quantisation_assumptions(number, wanted[0], accelerator)
    context = requests.context_tokens(model)
    kind = CoefficientKey(product.id, model.attention, extrapolation.vendor_slowdown(accelerator, catalog))
    for width in widths:
        worker = step_work.ShardedModel(shape, number, _tensor_layout(width))
        slots = min(math.floor(worker.capacity(device.memory, requests.mean_cached_tokens)), MOST_SLOTS)
        if slots < 1 or worker.capacity(device.memory, context) < 1:
            continue
        yield EngineInstance(
            product=product,
            quantisation=_quantisation_name(number, accelerator),
            devices=width,
            copies=machine.accelerator_count // width,
            pace=_build_step_times(worker, device, kind),
            slots=slots,
            context_tokens=context,
            chunk=PREFILL_CHUNK_TOKENS,
            parallelism=Parallelism(tensor=width, expert=width if shape.sparse else 1),
            speed=speed,
            assumptions=said,
        )


def _candidate_precisions(product: EngineSpec, accelerator: Accelerator, model: ModelSpec) -> list[NumericPrecision]:
    """The native one, then the engine's narrower ones, widest first; the published one alone where that is narrow."""
    published = read_published_precision(model)
    modern = WIDE_FORMAT in accelerator.flops
    if published.name == PUBLISHED:
        return [published] if modern else []
    narrow = NARROW in product.quantisations and NARROW in accelerator.flops
    native = NARROW if narrow else WIDE_FORMAT
    bits = WEIGHT_BITS
    others = [name for name in product.quantisations if name in bits and bits[name] < bits[native]]
    if not modern:
        others = [name for name in others if name not in BF16_KERNEL_FORMATS]
    return [NumericPrecision(name) for name in (native, *sorted(others, key=lambda name: -bits[name]))]


def _tensor_layout(width: int) -> ParallelLayout:
    """Experts, where there are any, whole on their devices."""
    return ParallelLayout(tp=width, moe_tp=1, ep=width)


def build_engine(found: serving_prediction.ResolvedDeployment, requests: RequestLengths) -> EngineInstance | None:
    """One engine of a stated deployment; None for data parallel ranks, pipeline stages and disaggregated
    layouts, or if no whole context fits beside the weights."""
    worker, case, catalog = found.worker, found.case, found.catalog
    placed = worker.layout
    slots = min(math.floor(worker.capacity(found.device.memory, requests.mean_cached_tokens)), MOST_SLOTS)
    if placed.dp > 1 or placed.pp > 1 or placed.prefill is not None or slots < 1:
        return None
    return EngineInstance(
        product=catalog.engines.get(case.engine) or replace(catalog.default_engine, id=case.engine),
        quantisation=worker.number.name,
        devices=placed.devices,
        copies=placed.copies,
        pace=_build_step_times(worker, found.device, CoefficientKey(case.engine, found.model.attention, case.slower)),
        slots=slots,
        context_tokens=requests.context_tokens(found.model),
        chunk=PREFILL_CHUNK_TOKENS,
        parallelism=Parallelism(tensor=placed.tp, expert=placed.ep if worker.shape.sparse else 1),
        speed=estimate_speed(found.model, found.accelerator, case.engine, catalog, len(found.weak)),
        assumptions=(),
    )


@lru_cache(maxsize=1024)
def _build_step_times(
    worker: step_work.ShardedModel, device: step_work.DeviceSpec, kind: CoefficientKey
) -> FittedStepTimes:
    return FittedStepTimes(worker, device, kind, fitted_tables.load_table("serving").coefficients)


def estimate_speed(
    model: ModelSpec, accelerator: Accelerator, engine: str, catalog: Catalog, weak: int = 0
) -> EngineSpeed:
    """The physics' conformal bands of the stratum, wider by the distance to the fit and by `weak` reasons for doubt."""
    fit = fitted_tables.load_table("serving")
    found = serving_prediction.classify_stratum(model, accelerator, engine, fit.seen)
    stratum = serving_prediction.NEW_MODEL if found == serving_prediction.SEEN else found
    unlike = extrapolation.list_extrapolations(accelerator, engine, fit, catalog)
    doubt = serving_prediction.widen_for_distance(weak + len(unlike), accelerator, catalog)
    bands = (serving_prediction.apply_band(1.0, fit, (metric, stratum, ""), doubt) for metric in ("tpot_s", "ttft_s"))
    steps, first = (band.to_estimate("") for band in bands)
    named = f"{serving_prediction.SEEN}, physics alone" if found == serving_prediction.SEEN else stratum
    made = fit.provenance
    facts = (
        f"{accelerator.id}: {accelerator.memory_bandwidth_bytes_per_s / 1e9:g} GB/s, {accelerator.source} "
        f"({accelerator.as_of or 'undated'}, {accelerator.confidence})",
        f"{model.id}: {model.parameters / 1e9:g}e9 parameters, {model.source}",
        f"coefficients of {made.date} from {made.rows_used} measured rows; band of the stratum {stratum}: "
        f"{steps.low:.2f} to {steps.high:.2f} of a step's time, {first.low:.2f} to {first.high:.2f} of a first token's",
    )
    return EngineSpeed(steps, first, named, (*facts, *extrapolation.extrapolation_facts(accelerator, catalog)))


def _quantisation_name(number: NumericPrecision, accelerator: Accelerator) -> str:
    """Sixteen bits are halves where the device has no bf16."""
    return HALF if number.name == WIDE_FORMAT and WIDE_FORMAT not in accelerator.flops else number.name


def _quantisation_assumptions(
    number: NumericPrecision, native: NumericPrecision, accelerator: Accelerator
) -> tuple[str, ...]:
    ours, wanted = _quantisation_name(number, accelerator), _quantisation_name(native, accelerator)
    kept = f"weights in {ours} keep the quality that was reported for the model"
    if number == native:
        return (kept,)
    return (kept, f"on {accelerator.id} weights are in {ours}: in {wanted} they do not fit the machine")
