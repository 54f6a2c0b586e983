"""Latencies of one engine under open-loop (Poisson) requests, and the most of them that it carries within limits.

Everything follows from the mean number b of answers being written (P prompt tokens, O answer tokens, means):
  d = decode step at 1 + b (an arrival finds b others), R = a prompt's reading, S = what any reading adds to a step
  TPOT   T = d + (b/O) R + (1 - e^(-b/O)) S            by Little's law b/O prompts a step (step_time_model.py)
  rate   r = b / (O T)                                  rises with b: T/b falls
  prompts queue as M/G/1: s = R + (d + S) P/chunk, u = r s, W = r s^2 v / (2 (1 - u)), v = 1 + cv^2 of the prompts,
    waiting time exponential beyond its atom: W95 = W/u ln(20 u). Prompts read in one step end together, so that those
    behind delay a prompt as those ahead do: 2 W in the mean
  TTFT95 = alone(P) + 2 W + gateway + hypot(alone(P95) - alone(P), W95 - W, d/2): independent excesses add as squares
  TPOT95 = T at 1 + b + C z sqrt(b) requests, and at b/O + z sqrt(b/O v / S) prompts per step: an answer of
    S (SHORT_ANSWER_TOKENS) tokens meets so many more than its share; C is CONCURRENCY_SPREAD
  latency95 = TTFT95 + TPOT95 (O - 1)
  places: n = b + r TTFT requests are inside; n + z sqrt(n) <= slots, so that one in twenty at most waits for a place
The most: the largest b at which the limits hold and r is at most MAX_UTILISATION of the rate at which u reaches 1 or n
reaches the slots. At a given r each of these grows with P, O and the steps' times, so that a looser limit or a
shorter prompt or answer never lowers the most. A limit counts as broken when an engine at work for IDLE_UTILISATION of
its time breaks it: between that and an engine without any work lies a hair in which the law is not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

from archwright.contract.needs import SLO, TokenLength
from archwright.sizing.step_time.engine_step_times import StepTimes, UncontendedPrefill

Z95 = 1.6448536269514722
MAX_UTILISATION = 0.8
# Of the spread of the answers at one moment, what is left of it over an answer's own time: sqrt(2/e), the mean of a
# count that forgets exponentially, over one time constant.
CONCURRENCY_SPREAD = 0.858
# The tokens of an answer short enough to meet a prompt or two more than its share, in one request of twenty. A mean
# answer below a hundred tokens meets more: the simulation of the chosen pool says how much. The number is kept for all
# lengths, or a longer answer would be credited for averaging, and carry more.
SHORT_ANSWER_TOKENS = 32.0
# No request is longer than so many times the 95th percentile (policy.traffic draws them so).
LONGEST_OVER_P95 = 1.5
# A gateway's part of a first token: parsing, authorisation, one hop. Measured on two cores.
GATEWAY_S = 0.005
IDLE_UTILISATION = 1e-3
ASSUMPTION = (
    "requests come at random (Poisson), none finds its prompt cached and no token is guessed ahead; an engine is "
    f"loaded to at most {MAX_UTILISATION:.0%} of where it saturates"
)
BISECTION_STEPS = 18


class RequestProfile(NamedTuple):
    """Requests as the formulas see them; `spread` is E[prompt^2] / E[prompt]^2."""

    prompt: float
    prompt_p95: float
    answer: float
    spread: float

    @property
    def context(self) -> float:
        """Behind an answer's middle token."""
        return self.prompt + self.answer / 2


def build_request_profile(reads: TokenLength, writes: TokenLength) -> RequestProfile:
    """Prompts are log-normal, cut at LONGEST x p95: E[X^2] <= cut x E[X]."""
    ratio = max(reads.p95 / reads.mean, 1.0)
    sigma = Z95 - math.sqrt(max(Z95 * Z95 - 2 * math.log(ratio), 0.0))
    spread = min(math.exp(sigma**2), LONGEST_OVER_P95 * ratio)
    return RequestProfile(reads.mean, max(reads.p95, reads.mean), max(writes.mean, 1.0), spread)


class QueueState(NamedTuple):
    """An engine at one load: `batch` answers are being written, `inside` requests are in it, prompts take
    `reading` of the time. A first token takes `alone_s` and waits `waits_s` in the mean; its 95th percentile is
    `late_s` later."""

    batch: float
    rate: float
    decode_s: float
    inside: float
    reading: float
    alone_s: float
    waits_s: float
    late_s: float


class OperatingPoint(NamedTuple):
    batch: float
    rate: float
    decode_s: float
    inside: float
    reading: float
    ttft_p95_s: float
    tpot_p95_s: float
    latency_p95_s: float


class MaxLoad(NamedTuple):
    """The most load; `broken` names the limits that an idle engine breaks, with what it reaches: they were dropped."""

    point: OperatingPoint
    broken: tuple[tuple[str, float], ...]


