"""Plausibility gates for the shipped rows (`catalog check`) and for all refreshed rows.

Each gate detects an error that was found in a public table. A refusing finding excludes a refreshed row; a flag is only
shown. `gate_exceptions.csv` names correct rows that a gate would refuse; an unused exception is a finding, too.
"""

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations, pairwise
from typing import NamedTuple

from archwright.catalog.tables.metadata_records import PlausibilityException
from archwright.catalog.tables.records import Accelerator, ModelSpec, Offer

# Range of the price per accelerator, relative to the median of its class and part of the world.
PRICE_SPREAD = (0.2, 5.0)
# Share of the marketed memory that software can use.
USABLE_MEMORY_RANGE = (0.85, 1.02)
GIB = 2.0**30
DENSE_RATIOS = (1.0, 2.0)
RATIO_TOLERANCE = 0.03
LEAST_MATRIX_GAIN = 3.0
RECOUNT_TOLERANCE = 0.02
# Attention whose weights are four plain matrices; other kinds have other shapes.
STANDARD_ATTENTION = frozenset({"mha", "gqa", "swa_mix"})
EXCEPTIONS = "exceptions"
FIRST_NUMBER = re.compile(r"\d+")
NAMED_DEVICE = re.compile(r"gpu|tpu", re.IGNORECASE)
# A bare-metal machine may have the price of a dedicated tenancy, a tenth higher, so it counts as another family.
WHOLE_HOST = "metal"
GENERATION = re.compile(r"^([a-z]+)(\d+)(.*)$|^(.*_v)(\d+)()$")


class Finding(NamedTuple):
    """`refuses`: the row is wrong; otherwise it is unusual and should be checked by a person."""

    gate: str
    subject: str
    says: str
    refuses: bool = True


