"""Step times of one engine in seconds, used by the planner's formulas and by the event simulation.

- Accelerators: fitted coefficients (step_time_model.py). A mixed step = decode step + prefill of its prompt chunks. A
  prefill-only step = the prefill and the time to read one token's weights.
- CPU: the roofline of the engine's efficiency row.
Design: an object holds one engine on one layout and is independent of the load.
"""

from __future__ import annotations

import math
from copy import copy
from typing import NamedTuple, Protocol

from archwright.sizing.hardware.roofline import EngineStep, Roofline, count_token_pairs
from archwright.sizing.step_time.step_time_model import (
    OPEN,
    Coefficients,
    DeviceKey,
    expert_routing_s,
    layer_overhead_s,
    prefill_efficiency,
    select_ttft,
    slowdown_factor,
)
from archwright.sizing.step_time.step_work import DeviceSpec, ShardedModel

# An uncontended request waits for half of the running step and then takes part in one step.
STEPS_PER_PREFILL = 1.5


class DecodeStep(Protocol):
    """Decode steps at a fixed context."""

    def step_s(self, batch: float) -> float: ...


class StepTokens(NamedTuple):
    """Tokens of a request in steps: `cached` share of its prompt in the prefix cache, `output` tokens per decode step.

    A decode step computes `verified` tokens per request. `spread`: standard deviation / mean of its output tokens."""

    cached: float = 0.0
    output: float = 1.0
    verified: float = 1.0
    spread: float = 0.0


class Tuning(NamedTuple):
    """Effects of engine options on step times: seconds of a draft over those of a plain step, factors, and a sum.

    `cache`: factor on reading the KV cache; `chunk`: on prefill; `slower`: on all. `adapter_s`: reads adapters."""

    tokens: StepTokens = StepTokens()
    draft: float = 0.0
    cache: float = 1.0
    chunk: float = 1.0
    slower: float = 1.0
    adapter_s: float = 0.0


class StepTimes(Protocol):
    """Step times of an engine in seconds."""

    def __hash__(self) -> int: ...

    @property
    def tokens(self) -> StepTokens:
        """Return the tokens per request and step."""

    @property
    def started_s(self) -> float:
        """Return the fixed time that any prefill adds to a step."""

    def step_s(self, step: EngineStep) -> float:
        """Return the time of one step of the simulation."""

    def decode_step(self, context: float) -> DecodeStep:
        """Return the decode-only steps at `context` tokens per request; batch sizes may be fractional."""

    def prefill_s(self, tokens: float, seen: float) -> float:
        """Return the time that the prefill of `tokens` new tokens adds to their steps; `seen`: their attended pairs."""

    def uncontended_prefill(self, prompt: float) -> UncontendedPrefill:
        """Return the prefill of a prompt that does not queue behind other prompts."""


class UncontendedPrefill(NamedTuple):
    """Time to the first token without queueing: the fitted time, at least the time of the steps it takes part in."""

    fitted_s: float
    fitted_steps: float
    read_s: float

    def ttft_s(self, decode_s: float) -> float:
        """Return the TTFT between decode steps of `decode_s`."""
        return max(self.fitted_s + self.fitted_steps * decode_s, self.steps_s(decode_s))

    def steps_s(self, decode_s: float) -> float:
        return self.read_s + STEPS_PER_PREFILL * decode_s


class FittedDecodeStep(NamedTuple):
    """Linear parts of a decode step in seconds at the fitted rates; `cache_s`, `compute_s`, `request_s` per request.

    A step verifies `drafts` tokens beside its own; each takes the share `draft` of a plain step."""

    weights_s: float
    experts_s: float
    missed: float
    cache_s: float
    compute_s: float
    plain_s: float
    request_s: float
    factor: float
    drafts: int = 0
    draft: float = 0.0

    def step_s(self, batch: float) -> float:
        if not self.drafts:
            return self._plain_step_s(batch, self.cache_s)
        tokens = 1 + self.drafts
        drafting = self.drafts * self.draft * self._plain_step_s(batch, self.cache_s)
        return self._plain_step_s(batch * tokens, self.cache_s / tokens) + drafting

    def _plain_step_s(self, batch: float, cache_s: float) -> float:
        compute, plain = self.compute_s * batch, self.plain_s + self.request_s * batch
        memory = self.memory_s(batch) + cache_s * batch
        return (memory + compute + plain) * self.factor

    def cache_share(self, batch: float) -> float:
        """Return the share of the KV cache in the bytes that a step reads."""
        return self.cache_s * batch / (self.memory_s(batch) + self.cache_s * batch)

    def memory_s(self, tokens: float) -> float:
        """Return the time to read the weights that a step of `tokens` tokens uses."""
        if not self.experts_s:
            return self.weights_s
        return self.weights_s + self.experts_s * (1 - math.pow(self.missed, max(tokens, 1.0)))


class CoefficientKey(NamedTuple):
    """Engine family and attention kind."""

    engine: str
    attention: str


