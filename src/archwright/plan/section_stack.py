"""The software stack: what each part is, why, and what else it could be. What the user runs already comes first."""

from __future__ import annotations

from archwright.contract.decision import Section
from archwright.plan.advise import advised, kept_lines
from archwright.plan.fleet import Chosen


def stack_section(chosen: Chosen) -> Section:
    kept = kept_lines(chosen)
    own = ", ".join(line.choice for line in kept)
    stays = f"what runs already stays and is not priced: {own}" if kept else "nothing of your own was named to stay"
    return Section(
        id="stack",
        title="Software stack",
        summary=f"Open interfaces and file formats at each joint, so that any part can be exchanged; {stays}.",
        lines=(*kept, *advised(chosen, "stack")),
    )
