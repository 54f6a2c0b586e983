"""Chapters for engineers: architecture with identity, data and backup; sizing; the parts of the platform."""

import math
from collections.abc import Iterable

from archwright.contract import number_format as fmt
from archwright.contract.decision import Section, SectionId, SectionLine
from archwright.contract.needs import TokenLength
from archwright.contract.plan import LimitProbability, Option, Plan, Pool
from archwright.contract.record import replace
from archwright.plan.explain.formatting import format_shares
from archwright.report import document as doc
from archwright.report.architecture_diagram import describe_machine, draw_architecture
from archwright.report.delivery_chapters import TASK_SENTENCE, UNPRINTED_SECTIONS
from archwright.report.plan_texts import PLACEMENTS, PURCHASE_LABELS
from archwright.report.risk_register import name_limit

# Lines that the chapter on architecture shows, by the start of their topic.
IN_ARCHITECTURE: dict[str, tuple[str, ...]] = {
    "stack": ("Identity",),
    "security": ("Access control", "Backup and restore"),
    "storage": ("Data ", "Backup of ", "Retention"),
}
PLATFORM_SECTIONS: tuple[SectionId, ...] = ("network", "storage", "stack", "security", "scale", "monitoring")
RACK_UNITS = 42
DEFAULTS = "defaults of the engine"


def architecture_chapter(plan: Plan, option: Option) -> doc.Chapter:
    """The diagram, then identity, data sources and backup: they cross the zones."""
    lead = "Solid frames are on-premises or this machine; dashed frames are at a provider."
    tables = (_identity_table(plan), _data_table(plan), _backup_table(plan))
    return doc.Chapter("architecture", "Architecture", lead, doc.keep_blocks(draw_architecture(plan, option), *tables))


def _identity_table(plan: Plan) -> doc.TableBlock | None:
    """Sign-in of people and keys of programs; the identity provider is a task."""
    found = [*_find_lines(plan, "stack", "Identity"), *_find_lines(plan, "security", "Access control")]
    rows = [(line.topic, _choice_cell(line), "; ".join(line.demanded_by) or "the needs") for line in found]
    columns = {"Identity": 1.4, "Choice": 4, "Demanded by": 1.6}
    note = "To decide: the identity provider and its groups; see Tasks."
    return doc.build_table("Identity and roles", columns, rows, note=note) if rows else None


def _data_table(plan: Plan) -> doc.TableBlock | None:
    """Data sources with their place; copies of them are in the table of backups."""
    classes = {workload.name: workload.data_class for workload in plan.workloads}
    rows = [
        (line.topic.removeprefix("Data "), _choice_cell(line), "; ".join(line.demanded_by) or "the needs")
        for line in _find_lines(plan, "storage", "Data ")
    ]
    named = ", ".join(f"{name}: {kind}" for name, kind in classes.items() if kind)
    note = f"Strictest class of data by workload: {named}." if named else ""
    columns = {"Data source": 1.6, "Size and place": 4, "Demanded by": 1.6}
    return doc.build_table("Data sources", columns, rows, note=note) if rows else None


def _backup_table(plan: Plan) -> doc.TableBlock | None:
    """Backup and retention: what, where, how often, how long, and the test of the restore."""
    lines = [*_find_lines(plan, "storage", "Backup of "), *_find_lines(plan, "storage", "Retention")]
    lines += _find_lines(plan, "security", "Backup and restore")
    rows = [(line.topic, _choice_cell(line), "; ".join(line.demanded_by) or "the needs") for line in lines]
    columns = {"Backup": 1.6, "Content, place, interval": 4, "Demanded by": 1.6}
    return doc.build_table("Backup and restore", columns, rows) if rows else None


def _choice_cell(line: SectionLine) -> doc.Cell:
    return doc.build_cell(line.choice, ("Why", TASK_SENTENCE.sub("", line.why).strip()), ("Proof", line.proof))


def _find_lines(plan: Plan, section: SectionId, start: str) -> list[SectionLine]:
    return [line for s in plan.sections if s.id == section for line in s.lines if line.topic.startswith(start)]


def sizing_chapter(plan: Plan, option: Option) -> doc.Chapter:
    tiles = tuple(_facility_tiles(option))
    blocks = doc.keep_blocks(
        doc.Tiles(tiles) if tiles else None,
        _workload_table(plan, option) if plan.workloads else None,
        _pool_table(option) if option.pools else None,
        _launch_table(option.pools),
        _options_table(option.pools),
        _purchase_table(option) if option.purchases else None,
        _limits_table(option) if option.limits else None,
        doc.build_items("Scores of the models", _list_scores(plan)),
    )
    lead = "Replicas carry the peak load within the limits of the needs, spares for availability included."
    return doc.Chapter("sizing", "Sizing", lead, blocks)


