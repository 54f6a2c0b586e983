"""How a text model stands on a machine: engine, number format, devices of one engine, places, what its steps take.

- Engine: the catalog's first that runs on accelerators and answers over HTTP; on a host processor the embedded one.
- Format: a model published in four bits stays so. Of others what engine and device both multiply, eight bits before
  sixteen. Only where those weights do not fit the whole machine, the widest narrower format that does; that is said.
  Lengths and limits never change the format.
- Layout: tensor parallel over 1, 2, 4 ... of the machine's accelerators, which divide the heads; experts are spread
  over the same devices. One whole context must fit beside the weights; places are what fits of mean requests.
- Band of the speed: the fit's conformal band of the stratum, widened by the device's distance to the fit and its row's
  own band (distance.py). The residual trees of a seen configuration are left out: they are not monotone in the load,
  and what is left, the physics, was judged on models left out of the fit.
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
from archwright.sizing.inference.cpu_inference import on_host
from archwright.sizing.inference.engine_instance import Engine, Requests, Speed
from archwright.sizing.model import numeric_precision
from archwright.sizing.model.numeric_precision import Format
from archwright.sizing.model.parallel_layout import Layout
from archwright.sizing.model.tensor_parallel import divides
from archwright.sizing.model.weight_groups import Shape, shape_of
from archwright.sizing.step_time import extrapolation, fitted_tables
from archwright.sizing.step_time.engine_step_times import Fitted, Kind
from archwright.sizing.step_time.extrapolation import HOST_KIND, WIDE
from archwright.sizing.step_time.step_work import USABLE, WORKSPACE_BYTES, Device, Worker, device_of

WIDTHS = (1, 2, 4, 8)
NARROW, HALF, PUBLISHED = "fp8", "fp16", "fp4"
# Widened at every multiplication by kernels that devices without bf16 lack.
MODERN = frozenset({"fp8", "fp4"})
# Weights may fill so much of what a device leaves them: the rest is for caches.
FILLED = 0.95
# Places beyond these are not used by default, and prompt tokens read in a step: a common default of servers.
MOST_SLOTS = 256
CHUNK = 2048


def engines(machine: Machine, model: ModelSpec, requests: Requests, catalog: Catalog) -> tuple[Engine, ...]:
    """Every layout that holds the model, narrowest first; none where none does or no engine drives the device."""
    accelerator = machine.accelerator
    if accelerator is None or accelerator.kind == HOST_KIND:
        found = on_host(machine, model, requests, catalog)
        return () if found is None else (found,)
    return tuple(_on_accelerators(machine, accelerator, model, requests, catalog))


def _on_accelerators(
    machine: Machine, accelerator: Accelerator, model: ModelSpec, requests: Requests, catalog: Catalog
) -> Iterator[Engine]:
    product, shape = catalog.server, shape_of(model)
    widths = [width for width in WIDTHS if width <= machine.accelerator_count and divides(model, width)]
    wanted = _formats(product, accelerator, model) if accelerator.kind == product.kind else []
    number = next((one for one in wanted if _filled(shape, one, accelerator, widths[-1]) <= FILLED), None)
    if number is None:
        return
    device = extrapolation.sustaining(device_of(accelerator, number, shape.sparse), accelerator, catalog)
    speed, said = speed_of(model, accelerator, product.id, catalog), _said(number, wanted[0], accelerator)
    context = requests.context_tokens(model)
    kind = Kind(product.id, model.attention, extrapolation.slower(accelerator, catalog))
    for width in widths:
        worker = Worker(shape, number, _layout(width))
        slots = min(math.floor(worker.capacity(device.memory, requests.held_tokens)), MOST_SLOTS)
        if slots < 1 or worker.capacity(device.memory, context) < 1:
            continue
        yield Engine(
            product=product,
            quantisation=_named(number, accelerator),
            devices=width,
            copies=machine.accelerator_count // width,
            pace=_paced(worker, device, kind),
            slots=slots,
            context_tokens=context,
            chunk=CHUNK,
            parallelism=Parallelism(tensor=width, expert=width if shape.sparse else 1),
            speed=speed,
            assumptions=said,
        )


def _formats(product: EngineSpec, accelerator: Accelerator, model: ModelSpec) -> list[Format]:
    """The native one, then the engine's narrower ones, widest first; the published one alone where that is narrow."""
    published = numeric_precision.published(model)
    modern = WIDE in accelerator.flops
    if published.name == PUBLISHED:
        return [published] if modern else []
    narrow = NARROW in product.quantisations and NARROW in accelerator.flops
    native = NARROW if narrow else WIDE
    bits = numeric_precision.WEIGHT_BITS
    others = [name for name in product.quantisations if name in bits and bits[name] < bits[native]]
    if not modern:
        others = [name for name in others if name not in MODERN]
    return [Format(name) for name in (native, *sorted(others, key=lambda name: -bits[name]))]


