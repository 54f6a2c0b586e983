"""The decision of a plan: near options, facts that change the choice, return, schedule, sections."""

from typing import Literal

from archwright.contract.estimate import Estimate
from archwright.contract.number_format import format_exact, format_money, format_number
from archwright.contract.record import Record

SectionId = Literal[
    "network", "storage", "stack", "security", "scale", "monitoring", "stages", "practices", "providers"
]

# Two options tie if their totals differ by less than this share of the cost, and the share of the samples in which one
# of them is cheaper lies between these ends.
TIE_COST_SHARE = 0.05
TIE_PROBABILITY = (0.4, 0.6)


class Rival(Record):
    """A feasible option compared with the chosen option, with the same samples of every shared fact.

    `cheaper`: probability that the rival costs less over the horizon; `tie`: totals within `TIE_COST_SHARE`, and
    `cheaper` within `TIE_PROBABILITY`; `equal`:
    equal cost in every sample. `break_even_month`: first month by the end of which the chosen option has cost less in
    total, None if there is none.
    """

    option: str
    cheaper: float
    tie: bool
    equal: bool = False
    break_even_month: int | None = None

    @property
    def closeness(self) -> str:
        """Describe a tie in words, "" if there is none."""
        return "the same" if self.equal else "a tie" if self.tie else ""


