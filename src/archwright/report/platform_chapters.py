"""The chapters for who builds: architecture, sizing, every part of the platform, and how it is run."""

from __future__ import annotations

import math
from collections.abc import Iterable

from archwright.contract.decision import Section, SectionId, SectionLine
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TokenLength
from archwright.contract.plan import Option, Plan, Pool, Purchase
from archwright.contract.record import replace
from archwright.plan.explain.formatting import format_shares
from archwright.report import number_format
from archwright.report.architecture_diagram import describe_machine, draw_architecture
from archwright.report.document import (
    Block,
    Cell,
    Chapter,
    Column,
    Item,
    Items,
    TableBlock,
    Tile,
    Tiles,
    build_notes,
    build_rows,
)

PLATFORM_SECTIONS: tuple[SectionId, ...] = ("network", "storage", "stack", "security", "scale", "monitoring")
PRACTICE_SECTIONS: tuple[SectionId, ...] = ("stages", "practices", "providers")
RACK_UNITS = 42
PURCHASE_LABELS = {
    "on-demand": "on demand",
    "spot": "spot",
    "commit-1y": "committed for a year",
    "commit-3y": "committed for three years",
    "bought": "bought",
    "owned": "already owned",
    "per-second": "by the second",
}


def architecture_chapter(plan: Plan, option: Option) -> Chapter:
    lead = "A solid frame stands in your own house, a dashed one in somebody else's."
    return Chapter("architecture", "Architecture", lead, (draw_architecture(plan, option),))


def sizing_chapter(plan: Plan, option: Option) -> Chapter:
    """What runs where, how many, had how; what it draws."""
    blocks: list[Block] = []
    tiles = tuple(_facility_tiles(option))
    if tiles:
        blocks.append(Tiles(tiles))
    if plan.workloads:
        blocks.append(_workload_table(plan, option))
    if option.pools:
        blocks += [_pool_table(option), _launch_table(option.pools)]
    if option.purchases:
        columns = (
            Column("Pool", 2),
            Column("Machine", 2.4),
            Column("How it is had", 2),
            Column("Machines, mean", 1.2, numeric=True),
            Column("At the peak", 1.2, numeric=True),
        )
        body = build_rows(
            (
                _pool_label(p),
                p.machine,
                PURCHASE_LABELS[p.kind],
                number_format.format_number(p.machines),
                number_format.format_exact(p.peak),
            )
            for p in option.purchases
        )
        blocks.append(TableBlock("How machines are had", columns, body))
    lead = "Replicas are for the peak within the limits of the needs, spares for availability included."
    return Chapter("sizing", "Sizing", lead, tuple(blocks))


def _pool_label(bought: Purchase) -> str:
    """Machines that several pools share stand there once for each."""
    return f"{bought.pool}, with {', '.join(bought.shared_with)}" if bought.shared_with else bought.pool


def _facility_tiles(option: Option) -> Iterable[Tile]:
    for label, estimate in (
        ("Power at the plug", option.power_kw),
        ("Energy a month", option.energy_kwh_per_month),
        ("Carbon a month", option.carbon_kg_per_month),
    ):
        if estimate is not None:
            shown = replace(estimate, unit=estimate.unit.removesuffix("/month"))
            yield Tile(label, number_format.format_measure(shown.value, shown.unit), number_format.format_band(shown))
    if option.rack_units is not None:
        racks = number_format.format_count(math.ceil(option.rack_units / RACK_UNITS), "rack")
        yield Tile("Rack space", racks, f"{number_format.format_number(option.rack_units)} U, {RACK_UNITS} in a rack")


def _workload_table(plan: Plan, option: Option) -> TableBlock:
    runs = {had.pool: f"in runs, on {had.machine}" for had in option.purchases}
    loads = {load.workload: load for load in plan.loads}
    columns = (Column("Workload", 2), Column("Model", 2.2), Column("Pool", 2), Column("Load it was sized for", 3))
    body = []
    for workload in plan.workloads:
        load, said = loads.get(workload.name), ""
        pools = [pool for pool in plan.pools if workload.name in pool.workloads]
        model = workload.model or (pools[0].model if pools else "no model")
        where = ", ".join(pool.name for pool in pools) or runs.get(workload.name, "no pool of ours")
        if load is not None:
            said = f"{number_format.format_number(load.requests_per_second)} requests/s at the peak; tokens in "
            said += f"{_length(load.input_tokens)}, out {_length(load.output_tokens)}"
        body.append((workload.name, model, where, said))
    return TableBlock("Workloads", columns, build_rows(body))


def _length(tokens: TokenLength) -> str:
    return f"{number_format.format_exact(tokens.mean)} (p95 {number_format.format_exact(tokens.p95)})"


