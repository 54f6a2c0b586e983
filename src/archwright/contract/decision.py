"""What stands beside a plan's options: who else was near, what would change the choice, and each part explained."""

from __future__ import annotations

from typing import Literal

from archwright.contract.estimate import Estimate
from archwright.contract.record import Record

SectionId = Literal[
    "network", "storage", "stack", "security", "scale", "monitoring", "stages", "practices", "providers"
]


class Rival(Record):
    """A feasible option against the chosen one, judged with the same draws of every shared fact.

    `cheaper` is the probability that it costs less over the horizon; `tie`: the two cannot be told apart.
    `break_even_month` is the first month by whose end the chosen one has cost less, None when it never does so.
    """

    option: str
    cheaper: float
    tie: bool
    break_even_month: int | None = None


class Driver(Record):
    """A fact that a cost rests on. `share`: its part in the variance of the chosen option's total cost.

    With the fact at `flips_at` (same unit as `estimate`), `flips_to` would be chosen, or, when that is None, nothing
    would be feasible; `flips_at` None: no value in reach changes the choice to an option that costs materially else.
    `inside`: that value lies inside the fact's own band.
    """

    basis: str
    name: str
    estimate: Estimate
    share: float
    flips_to: str | None = None
    flips_at: float | None = None
    inside: bool = False


class Return(Record):
    """What the goals are worth against what the chosen option costs, both over the horizon.

    `payback_month`: the first month by whose end the value has covered the cost; None when it never does.
    """

    value: float
    cost: Estimate
    net: Estimate
    payback_month: int | None


class Decision(Record):
    """`pareto` names the options that no other beats in every one of `axes` (cost, capex, carbon, risk ...).

    `drivers` come with the strongest first; the first three that flip the choice are the ones to check before signing.
    """

    axes: tuple[str, ...] = ()
    pareto: tuple[str, ...] = ()
    rivals: tuple[Rival, ...] = ()
    drivers: tuple[Driver, ...] = ()
    confidence: dict[str, float] = {}
    returns: Return | None = None


class SectionLine(Record):
    """One decision of a part of the plan: what, why, who demands it, its proof, and what else was possible.

    `proof` is a verb, a query or a control's id; "" where this release proves nothing, and `why` then says so.
    """

    topic: str
    choice: str
    why: str
    demanded_by: tuple[str, ...] = ()
    proof: str = ""
    alternative: str = ""
    why_not: str = ""
    estimate: Estimate | None = None
    source: str = ""


class Section(Record):
    """A part of the plan in words and numbers."""

    id: SectionId
    title: str
    summary: str
    lines: tuple[SectionLine, ...]
