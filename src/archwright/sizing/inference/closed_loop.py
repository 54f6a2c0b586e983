"""A closed loop of requests: its means, and how far single requests lie from them.

With n requests at once, b of them being written, O tokens each, R a prompt's reading, d a decode step (means):
- TTFT  a share of the requests comes in a burst and waits 0 to b R, evenly, for the prompts before it. Half of that
        share of b R is the fitted mean's crowd (kb in step_time_model.py), so the share is twice kb. The others wait
        for the step under way, 0 to d, and for a place.
- TPOT  between an answer's tokens about b prompts are read: a normal spread of TPOT_SPREAD_FACTOR sqrt(b) R / O.
Held to the event simulation of the same steps (tests/simulate/test_closed_loop.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

from archwright.sizing.inference.engine_instance import EngineInstance
from archwright.sizing.step_time import step_time_model

MEAN = "mean"
QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
# How fits and tables call the one in the middle.
MEDIANS = frozenset({"median", "p50"})
# At most so many requests of a loop come in a burst; where no fit says how many (hosts), as many as accelerators have.
MOST_BURST, USUAL_BURST = 0.5, 0.2
TPOT_SPREAD_FACTOR = 0.7
_NORMAL = NormalDist()


class ClosedLoopLatency(NamedTuple):
    """Seconds: means, the crowd's part of TTFT, and what spreads requests around the means."""

    tpot_s: float
    ttft_s: float
    crowd_s: float
    burst: float
    burst_s: float
    step_s: float
    tpot_spread_s: float

    def ratio_to_mean(self, metric: str, statistic: str) -> float:
        """The statistic of `ttft_s` or `tpot_s` over its mean."""
        if statistic == MEAN:
            return 1.0
        share = QUANTILES[statistic]
        if metric == "tpot_s":
            return 1 + _NORMAL.inv_cdf(share) * self.tpot_spread_s / self.tpot_s
        calm = 1 - self.burst
        late = self.ttft_s - self.crowd_s
        if share <= calm:
            # The fitted mean holds half of the step under way.
            late += (share / calm - 0.5) * self.step_s
        else:
            late += max(self.step_s / 2, (share - calm) / self.burst * self.burst_s)
        return max(late, 0.0) / self.ttft_s


def parse_statistic(text: str) -> str:
    """The statistic a table's word asks for; `mean` where it says nothing, or says that it does not know."""
    said = text.lower()
    named = next((name for name in QUANTILES if name in said), None)
    if named is not None:
        return named
    return "p50" if said.strip() in MEDIANS else MEAN


def predict_fitted_loop(
    case: step_time_model.StepTimeInputs, fit: Mapping[str, step_time_model.Coefficients], means: tuple[float, float]
) -> ClosedLoopLatency:
    """Of a fitted deployment whose mean TPOT and TTFT are `means`: the physics' parts in proportion."""
    tpot, ttft = fit["tpot"], fit["ttft"]
    step, pace = step_time_model.decode_step_s(case, tpot), step_time_model.mean_tpot_s(case, tpot)
    first, read = step_time_model.mean_ttft_s(case, ttft, step, pace), step_time_model.ttft_prefill_s(case, ttft)
    pooled = case.prefill_ranks > 0
    before = case.sent * case.ranks / case.prefill_ranks if pooled else case.requests
    crowd = ttft["p_kb"] if pooled else ttft["kb"] * ttft.get(f"engine.{case.engine}", 1.0)
    between = step_time_model.interleaved_prefill_s(case, tpot)
    spread = TPOT_SPREAD_FACTOR * math.sqrt(case.requests) / case.answer
    burst, grown = min(2 * crowd, MOST_BURST), means[1] / first
    return ClosedLoopLatency(
        tpot_s=means[0] if case.answer > 1 else 0.0,
        ttft_s=means[1],
        crowd_s=crowd * before * read * grown,
        burst=burst,
        burst_s=2 * crowd / burst * before * read * grown,
        step_s=0.0 if pooled else step * grown,
        tpot_spread_s=0.0 if pooled else spread * between * means[0] / pace,
    )


def predict_engine_loop(engine: EngineInstance, sent: float, prompt: float, answer: float) -> ClosedLoopLatency:
    """Of an engine by its steps' times, where no fit says what a crowd is."""
    pace, batch = engine.pace, max(min(sent, float(engine.slots)), 1.0)
    step = pace.decode_step(prompt + answer / 2).step_s(batch)
    read = pace.prefill_s(prompt, prompt * prompt / 2)
    share = batch / answer
    tpot = step + share * read - math.expm1(-share) * pace.started_s
    crowd = USUAL_BURST * (batch - 1) * read / 2
    queue = (max(sent / engine.slots, 1.0) - 1) * answer * tpot
    return ClosedLoopLatency(
        tpot_s=tpot if answer > 1 else 0.0,
        ttft_s=pace.uncontended_prefill(prompt).ttft_s(step if batch > 1 else 0.0) + crowd + queue,
        crowd_s=crowd,
        burst=USUAL_BURST,
        burst_s=(batch - 1) * read,
        step_s=step if batch > 1 else 0.0,
        tpot_spread_s=TPOT_SPREAD_FACTOR * math.sqrt(batch) * read / answer,
    )