def _pool_table(option: Option) -> TableBlock:
    columns = (Column("Pool", 2), Column("Where", 1.8), Column("Machines", 2.4), Column("Model", 2.4))
    if any(pool.price_usd_per_hour is not None for pool in option.pools):
        return TableBlock(
            "Pools",
            (*columns, Column("List price, USD an hour", 1.2, numeric=True)),
            build_rows((*_pool_row(pool), _hourly_price_cell(pool)) for pool in option.pools),
        )
    return TableBlock("Pools", columns, build_rows(_pool_row(pool) for pool in option.pools))


def _hourly_price_cell(pool: Pool) -> Cell:
    price = pool.price_usd_per_hour
    if price is None:
        return Cell("not rented", tone="quiet")
    return Cell(number_format.format_number(price.value), build_notes(("", number_format.format_compact_band(price))))


def _pool_row(pool: Pool) -> Iterable[Cell]:
    layout = pool.parallelism
    split = [
        f"{name} {count}"
        for name, count in (
            ("tensor", layout.tensor),
            ("pipeline", layout.pipeline),
            ("expert", layout.expert),
            ("data", layout.data),
        )
        if count > 1
    ]
    at_once = f"{number_format.format_count(pool.slots, 'request')} at once"
    at_once += f", {number_format.format_count(pool.context_tokens, 'token')} each" if pool.context_tokens else ""
    yield Cell(
        pool.name, build_notes(("for", ", ".join(pool.workloads)), ("share of it, by year", format_shares(pool)))
    )
    yield Cell(pool.region, build_notes(("", pool.provider), ("", number_format.PLACEMENTS[pool.placement])))
    yield Cell(
        f"{number_format.format_count(pool.replicas, 'replica')} of {describe_machine(pool)}",
        build_notes(("split", ", ".join(split))),
    )
    yield Cell(pool.model, build_notes(("format", pool.quantisation), ("", at_once if pool.slots else "")))


def _launch_table(pools: tuple[Pool, ...]) -> TableBlock:
    columns = (Column("Pool", 2), Column("Engine", 1.6), Column("Settings", 5))
    body = []
    for pool in pools:
        settings = {**pool.launch.settings, **pool.launch.environment}
        said = ", ".join(f"{name} = {value}" for name, value in sorted(settings.items()))
        engine = Cell(pool.launch.engine, build_notes(("at", pool.launch.url or "")))
        body.append((pool.name, engine, said or "the engine's own defaults"))
    return TableBlock("How engines start", columns, build_rows(body))


def section_chapters(plan: Plan, wanted: tuple[SectionId, ...]) -> Iterable[Chapter]:
    """The plan's own sections, in our order."""
    for section in plan.sections:
        assert section.id in (*PLATFORM_SECTIONS, *PRACTICE_SECTIONS), section.id
    for name in wanted:
        for section in plan.sections:
            if section.id == name:
                yield Chapter(section.id, section.title, section.summary, tuple(_section_blocks(section)))
    if "stack" in wanted and all(section.id != "stack" for section in plan.sections) and plan.stack:
        items = (
            Item(line.function, line.product + (f", yours, kept: {line.url or ''}" if line.existing else ""))
            for line in plan.stack
        )
        yield Chapter("stack", "Software stack", "What runs on the machines.", (Items("", tuple(items)),))


def _section_blocks(section: Section) -> Iterable[Block]:
    """One table; its third column only where most lines have something to put there."""
    body = [_section_row(line) for line in section.lines]
    columns = (Column("Topic", 1.5), Column("Choice", 4), Column("Demanded by, proof, instead of", 3))
    if not body:
        return
    # A column of its own where it is filled; else what it would hold stands below the choice, and none is near empty.
    if 2 * sum(len(cells[2].notes) > 1 for cells in body) >= len(body):
        yield TableBlock(section.title, columns, tuple(body))
    else:
        joined = ((topic, choice._replace(notes=choice.notes + beside.notes)) for topic, choice, beside in body)
        yield TableBlock(section.title, (columns[0], columns[1]._replace(share=7)), tuple(joined))


def _format_estimate(estimate: Estimate) -> str:
    """Bytes in thousands, like the words beside them."""
    return number_format.format_with_band(replace(estimate, unit="B") if estimate.unit == "bytes" else estimate)


def _section_row(line: SectionLine) -> tuple[Cell, Cell, Cell]:
    figure = _format_estimate(line.estimate) if line.estimate is not None else ""
    choice = Cell(line.choice, build_notes(("", figure), ("Why", line.why), ("Source", line.source)))
    beside = build_notes(
        ("Demanded by", "; ".join(line.demanded_by)),
        ("Proof", line.proof),
        ("Instead of", line.alternative),
        ("Why not", line.why_not),
    )
    return Cell(line.topic), choice, Cell("", beside)