class CheckedFacts(NamedTuple):
    """Input of the gates. `memory_gib`: a source's memory of one device of an offer, by the offer's id."""

    accelerators: Mapping[str, Accelerator]
    offers: tuple[Offer, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    memory_gib: Mapping[str, float] = {}


def check_unit_price(facts: CheckedFacts) -> Iterable[Finding]:
    """Check USD per accelerator-hour: within [0.2, 5] x the median of its class and part of the world."""
    prices: dict[tuple[str, str], list[tuple[float, Offer]]] = defaultdict(list)
    for offer in facts.offers:
        if offer.accelerator and offer.accelerator_count and offer.on_demand_usd_per_hour is not None:
            each = offer.on_demand_usd_per_hour / (offer.accelerator_count * offer.accelerator_share)
            prices[offer.accelerator, offer.geo].append((each, offer))
    for found in prices.values():
        middle = statistics.median(price for price, _ in found)
        for price, offer in found:
            if middle <= 0 or not PRICE_SPREAD[0] <= price / middle <= PRICE_SPREAD[1]:
                says = f"{price:.3g} USD/h per accelerator; the median of its class is {middle:.3g}"
                yield Finding("price-of-one", offer.id, says)


def check_usable_memory(facts: CheckedFacts) -> Iterable[Finding]:
    """Check usable GiB: within 0.85-1.02 of the marketed memory, or of the accelerator's row for an offer."""
    for row in facts.accelerators.values():
        marketed = [float(word) for word in re.findall(r"\d+(?:\.\d+)?", row.memory_marketing)]
        usable = row.memory_bytes / GIB / max(marketed, default=1.0)
        if row.kind != "cpu" and marketed and not USABLE_MEMORY_RANGE[0] <= usable <= USABLE_MEMORY_RANGE[1]:
            yield Finding("usable-memory", row.id, f"{row.memory_bytes / GIB:.4g} GiB of {row.memory_marketing}")
    for offer in facts.offers:
        stated, device = facts.memory_gib.get(offer.id), facts.accelerators.get(offer.accelerator or "")
        if stated is not None and device is not None and device.kind != "cpu":
            known = device.memory_bytes / GIB
            if not USABLE_MEMORY_RANGE[0] <= known / stated <= 1 / USABLE_MEMORY_RANGE[0]:
                says = f"{stated:.4g} GiB per device; {device.id} has {known:.4g}"
                yield Finding("usable-memory", offer.id, says)


def check_dense_rates(facts: CheckedFacts) -> Iterable[Finding]:
    """Check fp8 and int8 at 1 or 2 x bf16, and bf16 at least 3 x fp32 on devices with matrix units."""
    for row in facts.accelerators.values():
        wide = row.flops.get("bf16") or row.flops.get("fp16")
        if not wide:
            continue
        if row.kind != "cpu" and "fp32" in row.flops and wide / row.flops["fp32"] < LEAST_MATRIX_GAIN:
            yield Finding("dense-rates", row.id, f"16-bit rate only {wide / row.flops['fp32']:.3g} x the 32-bit rate")
        for dtype in ("fp8", "int8"):
            ratio = row.flops.get(dtype, wide) / wide
            if min(abs(ratio - dense) for dense in DENSE_RATIOS) > RATIO_TOLERANCE:
                says = f"{dtype} is {ratio:.3g} x the 16-bit rate: sparse, or an exception"
                yield Finding("dense-rates", row.id, says)


def check_accelerator_charged(facts: CheckedFacts) -> Iterable[Finding]:
    """Check that a machine whose family or name has accelerators states one; else its price is the host's."""
    with_device = {(o.provider, machine_family(o.instance_type)) for o in facts.offers if o.accelerator_count}
    for offer in facts.offers:
        in_family = (offer.provider, machine_family(offer.instance_type)) in with_device
        if not offer.accelerator_count and (in_family or NAMED_DEVICE.search(offer.instance_type)):
            yield Finding("accelerator-charged", offer.id, "no accelerator, but its family or name has one")


def check_size_order(facts: CheckedFacts) -> Iterable[Finding]:
    """Check that a larger machine of a family does not cost less; flag a newer generation that does."""
    yield from _check_larger_is_dearer(facts.offers)
    yield from _check_newer_not_cheaper(facts.offers)


def _check_larger_is_dearer(offers: Iterable[Offer]) -> Iterable[Finding]:
    families: dict[tuple[str, str, str, str | None], list[Offer]] = defaultdict(list)
    for offer in offers:
        if offer.on_demand_usd_per_hour is not None:
            families[offer.provider, offer.region, machine_family(offer.instance_type), offer.accelerator].append(offer)
    for found in families.values():
        found.sort(key=_machine_size)
        for smaller, larger in combinations(found, 2):
            small, large = _machine_size(smaller), _machine_size(larger)
            is_larger = large != small and all(a >= b for a, b in zip(large, small, strict=True))
            if is_larger and _list_price(larger) < _list_price(smaller) * (1 - 1e-9):
                comparison = f"the smaller {smaller.instance_type} costs {_list_price(smaller):.4g}"
                yield Finding("size-order", larger.id, f"{_list_price(larger):.4g} USD/h; {comparison}")


def _check_newer_not_cheaper(offers: Iterable[Offer]) -> Iterable[Finding]:
    generations: dict[tuple[object, ...], list[tuple[int, Offer]]] = defaultdict(list)
    for offer in offers:
        parts = GENERATION.match(offer.instance_type)
        if parts is None or offer.on_demand_usd_per_hour is None:
            continue
        head, number, tail = [part for part in parts.groups() if part is not None]
        build = (offer.accelerator, *_machine_size(offer))
        generations[offer.provider, offer.region, head, tail, build].append((int(number), offer))
    for found in generations.values():
        found.sort(key=lambda pair: pair[0])
        for (_, older), (_, newer) in pairwise(found):
            if _list_price(newer) < _list_price(older):
                says = f"{_list_price(newer):.4g} USD/h; the older {older.instance_type} costs {_list_price(older):.4g}"
                yield Finding("size-order", newer.id, says, refuses=False)


def _machine_size(offer: Offer) -> tuple[int, int, int]:
    return offer.accelerator_count, offer.vcpu, offer.ram_bytes


def _list_price(offer: Offer) -> float:
    return offer.on_demand_usd_per_hour or 0.0


def machine_family(instance_type: str) -> str:
    """Return the type without its size: the part before a dot, or without the first or last number."""
    head, dot, size = instance_type.partition(".")
    if dot:
        return f"{head}.{WHOLE_HOST}" if size.startswith(WHOLE_HOST) else head
    if "_" in instance_type:
        return FIRST_NUMBER.sub("#", instance_type, count=1)
    found = list(FIRST_NUMBER.finditer(instance_type))
    return instance_type if not found else f"{instance_type[: found[-1].start()]}#{instance_type[found[-1].end() :]}"


def check_parameter_count(facts: CheckedFacts) -> Iterable[Finding]:
    """Check that layers, widths, heads, experts and vocabulary give the stated parameters within 2 %."""
    for model in facts.models:
        if model.attention in STANDARD_ATTENTION and not model.shared_experts:
            error = min((count_parameters(model, tied=tied) / model.parameters - 1 for tied in (True, False)), key=abs)
            if abs(error) > RECOUNT_TOLERANCE:
                yield Finding("recount", model.id, f"its architecture has {1 + error:.3g} x the stated parameters")


def count_parameters(model: ModelSpec, *, tied: bool) -> float:
    """Count the parameters of a standard decoder; `tied`: input and output share one embedding table."""
    attention = 2 * model.hidden * model.head_dim * (model.heads + model.kv_heads)
    width = model.expert_ffn if model.experts else model.ffn
    feed_forward = 3 * model.hidden * (width or 0) * max(1, model.experts) + model.hidden * model.experts
    return model.layers * (attention + feed_forward) + model.vocabulary * model.hidden * (1 if tied else 2)


def check_below_list_price(facts: CheckedFacts) -> Iterable[Finding]:
    """Check that spot and committed prices are below the list price, and all above zero."""
    for offer in facts.offers:
        listed = offer.on_demand_usd_per_hour
        others = (offer.spot_usd_per_hour, offer.commit_1y_usd_per_hour, offer.commit_3y_usd_per_hour)
        if listed is None or listed <= 0:
            yield Finding("below-list", offer.id, f"list price {listed}")
            continue
        for price in others:
            if price is not None and not 0 < price < listed:
                yield Finding("below-list", offer.id, f"{price:.4g} USD/h with a list price of {listed:.4g}")


def check_accelerators_known(facts: CheckedFacts) -> Iterable[Finding]:
    """Check that an offer's accelerator has a row, and a count if and only if it has a name."""
    for offer in facts.offers:
        if (offer.accelerator is None) != (offer.accelerator_count == 0):
            says = f"{offer.accelerator_count} x {offer.accelerator or 'nothing'}"
            yield Finding("known-accelerators", offer.id, says)
        elif offer.accelerator is not None and offer.accelerator not in facts.accelerators:
            yield Finding("known-accelerators", offer.id, f"no row for {offer.accelerator}")


PlausibilityCheck = Callable[[CheckedFacts], Iterable[Finding]]
PLAUSIBILITY_CHECKS: dict[str, PlausibilityCheck] = {
    "price-of-one": check_unit_price,
    "usable-memory": check_usable_memory,
    "dense-rates": check_dense_rates,
    "accelerator-charged": check_accelerator_charged,
    "size-order": check_size_order,
    "recount": check_parameter_count,
    "below-list": check_below_list_price,
    "known-accelerators": check_accelerators_known,
}


def run_checks(facts: CheckedFacts, exceptions: Iterable[PlausibilityException] = ()) -> tuple[Finding, ...]:
    """Return the findings of all gates without exceptions, then one finding per unused exception."""
    allowed = {(row.gate, row.subject) for row in exceptions}
    found = [finding for gate in PLAUSIBILITY_CHECKS.values() for finding in gate(facts)]
    unused = sorted(allowed - {(finding.gate, finding.subject) for finding in found})
    reported = [finding for finding in found if (finding.gate, finding.subject) not in allowed]
    says = "is an exception that the gate does not need"
    return (*reported, *(Finding(EXCEPTIONS, f"{gate} {subject}", says) for gate, subject in unused))
