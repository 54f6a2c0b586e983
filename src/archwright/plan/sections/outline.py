"""Every part of the plan in words and numbers, in the order they are read."""

from __future__ import annotations

from typing import Literal

from archwright.contract.decision import Section
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.sections.guidance import list_existing_tools, select_guidance
from archwright.plan.sections.monitoring import build_monitoring_section
from archwright.plan.sections.network import build_network_section
from archwright.plan.sections.scaling import build_scaling_section
from archwright.plan.sections.security import build_security_section
from archwright.plan.sections.storage import build_storage_section

# This plan seen from three sides: rows of guidance alone.
GUIDANCE_SECTIONS: tuple[tuple[Literal["stages", "practices", "providers"], str, str], ...] = (
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


def build_sections(chosen: ChosenOption) -> tuple[Section, ...]:
    """Call it before the ledger's bases are read: sections add their own."""
    parts = (
        build_network_section,
        build_storage_section,
        _build_stack_section,
        build_security_section,
        build_scaling_section,
        build_monitoring_section,
    )
    sections = [build(chosen) for build in parts]
    for id_, title, summary in GUIDANCE_SECTIONS:
        sections.append(Section(id=id_, title=title, summary=summary, lines=select_guidance(chosen, id_)))
    return tuple(sections)


def _build_stack_section(chosen: ChosenOption) -> Section:
    """What each part is, why, and what else it could be. What the user runs already comes first."""
    kept = list_existing_tools(chosen)
    own = ", ".join(line.choice for line in kept)
    stays = f"what runs already stays and is not priced: {own}" if kept else "nothing of your own was named to stay"
    return Section(
        id="stack",
        title="Software stack",
        summary=f"Open interfaces and file formats at each joint, so that any part can be exchanged; {stays}.",
        lines=(*kept, *select_guidance(chosen, "stack")),
    )
