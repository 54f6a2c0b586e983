"""Roofline of an engine step on a CPU, in seconds.

step = weights + attention + FLOPs / ceiling, each of the first two max(FLOPs / (share x compute), bytes / (share x
bandwidth)), since they follow each other; shares and ceiling are those of the efficiency row.
- FLOPs = 2 x body x tokens + 2 x head x generated tokens + attention (4 c h w L for a token with context c).
- Prompt tokens run at the prefill share. Generated tokens run at the decode share below `batched_from` tokens per
  step, else at the batched decode share. In a step with prefill they run at the prefill share (measured: a generated
  token then costs as much as a prompt token). Attention of generated tokens has its own share.
- bytes = parameters read + KV cache read.
Accelerators have fitted step times instead (step_time/engine_step_times.py).
"""

from typing import Literal, NamedTuple

from archwright.catalog.tables.records import Efficiency, ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.plan import MachineFacts
from archwright.contract.record import Record
from archwright.sizing.model import architecture

# A load phase lasts a hundred times longer than one probe run, so half of the spread between probe runs averages out.
REMAINING_SPREAD = 0.5
# Measured on two cores: twice the threads make prefill 1.9 times and decode 1.5 times as fast. A probe of one thread
# says little about the bandwidth of many threads, so its band reaches from no scaling to full scaling.
THREADS_SCALE = 0.9
LEAST_THREADS_SCALE = 0.6
BANDWIDTH_SCALE = 0.5
# Draw of a small computer under load, without screen: base and per busy core. Assumed, not measured.
MACHINE_BASE_W = 15.0
CORE_W = 8.0
POWER_FACTOR = 2.0


class Hardware(Record):
    """Hardware of one replica: memory, and rates with all of the engine's threads busy; the disk's if it is known."""

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: Estimate
    compute_flops_per_s: Estimate
    disk_bytes_per_s: Estimate | None = None


def count_engine_threads(machine: MachineFacts) -> int:
    """Return the usable cores minus one for the gateway, at least one."""
    return max(1, machine.cores_usable - 1)


def matrix_rate(machine: MachineFacts, threads: int) -> Estimate:
    """Return the matmul rate in FLOP/s that `threads` threads sustain over minutes."""
    return _scale_to_threads(machine.matmul_flops_per_s, threads, THREADS_SCALE, LEAST_THREADS_SCALE)


def build_machine_hardware(machine: MachineFacts) -> Hardware:
    """Return the probed machine's one-thread rates, sustained over minutes and scaled to the engine's threads."""
    threads, bandwidth = count_engine_threads(machine), machine.memory_bandwidth_bytes_per_s
    return Hardware(
        name="this-machine",
        memory_bytes=machine.memory_bytes,
        compute_flops_per_s=matrix_rate(machine, threads),
        bandwidth_bytes_per_s=_scale_to_threads(bandwidth, threads, BANDWIDTH_SCALE, 0.0),
        disk_bytes_per_s=machine.disk_write_bytes_per_s,
    )


def _scale_to_threads(rate: Estimate, threads: int, power: float, least: float) -> Estimate:
    """Scale a one-thread rate: value x threads^power, band from threads^least to threads."""
    below, above = (rate.low / rate.value) ** REMAINING_SPREAD, (rate.high / rate.value) ** REMAINING_SPREAD
    low, high = rate.value * below * threads**least, rate.value * above * threads
    return Estimate(value=rate.value * threads**power, low=low, high=high, unit=rate.unit)


class EngineStep(NamedTuple):
    """Work of one engine step. `prompt_pairs`: attended pairs of the prompt tokens; `answering`: decode batch size;
    `context_tokens`: sum of the contexts of that batch."""

    prompt_tokens: int = 0
    prompt_pairs: float = 0.0
    prompts_done: int = 0
    answering: int = 0
    context_tokens: float = 0.0


class _StepFlops(NamedTuple):
    """FLOPs of weights and prompt attention, and those of the attention of generated tokens."""

    weights: float
    attention: float


