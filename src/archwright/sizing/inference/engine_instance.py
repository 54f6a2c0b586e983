"""One engine of a machine: what layouts, formulas and simulation hand each other."""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.tables.records import EngineSpec, ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TokenLength
from archwright.contract.plan import Parallelism
from archwright.sizing.step_time.engine_step_times import StepTimes
from archwright.sizing.step_time.step_time_model import CACHED_ANSWER_SHARE

# Of the 95th percentiles' sum, so that the longest requests are not refused; in whole steps.
CONTEXT_HEADROOM = 2.0
CONTEXT_STEP = 256


class RequestLengths(NamedTuple):
    reads: TokenLength
    writes: TokenLength

    @property
    def mean_cached_tokens(self) -> float:
        """What a mean request keeps in the cache as engines admit."""
        return self.reads.mean + CACHED_ANSWER_SHARE * self.writes.mean

    def context_tokens(self, model: ModelSpec) -> int:
        """Tokens a place may hold: room for long requests, whole steps, never more than the model can."""
        wanted = -(-max(round(self.reads.p95 + self.writes.p95), 1) * CONTEXT_HEADROOM // CONTEXT_STEP) * CONTEXT_STEP
        return min(int(wanted), model.context_tokens)


class EngineSpeed(NamedTuple):
    """How sure an engine's times are: the band of its steps around 1, that of its time to a first token, and why."""

    steps: Estimate
    first: Estimate
    stratum: str
    facts: tuple[str, ...]


class EngineInstance(NamedTuple):
    """One of `copies` equal engines of a machine, each on `devices` accelerators (0: host processor) with
    `slots` places for requests; it reads at most `chunk` prompt tokens in a step."""

    product: EngineSpec
    quantisation: str
    devices: int
    copies: int
    pace: StepTimes
    slots: int
    context_tokens: int
    chunk: int
    parallelism: Parallelism
    speed: EngineSpeed
    assumptions: tuple[str, ...]
