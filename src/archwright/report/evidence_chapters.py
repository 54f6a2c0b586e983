"""The chapters for who checks: what is promised and how it will be measured, what is assumed, where facts come from."""

from __future__ import annotations

from collections.abc import Iterable

from archwright.contract.evidence import Basis, Control, Prediction
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.plan import Plan
from archwright.plan.explain import glossary
from archwright.report import charts
from archwright.report.document import (
    Block,
    Callout,
    Cell,
    Chapter,
    Column,
    Item,
    Items,
    Paragraph,
    TableBlock,
    Tone,
    build_notes,
    build_rows,
)
from archwright.report.fact_sources import FactSource
from archwright.report.number_format import format_band, format_count, format_measure, format_percent

STATUS_LABELS: dict[str, tuple[str, Tone]] = {
    "built-in": ("built in", "good"),
    "configured": ("to configure", ""),
    "organisational": ("organisational", ""),
    "later": ("comes later", "warn"),
}


def predictions_chapter(plan: Plan) -> Chapter:
    """Every prediction with its band, what it rests on, and the query that will judge it."""
    known = {basis.id: basis for basis in plan.bases}
    blocks: list[Block] = []
    picture = charts.draw_predictions(plan.predictions)
    if picture is not None:
        blocks.append(picture)
    if plan.predictions:
        columns = (
            Column("Promise", 2),
            Column("Value", 1.6, numeric=True),
            Column("Band", 1.7, numeric=True),
            Column("Stratum", 1.8),
            Column("How it is measured", 3.2),
        )
        body = build_rows(_prediction_row(p, known.get(p.estimate.basis)) for p in plan.predictions)
        blocks += [TableBlock("Promises", columns, body), *_prediction_bases(plan, known)]
    text = "archwright reconcile asks the running platform each of these questions: within, better or worse?"
    lead = text if plan.predictions else "The plan promises no number: nothing of ours serves in the chosen option."
    return Chapter("promises", "Promises and their measurement", lead, tuple(blocks))


def _prediction_bases(plan: Plan, known: dict[str, Basis]) -> Iterable[TableBlock]:
    """What the promises rest on, each basis once."""
    named = dict.fromkeys(p.estimate.basis for p in plan.predictions if p.estimate.basis in known)
    columns = (Column("Basis", 2.2), Column("Definition", 3.4), Column("Formula", 4))
    body = build_rows(
        (Cell(name, build_notes(("", known[name].kind))), known[name].definition, known[name].formula or "none")
        for name in named
    )
    if body:
        yield TableBlock("What the promises rest on", columns, body)


def _prediction_row(promise: Prediction, basis: Basis | None) -> Iterable[Cell]:
    estimate = promise.estimate
    yield Cell(promise.id, build_notes(("", f"workload {promise.workload}" if promise.workload else "the platform")))
    yield Cell(format_measure(estimate.value, estimate.unit))
    yield Cell(format_band(estimate), build_notes(("", f"{format_percent(estimate.level)} likely")))
    if basis is None:
        yield Cell("no basis in the plan", tone="quiet")
    else:
        yield Cell(basis.stratum, build_notes(("Basis", basis.id)))
    query = promise.query
    phase = f" under the {query.phase} load" if query.phase else ""
    asked = f"{query.statistic} of {query.metric} over {format_measure(query.window_s, 's')}{phase}"
    yield Cell(asked, build_notes(("PromQL", query.promql() if query.metric in METRIC_BY_QUANTITY else "")))


def controls_chapter(plan: Plan) -> Chapter:
    columns = (Column("Control", 2), Column("Demand", 3), Column("What meets it", 3), Column("Status", 1.2))
    body = build_rows(_control_row(control) for control in plan.controls)
    counts = {status: sum(c.status == status for c in plan.controls) for status in STATUS_LABELS}
    lead = ", ".join(f"{count} {STATUS_LABELS[status][0]}" for status, count in counts.items() if count) + "."
    return Chapter("controls", "Controls", lead.capitalize(), (TableBlock("Controls", columns, body),))


def _control_row(control: Control) -> Iterable[Cell]:
    status, tone = STATUS_LABELS[control.status]
    yield Cell(control.id, build_notes(("", control.demanded_by)))
    yield Cell(control.demand)
    yield Cell(control.feature, build_notes(("Proof", control.evidence)))
    yield Cell(status, tone=tone)


def assumptions_chapter(plan: Plan) -> Chapter:
    items = tuple(Item(text) for text in plan.assumptions)
    lead = "Taken because the needs do not say otherwise; each is a line of needs.yaml away from being changed."
    return Chapter("assumptions", "Assumptions", lead, (Items("", items, ordered=True),))


def sources_chapter(plan: Plan, found: tuple[FactSource, ...], bases: tuple[Basis, ...], digest: str) -> Chapter:
    """The catalog's rows behind the choice, then every basis it rests on. `digest` is the catalog's at hand."""
    blocks: list[Block] = []
    if found and digest != plan.catalog_digest:
        text = f"The plan was made with catalog {plan.catalog_digest[:12]}; the rows below are of {digest[:12]}."
        blocks.append(Callout("Another catalog", text))
    if found:
        columns = (Column("Fact about", 2.4), Column("Source", 4), Column("As of", 1.1), Column("Confidence", 1.1))
        body = build_rows((Cell(s.thing, build_notes(("", s.kind))), s.source, s.as_of, s.confidence) for s in found)
        blocks.append(TableBlock("Rows of the catalog", columns, body))
    if bases:
        heads = (Column("Basis", 2), Column("Definition", 3), Column("Facts", 4))
        blocks.append(TableBlock("Bases of the numbers", heads, build_rows(_basis_row(basis) for basis in bases)))
    hidden = len(plan.bases) - len(bases)
    if hidden:
        count = format_count(hidden, "more basis", "more bases")
        text = f"{count} of options not chosen stand in the plan file: "
        blocks.append(Paragraph(text + "archwright explain plan.json NAME shows each.", "quiet"))
    lead = "Each number names its basis; each basis its formula and the facts it uses, each fact its source and date."
    return Chapter("sources", "Facts and sources", lead, tuple(blocks))


def _basis_row(basis: Basis) -> Iterable[Cell]:
    stratum = basis.stratum if basis.stratum != basis.kind else ""
    yield Cell(basis.id, build_notes(("", basis.kind), ("Stratum", stratum)))
    yield Cell(basis.definition, build_notes(("Formula", basis.formula)))
    yield Cell("", build_notes(*(("", fact) for fact in basis.facts)))


def glossary_chapter() -> Chapter:
    items = tuple(Item(word[0].upper() + word[1:], meaning) for word, meaning in glossary.TERM_MEANINGS.items())
    return Chapter("reading", "How to read this", "The words that carry a fixed meaning here.", (Items("", items),))