class FittedStepTimes:
    """Fitted step times of one engine on `worker`'s layout, without data-parallel ranks or pipeline stages."""

    def __init__(
        self, worker: ShardedModel, device: DeviceSpec, kind: CoefficientKey, fit: dict[str, dict[str, float]]
    ) -> None:
        self._worker, self._device, self._tpot, self._ttft = worker, device, fit["tpot"], fit[select_ttft(OPEN)]
        self._kind, self._own = kind, DeviceKey(kind.engine, device.device_class, device.link_kind)
        shape, k, name = worker.shape, self._tpot, worker.number.name
        self._number = k.get(f"compute.{name}", 1.0)
        self._bandwidth = device.bandwidth * k["em"] * k.get(f"em.{kind.engine}", 1.0)
        self._link = device.link * k[f"el.{device.link_kind}"]
        self._read_efficiency = k["epf"] * k.get(f"epf.{kind.engine}", 1.0)
        self._factor = slowdown_factor(k, kind.engine, name, device.device_class)
        self.started_s = shape.layers * k["opf"] * self._factor
        self._base = self._decode_constants(k, kind.attention)
        self._prompt = _PrefillRates.from_worker(worker, device)
        near, far = (worker.decode(1.0, context).compute_s(device) for context in (0.0, 1.0))
        rate = self._number / k["ec"]
        self._compute_s, self._seen_s = near * rate, (far - near) * rate
        self._tuning = Tuning()

    @property
    def tokens(self) -> StepTokens:
        return self._tuning.tokens

    def tune(self, tuning: Tuning) -> FittedStepTimes:
        """Return the step times of the engine with options."""
        found, base = copy(self), self._base
        found._tuning, found._factor = tuning, self._factor * tuning.slower
        found.started_s = self.started_s * tuning.slower
        found._base = base._replace(
            weights_s=base.weights_s + tuning.adapter_s,
            factor=found._factor,
            drafts=round(tuning.tokens.verified) - 1,
            draft=tuning.draft,
        )
        return found

    def _decode_constants(self, k: Coefficients, attention: str) -> FittedDecodeStep:
        worker, device, shape = self._worker, self._device, self._worker.shape
        doublings, routing = math.log2(worker.layout.tp), expert_routing_s(worker, device)
        layer = layer_overhead_s(k, self._own, doublings, attention.split("+"), routing)
        empty = worker.decode(1.0, 0.0)
        to_bytes = worker.number.expert_bits / 8 / worker.expert_ranks
        missed = 1 - shape.chosen / shape.experts if shape.sparse else 0.0
        return FittedDecodeStep(
            weights_s=(empty.bytes - shape.touched_expert_parameters(1.0) * to_bytes) / self._bandwidth,
            experts_s=shape.expert * shape.experts * to_bytes / self._bandwidth,
            missed=missed,
            cache_s=0.0,
            compute_s=0.0,
            plain_s=shape.layers * layer + k["fixed"],
            request_s=k["seq"] + empty.exchanged / self._link,
            factor=self._factor,
        )

    def decode_step(self, context: float) -> FittedDecodeStep:
        worker = self._worker
        return self._base._replace(
            cache_s=worker.request_cache_bytes(context) / self._bandwidth * self._tuning.cache,
            compute_s=self._compute_s + self._seen_s * worker.shape.mean_attended_tokens(context),
        )

    def prefill_s(self, tokens: float, seen: float, prompts: int = 1) -> float:
        work = self._prompt
        flops = tokens * (work.trunk_s + work.expert_s) + prompts * work.head_s + work.attention_s(tokens, seen)
        exchanged_s = tokens * work.exchanged / self._link
        return (flops * self._number / self._read_efficiency + exchanged_s) * self._factor * self._tuning.chunk

    def ttft_prefill_s(self, prompt: float) -> float:
        """Return the prefill time by the TTFT coefficients; cached tokens need no work."""
        work, k, device = self._prompt, self._ttft, self._device
        cached = prompt * self.tokens.cached
        pairs, prompt = (prompt * prompt - cached * cached) / 2, prompt - cached
        number = k.get(f"compute.{self._worker.number.name}", 1.0)
        body = (prompt * work.trunk_s + work.head_s) * number + prompt * work.expert_s * number * k["pe"]
        efficiency = prefill_efficiency(k, self._kind.engine, device.device_class)
        flops = (body + work.attention_s(prompt, pairs)) / efficiency
        memory = self._base.memory_s(prompt) * self._bandwidth / device.bandwidth / k["em"]
        exchanged = prompt * work.exchanged / device.link / k[f"elp.{device.link_kind}"]
        launched = math.hypot(flops, memory) + self._worker.shape.layers * k["launch"]
        slower = self._tuning.slower * self._tuning.chunk
        return (launched + exchanged) * k.get(f"device.{device.device_class}", 1.0) * slower

    def uncontended_prefill(self, prompt: float) -> UncontendedPrefill:
        """Return the fitted mean TTFT of a server under a request rate, without the wait for earlier prompts."""
        k, cached = self._ttft, prompt * self.tokens.cached
        scheduling = k.get(f"engine.{self._kind.engine}", 1.0)
        read = self.prefill_s(prompt - cached, (prompt * prompt - cached * cached) / 2) + self.started_s
        fitted = self.ttft_prefill_s(prompt) + scheduling * k[f"t0.{OPEN}"]
        return UncontendedPrefill(fitted, scheduling * k[f"ks.{OPEN}"], read)

    def step_s(self, step: EngineStep) -> float:
        if not step.prompt_tokens:
            return self.decode_step(step.context_tokens / step.answering).step_s(step.answering)
        read = self.prefill_s(step.prompt_tokens, step.prompt_pairs, step.prompts_done)
        if step.answering:
            wrote = self.decode_step(step.context_tokens / step.answering).step_s(step.answering)
            return wrote + read + self.started_s
        base = self._base
        memory = base.memory_s(1.0) * base.factor
        return memory + read + base.plain_s * base.factor + self.started_s


