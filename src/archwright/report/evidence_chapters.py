"""Chapters for reviewers: predictions and their measurement, assumptions, sources of the facts, terms."""

from collections.abc import Iterable

from archwright.contract.evidence import Basis, Prediction
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.number_format import format_count, format_interval, format_quantity, format_share
from archwright.contract.plan import Plan
from archwright.plan.explain import glossary
from archwright.report import document as doc
from archwright.report.fact_sources import FactSource


def predictions_chapter(plan: Plan) -> doc.Chapter:
    known = {basis.id: basis for basis in plan.bases}
    table = bases = None
    lead = "The plan contains no predictions, because the chosen option runs no part of this platform."
    if plan.predictions:
        lead = "`archwright reconcile` asks the running platform each of these questions: within, better or worse?"
        columns = {"Prediction": 2, "Value": 1.6, "Interval": 1.7, "Stratum": 1.8, "How it is measured": 3.2}
        body = (_prediction_row(p, known.get(p.estimate.basis)) for p in plan.predictions)
        table = doc.build_table("Predictions", columns, body, numeric=(1, 2))
    named = dict.fromkeys(p.estimate.basis for p in plan.predictions if p.estimate.basis in known)
    if named:
        found = (known[name] for name in named)
        rows = ((doc.build_cell(basis.id, basis.kind), basis.definition, basis.formula or "none") for basis in found)
        bases = doc.build_table("Bases of the predictions", {"Basis": 2.2, "Definition": 3.4, "Formula": 4}, rows)
    blocks = doc.keep_blocks(table, bases)
    return doc.Chapter("predictions", "Predictions and their measurement", lead, blocks)


def _prediction_row(prediction: Prediction, basis: Basis | None) -> Iterable[doc.Cell]:
    estimate, query = prediction.estimate, prediction.query
    yield doc.build_cell(prediction.id, f"workload {prediction.workload}" if prediction.workload else "the platform")
    yield doc.Cell(format_quantity(estimate.value, estimate.unit))
    yield doc.build_cell(format_interval(estimate), f"{format_share(estimate.level)} likely")
    if basis is None:
        yield doc.Cell("no basis in the plan", tone="quiet")
    else:
        yield doc.build_cell(basis.stratum, ("Basis", basis.id))
    phase = f" under the {query.phase} load" if query.phase else ""
    measured = f"{query.statistic} of {query.metric} over {format_quantity(query.window_s, 's')}{phase}"
    yield doc.build_cell(measured, ("PromQL", query.promql() if query.metric in METRIC_BY_QUANTITY else ""))


def assumptions_chapter(plan: Plan) -> doc.Chapter:
    items = tuple(map(doc.Item, plan.assumptions))
    lead = "These apply because the needs do not state otherwise. A line in needs.yaml changes each of them."
    return doc.Chapter("assumptions", "Assumptions", lead, (doc.Items("", items, ordered=True),))


def sources_chapter(plan: Plan, found: tuple[FactSource, ...], bases: tuple[Basis, ...], digest: str) -> doc.Chapter:
    """The catalog rows behind the choice, then every basis that it uses. `digest`: that of the present catalog."""
    blocks: list[doc.Block] = []
    if found and digest != plan.catalog_digest:
        text = f"The plan was made with catalog {plan.catalog_digest[:12]}; the rows below are from {digest[:12]}."
        blocks.append(doc.Callout("Another catalog", text))
    if found:
        columns = {"Fact about": 2.4, "Source": 4, "As of": 1.1, "Confidence": 1.1}
        body = ((doc.build_cell(s.thing, s.kind), s.source, s.as_of, s.confidence) for s in found)
        blocks.append(doc.build_table("Rows of the catalog", columns, body))
    if bases:
        rows = (
            (
                doc.build_cell(b.id, b.kind, ("Stratum", b.stratum if b.stratum != b.kind else "")),
                doc.build_cell(b.definition, ("Formula", b.formula)),
                doc.build_cell("", *b.facts),
            )
            for b in bases
        )
        blocks.append(doc.build_table("Bases of the numbers", {"Basis": 2, "Definition": 3, "Facts": 4}, rows))
    stale = doc.build_items("Stale facts", plan.stale_facts)
    if stale is not None:
        blocks.append(stale)
    hidden = len(plan.bases) - len(bases)
    if hidden:
        text = f"The plan file contains {format_count(hidden, 'more basis', 'more bases')} of other options: "
        blocks.append(doc.Paragraph(text + "`archwright explain plan.json NAME` shows each.", "quiet"))
    lead = "Each number names its basis. A basis states its formula and facts; a fact states its source and date."
    return doc.Chapter("sources", "Facts and sources", lead, tuple(blocks))


def glossary_chapter() -> doc.Chapter:
    items = tuple(doc.Item(word[0].upper() + word[1:], meaning) for word, meaning in glossary.TERM_MEANINGS.items())
    return doc.Chapter("glossary", "Glossary", "Terms with a fixed meaning in this document.", (doc.Items("", items),))
