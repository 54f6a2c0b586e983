"""Bill of materials as a chapter, and the positions of the request for quotation, which have no price."""

import re
from collections.abc import Iterable

from archwright.catalog.catalog import Catalog
from archwright.contract import number_format as fmt
from archwright.contract.evidence import Basis
from archwright.contract.plan import Option, Plan
from archwright.report import document as doc
from archwright.report.bill import LUMP_SUM, BillLine, build_bill, name_price
from archwright.report.delivery_chapters import SMALL_SHARE, find_schedule, format_month
from archwright.report.document_texts import read_texts
from archwright.report.plan_texts import PURCHASE_LABELS

NODE_PREFIX, OFFER_PREFIX = "price.node.", "price."
ASKED_GROUPS = (
    "Machines to buy",
    "Network",
    "Storage",
    "Platform servers and services",
    "Rented machines",
    "Hosted models",
)
MOST_YEARS_SHOWN = 3
# Requests and tokens in the formula of a price of tokens.
TOKEN_LOAD = re.compile(r"([\d,.]+) requests x \(([\d,.]+) x .*?\+ ([\d,.]+) x")


def bill_chapter(plan: Plan, option: Option) -> doc.Chapter:
    """Lines with the same price are one row, with their quantities by year; the workbook has every line."""
    groups: dict[str, dict[object, list[BillLine]]] = {}
    for line in build_bill(plan, option):
        key = (line.basis.id, line.unit_price, line.once) if line.basis is not None else line.once
        groups.setdefault(line.group, {}).setdefault(key, []).append(line)
    columns = {
        "Item": 2.8,
        "Quantity": 1.3,
        f"Unit price, {plan.currency}": 1.3,
        "Amount": 1,
        "Paid": 1.3,
        "Source": 2.6,
    }
    tables = [
        doc.build_table(group, columns, map(_bill_row, lines.values()), numeric=(1, 2, 3))
        for group, lines in groups.items()
    ]
    whole = sum(line.amount for lines in groups.values() for found in lines.values() for line in found)
    total = doc.Paragraph(f"Sum of all lines: {fmt.format_money(whole, plan.currency)}.", "strong")
    lead = f"All amounts in {plan.currency} over {plan.horizon_label}; small figures are the low and high price. "
    lead += "The workbook has every line with formulas, and a request for quotation without prices."
    return doc.Chapter("bill", "Bill of materials", lead, (*tables, total))


def _bill_row(lines: list[BillLine]) -> Iterable[doc.Cell | str]:
    """One row for lines with one price, or for the lump sums of a group."""
    line, names = lines[0], list(dict.fromkeys(one.item for one in lines))
    low, typical, high = line.unit_price
    years: dict[str, float] = {}
    for one in lines:
        when = f"year {one.year}" if one.year is not None else "once" if one.once else "monthly"
        years[when] = years.get(when, 0.0) + one.quantity
    spans = sorted(years.items())
    split = [f"{when}: {fmt.format_number(count)}" for when, count in spans if 1 < len(years) <= MOST_YEARS_SHOWN]
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    named = f"{names[0]}{more}"
    load = describe_tokens(line.basis) if line.basis is not None and line.group == "Hosted models" else ""
    yield doc.build_cell(named) if line.basis is None else doc.build_cell(name_price(line), named, load)
    if line.basis is None:
        yield doc.build_cell(fmt.format_exact(len(lines)), line.unit.replace("lump sum", "lump sums"))
        yield ""
    else:
        yield doc.build_cell(fmt.format_number(sum(years.values())), line.unit)
        band = f"{fmt.format_number(low)} to {fmt.format_number(high)}" if low != high else ""
        yield doc.build_cell(fmt.format_number(typical), band)
    yield fmt.format_money(sum(one.amount for one in lines))
    yield doc.build_cell(", ".join(split) or (f"{spans[0][0]} to {spans[-1][0]}" if len(spans) > 1 else spans[0][0]))
    yield doc.build_cell(line.source, f"{line.as_of}, confidence: {line.confidence}")


