"""How long a step of an engine takes: the slower of its arithmetic and its memory traffic, at stated shares.

step = max(FLOPs / (share x compute), bytes / (share x bandwidth)), with the shares of the efficiency row.
- FLOPs = 2 x body x tokens + 2 x head x tokens generated + attention (4 c h w L for a token that sees c others).
- Prompt tokens run at the prefill share. Generated tokens run at the decode share while fewer than `batched_from` are
  computed together, at the batched share from there on, and at the prefill share in a step that also reads a prompt
  (measured: a running answer's token costs what a prompt token costs). Their attention has a share of its own.
- bytes = parameters touched + cache read.
Host processors only: accelerators have the fitted steps of engine_step_times.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from archwright.catalog.tables.records import Efficiency, ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.plan import MachineFacts
from archwright.contract.record import Record
from archwright.sizing.model import architecture

# A phase of traffic lasts a hundred times longer than a repeat of the probe: half of the repeats' spread averages out.
REMAINING_SPREAD = 0.5
# Measured on two cores: twice the threads read prompts 1.9 times and write answers 1.5 times as fast. A probe of one
# thread says little about the memory of many: between not scaling at all and scaling fully.
THREADS_SCALE = 0.9
LEAST_THREADS_SCALE = 0.6
BANDWIDTH_SCALE = 0.5
# A small computer at work, screen apart: a base and each busy core. Assumed, as nothing here measures it.
MACHINE_BASE_W = 15.0
CORE_W = 8.0
POWER_FACTOR = 2.0


class Hardware(Record):
    """What one replica runs on: a machine's memory, and its rates when all of the engine's threads work."""

    name: str
    memory_bytes: int
    bandwidth_bytes_per_s: Estimate
    compute_flops_per_s: Estimate


def count_engine_threads(machine: MachineFacts) -> int:
    """Usable cores but one, which the gateway keeps; at least one."""
    return max(1, machine.cores_usable - 1)


def matrix_rate(machine: MachineFacts, threads: int) -> Estimate:
    """The machine's rate of matrix products as sustained over minutes by so many threads."""
    return _scale_to_threads(machine.matmul_flops_per_s, threads, THREADS_SCALE, LEAST_THREADS_SCALE)


def build_machine_hardware(machine: MachineFacts) -> Hardware:
    """The machine at hand: its one-thread rates as sustained over minutes, scaled to the engine's threads."""
    threads, bandwidth = count_engine_threads(machine), machine.memory_bandwidth_bytes_per_s
    return Hardware(
        name="this-machine",
        memory_bytes=machine.memory_bytes,
        compute_flops_per_s=matrix_rate(machine, threads),
        bandwidth_bytes_per_s=_scale_to_threads(bandwidth, threads, BANDWIDTH_SCALE, 0.0),
    )


def _scale_to_threads(rate: Estimate, threads: int, power: float, least: float) -> Estimate:
    """One thread's rate for many, sustained: value x threads^power, between threads^least and threads."""
    below, above = (rate.low / rate.value) ** REMAINING_SPREAD, (rate.high / rate.value) ** REMAINING_SPREAD
    low, high = rate.value * below * threads**least, rate.value * above * threads
    return Estimate(value=rate.value * threads**power, low=low, high=high, unit=rate.unit)


class EngineStep(NamedTuple):
    """The work of one iteration. `prompt_pairs`: tokens that the prompt tokens see, `context_tokens`: contexts;
    summed."""

    prompt_tokens: int = 0
    prompt_pairs: float = 0.0
    prompts_done: int = 0
    answering: int = 0
    context_tokens: float = 0.0


class Roofline:
    """Step times of one replica; `slowness` scales every time (1 is the middle of the band)."""

    def __init__(
        self, model: ModelSpec, weights_bytes: float, efficiency: Efficiency, hardware: Hardware, slowness: float = 1.0
    ) -> None:
        self.model = model
        self.efficiency = efficiency
        self._compute = hardware.compute_flops_per_s.value / slowness
        self._bandwidth = hardware.bandwidth_bytes_per_s.value * efficiency.decode_share_of_bandwidth / slowness
        self._bytes_per_parameter = weights_bytes / model.parameters
        self._body, self._head = architecture.body_parameters(model), architecture.head_parameters(model)

    def compute_s(self, step: EngineStep) -> float:
        tokens = step.prompt_tokens + step.answering
        row = self.efficiency
        share = row.prefill_share_of_matmul if step.prompt_tokens else row.decode_share_of_matmul_batched
        if tokens < row.batched_from:
            share = row.decode_share_of_matmul
        weights = 2 * self._body * tokens + 2 * self._head * (step.prompts_done + step.answering)
        return (
            weights / share
            + self._attention_flops(step.prompt_tokens, step.prompt_pairs) / share
            + self._attention_flops(step.answering, step.context_tokens) / row.attention_share_of_matmul
        ) / self._compute

    def _attention_flops(self, tokens: int, seen: float) -> float:
        """FLOPs of `tokens` tokens that see `seen` others in all."""
        return tokens * architecture.attention_flops(self.model, seen / tokens) if tokens else 0.0

    def memory_s(self, step: EngineStep) -> float:
        tokens = step.prompt_tokens + step.answering
        read = architecture.parameters_touched(self.model, tokens) * self._bytes_per_parameter
        if step.answering:
            read += step.answering * architecture.cache_bytes(self.model, step.context_tokens / step.answering)
        return read / self._bandwidth

    def step_s(self, step: EngineStep) -> float:
        return max(self.compute_s(step), self.memory_s(step))

    def prefill_s(self, new_tokens: int, context: int = 0) -> float:
        """A prompt's `new_tokens` read in one step behind `context` tokens already cached."""
        pairs = count_token_pairs(context, new_tokens)
        return self.step_s(EngineStep(prompt_tokens=new_tokens, prompt_pairs=pairs, prompts_done=1))

    def decode_s(self, batch: int, context: float) -> float:
        """One token for each of `batch` answers with `context` tokens on average: the time between their tokens."""
        return self.step_s(EngineStep(answering=batch, context_tokens=batch * context))

    @property
    def bound(self) -> Literal["compute", "memory"]:
        """What limits a single answer."""
        step = EngineStep(answering=1, context_tokens=1.0)
        return "compute" if self.compute_s(step) >= self.memory_s(step) else "memory"


def count_token_pairs(context: int, new_tokens: int) -> float:
    """How many tokens `new_tokens` prompt tokens see together behind `context` others: each sees all before it."""
    return new_tokens * (context + new_tokens / 2)