def _limits_table(option: Option) -> doc.TableBlock:
    """The limits of the needs, and how probably each holds."""
    columns = {"Limit": 3.0, "Stated": 1.6, "Expected": 1.6, "Holds with": 1.6}
    rows = map(_limit_row, option.limits)
    note = "A marked limit is less certain than the needs require."
    return doc.build_table("Limits of the needs", columns, rows, numeric=(1, 2, 3), note=note)


def _limit_row(limit: LimitProbability) -> tuple[doc.Cell, ...]:
    unit = limit.predicted.unit
    name = doc.Cell(name_limit(limit.limit))
    stated = f"{limit.sign} {fmt.format_quantity(limit.stated, unit)}"
    expected = fmt.format_quantity(limit.predicted.value, unit)
    if limit.holds:
        return name, doc.Cell(stated), doc.Cell(expected), doc.Cell(limit.chance)
    required = f"required: {fmt.format_share(limit.certainty)}"
    chance = doc.build_cell(f"{limit.chance} !", required, tone="warn")
    return name, doc.Cell(stated), doc.Cell(expected), chance


def _list_scores(plan: Plan) -> Iterable[doc.Item]:
    """The scores on which the model of each workload was chosen."""
    for workload in plan.workloads:
        if workload.evidence:
            scores = "; ".join(score.summary for score in workload.evidence)
            yield doc.Item(f"{workload.name}, {workload.model}", scores)


def _purchase_table(option: Option) -> doc.TableBlock:
    """Machines that several pools share are listed once per pool."""
    columns = {"Pool": 2, "Machine": 2.4, "Purchase": 2, "Machines, mean": 1.2, "At the peak": 1.2}
    body = (
        (
            f"{bought.pool}, with {', '.join(bought.shared_with)}" if bought.shared_with else bought.pool,
            bought.machine,
            PURCHASE_LABELS[bought.kind],
            fmt.format_number(bought.machines),
            fmt.format_exact(bought.peak),
        )
        for bought in option.purchases
    )
    return doc.build_table("Purchase of the machines", columns, body, numeric=(3, 4))


def _facility_tiles(option: Option) -> Iterable[doc.Tile]:
    for label, estimate in (
        ("Power at the plug", option.power_kw),
        ("Energy per month", option.energy_kwh_per_month),
        ("Carbon per month", option.carbon_kg_per_month),
    ):
        if estimate is not None:
            shown = replace(estimate, unit=estimate.unit.removesuffix("/month"))
            yield doc.Tile(label, fmt.format_quantity(shown.value, shown.unit), fmt.format_interval(shown))
    if option.rack_units is not None:
        racks = fmt.format_count(math.ceil(option.rack_units / RACK_UNITS), "rack")
        yield doc.Tile("Rack space", racks, f"{fmt.format_number(option.rack_units)} U, {RACK_UNITS} in a rack")


def _workload_table(plan: Plan, option: Option) -> doc.TableBlock:
    runs = {purchase.pool: f"batch runs on {purchase.machine}" for purchase in option.purchases}
    loads = {load.workload: load for load in plan.loads}
    columns = {"Workload": 2, "Model": 2.2, "Pool": 2, "Load for the sizing": 3}
    body = []
    for workload in plan.workloads:
        load, text = loads.get(workload.name), workload.load
        pools = [pool for pool in plan.pools if workload.name in pool.workloads]
        model = workload.model or (pools[0].model if pools else "no model")
        where = ", ".join(pool.name for pool in pools) or runs.get(workload.name, "no own pool")
        if load is not None:
            rate = f"{fmt.format_number(load.requests_per_second)} requests/s"
            planned = "" if rate in text else f"; planned for {rate}"
            text = f"{text}{planned}" if text else f"{rate} at the peak"
            text += f"; input tokens {_format_length(load.input_tokens)}"
            text += f", output tokens {_format_length(load.output_tokens)}"
        body.append((workload.name, model, where, text))
    return doc.build_table("Workloads", columns, body)


def _format_length(tokens: TokenLength) -> str:
    return f"{fmt.format_exact(tokens.mean)} (p95 {fmt.format_exact(tokens.p95)})"


def _pool_table(option: Option) -> doc.TableBlock:
    columns = {"Pool": 2, "Where": 1.8, "Machines": 2.4, "Model": 2.4}
    if all(pool.price_usd_per_hour is None for pool in option.pools):
        return doc.build_table("Pools", columns, map(_pool_row, option.pools))
    body = []
    for pool in option.pools:
        cell, price = doc.Cell("not rented", tone="quiet"), pool.price_usd_per_hour
        if price is not None:
            cell = doc.build_cell(fmt.format_number(price.value), fmt.format_money_interval(price))
        body.append((*_pool_row(pool), cell))
    return doc.build_table("Pools", columns | {"List price, USD per hour": 1.2}, body, numeric=(4,))


