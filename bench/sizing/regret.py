"""Compute the regret of a buyer who trusts out-of-fold predictions among measured configurations with a TPOT limit.

Candidates are the measured rows of one model, prompt and answer (and accelerator). Limits are the 30, 50 and 70 %
points of the measured TPOT. Cost is devices x time / output tokens. The prediction error has the distribution of the
residuals of all other groups of the same stratum. There are two buyers:
- a row: buys one configuration at one concurrency, the cheapest that holds the limit with a probability. The purchase
  may break the limit.
- a configuration: buys engine, layout and format, and finds the concurrency on the machine, as a gateway's admission
  does. All its rows share one sample of the error. The buyer takes the lowest mean cost among configurations that hold
  the limit at some concurrency with a probability.
"""

from __future__ import annotations

import bisect
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from statistics import fmean
from typing import NamedTuple

from bench.sizing.validation import Out, quantile

from archwright.sizing.inference import serving_prediction

SHARES = (0.3, 0.5, 0.7)
ASKED = (0.5, 0.7, 0.8, 0.9, 0.95)
LEAST_ROWS = 6
# Draws of the error: equal slices of probability.
DRAWS = 20


NEAR = 1.1


class Candidate(NamedTuple):
    """Seconds of TPOT, device-seconds an output token; `errors` are the residuals of other groups, `factors` equal
    slices of their distribution.
    """

    name: str
    tpot_s: float
    predicted_s: float
    cost: float
    predicted_cost: float
    errors: Sequence[float]
    factors: Sequence[float]

    def holds(self, limit: float) -> float:
        """The probability."""
        return bisect.bisect_right(self.errors, math.log(limit / self.predicted_s)) / len(self.errors)


class Purchase(NamedTuple):
    """TPOT over its limit and cost over the cheapest that held it."""

    over: float
    cost: float


def pools(outs: Sequence[Out], across: bool) -> Iterator[tuple[list[Candidate], float]]:
    """Candidates with a limit; `across` puts accelerators together."""
    plain = [out for out in outs if out.regime != serving_prediction.DISAGGREGATED]
    paces = [out for out in plain if out.metric == "tpot_s"]
    firsts = {out.row.id: out for out in plain if out.metric == "ttft_s"}
    errors = {
        group: sorted(out.residual for out in paces if out.group != group) for group in {out.group for out in paces}
    }
    factors = {
        group: [math.exp(quantile(own, (draw + 0.5) / DRAWS)) for draw in range(DRAWS)] for group, own in errors.items()
    }
    found: dict[tuple[object, ...], list[Candidate]] = defaultdict(list)
    for out in paces:
        row, case = out.row, out.row.found.case
        first = firsts[row.id]
        tpot, ttft = row.tpot_s or 0.0, row.ttft_s or 0.0
        pace, wait = tpot * math.exp(-out.residual), ttft * math.exp(-first.residual)
        each = row.found.worker.layout.total / (case.sent * case.ranks * case.answer)
        name = f"{row.accelerator} {row.configuration} {row.cells['precision']}"
        cost, guess = (each * (before + case.answer * between) for before, between in ((ttft, tpot), (wait, pace)))
        key = (row.model, case.prompt, case.answer, "" if across else row.accelerator)
        found[key].append(Candidate(name, tpot, pace, cost, guess, errors[out.group], factors[out.group]))
    for candidates in found.values():
        if len(candidates) >= LEAST_ROWS:
            for share in SHARES:
                yield candidates, quantile([one.tpot_s for one in candidates], share)


def row_bought(candidates: Sequence[Candidate], limit: float, asked: float) -> Purchase | None:
    """None where no row holds the limit as surely as is asked."""
    believed = [one for one in candidates if one.holds(limit) >= asked]
    if not believed:
        return None
    chosen = min(believed, key=lambda one: one.predicted_cost)
    return Purchase(chosen.tpot_s / limit, chosen.cost / _cheapest(candidates, limit))


def configuration_bought(candidates: Sequence[Candidate], limit: float, asked: float) -> Purchase | None:
    """None where no configuration holds the limit as surely as is asked; a purchase is at its best concurrency."""
    by_name: dict[str, list[Candidate]] = defaultdict(list)
    for one in candidates:
        by_name[one.name].append(one)
    believed = {name: cost for name, rows in by_name.items() if (cost := _mean_cost(rows, limit, asked)) is not None}
    if not believed:
        return None
    rows = by_name[min(believed, key=lambda name: believed[name])]
    held = [one for one in rows if one.tpot_s <= limit]
    if not held:
        return Purchase(min(one.tpot_s for one in rows) / limit, math.inf)
    return Purchase(1.0, min(one.cost for one in held) / _cheapest(candidates, limit))


def _mean_cost(rows: Sequence[Candidate], limit: float, asked: float) -> float | None:
    """Over draws of the error, at the concurrency that is cheapest in each; None where too few draws hold the limit."""
    found = []
    for factor in rows[0].factors:
        costs = [one.predicted_cost * factor for one in rows if one.predicted_s * factor <= limit]
        if costs:
            found.append(min(costs))
    return fmean(found) if len(found) >= asked * DRAWS else None


def _cheapest(candidates: Iterable[Candidate], limit: float) -> float:
    return min(one.cost for one in candidates if one.tpot_s <= limit)


Buyer = Callable[[Sequence[Candidate], float, float], Purchase | None]
HEAD = (
    "| bought | among | asked to hold with | held | broke it by up to 10 % | by more | none found "
    "| cost of those held: median | p90 |\n|---|---|---|---|---|---|---|---|---|\n"
)


def table(outs: Sequence[Out]) -> str:
    made = HEAD
    for across in (False, True):
        cases = list(pools(outs, across))
        for name, buyer in (("a row", row_bought), ("a configuration", configuration_bought)):
            for asked in ASKED:
                made += _line(name, across, asked, [buyer(candidates, limit, asked) for candidates, limit in cases])
    return made


def _line(name: str, across: bool, asked: float, bought: Sequence[Purchase | None]) -> str:
    held = [one.cost for one in bought if one is not None and one.over <= 1]
    near = sum(one is not None and 1 < one.over <= NEAR for one in bought)
    far = sum(one is not None and one.over > NEAR for one in bought)
    where = "accelerators, priced alike" if across else "one accelerator"
    return (
        f"| {name} | {where} | {asked:.0%} | {len(held)} of {len(bought)} | {near} | {far} | {bought.count(None)} "
        f"| {quantile(held, 0.5):.2f}x | {quantile(held, 0.9):.2f}x |\n"
    )
