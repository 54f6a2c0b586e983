"""Speed of a server engine with continuous batching on processors, from a fit over public measurements.

Median times of b requests in flight, of which r run; one engine has T threads, one per core, on N memory nodes:
- answer token = c + layers x (a + d T) + (weights + r x cache) x N^e / (s x bandwidth) + r x FLOPs / (T g x m)
  + i x r / answer x prompt FLOPs / (T g)
- first token = R + q x (r - 1)^k x R + w x (b / slots - 1) x answer x answer token, with
  R = c + layers x a + prompt FLOPs / (T g) x (1 + T / h)
`g` belongs to the instruction set, times a factor of the microarchitecture; the wait for a slot to a closed loop.
Boosted trees correct the residual of the logarithm. bench/sizing/processor_servers.py writes the coefficients, trees
and bands (catalog/data/fits/processor_servers.json).
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

from archwright.catalog.tables.records import ModelSpec
from archwright.contract.estimate import Estimate
from archwright.contract.record import replace
from archwright.sizing.inference.processor_speed import ARM, ProcessorFacts, describe_work
from archwright.sizing.model import architecture
from archwright.sizing.step_time import boosted_trees, step_time_model
from archwright.sizing.step_time.fitted_tables import FittedTable, load_table

TABLE = "processor_servers"
METRICS = ("tpot_s", "ttft_s", "pace_s")
# Kinds of load with bands of their own; a fixed batch counts as a closed loop.
SINGLE = "single"
CLOSED = "closed"
OPEN = "open"
KINDS = (SINGLE, CLOSED, OPEN)
STATISTICS = ("mean", "p95", "p99")
VENDORS = ("AMD", "Intel")
# Feature of a number of slots that is not stated.
UNKNOWN = -1.0
# Limit of the trees' logarithm: a larger residual means a mislabelled row.
MOST_RESIDUAL = 1.5


class ServerLoad(NamedTuple):
    """`requests` in flight of equal lengths in tokens. `slots`: most requests that run at once; 0: not stated."""

    kind: str
    requests: float
    prompt: float
    answer: float
    slots: float = 0.0

    @property
    def running(self) -> float:
        if not self.slots:
            return self.requests
        return min(self.requests, self.slots)

    @property
    def waiting_rounds(self) -> float:
        """Return how many rounds of answers a request of a closed loop waits for a slot."""
        if self.kind != CLOSED or not self.slots:
            return 0.0
        rounds = self.requests / self.slots
        return max(rounds - 1, 0.0)


class ServerCase(NamedTuple):
    """One of `replicas` equal engines: the `facts` of its part of the processor, and its share of the load."""

    replicas: int
    facts: ProcessorFacts
    load: ServerLoad
    layers: int
    weights_bytes: float
    cache_bytes: float
    answer_flops: float
    prompt_flops: float


class RuleInputs(NamedTuple):
    """Inputs of the rule: numbers, or arrays of equal length while it is fitted."""

    threads: float
    memory_nodes: float
    layers: float
    bandwidth: float
    bytes_read: float
    answer_flops: float
    prompt_flops: float
    thread_rate: float
    running: float
    answer: float
    crowd: float
    waiting_rounds: float


class ServerTimes(NamedTuple):
    """Median seconds of an answer token and of the first token, and the seconds of an answer token of all requests."""

    tpot_s: float
    ttft_s: float
    pace_s: float


def is_fitted(engine: str) -> bool:
    """Return whether the fit has rows of the engine."""
    return engine in load_table(TABLE).seen["engine"]


def classify_load(load: str, requests: float) -> str:
    """Return the kind for a load of the serving fit; one request in flight is a single one under every load."""
    if requests <= 1 or load in step_time_model.ALONE:
        return SINGLE
    if load == step_time_model.OPEN:
        return OPEN
    return CLOSED


def describe_case(
    facts: ProcessorFacts, model: ModelSpec, weights_bytes: float, *, load: ServerLoad, replicas: int = 1
) -> ServerCase:
    """Return the case of `replicas` equal engines, which divide the processor's threads and memory nodes."""
    own_facts = facts
    if replicas > 1:
        own_facts = _divide_facts(facts, replicas)
    own_requests = max(load.requests / replicas, 1.0)
    own_load = load._replace(requests=own_requests)
    half_answer = load.answer / 2
    context = load.prompt + half_answer
    half_prompt = load.prompt / 2
    answer = describe_work("decode", model, weights_bytes, context=context)
    prompt = describe_work("prefill", model, weights_bytes, context=half_prompt)
    prompt_flops = prompt.flops * load.prompt
    cache_bytes = architecture.cache_bytes(model, context)
    work = (model.layers, weights_bytes, cache_bytes, answer.flops, prompt_flops)
    return ServerCase(replicas, own_facts, own_load, *work)


