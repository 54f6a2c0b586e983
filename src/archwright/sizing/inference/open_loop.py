"""p95 latencies of one engine under open-loop (Poisson) load, and its highest load within the SLO.

Everything follows from the mean decode batch b (P prompt tokens, O output tokens, means; times in seconds):
  d = decode step at batch 1 + b (an arrival finds b others), R = prefill of a prompt, S = fixed time of any prefill
  TPOT   T = d + (b/O) R + (1 - e^(-b/O)) S            b/O prompts per step by Little's law (step_time_model.py)
  with drafts a step gives m tokens: O is then the steps of an answer, and T the time of m tokens. With a prefix cache R
  and P in the steps are those of the new tokens (engine_options.py). A step has room for chunk - b new tokens.
  rate   r = b / (O T)                                  rises with b, because T/b falls
  prompts queue as M/G/1: s = R + (d + S) P/chunk, u = r s, W = r s^2 v / (2 (1 - u)), v = 1 + cv^2 of the prompts;
    the wait is exponential beyond its atom at 0: W95 = W/u ln(20 u). Prompts that share a step end together, so later
    prompts delay a prompt as much as earlier ones: 2 W on average
  TTFT95 = alone(P) + 2 W + gateway + hypot(alone(P95) - alone(P), W95 - W, d/2): independent excesses in quadrature
  TPOT95 = T at batch 1 + b + C z sqrt(b) with b/O + z sqrt(b/O v / S) prompts per step, the most that 95 % of the
    answers of S (SHORT_ANSWER_TOKENS) tokens meet, and no more than fit a chunk; C is CONCURRENCY_SPREAD. The spread of
    accepted drafts over DRAFTED_TOKENS adds in quadrature
  latency95 = TTFT95 + TPOT95 (O - 1)
  slots: n = b + r TTFT requests are in the engine; n + z sqrt(n) <= slots, so at most 5 % of them wait for a slot
Capacity: the largest b at which the limits hold and r is at most MAX_UTILISATION of the rate at which u reaches 1 or n
reaches the slots. At a given r each latency grows with P, O and the step times, so a looser limit, a shorter prompt or
a shorter answer never lowers the capacity. A limit counts as violated if an engine that is busy for IDLE_UTILISATION
of its time violates it; monotonicity does not hold in the small gap between that engine and an idle one.

Certainty: if every step takes s times as long, an engine at rate r is the predicted engine at rate r s with all times
multiplied by s; the time to first token has a band of its own and is multiplied by f. At probability p, s and f are the
p quantiles of their bands (`Slowdown`). The capacity at certainty c is the largest rate at which the limits hold with
the slowdown of c. MAX_UTILISATION is room for slow steps already: the slowed engine may be loaded to its saturation. No
number of machines brings a latency below that of an idle engine, so a limit within NEAR_IDLE of it is not tightened.
The probability of a limit at rate r is the largest p at whose slowdown it holds.
"""

import math
import sys
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import NamedTuple

from archwright.contract.estimate import Estimate
from archwright.contract.needs import SLO, TokenLength
from archwright.sizing.step_time.engine_step_times import StepTimes, UncontendedPrefill

Z95 = 1.6448536269514722
MAX_UTILISATION = 0.8
# Share of the momentary spread of the batch size that remains when averaged over one answer: sqrt(2/e), for a count
# with exponential autocorrelation averaged over one time constant.
CONCURRENCY_SPREAD = 0.858
# An answer of this length meets one or two prompts more than its share in 5 % of the requests. A mean answer below a
# hundred tokens meets more; the simulation of the chosen pool quantifies that. The number applies to all lengths:
# otherwise longer answers would average more and get a higher capacity.
SHORT_ANSWER_TOKENS = 32.0
# Requests are at most this multiple of the p95 length (policy.traffic draws them so).
LONGEST_OVER_P95 = 1.5
# Gateway part of the TTFT: parsing, authorisation, one hop. Measured on two cores.
GATEWAY_S = 0.005
IDLE_UTILISATION = 1e-3
NEAR_IDLE = 1.1
# Accepted drafts are averaged over an answer of this length, also in longer answers: see SHORT_ANSWER_TOKENS.
DRAFTED_TOKENS = 128.0
ASSUMPTION = (
    f"requests arrive as a Poisson process; an engine is loaded to at most {MAX_UTILISATION:.0%} of its saturation rate"
)
LIMITED_LATENCIES = ("ttft_p95_s", "tpot_p95_s", "latency_p95_s")
# Grid of batches, and the steps in which a bracket must halve.
GRID, PATIENCE = 2**18, 3
# Bisections of a probability. An engine with less than this share of a rate cannot carry it.
CHANCE_STEPS, SATURATED = 14, 0.999


