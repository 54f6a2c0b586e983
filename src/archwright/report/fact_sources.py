"""Sources of a plan's facts: its bases, and the catalog rows of the models, accelerators and regulations it names."""

from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Fact
from archwright.contract.evidence import Basis
from archwright.contract.plan import Option, Plan
from archwright.plan.accounting.provenance import find_estimates, trace_bases


class FactSource(NamedTuple):
    thing: str
    kind: str
    source: str
    as_of: str
    confidence: str


def collect_sources(plan: Plan, option: Option | None, catalog: Catalog) -> tuple[FactSource, ...]:
    """Catalog rows of the models, accelerators and regulations in the chosen option and the controls."""
    pools = option.pools if option is not None else ()
    models = {*(pool.model for pool in pools), *(option.models.values() if option is not None else ())}
    hosted = {model.id: model for model in catalog.hosted}
    rows: list[tuple[str, str, Fact | None]] = [
        *((name, "model", catalog.models.get(name) or hosted.get(name)) for name in sorted(models)),
        *((name, "accelerator", catalog.accelerators.get(name)) for name in sorted({p.accelerator for p in pools})),
    ]
    for name in sorted({control.demanded_by.split(" ")[0] for control in plan.controls}):
        rule = catalog.regulations.get(name)
        rows.append((f"{name}: {rule.name}" if rule is not None else name, "regulation", rule))
    return tuple(
        FactSource(name, kind, row.source, row.as_of or "undated", row.confidence)
        for name, kind, row in rows
        if row is not None
    )


def collect_bases(plan: Plan, option: Option | None) -> tuple[Basis, ...]:
    """Bases of the chosen option, the predictions and the decision, and the bases that they name in turn."""
    holders = (plan.predictions, plan.sections, plan.machine, option)
    named = {estimate.basis for holder in holders for estimate in find_estimates(holder)}
    named |= {driver.basis for driver in plan.decision.drivers}
    if option is not None:
        named |= {basis for line in option.cost_lines for basis in line.drivers}
    return trace_bases(named, plan.bases)
