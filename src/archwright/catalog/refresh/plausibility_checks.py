"""Plausibility gates for the shipped rows (`catalog check`) and everything a refresh brings.

Each comes from an error met in some public table. A refusing finding keeps a refreshed row out; a flag is shown only.
`gate_exceptions.csv` names rows that are right in spite of a gate; an exception that no gate needs is a finding.
"""

from __future__ import annotations

import re
import statistics
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import combinations, pairwise
from typing import NamedTuple

from archwright.catalog.tables.metadata_records import PlausibilityException
from archwright.catalog.tables.records import Accelerator, ModelSpec, Offer

# A price of one accelerator is within these of the median of its class and part of the world.
PRICE_SPREAD = (0.2, 5.0)
# What software sees of the memory a device is sold with.
USABLE_MEMORY_RANGE = (0.85, 1.02)
GIB = 2.0**30
DENSE_RATIOS = (1.0, 2.0)
RATIO_TOLERANCE = 0.03
LEAST_MATRIX_GAIN = 3.0
RECOUNT_TOLERANCE = 0.02
# Attention whose weights are four plain matrices; the others have shapes of their own.
STANDARD_ATTENTION = frozenset({"mha", "gqa", "swa_mix"})
EXCEPTIONS = "exceptions"
FIRST_NUMBER = re.compile(r"\d+")
NAMED_DEVICE = re.compile(r"gpu|tpu", re.IGNORECASE)
# A machine without a hypervisor may be priced as a tenancy of its own, a tenth dearer: a family of its own.
WHOLE_HOST = "metal"
GENERATION = re.compile(r"^([a-z]+)(\d+)(.*)$|^(.*_v)(\d+)()$")


class Finding(NamedTuple):
    """`refuses`: the row is wrong; else it is odd and worth a look."""

    gate: str
    subject: str
    says: str
    refuses: bool = True


class CheckedFacts(NamedTuple):
    """What the gates look at. `memory_gib`: what a source states of one device of an offer, by the offer's id."""

    accelerators: Mapping[str, Accelerator]
    offers: tuple[Offer, ...] = ()
    models: tuple[ModelSpec, ...] = ()
    memory_gib: Mapping[str, float] = {}


def check_unit_price(facts: CheckedFacts) -> Iterable[Finding]:
    """USD per accelerator-hour within [0.2, 5] x the median of its class and part of the world."""
    prices: dict[tuple[str, str], list[tuple[float, Offer]]] = defaultdict(list)
    for offer in facts.offers:
        if offer.accelerator and offer.accelerator_count and offer.on_demand_usd_per_hour is not None:
            each = offer.on_demand_usd_per_hour / (offer.accelerator_count * offer.accelerator_share)
            prices[offer.accelerator, offer.geo].append((each, offer))
    for found in prices.values():
        middle = statistics.median(price for price, _ in found)
        for price, offer in found:
            if middle <= 0 or not PRICE_SPREAD[0] <= price / middle <= PRICE_SPREAD[1]:
                says = f"{price:.3g} USD/h each; the median of its class is {middle:.3g}"
                yield Finding("price-of-one", offer.id, says)


def check_usable_memory(facts: CheckedFacts) -> Iterable[Finding]:
    """Usable GiB within 0.85-1.02 of what the device is sold with; of an offer, of its accelerator's row."""
    for row in facts.accelerators.values():
        sold = [float(word) for word in re.findall(r"\d+(?:\.\d+)?", row.memory_marketing)]
        usable = row.memory_bytes / GIB / max(sold, default=1.0)
        if row.kind != "cpu" and sold and not USABLE_MEMORY_RANGE[0] <= usable <= USABLE_MEMORY_RANGE[1]:
            yield Finding("usable-memory", row.id, f"{row.memory_bytes / GIB:.4g} GiB of {row.memory_marketing}")
    for offer in facts.offers:
        stated, device = facts.memory_gib.get(offer.id), facts.accelerators.get(offer.accelerator or "")
        if stated is not None and device is not None and device.kind != "cpu":
            has = device.memory_bytes / GIB
            if not USABLE_MEMORY_RANGE[0] <= has / stated <= 1 / USABLE_MEMORY_RANGE[0]:
                yield Finding("usable-memory", offer.id, f"{stated:.4g} GiB a device; {device.id} has {has:.4g}")


def check_dense_rates(facts: CheckedFacts) -> Iterable[Finding]:
    """fp8 and int8 at 1 or 2 times bf16; bf16 at least 3 times fp32 where there are matrix units."""
    for row in facts.accelerators.values():
        wide = row.flops.get("bf16") or row.flops.get("fp16")
        if not wide:
            continue
        if row.kind != "cpu" and "fp32" in row.flops and wide / row.flops["fp32"] < LEAST_MATRIX_GAIN:
            yield Finding("dense-rates", row.id, f"16-bit rate only {wide / row.flops['fp32']:.3g} x the 32-bit one")
        for dtype in ("fp8", "int8"):
            ratio = row.flops.get(dtype, wide) / wide
            if min(abs(ratio - whole) for whole in DENSE_RATIOS) > RATIO_TOLERANCE:
                says = f"{dtype} is {ratio:.3g} x the 16-bit rate: sparse, or an exception"
                yield Finding("dense-rates", row.id, says)