class Roofline:
    """Step times of one replica; `slowness` multiplies every time (1: middle of the band)."""

    def __init__(
        self, model: ModelSpec, weights_bytes: float, efficiency: Efficiency, hardware: Hardware, slowness: float = 1.0
    ) -> None:
        self.model = model
        self.efficiency = efficiency
        self._compute = hardware.compute_flops_per_s.value / slowness
        self._flop_s = slowness / efficiency.most_flops_per_s if efficiency.most_flops_per_s else 0.0
        self._bandwidth = hardware.bandwidth_bytes_per_s.value * efficiency.decode_share_of_bandwidth / slowness
        self._bytes_per_parameter = weights_bytes / model.parameters
        self._body, self._head = architecture.body_parameters(model), architecture.head_parameters(model)

    def weights_s(self, step: EngineStep) -> float:
        """Return the arithmetic of weights and of prompt attention."""
        return self._find_weights_s(step, self._count_flops(step))

    def attention_s(self, step: EngineStep) -> float:
        """Return the arithmetic of the attention of generated tokens."""
        return self._find_attention_s(self._count_flops(step))

    def ceiling_s(self, step: EngineStep) -> float:
        """Return the time of a step at the engine's ceiling, 0 without one."""
        return self._find_ceiling_s(self._count_flops(step))

    def _find_weights_s(self, step: EngineStep, flops: _StepFlops) -> float:
        tokens = step.prompt_tokens + step.answering
        row = self.efficiency
        share = row.prefill_share_of_matmul if step.prompt_tokens else row.decode_share_of_matmul_batched
        if tokens < row.batched_from:
            share = row.decode_share_of_matmul
        return flops.weights / share / self._compute

    def _find_attention_s(self, flops: _StepFlops) -> float:
        return flops.attention / self.efficiency.attention_share_of_matmul / self._compute

    def _find_ceiling_s(self, flops: _StepFlops) -> float:
        return (flops.weights + flops.attention) * self._flop_s

    def _count_flops(self, step: EngineStep) -> _StepFlops:
        tokens = step.prompt_tokens + step.answering
        weights = 2 * self._body * tokens + 2 * self._head * (step.prompts_done + step.answering)
        read = weights + self._attention_flops(step.prompt_tokens, step.prompt_pairs)
        return _StepFlops(read, self._attention_flops(step.answering, step.context_tokens))

    def _attention_flops(self, tokens: int, seen: float) -> float:
        """Return the attention FLOPs of `tokens` tokens with `seen` attended pairs in total."""
        return tokens * architecture.attention_flops(self.model, seen / tokens) if tokens else 0.0

    def compute_s(self, step: EngineStep) -> float:
        flops = self._count_flops(step)
        return self._find_weights_s(step, flops) + self._find_attention_s(flops) + self._find_ceiling_s(flops)

    def read_s(self, step: EngineStep) -> float:
        """Return the time to read the weights."""
        touched = architecture.parameters_touched(self.model, step.prompt_tokens + step.answering)
        return touched * self._bytes_per_parameter / self._bandwidth

    def cache_s(self, step: EngineStep) -> float:
        """Return the time to read the KV cache of the requests that answer."""
        if not step.answering:
            return 0.0
        each = architecture.cache_bytes(self.model, step.context_tokens / step.answering)
        return step.answering * each / self._bandwidth

    def step_s(self, step: EngineStep) -> float:
        # The simulation asks for millions of steps: their FLOPs are counted once.
        flops = self._count_flops(step)
        attention_s = max(self._find_attention_s(flops), self.cache_s(step))
        return max(self._find_weights_s(step, flops), self.read_s(step)) + attention_s + self._find_ceiling_s(flops)

    def decode_s(self, batch: int, context: float) -> float:
        """Return the decode step of `batch` requests with `context` tokens on average: their TPOT."""
        return self.step_s(EngineStep(answering=batch, context_tokens=batch * context))

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """Return the side of the roofline that limits decode at batch 1."""
        step = EngineStep(answering=1, context_tokens=1.0)
        return "compute" if self.weights_s(step) >= self.read_s(step) else "memory"


def count_token_pairs(context: int, new_tokens: int) -> float:
    """Return the attended pairs of `new_tokens` prompt tokens behind `context` cached tokens (causal)."""
    return new_tokens * (context + new_tokens / 2)
