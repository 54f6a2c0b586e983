"""Every part of the plan in words and numbers, in the order they are read."""

from __future__ import annotations

from archwright.contract.decision import Section
from archwright.plan.fleet import Chosen
from archwright.plan.section_monitoring import monitoring_section
from archwright.plan.section_network import network_section
from archwright.plan.section_scale import scale_section
from archwright.plan.section_security import security_section
from archwright.plan.section_stack import stack_section
from archwright.plan.section_stages import practices_section, providers_section, stages_section
from archwright.plan.section_storage import storage_section


def sections_of(chosen: Chosen) -> tuple[Section, ...]:
    """Call it before the ledger's bases are read: sections add their own."""
    parts = (
        network_section,
        storage_section,
        stack_section,
        security_section,
        scale_section,
        monitoring_section,
        stages_section,
        practices_section,
        providers_section,
    )
    return tuple(part(chosen) for part in parts)
