"""How a text model stands on a machine: engine, number format, devices of one engine, places, what its steps take.

- Engine: the catalog's first that runs on accelerators and answers over HTTP; on a host processor the embedded one.
- Format: a model published in four bits stays so. Of others what engine and device both multiply, eight bits before
  sixteen. Only where those weights do not fit the whole machine, the widest narrower format that does; that is said.
  Lengths and limits never change the format.
- Layout: tensor parallel over 1, 2, 4 ... of the machine's accelerators, which divide the heads; experts are spread
  over the same devices. One whole context must fit beside the weights; places are what fits of mean requests.
- Band of the speed: the fit's conformal band of the stratum and the accelerator row's own, independent. The residual
  trees of a seen configuration are left out: they are not monotone in the load, and what is left, the physics, was
  judged on models left out of the fit. What no row of the fit is like (its engine, the device's maker, arithmetic
  without bf16) widens the band by the rule for weak rows; other generations of a known maker do not: ten measured rows
  of two such devices came out at 0.84 to 1.00 of the predicted speed. Where a maker's devices were measured against
  the fit (work_efficiencies.csv), their steps are slower by that, within the same band; a device that its power
  limit keeps far below its stated rate multiplies at what it sustains.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

from archwright.catalog.facts import Catalog
from archwright.catalog.rows import Accelerator, EngineSpec, ModelSpec
from archwright.catalog.work_tables import WorkRate
from archwright.contract.estimate import Estimate
from archwright.contract.estimate import product as product_of
from archwright.contract.plan import Parallelism
from archwright.errors import CatalogError
from archwright.sizing import fits, formats, serving
from archwright.sizing.engine import Engine, Requests, Speed
from archwright.sizing.formats import Format
from archwright.sizing.host import HOST_KIND, on_host
from archwright.sizing.layout import Layout
from archwright.sizing.machine import Machine
from archwright.sizing.pace import Fitted, Kind
from archwright.sizing.parallelism import divides
from archwright.sizing.shape import Shape, shape_of
from archwright.sizing.work import USABLE, WORKSPACE_BYTES, Device, Worker, device_of

WIDTHS = (1, 2, 4, 8)
NARROW, WIDE, HALF, PUBLISHED = "fp8", "bf16", "fp16", "fp4"
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
    product, shape = server_of(catalog), shape_of(model)
    widths = [width for width in WIDTHS if width <= machine.accelerator_count and divides(model, width)]
    wanted = _formats(product, accelerator, model) if accelerator.kind == product.kind else []
    number = next((one for one in wanted if _filled(shape, one, accelerator, widths[-1]) <= FILLED), None)
    if number is None:
        return
    device = _device(accelerator, number, shape, catalog)
    speed, said = speed_of(model, accelerator, product, catalog), _said(number, wanted[0], accelerator)
    context, known = requests.context_tokens(model), _maker(accelerator, catalog)
    kind = Kind(product.id, model.attention, 1 / known.typical if known is not None else 1.0)
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


def server_of(catalog: Catalog) -> EngineSpec:
    """The first engine of the table that runs on accelerators and answers over HTTP."""
    for engine in catalog.engines.values():
        if engine.kind == "gpu" and engine.openai_http and not engine.embedded:
            return engine
    raise CatalogError("AW-CAT-30", "no engine in the catalog runs on accelerators", hint="add a row to engines")


def _formats(product: EngineSpec, accelerator: Accelerator, model: ModelSpec) -> list[Format]:
    """The native one, then the engine's narrower ones, widest first; the published one alone where that is narrow."""
    published = formats.parse(f"{model.licence_conditions} {model.notes}", model.id)
    modern = WIDE in accelerator.flops
    if published.name == PUBLISHED:
        return [published] if modern else []
    narrow = NARROW in product.quantisations and NARROW in accelerator.flops
    native = NARROW if narrow else WIDE
    bits = formats.WEIGHT_BITS
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


@lru_cache(maxsize=1024)
def _paced(worker: Worker, device: Device, kind: Kind) -> Fitted:
    return Fitted(worker, device, kind, fits.load("serving").coefficients)


