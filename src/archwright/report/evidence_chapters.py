"""The chapters for who checks: what is promised and how it will be measured, what is assumed, where facts come from."""

from __future__ import annotations

from collections.abc import Iterable

from archwright.contract.evidence import Basis, Control, Prediction
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.plan import Plan
from archwright.plan.explain import glossary
from archwright.report import document as doc
from archwright.report.charts import draw_predictions
from archwright.report.fact_sources import FactSource
from archwright.report.number_format import format_band, format_count, format_measure, format_percent

STATUS_LABELS: dict[str, tuple[str, doc.Tone]] = {
    "built-in": ("built in", "good"),
    "configured": ("to configure", ""),
    "organisational": ("organisational", ""),
    "later": ("comes later", "warn"),
}


def predictions_chapter(plan: Plan) -> doc.Chapter:
    """Every prediction with its band, what it rests on, and the query that will judge it."""
    known = {basis.id: basis for basis in plan.bases}
    promises = None
    if plan.predictions:
        columns = {"Promise": 2, "Value": 1.6, "Band": 1.7, "Stratum": 1.8, "How it is measured": 3.2}
        body = (_prediction_row(p, known.get(p.estimate.basis)) for p in plan.predictions)
        promises = doc.build_table("Promises", columns, body, numeric=(1, 2))
    blocks = doc.keep_blocks(draw_predictions(plan.predictions), promises, _prediction_bases(plan, known))
    text = "archwright reconcile asks the running platform each of these questions: within, better or worse?"
    lead = text if plan.predictions else "The plan promises no number: nothing of ours serves in the chosen option."
    return doc.Chapter("promises", "Promises and their measurement", lead, blocks)


def _prediction_bases(plan: Plan, known: dict[str, Basis]) -> doc.TableBlock | None:
    """What the promises rest on, each basis once."""
    named = dict.fromkeys(p.estimate.basis for p in plan.predictions if p.estimate.basis in known)
    bases = [known[name] for name in named]
    body = ((doc.build_cell(basis.id, basis.kind), basis.definition, basis.formula or "none") for basis in bases)
    columns = {"Basis": 2.2, "Definition": 3.4, "Formula": 4}
    return doc.build_table("What the promises rest on", columns, body) if bases else None


def _prediction_row(promise: Prediction, basis: Basis | None) -> Iterable[doc.Cell]:
    estimate, query = promise.estimate, promise.query
    yield doc.build_cell(promise.id, f"workload {promise.workload}" if promise.workload else "the platform")
    yield doc.Cell(format_measure(estimate.value, estimate.unit))
    yield doc.build_cell(format_band(estimate), f"{format_percent(estimate.level)} likely")
    if basis is None:
        yield doc.Cell("no basis in the plan", tone="quiet")
    else:
        yield doc.build_cell(basis.stratum, ("Basis", basis.id))
    phase = f" under the {query.phase} load" if query.phase else ""
    asked = f"{query.statistic} of {query.metric} over {format_measure(query.window_s, 's')}{phase}"
    yield doc.build_cell(asked, ("PromQL", query.promql() if query.metric in METRIC_BY_QUANTITY else ""))


def controls_chapter(plan: Plan) -> doc.Chapter:
    columns = {"Control": 2, "Demand": 3, "What meets it": 3, "Status": 1.2}
    counts = {status: sum(c.status == status for c in plan.controls) for status in STATUS_LABELS}
    lead = ", ".join(f"{count} {STATUS_LABELS[status][0]}" for status, count in counts.items() if count) + "."
    table = doc.build_table("Controls", columns, map(_control_row, plan.controls))
    return doc.Chapter("controls", "Controls", lead.capitalize(), (table,))


def _control_row(control: Control) -> tuple[doc.Cell, ...]:
    status, tone = STATUS_LABELS[control.status]
    met = doc.build_cell(control.feature, ("Proof", control.evidence))
    return doc.build_cell(control.id, control.demanded_by), doc.Cell(control.demand), met, doc.Cell(status, tone=tone)


def assumptions_chapter(plan: Plan) -> doc.Chapter:
    items = tuple(map(doc.Item, plan.assumptions))
    lead = "Taken because the needs do not say otherwise; each is a line of needs.yaml away from being changed."
    return doc.Chapter("assumptions", "Assumptions", lead, (doc.Items("", items, ordered=True),))


def sources_chapter(plan: Plan, found: tuple[FactSource, ...], bases: tuple[Basis, ...], digest: str) -> doc.Chapter:
    """The catalog's rows behind the choice, then every basis it rests on. `digest` is the catalog's at hand."""
    blocks: list[doc.Block] = []
    if found and digest != plan.catalog_digest:
        text = f"The plan was made with catalog {plan.catalog_digest[:12]}; the rows below are of {digest[:12]}."
        blocks.append(doc.Callout("Another catalog", text))
    if found:
        columns = {"Fact about": 2.4, "Source": 4, "As of": 1.1, "Confidence": 1.1}
        body = ((doc.build_cell(s.thing, s.kind), s.source, s.as_of, s.confidence) for s in found)
        blocks.append(doc.build_table("Rows of the catalog", columns, body))
    if bases:
        columns = {"Basis": 2, "Definition": 3, "Facts": 4}
        blocks.append(doc.build_table("Bases of the numbers", columns, map(_basis_row, bases)))
    hidden = len(plan.bases) - len(bases)
    if hidden:
        text = f"{format_count(hidden, 'more basis', 'more bases')} of options not chosen stand in the plan file: "
        blocks.append(doc.Paragraph(text + "archwright explain plan.json NAME shows each.", "quiet"))
    lead = "Each number names its basis; each basis its formula and the facts it uses, each fact its source and date."
    return doc.Chapter("sources", "Facts and sources", lead, tuple(blocks))


def _basis_row(basis: Basis) -> tuple[doc.Cell, ...]:
    stratum = basis.stratum if basis.stratum != basis.kind else ""
    defined = doc.build_cell(basis.definition, ("Formula", basis.formula))
    return doc.build_cell(basis.id, basis.kind, ("Stratum", stratum)), defined, doc.build_cell("", *basis.facts)


def glossary_chapter() -> doc.Chapter:
    items = tuple(doc.Item(word[0].upper() + word[1:], meaning) for word, meaning in glossary.TERM_MEANINGS.items())
    return doc.Chapter(
        "reading", "How to read this", "The words that carry a fixed meaning here.", (doc.Items("", items),)
    )