class RequestProfile(NamedTuple):
    """Token lengths of the requests; `spread` is E[prompt^2] / E[prompt]^2."""

    prompt: float
    prompt_p95: float
    answer: float
    spread: float

    @property
    def context(self) -> float:
        """Return the context at the middle token of an answer."""
        return self.prompt + self.answer / 2


def build_request_profile(reads: TokenLength, writes: TokenLength) -> RequestProfile:
    """Build the profile of log-normal prompts, cut at LONGEST_OVER_P95 x p95: E[X^2] <= cut x E[X]."""
    ratio = max(reads.p95 / reads.mean, 1.0)
    sigma = Z95 - math.sqrt(max(Z95 * Z95 - 2 * math.log(ratio), 0.0))
    spread = min(math.exp(sigma**2), LONGEST_OVER_P95 * ratio)
    return RequestProfile(reads.mean, max(reads.p95, reads.mean), max(writes.mean, 1.0), spread)


class OperatingPoint(NamedTuple):
    """An engine at one load: `batch` requests in decode, `inside` requests in the engine, share of prefill `reading`.

    Mean TTFT = `alone_s` + wait `waits_s`; the p95 of the wait is `late_s` longer. Percentiles are added last."""

    batch: float
    rate: float
    decode_s: float
    inside: float
    reading: float
    alone_s: float
    waits_s: float
    late_s: float
    ttft_p95_s: float = math.nan
    tpot_p95_s: float = math.nan
    latency_p95_s: float = math.nan


class Slowdown(NamedTuple):
    """Factors on the step times and on the time to first token."""

    steps: float = 1.0
    first: float = 1.0

    def slow(self, at: OperatingPoint, answer: float) -> OperatingPoint:
        """Return the slowed engine at the rate at.rate / steps."""
        ttft, tpot = at.ttft_p95_s * self.first, at.tpot_p95_s * self.steps
        latency = ttft + tpot * (answer - 1)
        return at._replace(rate=at.rate / self.steps, ttft_p95_s=ttft, tpot_p95_s=tpot, latency_p95_s=latency)


class SlowdownBands(NamedTuple):
    """Bands around 1 of the step times and of the time to first token; both errors move together."""

    steps: Estimate
    first: Estimate

    def find_slowdown(self, share: float) -> Slowdown:
        return Slowdown(self.steps.quantile(share), self.first.quantile(share))


class MaxLoad(NamedTuple):
    """Highest load at the predicted speed. `broken`: limits that an idle engine violates, with its latency; ignored.

    `doubts`: limits that the slower engine does not hold.
    """

    point: OperatingPoint
    broken: tuple[tuple[str, float], ...]
    doubts: int = 0


NOT_SLOWER = Slowdown()