class OpenLoop:
    """One engine with `slots` places that reads at most `chunk` prompt tokens in a step."""

    def __init__(self, pace: StepTimes, flow: RequestProfile, slots: int, chunk: int) -> None:
        self._pace, self._flow, self._slots, self._chunk = pace, flow, slots, chunk
        self._decode = pace.decode_step(flow.context)
        self._mean, self._p95 = pace.uncontended_prefill(flow.prompt), pace.uncontended_prefill(flow.prompt_p95)
        self._read_s = pace.prefill_s(flow.prompt, flow.prompt**2 * flow.spread / 2)

    @cached_property
    def idle(self) -> OperatingPoint:
        """An engine that writes, or reads, for IDLE_UTILISATION of its time: the least load there is."""
        decode = self._decode.step_s(1)
        return self.at_batch(IDLE_UTILISATION * min(1.0, decode * self._flow.answer / self._queued_prefill_s(decode)))

    def _queue_state(self, batch: float) -> QueueState:
        flow, started = self._flow, self._pace.started_s
        share = batch / flow.answer
        decode = self._decode.step_s(1 + batch)
        rate = share / (decode + share * self._read_s - math.expm1(-share) * started)
        each = self._queued_prefill_s(decode)
        mean = self._uncontended_ttft_s(self._mean, flow.prompt, decode)
        waits, late = _prefill_waits(rate, each, flow.spread)
        return QueueState(batch, rate, decode, batch + rate * (mean + waits), rate * each, mean, waits, late)

    def at_batch(self, batch: float) -> OperatingPoint:
        """With so many answers being written."""
        return self._operating_point(self._queue_state(batch))

    def _operating_point(self, at: QueueState) -> OperatingPoint:
        flow, batch, decode = self._flow, at.batch, at.decode_s
        p95, share = self._uncontended_ttft_s(self._p95, flow.prompt_p95, decode), batch / flow.answer
        crowd = 1 + batch + CONCURRENCY_SPREAD * Z95 * math.sqrt(batch)
        met = share + Z95 * math.sqrt(share * flow.spread / SHORT_ANSWER_TOKENS)
        tpot = self._decode.step_s(crowd) + met * self._read_s - math.expm1(-met) * self._pace.started_s
        late = math.sqrt((p95 - at.alone_s) ** 2 + at.late_s * at.late_s + decode * decode / 4)
        ttft = at.alone_s + at.waits_s + GATEWAY_S + late
        latency = ttft + tpot * (flow.answer - 1)
        return OperatingPoint(batch, at.rate, decode, at.inside, at.reading, ttft, tpot, latency)

    def _queued_prefill_s(self, decode: float) -> float:
        """What a prompt adds to the wait of those behind it when they queue: steps are full of prompts then."""
        return self._read_s + (decode + self._pace.started_s) * self._flow.prompt / self._chunk

    def _uncontended_ttft_s(self, alone: UncontendedPrefill, prompt: float, decode: float) -> float:
        """A prompt longer than a chunk takes further steps."""
        further = math.ceil(prompt / self._chunk) - 1
        return alone.ttft_s(decode) + further * (decode + self._pace.started_s)

    def find_max_load(self, slo: SLO) -> MaxLoad:
        limits = {name: limit for name in LIMITED_LATENCIES if (limit := getattr(slo, name)) is not None}
        idle = self.idle
        broken = tuple((name, getattr(idle, name)) for name, limit in limits.items() if getattr(idle, name) > limit)
        for name, _ in broken:
            del limits[name]
        full = self._largest_batch(lambda at: at.reading < 1 and at.inside <= self._slots)
        ceiling = MAX_UTILISATION * self._queue_state(full).rate

        def holds(at: QueueState) -> bool:
            if at.reading >= 1 or at.rate > ceiling or at.inside + Z95 * math.sqrt(at.inside) > self._slots:
                return False
            if not limits:
                return True
            point = self._operating_point(at)
            return all(getattr(point, name) <= limit for name, limit in limits.items())

        return MaxLoad(self.at_batch(self._largest_batch(holds)), broken)

    def at_rate(self, rate: float) -> OperatingPoint:
        """The point at so many requests/s, or where the engine is full when it cannot carry them."""
        return self.at_batch(self._largest_batch(lambda at: at.rate <= rate and at.inside <= self._slots))

    def _largest_batch(self, holds: Callable[[QueueState], bool]) -> float:
        """The largest such batch by bisection of its logarithm; what holds at one batch holds at every smaller one."""
        low, high = self.idle.batch, float(self._slots)
        for _ in range(BISECTION_STEPS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if holds(self._queue_state(middle)) else (low, middle)
        return low


LIMITED_LATENCIES = ("ttft_p95_s", "tpot_p95_s", "latency_p95_s")


def _prefill_waits(rate: float, each: float, spread: float) -> tuple[float, float]:
    """Mean wait for other prompts, and how far the 95th percentile lies above; infinite when the queue grows."""
    busy = rate * each
    if busy >= 1:
        return math.inf, math.inf
    mean = busy * each * spread / (2 * (1 - busy))
    return 2 * mean, max(mean / busy * (math.log(20 * busy) - busy), 0.0)