def _divide_facts(facts: ProcessorFacts, replicas: int) -> ProcessorFacts:
    threads = max(facts.threads // replicas, 1)
    nodes = max(facts.memory_nodes // replicas, 1)
    bandwidth = facts.bandwidth_bytes_per_s / replicas
    return replace(facts, threads=threads, memory_nodes=nodes, bandwidth_bytes_per_s=bandwidth)


def list_rule_inputs(case: ServerCase, rule: Mapping[str, float]) -> RuleInputs:
    facts = case.facts
    load = case.load
    share = rule.get(facts.regime, 1.0)
    bandwidth = facts.bandwidth_bytes_per_s * share
    running = load.running
    cache_bytes = running * case.cache_bytes
    bytes_read = case.weights_bytes + cache_bytes
    usual_rate = rule["flops"]
    of_instructions = rule.get(f"flops.{facts.instruction_set}", usual_rate)
    factor = rule.get(f"factor.{facts.microarchitecture}", 1.0)
    thread_rate = of_instructions * factor
    running_besides = max(running - 1, 0.0)
    exponent = rule.get("crowd_exponent", 1.0)
    crowd_share = rule.get(f"crowd.{load.kind}", 0.0)
    crowd = crowd_share * running_besides**exponent
    machine = (facts.threads, facts.memory_nodes, case.layers, bandwidth)
    work = (bytes_read, case.answer_flops, case.prompt_flops, thread_rate)
    return RuleInputs(*machine, *work, running, load.answer, crowd, load.waiting_rounds)


def apply_answer_rule(inputs: RuleInputs, rule: Mapping[str, float]) -> float:
    """Return the seconds of an answer token."""
    threads = inputs.threads
    threads_s = rule["layer_thread_s"] * threads
    layer_s = rule["layer_s"] + threads_s
    fixed_s = rule["step_s"] + inputs.layers * layer_s
    exponent = rule["node_exponent"]
    spread: float = inputs.memory_nodes**exponent
    memory_s = inputs.bytes_read / inputs.bandwidth
    rate = threads * inputs.thread_rate
    running = inputs.running
    answer_s = inputs.answer_flops / rate
    compute_s = running * answer_s / rule["answer_share"]
    prompt_s = inputs.prompt_flops / rate
    prompts_a_step = running / inputs.answer
    prompts_s = rule["interleaved"] * prompts_a_step * prompt_s
    return fixed_s + memory_s * spread + compute_s + prompts_s


def apply_prompt_rule(inputs: RuleInputs, rule: Mapping[str, float], tpot_s: float) -> float:
    """Return the seconds of the first token, where an answer token takes `tpot_s`."""
    threads = inputs.threads
    crowding = threads / rule["crowding_threads"]
    rate = threads * inputs.thread_rate
    arithmetic_s = inputs.prompt_flops / rate
    compute_s = arithmetic_s * (1 + crowding)
    layers_s = inputs.layers * rule["layer_s"]
    read_s = rule["step_s"] + layers_s + compute_s
    answer_s = inputs.answer * tpot_s
    wait_s = rule["slot_wait"] * inputs.waiting_rounds * answer_s
    crowd_s = read_s * inputs.crowd
    return read_s + crowd_s + wait_s


class KnownTimes(NamedTuple):
    """The rule's time, and the time of an answer token as far as it is known, in seconds."""

    rule_s: float
    tpot_s: float


def list_features(case: ServerCase, times: KnownTimes, instruction_sets: tuple[str, ...]) -> list[float]:
    """Return the features of the residual trees; their order, and that of `instruction_sets`, is part of the fit."""
    facts = case.facts
    load = case.load
    threads = facts.threads
    bandwidth = facts.bandwidth_bytes_per_s
    of_thread = bandwidth / threads
    nodes = float(facts.memory_nodes)
    memory = [nodes, math.log(of_thread), math.log(bandwidth)]
    is_measured = float(facts.bandwidth_measured)
    instruction_set = boosted_trees.find_position(facts.instruction_set, instruction_sets)
    vendor = boosted_trees.find_position(facts.vendor, VENDORS)
    layers = float(case.layers)
    weights = math.log(case.weights_bytes)
    model = [layers, weights]
    prompt = math.log(load.prompt)
    answer = math.log(load.answer)
    requests = math.log(load.requests)
    kind = float(KINDS.index(load.kind))
    filled = UNKNOWN
    if load.slots:
        filled = load.requests / load.slots
    traffic = [prompt, answer, requests, kind, filled, load.slots]
    of_each_thread = math.log(load.requests / threads)
    prompt_work = math.log(case.prompt_flops / threads)
    rule = math.log(times.rule_s)
    tpot = math.log(times.tpot_s)
    processor = [math.log(threads), *memory, is_measured, instruction_set, vendor]
    return [*processor, *model, *traffic, of_each_thread, rule, prompt_work, tpot]


def predict_times(case: ServerCase, fit: FittedTable) -> ServerTimes:
    """Return the median times of the case."""
    answer_rule = fit.coefficients["tpot_s"]
    answer_inputs = list_rule_inputs(case, answer_rule)
    answer_s = apply_answer_rule(answer_inputs, answer_rule)
    answer_times = KnownTimes(answer_s, answer_s)
    tpot_s = _correct_time(case, answer_times, fit, metric="tpot_s")
    prompt_rule = fit.coefficients["ttft_s"]
    prompt_inputs = list_rule_inputs(case, prompt_rule)
    prompt_s = apply_prompt_rule(prompt_inputs, prompt_rule, tpot_s)
    ttft_s = _correct_time(case, KnownTimes(prompt_s, tpot_s), fit, metric="ttft_s")
    ratios = fit.coefficients["ratios"]
    pace_s = compute_token_interval_s(case.load, KnownTimes(ttft_s, tpot_s), ratios)
    return ServerTimes(tpot_s, ttft_s, pace_s)


def _correct_time(case: ServerCase, times: KnownTimes, fit: FittedTable, *, metric: str) -> float:
    instruction_sets = fit.seen["instruction_set"]
    features = list_features(case, times, instruction_sets)
    trees = fit.residuals[metric]
    residual = boosted_trees.sum_trees(trees, features)
    at_most = min(residual, MOST_RESIDUAL)
    limited = max(at_most, -MOST_RESIDUAL)
    return times.rule_s * math.exp(limited)


def compute_token_interval_s(load: ServerLoad, medians: KnownTimes, ratios: Mapping[str, float]) -> float:
    """Return the mean seconds between answer tokens of all requests together; `rule_s` of `medians` is the TTFT."""
    kind = load.kind
    tpot_s = medians.tpot_s * ratios[f"tpot_s.{kind}.mean"]
    ttft_s = medians.rule_s * ratios[f"ttft_s.{kind}.mean"]
    later_tokens = max(load.answer - 1, 0.0)
    request_s = ttft_s + later_tokens * tpot_s
    tokens = load.requests * load.answer
    return request_s / tokens


def name_server_stratum(case: ServerCase) -> str:
    """Return the maker and the kind of load, by which bands are fitted; the makers of ARM cores are one."""
    vendor = case.facts.vendor
    if vendor not in VENDORS:
        vendor = ARM
    return f"{vendor} {case.load.kind}"


class ServerLatency(NamedTuple):
    """Mean latencies in seconds, with the fitted `ratios` of other statistics to the median by metric and load."""

    tpot_s: float
    ttft_s: float
    kind: str
    ratios: Mapping[str, float]

    def ratio_to_mean(self, metric: str, statistic: str) -> float:
        """Return the statistic ("mean", "p50", ...) of `ttft_s` or `tpot_s` over its mean."""
        name = f"{metric}.{self.kind}"
        ratio = self.ratios.get(f"{name}.{statistic}", 1.0)
        mean = self.ratios[f"{name}.mean"]
        return ratio / mean


def describe_latency(times: ServerTimes, case: ServerCase, fit: FittedTable) -> ServerLatency:
    ratios = fit.coefficients["ratios"]
    kind = case.load.kind
    ttft_s = times.ttft_s * ratios[f"ttft_s.{kind}.mean"]
    tpot_s = 0.0
    if case.load.answer > 1:
        tpot_s = times.tpot_s * ratios[f"tpot_s.{kind}.mean"]
    return ServerLatency(tpot_s, ttft_s, kind, ratios)


def quote_band(case: ServerCase, metric: str, fit: FittedTable) -> Estimate:
    """Return the band around 1, of the kind of bandwidth that is known."""
    stratum = name_server_stratum(case)
    band = fit.find_band(metric, stratum, case.facts.regime)
    return Estimate(value=1.0, low=band.low, high=band.high, unit="")