def speed_of(model: ModelSpec, accelerator: Accelerator, product: EngineSpec, catalog: Catalog) -> Speed:
    """The conformal bands of the stratum for the physics alone, with what the accelerator's row may be off by."""
    fit = fits.load("serving")
    old_model, old_device = serving.identity(model) in fit.seen["model"], accelerator.id in fit.seen["accelerator"]
    new = serving.NEW_ACCELERATOR if old_model else serving.NEW_BOTH
    stratum = serving.NEW_MODEL if old_device else new
    weaker = serving.WEAKER ** sum(_unlike(accelerator, product, fit, catalog))
    row = catalog.estimate(accelerator, 1.0, "")
    steps, first = (
        product_of([_factor(serving.banded(1.0, fit, (metric, stratum, ""), weaker)), row], "")
        for metric in ("tpot_s", "ttft_s")
    )
    named = f"{serving.SEEN}, physics alone" if old_model and old_device else stratum
    made = fit.provenance
    facts = (
        f"{accelerator.id}: {accelerator.memory_bandwidth_bytes_per_s / 1e9:g} GB/s, {accelerator.source} "
        f"({accelerator.as_of or 'undated'}, {accelerator.confidence})",
        f"{model.id}: {model.parameters / 1e9:g}e9 parameters, {model.source}",
        f"coefficients of {made.date} from {made.rows_used} measured rows; band of the stratum {stratum}: "
        f"{steps.low:.2f} to {steps.high:.2f} of a step's time, {first.low:.2f} to {first.high:.2f} of a first token's",
    )
    known = (_maker(accelerator, catalog), _sustained(accelerator, catalog))
    return Speed(steps, first, named, (*facts, *(row.fact for row in known if row is not None)))


def _unlike(accelerator: Accelerator, product: EngineSpec, fit: fits.Fit, catalog: Catalog) -> tuple[bool, ...]:
    """What no row of the fit is like."""
    rows = (catalog.accelerators.get(name) for name in fit.seen["accelerator"])
    makers = {row.vendor for row in rows if row is not None}
    strange = accelerator.vendor not in makers and _maker(accelerator, catalog) is None
    return product.id not in fit.seen["engine"], strange, WIDE not in accelerator.flops


def _maker(accelerator: Accelerator, catalog: Catalog) -> WorkRate | None:
    """What devices of its maker were measured to do over what the fit says, where that is another maker's."""
    return catalog.work_rates.get(f"serving.speed-{accelerator.vendor}")


def _sustained(accelerator: Accelerator, catalog: Catalog) -> WorkRate | None:
    """What a device whose power is limited sustains of its stated rate, where that is less than others do."""
    return catalog.work_rates.get(f"serving.rate-{accelerator.id}")


def _device(accelerator: Accelerator, number: Format, shape: Shape, catalog: Catalog) -> Device:
    stated, row = device_of(accelerator, number, shape.sparse), _sustained(accelerator, catalog)
    if row is None:
        return stated
    rates = (rate * row.typical for rate in (stated.trunk_rate, stated.expert_rate, stated.wide_rate))
    trunk, expert, wide = rates
    return stated._replace(trunk_rate=trunk, expert_rate=expert, wide_rate=wide)


def _named(number: Format, accelerator: Accelerator) -> str:
    """Sixteen bits are halves where the device has no bf16."""
    return HALF if number.name == WIDE and WIDE not in accelerator.flops else number.name


def _factor(guess: serving.Guess) -> Estimate:
    return Estimate(value=guess.value, low=guess.low, high=guess.high, unit="")


def _said(number: Format, native: Format, accelerator: Accelerator) -> tuple[str, ...]:
    ours, wanted = _named(number, accelerator), _named(native, accelerator)
    kept = f"weights in {ours} keep the quality that was reported for the model"
    if number == native:
        return (kept,)
    return (kept, f"on {accelerator.id} weights are in {ours}: in {wanted} they do not fit the machine")