class OpenLoop:
    """One engine with `slots` request slots and at most `chunk` prompt tokens per step, under Poisson load."""

    def __init__(self, pace: StepTimes, flow: RequestProfile, slots: int, chunk: int) -> None:
        self._pace, self._flow, self._slots, self._chunk = pace, flow, slots, chunk
        self._decode, self._tokens, cached = pace.decode_step(flow.context), pace.tokens, pace.tokens.cached
        self._mean, self._p95 = pace.uncontended_prefill(flow.prompt), pace.uncontended_prefill(flow.prompt_p95)
        self._new, self._new_p95 = flow.prompt * (1 - cached), flow.prompt_p95 * (1 - cached)
        self._read_s = pace.prefill_s(self._new, flow.prompt**2 * flow.spread / 2 * (1 - cached**2))
        self._steps = flow.answer / self._tokens.output

    @cached_property
    def idle(self) -> OperatingPoint:
        """Return the lowest load: decode or prefill for IDLE_UTILISATION of the time."""
        decode = self._decode.step_s(1)
        return self.at_batch(IDLE_UTILISATION * min(1.0, decode * self._steps / self._queued_prefill_s(decode, 0.0)))

    @cached_property
    def _saturation_rate(self) -> float:
        return self._queue_state(self._largest_batch(self._fullness)).rate

    def _queue_state(self, batch: float) -> OperatingPoint:
        flow, started = self._flow, self._pace.started_s
        share = batch / self._steps
        decode = self._decode.step_s(1 + batch)
        rate = share / (decode + share * self._read_s - math.expm1(-share) * started)
        each = self._queued_prefill_s(decode, batch)
        alone = self._uncontended_ttft_s(self._mean, self._new, (decode, batch))
        busy, wait, late = rate * each, math.inf, math.inf
        if busy < 1:  # M/G/1; an overloaded queue waits for ever
            mean = busy * each * flow.spread / (2 * (1 - busy))
            wait, late = 2 * mean, max(mean / busy * (math.log(20 * busy) - busy), 0.0)
        return OperatingPoint(batch, rate, decode, batch + rate * (alone + wait), busy, alone, wait, late)

    def at_batch(self, batch: float) -> OperatingPoint:
        return self._add_percentiles(self._queue_state(batch))

    def _add_percentiles(self, at: OperatingPoint) -> OperatingPoint:
        flow, batch, decode = self._flow, at.batch, at.decode_s
        p95, share = self._uncontended_ttft_s(self._p95, self._new_p95, (decode, batch)), batch / self._steps
        batch_p95 = 1 + batch + CONCURRENCY_SPREAD * Z95 * math.sqrt(batch)
        prompts = share + Z95 * math.sqrt(share * flow.spread / SHORT_ANSWER_TOKENS)
        prompts = max(min(prompts, self._chunk / self._new), share)
        tpot = self._decode.step_s(batch_p95) + prompts * self._read_s - math.expm1(-prompts) * self._pace.started_s
        if self._tokens.spread:
            mean, refused = share / at.rate, Z95 * self._tokens.spread * math.sqrt(self._tokens.output / DRAFTED_TOKENS)
            tpot = mean * (1 + math.hypot(tpot / mean - 1, refused)) / self._tokens.output
        excess = math.sqrt((p95 - at.alone_s) ** 2 + at.late_s * at.late_s + decode * decode / 4)
        ttft = at.alone_s + at.waits_s + GATEWAY_S + excess
        return at._replace(ttft_p95_s=ttft, tpot_p95_s=tpot, latency_p95_s=ttft + tpot * (flow.answer - 1))

    def _free_tokens(self, batch: float) -> float:
        """Return the new prompt tokens that a step has room for beside `batch` requests in decode."""
        return max(self._chunk - batch * self._tokens.verified, 1.0)

    def _queued_prefill_s(self, decode: float, batch: float) -> float:
        """Return the time that a queued prompt adds to the wait of later prompts; steps are then full of prompts."""
        return self._read_s + (decode + self._pace.started_s) * self._new / self._free_tokens(batch)

    def _uncontended_ttft_s(self, alone: UncontendedPrefill, new: float, at: tuple[float, float]) -> float:
        """Return the TTFT without queueing, with decode time and batch `at`; `new` tokens above a chunk take steps."""
        decode, batch = at
        further = math.ceil(new / self._free_tokens(batch)) - 1
        return alone.ttft_s(decode) + further * (decode + self._pace.started_s)

    def find_max_load(self, slo: SLO, slower: Slowdown = NOT_SLOWER) -> MaxLoad:
        """Return the highest load of the engine at the predicted speed, at which the `slower` engine holds `slo`."""
        limits = {name: limit for name in LIMITED_LATENCIES if (limit := getattr(slo, name)) is not None}
        idle = self.idle
        broken = tuple((name, getattr(idle, name)) for name, limit in limits.items() if getattr(idle, name) > limit)
        for name, _ in broken:
            del limits[name]
        ceiling = min(MAX_UTILISATION * slower.steps, 1.0) * self._saturation_rate
        near = {name: min(limit, NEAR_IDLE * getattr(idle, name)) for name, limit in limits.items()}

        def excess(at: OperatingPoint) -> float:
            full = max(self._fullness(at, Z95), at.rate / ceiling)
            if full > 1 or not limits:
                return full
            point = self._add_percentiles(at)
            slow = slower.slow(point, self._flow.answer)
            shares = (
                min(getattr(slow, name) / limit, getattr(point, name) / near[name]) for name, limit in limits.items()
            )
            return float(max(full, *shares))

        point = self.at_batch(self._largest_batch(excess))
        slow = slower.slow(point, self._flow.answer)
        return MaxLoad(point, broken, sum(getattr(slow, name) > limit for name, limit in limits.items()))

    def chance_within(self, name: str, limit: float, rate: float, bands: SlowdownBands) -> float:
        """Return the probability that the latency `name` is within `limit` at `rate` requests/s."""
        low, high = 0.0, 1.0
        for _ in range(CHANCE_STEPS):
            slower = bands.find_slowdown((low + high) / 2)
            at = self.at_rate(rate * slower.steps)
            holds = at.rate > SATURATED * rate * slower.steps or at.batch == self.idle.batch
            holds = holds and getattr(slower.slow(at, self._flow.answer), name) <= limit
            low, high = ((low + high) / 2, high) if holds else (low, (low + high) / 2)
        return (low + high) / 2

    def at_rate(self, rate: float) -> OperatingPoint:
        """Return the point at `rate` requests/s, or the saturated point if the engine cannot carry that rate."""
        most = max(rate, sys.float_info.min)
        return self.at_batch(self._largest_batch(lambda at: max(at.rate / most, self._fullness(at))))

    def _fullness(self, at: OperatingPoint, spread: float = 0.0) -> float:
        """Return a measure of the used slots that is above 1 if requests wait for a slot or for ever.

        It is 2 x / (1 + x) for the share x of slots, with `spread` standard deviations, since x grows without limit."""
        if at.reading >= 1:
            return 1 + at.reading
        inside = at.inside + spread * math.sqrt(at.inside)
        return 2 * inside / (self._slots + inside)

    def _largest_batch(self, excess: Callable[[OperatingPoint], float]) -> float:
        """Return the largest batch of a fixed grid whose `excess` is at most 1; `excess` must be monotone.

        Secants in logarithms of batch and excess, inside a bracket; a bisection if the bracket shrinks too slowly. The
        grid makes results comparable: of two limits the looser one never gets the smaller batch."""
        first, step = math.log(self.idle.batch), math.log(self._slots / self.idle.batch) / GRID

        def evaluate(place: int) -> tuple[int, float]:
            found = excess(self._queue_state(math.exp(first + place * step)))
            return place, math.log(found) if found > 0 else -math.inf

        low, high = 0, GRID
        older, newer = evaluate(low), evaluate(high)
        if newer[1] <= 0 or older[1] > 0:
            return float(self._slots) if newer[1] <= 0 else self.idle.batch
        widths = [4 * GRID] * PATIENCE
        while (width := high - low) > 1:
            rise, middle = newer[1] - older[1], (low + high) // 2
            place = middle
            if rise and math.isfinite(rise) and width <= widths[-PATIENCE] / 2:
                place = round(newer[0] - newer[1] * (newer[0] - older[0]) / rise)
                place = min(max(place, low + 1), high - 1)
            widths.append(width)
            older, newer = newer, evaluate(place)
            low, high = (place, high) if newer[1] <= 0 else (low, place)
        return math.exp(first + low * step) if low else self.idle.batch


# Limits differ more often than engines: an engine's idle and saturated points are computed once.
build_open_loop = lru_cache(maxsize=4096)(OpenLoop)