def _filled(shape: Shape, number: Format, accelerator: Accelerator, width: int) -> float:
    """Share of what a device leaves that weights over `width` devices take."""
    room = accelerator.memory_bytes * USABLE - WORKSPACE_BYTES
    return Worker(shape, number, _layout(width)).weights() / room if room > 0 else math.inf


def _layout(width: int) -> Layout:
    """Experts, where there are any, whole on their devices."""
    return Layout(tp=width, moe_tp=1, ep=width)


def engine_of(found: serving_prediction.Deployment, requests: Requests) -> Engine | None:
    """One engine of a stated deployment; None where its layout is none that these formulas know (data parallel ranks,
    pipeline stages, disaggregated), or where no whole context fits beside the weights.
    """
    worker, case, catalog = found.worker, found.case, found.catalog
    placed = worker.layout
    slots = min(math.floor(worker.capacity(found.device.memory, requests.held_tokens)), MOST_SLOTS)
    if placed.dp > 1 or placed.pp > 1 or placed.prefill is not None or slots < 1:
        return None
    return Engine(
        product=catalog.engines.get(case.engine) or replace(catalog.server, id=case.engine),
        quantisation=worker.number.name,
        devices=placed.devices,
        copies=placed.copies,
        pace=_paced(worker, found.device, Kind(case.engine, found.model.attention, case.slower)),
        slots=slots,
        context_tokens=requests.context_tokens(found.model),
        chunk=CHUNK,
        parallelism=Parallelism(tensor=placed.tp, expert=placed.ep if worker.shape.sparse else 1),
        speed=speed_of(found.model, found.accelerator, case.engine, catalog, len(found.weak)),
        assumptions=(),
    )


@lru_cache(maxsize=1024)
def _paced(worker: Worker, device: Device, kind: Kind) -> Fitted:
    return Fitted(worker, device, kind, fitted_tables.load("serving").coefficients)


def speed_of(model: ModelSpec, accelerator: Accelerator, engine: str, catalog: Catalog, weak: int = 0) -> Speed:
    """The conformal bands of the stratum for the physics alone, with the distance of device and engine to the fit and
    so many things that are `weak`.
    """
    fit = fitted_tables.load("serving")
    found = serving_prediction.stratum_of(model, accelerator, engine, fit.seen)
    stratum = serving_prediction.NEW_MODEL if found == serving_prediction.SEEN else found
    widen = serving_prediction.WEAKER ** (weak + len(extrapolation.unlike(accelerator, engine, fit, catalog)))
    doubt = serving_prediction.Doubt(widen, extrapolation.figures(accelerator, catalog))
    bands = (serving_prediction.banded(1.0, fit, (metric, stratum, ""), doubt) for metric in ("tpot_s", "ttft_s"))
    steps, first = (band.estimate("") for band in bands)
    named = f"{serving_prediction.SEEN}, physics alone" if found == serving_prediction.SEEN else stratum
    made = fit.provenance
    facts = (
        f"{accelerator.id}: {accelerator.memory_bandwidth_bytes_per_s / 1e9:g} GB/s, {accelerator.source} "
        f"({accelerator.as_of or 'undated'}, {accelerator.confidence})",
        f"{model.id}: {model.parameters / 1e9:g}e9 parameters, {model.source}",
        f"coefficients of {made.date} from {made.rows_used} measured rows; band of the stratum {stratum}: "
        f"{steps.low:.2f} to {steps.high:.2f} of a step's time, {first.low:.2f} to {first.high:.2f} of a first token's",
    )
    return Speed(steps, first, named, (*facts, *extrapolation.facts(accelerator, catalog)))


def _named(number: Format, accelerator: Accelerator) -> str:
    """Sixteen bits are halves where the device has no bf16."""
    return HALF if number.name == WIDE and WIDE not in accelerator.flops else number.name


def _said(number: Format, native: Format, accelerator: Accelerator) -> tuple[str, ...]:
    ours, wanted = _named(number, accelerator), _named(native, accelerator)
    kept = f"weights in {ours} keep the quality that was reported for the model"
    if number == native:
        return (kept,)
    return (kept, f"on {accelerator.id} weights are in {ours}: in {wanted} they do not fit the machine")
