"""All sections of a plan in words and numbers, in reading order."""

from typing import Literal

from archwright.contract.decision import Section
from archwright.plan.accounting.fleet import ChosenOption
from archwright.plan.sections.guidance import list_existing_tools, select_guidance
from archwright.plan.sections.monitoring import build_monitoring_section
from archwright.plan.sections.network import build_network_section
from archwright.plan.sections.scaling import build_scaling_section
from archwright.plan.sections.security import build_security_section
from archwright.plan.sections.storage import build_storage_section

# Sections of guidance rows only.
GUIDANCE_SECTIONS: tuple[tuple[Literal["stages", "practices", "providers"], str, str], ...] = (
    (
        "stages",
        "Seven stages of building AI infrastructure",
        "How this plan meets each stage, from the needs to the measurements.",
    ),
    (
        "practices",
        "Seven best practices",
        "This plan's answers on scalability, data governance, optimisation, security, MLOps, hybrid and monitoring.",
    ),
    (
        "providers",
        "How large providers do it",
        "Published practices of large providers, and which of them fit a plan of this size.",
    ),
)


def build_sections(chosen: ChosenOption) -> tuple[Section, ...]:
    """Call before the ledger's bases are collected: the sections add bases."""
    parts = (
        build_network_section,
        build_storage_section,
        _build_stack_section,
        build_security_section,
        build_scaling_section,
        build_monitoring_section,
    )
    guided = (
        Section(id=id_, title=title, summary=summary, lines=select_guidance(chosen, id_))
        for id_, title, summary in GUIDANCE_SECTIONS
    )
    return (*(build(chosen) for build in parts), *guided)


def _build_stack_section(chosen: ChosenOption) -> Section:
    kept = list_existing_tools(chosen)
    own = f"Your existing tools stay and are not priced: {', '.join(line.choice for line in kept)}."
    own = own if kept else "The needs name no existing tools to keep."
    return Section(
        id="stack",
        title="Software stack",
        summary=f"Open interfaces and file formats between all parts, so that any part can be replaced. {own}",
        lines=(*kept, *select_guidance(chosen, "stack")),
    )
