"""Every part of the plan in words and numbers, in the order they are read."""

from __future__ import annotations

from typing import Literal

from archwright.contract.decision import Section
from archwright.plan.accounting.fleet import Chosen
from archwright.plan.sections.guidance import advised, kept_lines
from archwright.plan.sections.monitoring import monitoring_section
from archwright.plan.sections.network import network_section
from archwright.plan.sections.scaling import scale_section
from archwright.plan.sections.security import security_section
from archwright.plan.sections.storage import storage_section

# This plan seen from three sides: rows of guidance alone.
TOLD: tuple[tuple[Literal["stages", "practices", "providers"], str, str], ...] = (
    (
        "stages",
        "Seven stages of building AI infrastructure",
        "How this plan meets each stage, from what is needed to what is measured.",
    ),
    (
        "practices",
        "Seven best practices",
        "Scalability, data governance, optimisation, security, MLOps, hybrid, monitoring: what this plan does.",
    ),
    (
        "providers",
        "How large providers do it",
        "What they have published, and what of it fits a plan of this size.",
    ),
)


def sections_of(chosen: Chosen) -> tuple[Section, ...]:
    """Call it before the ledger's bases are read: sections add their own."""
    parts = (network_section, storage_section, _stack, security_section, scale_section, monitoring_section)
    told = (Section(id=id_, title=title, summary=summary, lines=advised(chosen, id_)) for id_, title, summary in TOLD)
    return (*(part(chosen) for part in parts), *told)


def _stack(chosen: Chosen) -> Section:
    """What each part is, why, and what else it could be. What the user runs already comes first."""
    kept = kept_lines(chosen)
    own = ", ".join(line.choice for line in kept)
    stays = f"what runs already stays and is not priced: {own}" if kept else "nothing of your own was named to stay"
    return Section(
        id="stack",
        title="Software stack",
        summary=f"Open interfaces and file formats at each joint, so that any part can be exchanged; {stays}.",
        lines=(*kept, *advised(chosen, "stack")),
    )
