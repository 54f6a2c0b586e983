"""Diagram of the chosen plan by zones: users, entry, application with its places, data, management."""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import NamedTuple

from archwright.contract.decision import SectionLine
from archwright.contract.number_format import format_count, format_list, format_number, format_quantity
from archwright.contract.plan import Option, Plan, Pool, Purchase
from archwright.report import svg
from archwright.report.document import FigureBlock
from archwright.report.document_texts import ZoneText, read_texts
from archwright.report.plan_texts import PLACEMENTS

WIDTH, EDGE, GAP = 760.0, 2.0, 12.0
INNER = WIDTH - 2 * EDGE
HOSTED = ("hosted-api", "hybrid")
COLUMNS = 3
# Rows of boxes on a page. A larger plan shows fewer boxes per place, then fewer places.
MOST_LINES, MOST_BOXES = 3, (9, 6, 3, 1)
BOX_HEIGHT, TITLE_HEIGHT, ARROW_HEIGHT, ZONE_BOX_HEIGHT = 112.0, 34.0, 20.0, 82.0
LINES_IN_BOX, LINES_IN_ZONE_BOX, MOST_ZONE_BOXES = 5, 3, 4
# Functions of the stack by zone, with their titles.
ENTRY_FUNCTIONS = {"gateway": "Gateway", "access": "Access control"}
DATA_FUNCTIONS = {"lake": "Data lake"}
MANAGEMENT_FUNCTIONS = {"monitoring": "Monitoring", "registry": "Model registry", "training": "Training"}


