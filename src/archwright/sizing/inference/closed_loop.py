"""Closed loop of requests: mean TTFT and TPOT, and the percentiles of single requests around the means.

With b requests in decode, O output tokens each, prefill time R and decode step d (means):
- TTFT  A share of the requests comes in a burst and waits 0 to b R (uniform) for earlier prompts. The fitted mean holds
        kb b R of that wait (step_time_model.py), so the share is 2 kb. The other requests wait 0 to d for the running
        step, and for a slot.
        The fit takes medians of rows as means, and measured closed loops agree: requests that finish together stay in
        step, so the median is 0.95 of the mean over 284 of them. The burst only makes the tail.
- TPOT  About b prompts are prefilled during an answer: a normal spread of TPOT_SPREAD_FACTOR sqrt(b) R / O.
Checked against the event simulation of the same steps (tests/simulate/test_closed_loop.py).
"""

import math
from collections.abc import Mapping
from statistics import NormalDist
from typing import NamedTuple

from archwright.sizing.inference.engine_instance import EngineInstance
from archwright.sizing.step_time import step_time_model

MEAN = "mean"
MEDIAN = "p50"
QUANTILES = {MEDIAN: 0.5, "p95": 0.95, "p99": 0.99}
# Largest share of requests in a burst, and the share without a fit (CPU): the usual one of accelerators.
MOST_BURST, USUAL_BURST = 0.5, 0.2
TPOT_SPREAD_FACTOR = 0.7
_NORMAL = NormalDist()


class ClosedLoopLatency(NamedTuple):
    """Mean latencies in seconds, the queueing part of TTFT (`crowd_s`), and the spread of single requests.

    `is_fitted`: the mean TTFT is that of measured rows, whose median is near it."""

    tpot_s: float
    ttft_s: float
    crowd_s: float
    burst: float
    burst_s: float
    step_s: float
    tpot_spread_s: float
    is_fitted: bool = False

    def ratio_to_mean(self, metric: str, statistic: str) -> float:
        """Return the statistic ("mean", "p50", ...) of `ttft_s` or `tpot_s` over its mean."""
        if statistic == MEAN:
            return 1.0
        share = QUANTILES[statistic]
        if metric == "tpot_s":
            return 1 + _NORMAL.inv_cdf(share) * self.tpot_spread_s / self.tpot_s
        if self.is_fitted and statistic == MEDIAN:
            return 1.0
        steady = 1 - self.burst
        ttft = self.ttft_s - self.crowd_s
        if share <= steady:
            # The fitted mean already holds half of the running step.
            ttft += (share / steady - 0.5) * self.step_s
        else:
            ttft += max(self.step_s / 2, (share - steady) / self.burst * self.burst_s)
        return max(ttft, 0.0) / self.ttft_s


def parse_statistic(text: str) -> str:
    """Return the statistic that a table cell names; "mean" if the cell is empty or names no known statistic."""
    text = text.lower()
    return next((name for name in QUANTILES if name in text), "p50" if text.strip() == "median" else MEAN)


def predict_fitted_loop(
    case: step_time_model.StepTimeInputs, fit: Mapping[str, step_time_model.Coefficients], means: tuple[float, float]
) -> ClosedLoopLatency:
    """Predict a fitted deployment; the physics' parts are scaled to its mean TPOT and TTFT, `means`."""
    tpot, ttft = fit["tpot"], fit[step_time_model.select_ttft(case.load)]
    step, pace = step_time_model.decode_step_s(case, tpot), step_time_model.mean_tpot_s(case, tpot)
    first, read = step_time_model.mean_ttft_s(case, ttft, step, pace), step_time_model.ttft_prefill_s(case, ttft)
    pooled = case.prefill_ranks > 0
    before = case.sent * case.ranks / case.prefill_ranks if pooled else case.others
    share = step_time_model.earlier_share(case, ttft) * ttft.get(f"engine.{case.engine}", 1.0)
    crowd = ttft["p_kb"] if pooled else share
    between = step_time_model.interleaved_prefill_s(case, tpot)
    spread = TPOT_SPREAD_FACTOR * math.sqrt(case.requests) / case.answer
    burst, grown = min(2 * crowd, MOST_BURST), means[1] / first
    return ClosedLoopLatency(
        tpot_s=means[0] if case.answer > 1 else 0.0,
        ttft_s=means[1],
        crowd_s=crowd * before * read * grown,
        burst=burst,
        burst_s=2 * crowd / max(burst, step_time_model.EPSILON) * before * read * grown,
        step_s=0.0 if pooled else step * grown,
        tpot_spread_s=0.0 if pooled else spread * between * means[0] / pace,
        is_fitted=True,
    )


def predict_engine_loop(
    engine: EngineInstance, sent: float, prompt: float, answer: float, burst: float = USUAL_BURST
) -> ClosedLoopLatency:
    """Predict a closed loop of `sent` requests from an engine's step times; the share `burst` comes together."""
    pace, batch = engine.pace, max(min(sent, float(engine.slots)), 1.0)
    step = pace.decode_step(prompt + answer / 2).step_s(batch)
    tokens = pace.tokens
    read = pace.prefill_s(prompt * (1 - tokens.cached), prompt * prompt / 2 * (1 - tokens.cached**2))
    share = batch * tokens.output / answer
    tpot = (step + share * read - math.expm1(-share) * pace.started_s) / tokens.output
    crowd = burst * (batch - 1) * read / 2
    queue = (max(sent / engine.slots, 1.0) - 1) * answer * tpot
    return ClosedLoopLatency(
        tpot_s=tpot if answer > 1 else 0.0,
        ttft_s=pace.uncontended_prefill(prompt).ttft_s(step if batch > 1 else 0.0) + crowd + queue,
        crowd_s=crowd,
        burst=burst,
        burst_s=(batch - 1) * read,
        step_s=step if batch > 1 else 0.0,
        tpot_spread_s=TPOT_SPREAD_FACTOR * math.sqrt(batch) * read / answer,
    )