def check_accelerator_charged(facts: CheckedFacts) -> Iterable[Finding]:
    """A machine whose family or name has accelerators states its own: else its price is the host's alone."""
    with_device = {(o.provider, machine_family(o.instance_type)) for o in facts.offers if o.accelerator_count}
    for offer in facts.offers:
        alike = (offer.provider, machine_family(offer.instance_type)) in with_device
        if not offer.accelerator_count and (alike or NAMED_DEVICE.search(offer.instance_type)):
            yield Finding("accelerator-charged", offer.id, "no accelerator, while its family or name has one")


def check_size_order(facts: CheckedFacts) -> Iterable[Finding]:
    """A larger machine of a family does not cost less; a newer generation that does is flagged."""
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
            if _is_larger(larger, smaller) and _list_price(larger) < _list_price(smaller) * (1 - 1e-9):
                beside = f"the smaller {smaller.instance_type} costs {_list_price(smaller):.4g}"
                yield Finding("size-order", larger.id, f"{_list_price(larger):.4g} USD/h; {beside}")


def _check_newer_not_cheaper(offers: Iterable[Offer]) -> Iterable[Finding]:
    alike: dict[tuple[object, ...], list[tuple[int, Offer]]] = defaultdict(list)
    for offer in offers:
        parts = GENERATION.match(offer.instance_type)
        if parts is None or offer.on_demand_usd_per_hour is None:
            continue
        head, number, tail = [part for part in parts.groups() if part is not None]
        build = (offer.accelerator, *_machine_size(offer))
        alike[offer.provider, offer.region, head, tail, build].append((int(number), offer))
    for found in alike.values():
        found.sort(key=lambda pair: pair[0])
        for (_, older), (_, newer) in pairwise(found):
            if _list_price(newer) < _list_price(older):
                says = f"{_list_price(newer):.4g} USD/h; the older {older.instance_type} costs {_list_price(older):.4g}"
                yield Finding("size-order", newer.id, says, refuses=False)


def _machine_size(offer: Offer) -> tuple[int, int, int]:
    return offer.accelerator_count, offer.vcpu, offer.ram_bytes


def _is_larger(larger: Offer, smaller: Offer) -> bool:
    large, small = _machine_size(larger), _machine_size(smaller)
    return large != small and all(a >= b for a, b in zip(large, small, strict=True))


def _list_price(offer: Offer) -> float:
    return offer.on_demand_usd_per_hour or 0.0


def machine_family(instance_type: str) -> str:
    """The type without its size: what stands before a dot, else with the first (`A_B12x`) or last number left out."""
    head, dot, size = instance_type.partition(".")
    if dot:
        return f"{head}.{WHOLE_HOST}" if size.startswith(WHOLE_HOST) else head
    if "_" in instance_type:
        return FIRST_NUMBER.sub("#", instance_type, count=1)
    found = list(FIRST_NUMBER.finditer(instance_type))
    return instance_type if not found else f"{instance_type[: found[-1].start()]}#{instance_type[found[-1].end() :]}"


def check_parameter_count(facts: CheckedFacts) -> Iterable[Finding]:
    """Parameters from layers, widths, heads, experts and vocabulary within 2 % of the stated count."""
    for model in facts.models:
        if model.attention in STANDARD_ATTENTION and not model.shared_experts:
            error = min((count_parameters(model, tied=tied) / model.parameters - 1 for tied in (True, False)), key=abs)
            if abs(error) > RECOUNT_TOLERANCE:
                yield Finding("recount", model.id, f"its architecture has {1 + error:.3g} x the stated parameters")


def count_parameters(model: ModelSpec, *, tied: bool) -> float:
    """Parameters of a standard decoder; `tied`: one table serves input and output."""
    attention = 2 * model.hidden * model.head_dim * (model.heads + model.kv_heads)
    width = model.expert_ffn if model.experts else model.ffn
    feed = 3 * model.hidden * (width or 0) * max(1, model.experts) + model.hidden * model.experts
    return model.layers * (attention + feed) + model.vocabulary * model.hidden * (1 if tied else 2)


def check_below_list_price(facts: CheckedFacts) -> Iterable[Finding]:
    """Spot and committed prices lie below the list price, and all are above zero."""
    for offer in facts.offers:
        listed = offer.on_demand_usd_per_hour
        others = (offer.spot_usd_per_hour, offer.commit_1y_usd_per_hour, offer.commit_3y_usd_per_hour)
        if listed is None or listed <= 0:
            yield Finding("below-list", offer.id, f"list price {listed}")
            continue
        for price in others:
            if price is not None and not 0 < price < listed:
                yield Finding("below-list", offer.id, f"{price:.4g} USD/h beside a list price of {listed:.4g}")


def check_accelerators_known(facts: CheckedFacts) -> Iterable[Finding]:
    """Every accelerator an offer names has a row, and a count if and only if it has a name."""
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
    """What all gates find, exceptions left out; then the exceptions that none of them needed."""
    allowed = {(row.gate, row.subject) for row in exceptions}
    found = [finding for gate in PLAUSIBILITY_CHECKS.values() for finding in gate(facts)]
    needless = sorted(allowed - {(finding.gate, finding.subject) for finding in found})
    kept = [finding for finding in found if (finding.gate, finding.subject) not in allowed]
    says = "is an exception that the gate does not need"
    return (*kept, *(Finding(EXCEPTIONS, f"{gate} {subject}", says) for gate, subject in needless))