class _PrefillRates(NamedTuple):
    """Seconds at the stated rates: per prompt token, per prompt (`head_s`), per attended pair (`pair_s`).

    `exchanged`: bytes per token."""

    trunk_s: float
    head_s: float
    expert_s: float
    pair_s: float
    exchanged: float
    grows: float
    window: int

    @classmethod
    def from_worker(cls, worker: ShardedModel, device: DeviceSpec) -> _PrefillRates:
        shape, tp = worker.shape, worker.layout.tp
        one, two = worker.prefill(1.0), worker.prefill(2.0)
        return cls(
            trunk_s=(two.trunk_flops - one.trunk_flops) / device.trunk_rate,
            head_s=(2 * one.trunk_flops - two.trunk_flops) / device.trunk_rate,
            expert_s=one.expert_flops / device.expert_rate,
            pair_s=4 * shape.prefill_width * shape.layers / tp / device.wide_rate,
            exchanged=one.exchanged,
            grows=shape.grows,
            window=shape.window,
        )

    def attention_s(self, tokens: float, seen: float) -> float:
        """Return the attention time of `tokens` tokens with `seen` attended pairs, limited by the sliding window."""
        if not self.window:
            return self.pair_s * self.grows * seen
        return self.pair_s * (self.grows * seen + (1 - self.grows) * min(seen, self.window * tokens))


class RooflineStepTimes:
    started_s = 0.0
    tokens = StepTokens()

    def __init__(self, roofline: Roofline) -> None:
        self._roofline = roofline
        row = roofline.efficiency
        self._single, self._batched = row.decode_share_of_matmul, row.decode_share_of_matmul_batched
        self._from = row.batched_from

    def step_s(self, step: EngineStep) -> float:
        return self._roofline.step_s(step)

    def decode_step(self, context: float) -> RooflineDecodeStep:
        roofline = self._roofline
        one, two = (EngineStep(answering=batch, context_tokens=batch * context) for batch in (1, 2))
        grows = roofline.read_s(two) - roofline.read_s(one)
        return RooflineDecodeStep(
            token_s=roofline.weights_s(one) * self._single,
            request_s=max(roofline.attention_s(one), roofline.cache_s(one)) + roofline.ceiling_s(one),
            single=self._single,
            batched=self._batched,
            batched_from=float(self._from),
            memory_s=roofline.read_s(one) - grows,
            grows_s=grows,
        )

    def prefill_s(self, tokens: float, seen: float) -> float:
        """A prompt below `batched_from` tokens costs no more than a prompt of exactly `batched_from` tokens."""
        counts = {math.ceil(tokens), max(math.ceil(tokens), self._from)}
        steps = (EngineStep(prompt_tokens=count, prompt_pairs=seen, prompts_done=1) for count in counts)
        return min(self._roofline.compute_s(step) for step in steps)

    def uncontended_prefill(self, prompt: float) -> UncontendedPrefill:
        """Reading the weights is not hidden behind the first prompt's arithmetic: measured on public tables."""
        read = self.prefill_s(prompt, count_token_pairs(0, math.ceil(prompt)))
        return UncontendedPrefill(read + self._roofline.read_s(EngineStep(prompt_tokens=1)), 0.0, read)


class RooflineDecodeStep(NamedTuple):
    """Roofline of a decode step for fractional batch sizes, with the row's `single` and `batched` compute shares.

    `request_s`: attention and ceiling per request; `grows_s`: experts that another request reads."""

    token_s: float
    request_s: float
    single: float
    batched: float
    batched_from: float
    memory_s: float
    grows_s: float

    def step_s(self, batch: float) -> float:
        tokens = min(batch / self.single, max(batch, self.batched_from) / self.batched)
        return max(self.token_s * tokens, self.memory_s + self.grows_s * batch) + self.request_s * batch
