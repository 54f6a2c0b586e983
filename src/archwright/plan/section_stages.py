"""The seven stages, the seven practices, and how large providers do it: this plan seen from three sides."""

from __future__ import annotations

from archwright.contract.decision import Section
from archwright.plan.advise import advised
from archwright.plan.fleet import Chosen


def stages_section(chosen: Chosen) -> Section:
    return Section(
        id="stages",
        title="Seven stages of building AI infrastructure",
        summary="How this plan meets each stage, from what is needed to what is measured.",
        lines=advised(chosen, "stages"),
    )


def practices_section(chosen: Chosen) -> Section:
    return Section(
        id="practices",
        title="Seven best practices",
        summary="Scalability, data governance, optimisation, security, MLOps, hybrid, monitoring: what this plan does.",
        lines=advised(chosen, "practices"),
    )


def providers_section(chosen: Chosen) -> Section:
    return Section(
        id="providers",
        title="How large providers do it",
        summary="What they have published, and what of it fits a plan of this size.",
        lines=advised(chosen, "providers"),
    )