def list_positions(plan: Plan, option: Option, catalog: Catalog) -> tuple[doc.Position, ...]:
    """Lines of one price, delivery and term as one position; what is bought first. No position has a price."""
    schedule = find_schedule(plan, option)
    arrival = next((p.ends.value for p in schedule.phases if p.name == "procurement"), 0.0) if schedule else 0.0
    merged: dict[tuple[str, ...], tuple[BillLine, float]] = {}
    asked = [line for line in build_bill(plan, option) if line.group in ASKED_GROUPS and line.amount > 0]
    least = SMALL_SHARE * max((line.amount for line in asked), default=0.0)
    for line in asked:
        priced = line.basis is not None and (not line.unit.startswith(LUMP_SUM) or line.group == "Hosted models")
        if line.basis is None or not priced or (line.once and line.amount < least):
            continue
        delivery = format_month(plan, max(arrival, 12.0 * ((line.year or 1) - 1)))
        term = PURCHASE_LABELS.get(line.item.rpartition(", ")[2], "bought" if line.once else "paid monthly")
        key = (line.basis.id, term, delivery)
        merged[key] = line, line.quantity + merged.get(key, (line, 0.0))[1]
    ordered = sorted(merged.items(), key=lambda entry: not entry[1][0].once)
    return tuple(
        doc.Position(
            number=number,
            item=name_price(line),
            specification=describe_specification(line, catalog),
            quantity=float(f"{quantity:.3g}") if quantity != round(quantity) else quantity,
            unit=line.unit,
            delivery=delivery,
            term=term,
        )
        for number, ((_, term, delivery), (line, quantity)) in enumerate(ordered, 1)
    )


def describe_specification(line: BillLine, catalog: Catalog) -> str:
    """Accelerator, memory, network and power of a machine by the catalog; else the definition of the price."""
    basis = line.basis
    if basis is None:
        return "to be stated by the vendor"
    node = catalog.nodes.get(basis.id.removeprefix(NODE_PREFIX)) if basis.id.startswith(NODE_PREFIX) else None
    if node is not None:
        parts = [f"{node.cores} processor cores, {fmt.format_quantity(node.ram_bytes, 'bytes')} of memory"]
        device = catalog.accelerators.get(node.accelerator or "")
        if device is not None and node.accelerator_count:
            memory = f"{fmt.format_quantity(device.memory_bytes, 'bytes')} each" if device.memory_bytes else ""
            parts.insert(0, f"{node.accelerator_count} x {device.id} {memory}".strip())
        parts.append(f"network {fmt.format_bit_rate(node.network_bytes_per_s)}")
        power = f"{fmt.format_number(node.power_w / 1000)} kW"
        parts.append(f"at most {power} and {fmt.format_number(node.rack_units)} rack units")
        return "; ".join(parts)
    offer = basis.id.removeprefix(OFFER_PREFIX)
    if basis.id.startswith(OFFER_PREFIX) and offer.count(":") >= 2:
        provider, region, machine = offer.removeprefix("spot.").split(":", 2)
        return f"{machine} or equal, in {region} ({provider})"
    return describe_tokens(basis) if line.group == "Hosted models" else f"{basis.definition}, or equal"


def describe_tokens(basis: Basis) -> str:
    """The definition; for a hosted model with the requests and tokens of a month, without their prices."""
    found = TOKEN_LOAD.search(basis.formula)
    if found is None:
        return basis.definition
    requests, asked, answered = (float(number.replace(",", "")) for number in found.groups())
    tokens = f"{fmt.format_number(asked)} input and {fmt.format_number(answered)} output tokens each"
    return f"{fmt.format_number(requests)} requests a month, {tokens}"


def quotation_terms(plan: Plan) -> Iterable[tuple[str, str]]:
    lines = (line for section in plan.sections if section.id == "monitoring" for line in section.lines)
    asked = [
        f"{line.topic.removesuffix(': availability')}: {line.choice}"
        for line in lines
        if line.topic.endswith("availability")
    ]
    values = {"availability": "; ".join(asked) or "to be agreed", "years": max(1, round(plan.horizon_months / 12))}
    return ((name, text.format_map(values)) for name, text in read_texts().quotation.terms)
