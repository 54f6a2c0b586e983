"""Records of one engine on a machine, shared by layouts, formulas and simulation."""

from typing import NamedTuple

from archwright.catalog.tables.records import EngineSpec, ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.needs import TokenLength
from archwright.contract.plan import EngineOptions, Parallelism
from archwright.sizing.step_time.engine_step_times import CoefficientKey, StepTimes
from archwright.sizing.step_time.step_time_model import CACHED_ANSWER_SHARE
from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel

# Context = this factor x the sum of both p95 lengths, so that the longest requests fit; a multiple of CONTEXT_STEP.
CONTEXT_HEADROOM = 2.0
CONTEXT_STEP = 256


class RequestLengths(NamedTuple):
    reads: TokenLength
    writes: TokenLength

    @property
    def mean_cached_tokens(self) -> float:
        """Return the KV cache tokens of a mean request, as engines admit requests."""
        return self.reads.mean + CACHED_ANSWER_SHARE * self.writes.mean

    def context_tokens(self, model: ModelSpec) -> int:
        """Return the context of a slot: headroom for long requests, at most the model's context."""
        context = -(-max(round(self.reads.p95 + self.writes.p95), 1) * CONTEXT_HEADROOM // CONTEXT_STEP) * CONTEXT_STEP
        return min(int(context), model.context_tokens)


def build_fixed_lengths(prompt_tokens: float, answer_tokens: float) -> RequestLengths:
    """Return the lengths of requests that are all equal."""
    reads = TokenLength(mean=prompt_tokens, p95=prompt_tokens)
    writes = TokenLength(mean=answer_tokens, p95=answer_tokens)
    return RequestLengths(reads, writes)


class EngineSpeed(NamedTuple):
    """Uncertainty of an engine's times: bands around 1 of its steps and of its TTFT, with stratum and facts."""

    steps: Estimate
    first: Estimate
    stratum: str
    facts: tuple[str, ...]


class EngineFrame(NamedTuple):
    """The parts of an engine that options change: `worker` on `device`, coefficients of `kind`, for `requests`."""

    worker: ShardedModel
    device: DeviceSpec
    kind: CoefficientKey
    requests: RequestLengths


class EngineInstance(NamedTuple):
    """One of `copies` equal engines of a machine, on `devices` accelerators each (0: CPU) with `slots` request slots.

    `chunk`: most prompt tokens in one step (chunked prefill); `pace`: the step times with `options`. `frame`: None if
    the engine has no options."""

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
    options: EngineOptions = EngineOptions()
    frame: EngineFrame | None = None