class DiagramBox(NamedTuple):
    title: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PoolGroup:
    """A place or provider with its pools. `own`: the machines belong to the organisation."""

    title: str
    own: bool
    boxes: tuple[DiagramBox, ...]

    @property
    def columns(self) -> int:
        return min(len(self.boxes), COLUMNS)

    @property
    def rows(self) -> int:
        return -(-len(self.boxes) // COLUMNS)

    @property
    def height(self) -> float:
        return TITLE_HEIGHT + self.rows * (BOX_HEIGHT + 8) + 6


def draw_architecture(plan: Plan, option: Option) -> FigureBlock:
    """The zones from top to bottom; requests pass the entry and reach the places with their pools."""
    canvas, places = svg.SvgCanvas(WIDTH), _fit_to_page(_group_pools(option))
    y, alts = EDGE, list[str]()
    for zone, boxes in _list_zones(plan):
        texts = read_texts().zones[zone]
        if zone == "application":
            y = _draw_zone_title(canvas, y, texts)
            y = _draw_groups(canvas, y, places) if places else y
            titles = [f"{p.title}: {', '.join(f'{b.title} ({b.lines[0]})' for b in p.boxes)}" for p in places]
        else:
            y = _draw_zone(canvas, _draw_zone_title(canvas, y, texts), boxes)
            titles = [f"{box.title} ({', '.join(box.lines)})" for box in boxes]
        alts.append(f"{texts.title}: {'; '.join(titles) or 'nothing'}")
        y = _draw_arrow(canvas, y) if zone != "management" else y
    return FigureBlock(f"Architecture of {option.name}", canvas.render(y + EDGE), ". ".join(alts))


def _list_zones(plan: Plan) -> Iterable[tuple[str, tuple[DiagramBox, ...]]]:
    loads = {load.workload: load for load in plan.loads}
    users = [
        DiagramBox(
            workload.name,
            (
                f"{format_number(loads[workload.name].requests_per_second)} requests/s"
                if workload.name in loads
                else workload.load or "batch work",
                f"data: {workload.data_class or 'no class stated'}",
            ),
        )
        for workload in plan.workloads
    ]
    yield "users", _limit(users, "workload")
    lines = {(section.id, line.topic): line for section in plan.sections for line in section.lines}
    entry = _stack_boxes(plan, ENTRY_FUNCTIONS)
    if front := lines.get(("network", "Front end")):
        entry.append(DiagramBox("Front end", (front.choice,)))
    yield "entry", _limit(entry, "part")
    yield "application", ()
    stored = [
        DiagramBox(topic, _describe_store(line))
        for (section, topic), line in lines.items()
        if _is_store(section, topic)
    ]
    yield "data", _limit([*_stack_boxes(plan, DATA_FUNCTIONS), *stored], "store")
    identity = lines.get(("stack", "Identity"))
    management = [DiagramBox("Identity", (identity.choice if identity is not None else "to decide",))]
    yield "management", _limit([*management, *_stack_boxes(plan, MANAGEMENT_FUNCTIONS)], "part")


def _describe_store(line: SectionLine) -> tuple[str, ...]:
    """`121 GB in the last month`, `object storage in PLACE`."""
    if line.estimate is None:
        return (line.choice,)
    return f"{format_quantity(line.estimate.value, 'B')} in the last month", line.choice.rpartition(" on ")[2]


def _is_store(section: str, topic: str) -> bool:
    return section == "storage" and topic.startswith(("Data ", "Vector index", "Backup of ", "Existing "))


def _stack_boxes(plan: Plan, functions: dict[str, str]) -> list[DiagramBox]:
    return [
        DiagramBox(functions[line.function], (f"{line.product} (existing)" if line.existing else line.product,))
        for line in plan.stack
        if line.function in functions
    ]


def _limit(boxes: list[DiagramBox], noun: str) -> tuple[DiagramBox, ...]:
    if len(boxes) <= MOST_ZONE_BOXES:
        return tuple(boxes)
    rest = format_count(len(boxes) - MOST_ZONE_BOXES + 1, f"more {noun}")
    return (*boxes[: MOST_ZONE_BOXES - 1], DiagramBox(rest, ("listed in the tables",)))


def _fit_to_page(places: tuple[PoolGroup, ...]) -> tuple[PoolGroup, ...]:
    """The places with as many boxes as fit on the page; the others are counted."""
    shown = places
    for most in MOST_BOXES:
        shown = tuple(_limit_boxes(place, most) for place in places)
        if sum(max(place.rows for place in row) for row in _arrange_rows(shown)) <= MOST_LINES:
            return shown
    kept = COLUMNS * MOST_LINES - 1
    rest = DiagramBox("listed under Sizing", (format_count(sum(len(p.boxes) for p in places[kept:]), "pool"),))
    return (*shown[:kept], PoolGroup(f"{len(places) - kept} more places", False, (rest,)))


def _limit_boxes(place: PoolGroup, most: int) -> PoolGroup:
    if len(place.boxes) <= most:
        return place
    rest = len(place.boxes) - most + 1
    more = DiagramBox(format_count(rest, "more pool" if most > 1 else "pool"), ("listed under Sizing",))
    return replace(place, boxes=(*place.boxes[: most - 1], more))


def _group_pools(option: Option) -> tuple[PoolGroup, ...]:
    """Pools by place; hosted models by provider."""
    found: dict[tuple[str, str, str], list[Pool]] = {}
    for pool in option.pools:
        found.setdefault((pool.placement, pool.provider, pool.region), []).append(pool)
    pooled = {name for pool in option.pools for name in (pool.name, *pool.workloads)}
    batch = [purchase for purchase in option.purchases if purchase.pool not in pooled]
    places = []
    for (placement, provider, region), pools in found.items():
        names = {pool.name for pool in pools}
        beside = [purchase for purchase in batch if names & set(purchase.shared_with)]
        boxes = (*_pool_boxes(pools, option), *(_batch_box(purchase, option, shown=True) for purchase in beside))
        own = placement in ("on-premises", "this-machine")
        kind = PLACEMENTS[placement]
        title = kind.capitalize() if provider in PLACEMENTS else f"{provider}: {kind}"
        places.append(PoolGroup(f"{title}, {region}", own, boxes))
        batch = [purchase for purchase in batch if purchase not in beside]
    if batch:
        shown, runs = set[str](), list[DiagramBox]()
        for purchase in batch:
            runs.append(_batch_box(purchase, option, shown=bool(shown & set(purchase.shared_with))))
            shown.add(purchase.pool)
        own = any(purchase.kind in ("bought", "owned") for purchase in batch)
        places.append(PoolGroup("Batch runs, no endpoint", own, tuple(runs)))
    pooled |= {purchase.pool for purchase in option.purchases}
    hosted = {name: model for name, model in option.models.items() if name not in pooled}
    if hosted:
        models: dict[str, list[str]] = {}
        for name, model in hosted.items():
            models.setdefault(model, []).append(name)
        hosts = (
            DiagramBox(model, ("a model, no machines", f"for {format_list(names, most=3)}"))
            for model, names in models.items()
        )
        title = f"{option.provider}: hosted models" if option.placement in HOSTED else "No own pool"
        places.append(PoolGroup(title, False, tuple(hosts)))
    return tuple(places)


def _batch_box(purchase: Purchase, option: Option, *, shown: bool) -> DiagramBox:
    """Batch work without an endpoint; `shown`: another box already shows the machines."""
    where = f"on {'the same ' if shown else ''}{purchase.peak} x {purchase.machine}"
    models = filter(None, (option.models.get(purchase.pool, ""),))
    return DiagramBox(purchase.pool, ("batch runs, no endpoint", where, *models))


def _pool_boxes(pools: Iterable[Pool], option: Option) -> Iterable[DiagramBox]:
    """`82 replicas of 1 x ACCELERATOR`, `on 14 x machine`, model and format, workloads."""
    counts = {purchase.pool: purchase.peak for purchase in option.purchases}
    for pool in pools:
        device, _, machine = describe_machine(pool).partition(" (")
        on = f"{counts[pool.name]} x " if pool.name in counts else ""
        machines = (f"on {on}{machine.removesuffix(')')}",) if machine else ()
        replicas = f"{format_count(pool.replicas, 'replica')} of {device}"
        model, users = f"{pool.model} {pool.quantisation}".strip(), f"for {format_list(pool.workloads, most=3)}"
        yield DiagramBox(pool.name, (replicas, *machines, model, users))


def describe_machine(pool: Pool) -> str:
    """Hardware of one replica: `8 x ACCELERATOR (machine)`, or the machine alone if its name states the count."""
    if not pool.accelerator_count or re.match(rf"{pool.accelerator_count} ?x[ -]", pool.machine):
        return pool.machine
    return f"{pool.accelerator_count} x {pool.accelerator} ({pool.machine})"


def _draw_zone_title(canvas: svg.SvgCanvas, y: float, zone: ZoneText) -> float:
    canvas.text((EDGE, y + 15), zone.title, size=14, bold=True)
    canvas.text((EDGE + 136, y + 15), svg.fit_text(zone.rule, 12, INNER - 140), size=12, fill=svg.QUIET)
    return y + 23


def _draw_zone(canvas: svg.SvgCanvas, y: float, boxes: tuple[DiagramBox, ...]) -> float:
    """A frame with its boxes side by side."""
    height = ZONE_BOX_HEIGHT + 2 * 8
    canvas.rect((EDGE, y), (INNER, height), svg.PAPER, rx=8, stroke=svg.RULE)
    width = (INNER - 16 - (len(boxes) - 1) * 8) / max(len(boxes), 1)
    for number, box in enumerate(boxes):
        at = (EDGE + 8 + number * (width + 8), y + 8)
        _draw_box(canvas, at, (width, ZONE_BOX_HEIGHT), box, LINES_IN_ZONE_BOX)
    return y + height


def _draw_arrow(canvas: svg.SvgCanvas, y: float) -> float:
    x, end = WIDTH / 2, y + ARROW_HEIGHT
    canvas.line((x, y + 3), (x, end - 7), svg.QUIET, stroke_width=1.5)
    canvas.polygon([(x - 5, end - 9), (x + 5, end - 9), (x, end - 2)], svg.QUIET)
    return end


def _arrange_rows(places: Iterable[PoolGroup]) -> Iterable[list[PoolGroup]]:
    """Small places share a row of three columns."""
    row: list[PoolGroup] = []
    for place in places:
        if row and sum(one.columns for one in (*row, place)) > COLUMNS:
            yield row
            row = []
        row.append(place)
    if row:
        yield row


def _draw_groups(canvas: svg.SvgCanvas, y: float, places: tuple[PoolGroup, ...]) -> float:
    rows = list(_arrange_rows(places))
    height = GAP + sum(max(place.height for place in row) + GAP for row in rows)
    canvas.rect((EDGE, y), (INNER, height), svg.SOFT, rx=8, stroke=svg.RULE)
    y += GAP
    for row in rows:
        total, room, left = sum(place.columns for place in row), INNER - GAP * (len(row) + 1), EDGE + GAP
        for place in row:
            width = room * place.columns / total
            _draw_group(canvas, (left, y), width, place)
            left += width + GAP
        y += max(place.height for place in row) + GAP
    return y


def _draw_group(canvas: svg.SvgCanvas, at: tuple[float, float], width: float, place: PoolGroup) -> None:
    """A frame with its boxes, solid for own machines and dashed for those of a provider."""
    left, y = at
    edge = {} if place.own else {"stroke_dasharray": "6 4"}
    canvas.rect((left, y), (width, place.height), svg.PAPER, rx=8, stroke=svg.CHOSEN, stroke_width=1.6, **edge)
    canvas.text((left + GAP, y + 22), svg.fit_text(place.title, 13, width - 2 * GAP), bold=True, fill=svg.CHOSEN)
    wide = (width - 2 * GAP - (place.columns - 1) * 8) / place.columns
    for number, box in enumerate(place.boxes):
        row, column = divmod(number, place.columns)
        corner = (left + GAP + column * (wide + 8), y + TITLE_HEIGHT + row * (BOX_HEIGHT + 8))
        _draw_box(canvas, corner, (wide, BOX_HEIGHT), box)


def _draw_box(
    canvas: svg.SvgCanvas, at: svg.Point, size: tuple[float, float], box: DiagramBox, room: int = LINES_IN_BOX
) -> None:
    (x, y), (width, _) = at, size
    canvas.rect(at, size, svg.SOFT, rx=5, stroke=svg.RULE)
    canvas.text((x + 10, y + 21), svg.fit_text(box.title, 13, width - 18), bold=True)
    most = min(3, room) if len(box.lines) == 1 else max(1, min(2, room - len(box.lines) + 1))
    lines = [text for line in box.lines for text in svg.wrap_text(line, 12, width - 18, most)]
    for number, line in enumerate(lines[:room]):
        canvas.text((x + 10, y + 40 + number * 16), line, size=12, fill=svg.QUIET)