class CostDriver(Record):
    """A fact that a cost depends on. `share`: its part in the variance of the chosen option's total cost.

    If the fact has the value `flips_at` (unit of `estimate`), the option `flips_to` is chosen; None: no option is
    feasible then. `flips_at` None: no value in range changes the choice materially. `inside`: `flips_at` lies in the
    fact's own band. `limit`: the budget limit that changes the choice at that value, "" if prices change it.
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
        """Describe the effect of `flips_at`: "cloud-x would be chosen", with the budget limit that causes it."""
        effect = f"{self.flips_to} would be chosen" if self.flips_to else "nothing would be feasible"
        return f"the budget's {self.limit.replace('_', ' ')} limit is reached and {effect}" if self.limit else effect


class ReturnOnInvestment(Record):
    """The value of the goals from production on, compared with the chosen option's cost.

    `payback_month`: the first month by the end of which the value covers the cost, None if there is none. `pays`: the
    share of the samples in which the value covers the cost within the horizon.
    """

    value: float
    cost: Estimate
    net: Estimate
    payback_month: int | None
    pays: float


class Phase(Record):
    """A step towards full use, in months from the signature."""

    name: str
    starts: Estimate
    ends: Estimate


class Schedule(Record):
    option: str
    phases: tuple[Phase, ...]


class ScoreEvidence(Record):
    """A model's score on one benchmark within [low, high] (90 %), in `unit`: a share, a rating, or a rank (1 is best).

    A measured score has the range of all usable rows. An estimated one comes from `scores_used` other scores of the
    model. `independent`: neither the model's maker nor a rival measured it.
    """

    benchmark: str
    axis: str
    value: float
    low: float
    high: float
    estimated: bool
    scores_used: int
    source: str
    as_of: str
    independent: Literal["yes", "no", "unknown"] = "unknown"
    unit: Literal["share", "rating", "rank"] = "share"

    @property
    def summary(self) -> str:
        """For example "knowledge (mmlu_pro) 0.62 (0.51 to 0.72), estimated from 20 scores"."""
        name = f"{self.axis.replace('-', ' ')} ({self.benchmark})" if self.axis else self.benchmark
        band = f" ({format_number(self.low)} to {format_number(self.high)})" if self.low < self.high else ""
        origin = f"estimated from {self.scores_used} scores" if self.estimated else "measured"
        return f"{name} {format_number(self.value)}{band}, {origin}"


class ModelChoice(Record):
    """One of three ways to choose models: lowest cost, best quality at up to 1.1 times that cost or within the budget.

    `models` and `quality` (mean share over the axes of the kind of work) are by workload; `option` is the cheapest
    option with these models. `gives_up`: what the choice gives up against the others, a sentence each.
    """

    kind: Literal["cheapest", "best-within-tenth", "best-within-budget"]
    option: str
    models: dict[str, str]
    quality: dict[str, float]
    total_cost: Estimate
    gives_up: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        return self.kind.replace("-", " ")

    def list_changes(self, other: "ModelChoice") -> tuple[str, ...]:
        """Return the changes of the needs that take this choice instead of `other`, for --what-if."""
        models = {name: self.models[name] for name in self.quality}
        return tuple(f"workloads.{name}.model={it}" for name, it in models.items() if other.models.get(name) != it)


class BindingLimit(Record):
    """A limit of the needs that makes the plan dearer, or infeasible.

    With the limit at `relaxed_to` (in its unit), `option` costs `saves` less than the chosen option over the horizon,
    in the budget's currency. Another option may save more.
    """

    constraint: str
    limit: float | str
    relaxed_to: float | str
    saves: float
    option: str

    @property
    def change(self) -> str:
        """Describe the change: "letters.tpot_p95_s 0.05 (relaxed to 0.1)"."""
        limit, relaxed = (
            format_exact(one) if isinstance(one, float | int) else one for one in (self.limit, self.relaxed_to)
        )
        return f"{self.constraint} {limit} (relaxed to {relaxed})"


class PilotRun(Record):
    """A measurement that narrows a prediction far from all measured rows, with its cost.

    `subject`: what was never measured. `machine` is rented at `provider` for `hours`; without a provider the run waits
    for the delivered machine. `band`: factor on the step time today, `band_after`: after the run. `worth`: what the
    uncertainty costs over the horizon in the currency of `cost`: machines bought for certainty, and the chance that a
    limit breaks, in money of the pool; 0 if no plan says.
    """

    workload: str
    subject: str
    machine: str
    provider: str
    hours: Estimate
    cost: Estimate
    command: str
    band: Estimate
    band_after: Estimate
    worth: float = 0.0

    @property
    def summary(self) -> str:
        """A sentence: what was never measured, the run and its cost, and the widths of the band before and after."""
        place = f"{self.machine} at {self.provider}" if self.provider else f"the delivered {self.machine}"
        before = format_number(self.band.factor)
        after = format_number(self.band_after.factor)
        hours = format_number(self.hours.value)
        cost = format_money(self.cost.value, self.cost.unit)
        return (
            f"no measurement of {self.subject}: step times within a factor of {before}. A pilot of about {hours} h on "
            f"{place} costs {cost} and narrows it to about {after}"
        )


class Decision(Record):
    """`pareto` names the options that no other option beats in all `axes` (cost, capex, carbon, risk ...).

    `drivers` are sorted by strength. The first three that change the choice should be checked before signing.
    `choices`: three ways to choose models; `binding`: limits by what relaxing them saves, the largest first.
    `pilots`: the runs that are worth their cost, the most valuable first.
    """

    axes: tuple[str, ...] = ()
    pareto: tuple[str, ...] = ()
    rivals: tuple[Rival, ...] = ()
    drivers: tuple[CostDriver, ...] = ()
    confidence: dict[str, float] = {}
    returns: ReturnOnInvestment | None = None
    schedules: tuple[Schedule, ...] = ()
    choices: tuple[ModelChoice, ...] = ()
    binding: tuple[BindingLimit, ...] = ()
    pilots: tuple[PilotRun, ...] = ()

    def list_choices(self) -> tuple[tuple[ModelChoice, bool], ...]:
        """Return each choice of models, and True if it is the same plan as the one before."""
        before = (None, *self.choices[:-1])
        return tuple(
            (one, last is not None and (one.option, one.models) == (last.option, last.models))
            for one, last in zip(self.choices, before, strict=False)
        )


class SectionLine(Record):
    """One decision of a section: what, why, which regulation demands it, its proof, and the alternative.

    `proof` is a verb, a query or a control's id; "" if nothing proves the line: `why` then has a task ("To do: ...").
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