def _pool_row(pool: Pool) -> tuple[doc.Cell, ...]:
    ranks = ((name, getattr(pool.parallelism, name)) for name in ("tensor", "pipeline", "expert", "data"))
    split = ", ".join(f"{name} {count}" for name, count in ranks if count > 1)
    at_once = f"{fmt.format_count(pool.slots, 'request')} at once" if pool.slots else ""
    if pool.slots and pool.context_tokens:
        at_once += f", {fmt.format_count(pool.context_tokens, 'token')} each"
    return (
        doc.build_cell(pool.name, ("for", ", ".join(pool.workloads)), ("share by year", format_shares(pool))),
        doc.build_cell(pool.region, pool.provider, PLACEMENTS[pool.placement]),
        doc.build_cell(f"{fmt.format_count(pool.replicas, 'replica')} of {describe_machine(pool)}", ("split", split)),
        doc.build_cell(pool.model, ("format", pool.quantisation), at_once),
    )


def _launch_table(pools: tuple[Pool, ...]) -> doc.TableBlock | None:
    """Engines with their settings; None if every engine runs with its defaults."""
    body = []
    for pool in pools:
        settings = {**pool.launch.settings, **pool.launch.environment}
        texts = [f"{name} = {value}" for name, value in sorted(settings.items())]
        text = ", ".join([*texts, *pool.launch.arguments])
        engine = doc.build_cell(pool.launch.engine, ("at", pool.launch.url or ""))
        body.append((pool.name, engine, text or DEFAULTS))
    if all(text == DEFAULTS for _, _, text in body):
        return None
    return doc.build_table("Engine settings", {"Pool": 2, "Engine": 1.6, "Settings": 5}, body)


def _options_table(pools: tuple[Pool, ...]) -> doc.TableBlock | None:
    rows = [
        (pool.name, doc.build_cell(effect.summary, ("why", effect.reason)), effect.source)
        for pool in pools
        for effect in pool.effects
    ]
    columns = {"Pool": 1.4, "Setting and its effect (90 % interval)": 5, "Source": 3}
    return doc.build_table("Engine options", columns, rows) if rows else None


def section_chapters(plan: Plan, wanted: tuple[SectionId, ...]) -> Iterable[doc.Chapter]:
    """The sections of the plan, in the order of `wanted`."""
    assert {section.id for section in plan.sections} <= {*PLATFORM_SECTIONS, *UNPRINTED_SECTIONS}
    for name in wanted:
        for section in plan.sections:
            if section.id == name:
                yield doc.Chapter(section.id, section.title, section.summary, tuple(_section_blocks(section)))
    if "stack" in wanted and all(section.id != "stack" for section in plan.sections) and plan.stack:
        items = (
            doc.Item(line.function, line.product + (f", existing, kept: {line.url or ''}" if line.existing else ""))
            for line in plan.stack
        )
        blocks = doc.keep_blocks(doc.build_items("", items))
        yield doc.Chapter("stack", "Software stack", "Software of the machines.", blocks)


def _section_blocks(section: Section) -> Iterable[doc.Block]:
    """One table. Clause, proof and alternative have a column of their own if at least half of the lines fill it."""
    shown = IN_ARCHITECTURE.get(section.id, ())
    body = [_section_row(line) for line in section.lines if not shown or not line.topic.startswith(shown)]
    if not body:
        return
    if 2 * sum(len(beside.notes) > 1 for _, _, beside in body) >= len(body):
        yield doc.build_table(section.title, {"Topic": 1.5, "Choice": 4, "Demanded by, proof, alternative": 3}, body)
    else:
        joined = ((topic, choice._replace(notes=choice.notes + beside.notes)) for topic, choice, beside in body)
        yield doc.build_table(section.title, {"Topic": 1.5, "Choice": 7}, joined)


def _section_row(line: SectionLine) -> tuple[doc.Cell, doc.Cell, doc.Cell]:
    figure, estimate = "", line.estimate
    if estimate is not None:
        # Bytes in decimal units, like the text beside them.
        figure = fmt.format_estimate(replace(estimate, unit="B") if estimate.unit == "bytes" else estimate)
    why = TASK_SENTENCE.sub("", line.why).strip()
    beside = doc.build_cell(
        "",
        ("Demanded by", "; ".join(line.demanded_by)),
        ("Proof", line.proof),
        ("Alternative", line.alternative),
        ("Why not", line.why_not),
    )
    return doc.Cell(line.topic), doc.build_cell(line.choice, figure, ("Why", why), ("Source", line.source)), beside
