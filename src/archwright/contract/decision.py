"""What stands beside a plan's options: who else was near, what would change the choice, and each part explained."""

from __future__ import annotations

from typing import Literal

from archwright.contract.estimate import Estimate
from archwright.contract.record import Record

SectionId = Literal[
    "network", "storage", "stack", "security", "scale", "monitoring", "stages", "practices", "providers"
]

# Cheaper in so many of the draws, neither of two options can be called the cheaper one.
TIE_PROBABILITY = (0.35, 0.65)
# A difference below this share of the cost is smaller than what any plan can promise.
NEAR_COST_SHARE = 0.02


class Rival(Record):
    """A feasible option against the chosen one, judged with the same draws of every shared fact.

    `cheaper`: probability that it costs less over the horizon; `tie`: the two cannot be told apart; `equal`: same cost
    in every draw. `break_even_month`: first month by whose end the chosen one has cost less; None: never.
    """

    option: str
    cheaper: float
    tie: bool
    equal: bool = False
    break_even_month: int | None = None

    @property
    def closeness(self) -> str:
        """How near it is, in words; "" for what is no tie: a price as good as the same may be dearer in every draw."""
        if self.equal:
            return "the same"
        even = TIE_PROBABILITY[0] <= self.cheaper <= TIE_PROBABILITY[1]
        return "" if not self.tie else "a tie" if even else f"within {NEAR_COST_SHARE:.0%}"


class CostDriver(Record):
    """A fact that a cost rests on. `share`: its part in the variance of the chosen option's total cost.

    With the fact at `flips_at` (unit of `estimate`), `flips_to` is chosen, or nothing feasible when that is None;
    `flips_at` None: no value in reach changes the choice materially. `inside`: that value lies in the fact's own band.
    `limit`: the budget's limit that is reached there and alone moves the choice, "" where the prices do.
    """

    basis: str
    name: str
    estimate: Estimate
    share: float
    flips_to: str | None = None
    flips_at: float | None = None
    inside: bool = False
    limit: str = ""

    @property
    def consequence(self) -> str:
        """What happens at the flip: "cloud-x would be chosen", and the limit behind it."""
        said = f"{self.flips_to} would be chosen" if self.flips_to else "nothing would be feasible"
        return f"the budget's {self.limit.replace('_', ' ')} limit is reached and {said}" if self.limit else said


class ReturnOnInvestment(Record):
    """What the goals are worth, from production on, against the chosen option's cost.

    `payback_month`: the first month by whose end the value has covered the cost; None: never. `pays`: the share of the
    draws in which it does within the horizon.
    """

    value: float
    cost: Estimate
    net: Estimate
    payback_month: int | None
    pays: float


class Phase(Record):
    """A step on the way to whole use, in months from the signature."""

    name: str
    starts: Estimate
    ends: Estimate


class Schedule(Record):
    option: str
    phases: tuple[Phase, ...]


class Decision(Record):
    """`pareto` names the options that no other beats in every one of `axes` (cost, capex, carbon, risk ...).

    `drivers` come with the strongest first; the first three that flip the choice are the ones to check before signing.
    """

    axes: tuple[str, ...] = ()
    pareto: tuple[str, ...] = ()
    rivals: tuple[Rival, ...] = ()
    drivers: tuple[CostDriver, ...] = ()
    confidence: dict[str, float] = {}
    returns: ReturnOnInvestment | None = None
    schedules: tuple[Schedule, ...] = ()


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
    id: SectionId
    title: str
    summary: str
    lines: tuple[SectionLine, ...]
