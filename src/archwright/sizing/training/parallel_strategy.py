"""Which split of a training run is the fastest that fits a cluster, and how long a token takes then.

Every split of the devices into tensor, pipeline and data ranks is counted (training_memory.py) and timed by the
fitted physics (token_throughput.py); of those that fit, the one with the fewest device-seconds a token wins. Added:
- link: between machines the machine's own network share of each device, not the port the fit assumed;
- tensor ranks of devices without links of their own exchange over the host's bus;
- gradients of copies that are not sharded: 2 (d - 1) / d x 2 bytes x trained / link, once a step;
- adapters: no products for the gradients of frozen weights, 4 + 2 r of the 6 + 2 r FLOPs (r: recomputation).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator
from archwright.contract.estimate import Estimate
from archwright.sizing.hardware.device_rates import read_work_rate
from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time.boosted_trees import sum_trees
from archwright.sizing.step_time.fitted_tables import load_table
from archwright.sizing.step_time.step_work import BUS_BYTES_PER_S
from archwright.sizing.training import training_memory
from archwright.sizing.training.token_throughput import (
    DEVICES_PER_MACHINE,
    FABRIC_BYTES_PER_S,
    INTRA_MACHINE_BYTES_PER_S,
    RECOMPUTE_SHARES,
    TrainingJob,
    classify_training_stratum,
    extract_training_features,
    seconds_per_token,
    tensor_exchange_s,
)

# A network nobody states: 25 Gbit/s for the whole machine.
NETWORK_BYTES_PER_S = 25e9 / 8
# From here on parameters are gathered faster than they are used.
FAST_LINK_BYTES_PER_S = 25e9
WIDEST_TENSOR, DEEPEST_PIPELINE, LARGEST_MICRO_BATCH = 8, 64, 8
# Splits of models up to this size were published about as fast as the choice predicts.
SMALL_MODEL_PARAMETERS = 8e9
FLOPS_FULL, FLOPS_ADAPTERS, FLOPS_RECOMPUTE = 6.0, 4.0, 2.0


class Cluster(NamedTuple):
    """Equal machines; `network` is one machine's, in bytes/s."""

    accelerator: Accelerator
    per_machine: int
    machines: int = 1
    network: float | None = None

    @property
    def devices(self) -> int:
        return self.per_machine * self.machines

    @property
    def link(self) -> float:
        """Bytes/s one way that a device has to the farthest other."""
        inside = self.accelerator.scale_up_bytes_per_s or BUS_BYTES_PER_S
        if self.machines == 1:
            return inside
        return min(inside, FABRIC_BYTES_PER_S, (self.network or NETWORK_BYTES_PER_S) / self.per_machine)


class ParallelPlan(NamedTuple):
    """A split that fits, with what it holds on a device and the physics' device-seconds a token."""

    scheme: training_memory.ParallelScheme
    held: training_memory.MemoryBreakdown
    job: TrainingJob
    seconds: float


_RANK = re.compile(r"\b(FSDP|TP|PP|MBS|micro|GA|accum)\s*(\d+)", re.IGNORECASE)


def parse_scheme(layout: str, devices: int) -> training_memory.ParallelScheme | None:
    """The split that a text states ("FSDP8 micro 2 full"); None where it states no ranks."""
    ranks = {name.lower(): min(max(int(size), 1), 100_000) for name, size in _RANK.findall(layout)}
    if not ranks.keys() & {"fsdp", "tp", "pp"}:
        return None
    tensor, pipeline = ranks.get("tp", 1), ranks.get("pp", 1)
    again = next((kind for kind in ("selective", "full") if kind in layout.lower()), "none")
    return training_memory.ParallelScheme(
        tensor,
        pipeline,
        max(1, devices // (tensor * pipeline)),
        stage=1 if pipeline > 1 or "fsdp0" in layout.lower() else 3,
        micro=ranks.get("mbs", ranks.get("micro", 1)),
        rounds=ranks.get("ga", ranks.get("accum", 1)),
        recompute=again,
    )


class TrainingSetup(NamedTuple):
    """What is trained in steps of `batch` tokens; `job` resolves names and rates once for all splits."""

    subject: training_memory.TrainableModel
    batch: float
    job: TrainingJob


def device_memory_budget(accelerator: Accelerator, catalog: Catalog) -> float:
    """Counted bytes a device has room for: half of the way to the worst use measured over the count, allocator waste
    included. A processor takes its machine's memory, which is not stated here."""
    if not accelerator.memory_bytes:
        return math.inf
    usable = accelerator.memory_bytes - read_work_rate(catalog, "training.workspace").value
    over = read_work_rate(catalog, "training.memory")
    return usable / math.sqrt(over.value * over.high)


def choose_parallel_plan(question: TrainingSetup, cluster: Cluster, space: float) -> ParallelPlan | None:
    """The fastest split within `space` bytes a device; None if nothing fits. Over fast links a pipeline is
    taken only if nothing else fits: the physics leave out that its stages are never quite equal."""
    splits = list(_iterate_schemes(question, cluster))
    if cluster.link >= FAST_LINK_BYTES_PER_S:
        found = _fastest_plan(question, cluster, space, [scheme for scheme in splits if scheme.pipeline == 1])
        if found is not None:
            return found
    return _fastest_plan(question, cluster, space, splits)


def _fastest_plan(
    question: TrainingSetup, cluster: Cluster, space: float, splits: list[training_memory.ParallelScheme]
) -> ParallelPlan | None:
    k = load_table("training").coefficients["token"]
    found: ParallelPlan | None = None
    for scheme in splits:
        for micro in _powers_of_two(min(LARGEST_MICRO_BATCH, scheme.rounds)):
            tried = scheme._replace(micro=micro, rounds=scheme.rounds // micro)
            if tried.rounds < tried.pipeline:
                break
            kept = _least_recompute(question.subject, tried, space)
            if kept is None:  # a larger micro-batch holds more
                break
            chosen, bytes_held = kept
            job = place_job(question, chosen, cluster)
            seconds = scheme_token_s(question, chosen, job, k)
            if found is None or seconds < found.seconds:
                found = ParallelPlan(chosen, bytes_held, job, seconds)
    return found


def has_fitting_scheme(question: TrainingSetup, cluster: Cluster, space: float) -> bool:
    """Whether any split holds at most `space` bytes a device."""
    subject = question.subject
    model, trained = subject.model, subject.trained_parameters
    states = (
        training_memory.WEIGHT_BYTES * model.parameters
        + (training_memory.GRADIENT_BYTES + training_memory.MOMENT_BYTES) * trained
    ) / cluster.devices
    return states <= space and any(
        training_memory.break_down_memory(subject, scheme._replace(recompute="full")).total <= space
        for scheme in _iterate_schemes(question, cluster)
    )


def _iterate_schemes(question: TrainingSetup, cluster: Cluster) -> Iterator[training_memory.ParallelScheme]:
    """Whole splits of all devices, one sequence at a time. Tensor ranks stay inside a machine."""
    sequences = max(1, int(question.batch / question.subject.sequence))
    for tensor in _powers_of_two(min(cluster.per_machine, WIDEST_TENSOR)):
        for pipeline in _powers_of_two(min(DEEPEST_PIPELINE, question.subject.model.layers)):
            data, rest = divmod(cluster.devices, tensor * pipeline)
            if rest or not data or cluster.per_machine % tensor or data > sequences:
                continue
            rounds = sequences // data
            if rounds < pipeline:
                continue
            for stage in (3, 1) if pipeline == 1 and data > 1 else (1,):
                yield training_memory.ParallelScheme(tensor, pipeline, data, stage, 1, rounds)


def _powers_of_two(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2


def _least_recompute(
    subject: training_memory.TrainableModel, scheme: training_memory.ParallelScheme, space: float
) -> tuple[training_memory.ParallelScheme, training_memory.MemoryBreakdown] | None:
    kept = training_memory.break_down_memory(subject, scheme)
    left = space - (kept.total - kept.activations)
    for again in RECOMPUTE_SHARES if left > 0 else ():
        tried = scheme._replace(recompute=again)
        own = training_memory.stored_activation_bytes(subject, tried)
        if own <= left:
            return tried, kept._replace(activations=own)
    return None


def place_job(question: TrainingSetup, scheme: training_memory.ParallelScheme, cluster: Cluster) -> TrainingJob:
    return question.job._replace(
        link=cluster.link,
        devices=cluster.devices,
        micro_tokens=scheme.micro * question.subject.sequence,
        bubble=1 + (scheme.pipeline - 1) / scheme.rounds,
        recompute=RECOMPUTE_SHARES[scheme.recompute],
        tp=scheme.tensor,
        sharded=scheme.stage == 3 and scheme.pipeline == 1 and scheme.data > 1,
    )


def scheme_token_s(
    question: TrainingSetup, scheme: training_memory.ParallelScheme, job: TrainingJob, k: Mapping[str, float]
) -> float:
    """Device-seconds a token by the physics."""
    seconds = seconds_per_token(job, k)
    if question.subject.adapters:
        seconds *= adapter_time_share(job, k)
    inside = job.accelerator.scale_up_bytes_per_s or BUS_BYTES_PER_S
    if scheme.tensor > 1 and job.devices > DEVICES_PER_MACHINE and inside < INTRA_MACHINE_BYTES_PER_S:
        slow, fast = (tensor_exchange_s(job, k, link) for link in (inside, INTRA_MACHINE_BYTES_PER_S))
        seconds += (slow - fast) * job.bubble
    if scheme.data > 1 and not job.sharded:
        trained = question.subject.trained_parameters / (scheme.tensor * scheme.pipeline)
        sent = 2 * (scheme.data - 1) / scheme.data * training_memory.GRADIENT_BYTES * trained
        step_tokens = scheme.data * scheme.micro * scheme.rounds * question.subject.sequence
        seconds += sent / job.link * scheme.devices / step_tokens
    return seconds


def adapter_time_share(job: TrainingJob, k: Mapping[str, float]) -> float:
    """Of the time of a token when only adapters are trained: what is left without the spared products."""
    whole, without = seconds_per_token(job, k), seconds_per_token(job._replace(rate=math.inf), k)
    spared = (FLOPS_FULL - FLOPS_ADAPTERS) / (FLOPS_FULL + FLOPS_RECOMPUTE * job.recompute)
    return 1 - spared * (whole - without) / whole


def predict_token_time(
    question: TrainingSetup, choice: ParallelPlan, catalog: Catalog, *, trusted: bool = True
) -> tuple[serving_prediction.PredictionInterval, str]:
    """Device-seconds a token with the band of its stratum. `trusted`: the model has a row, so the residual trees of the
    fitted configurations apply; an assumed shape rests on the physics alone.

    The fastest of many predicted splits is partly the luckiest: no faster than the best utilisation ever published, and
    slower by what published runs of large models were behind such a choice."""
    fit = load_table("training")
    stratum = classify_training_stratum(choice.job, fit.seen)
    seconds = choice.seconds
    known = stratum in (serving_prediction.SEEN, serving_prediction.NEW_MODEL)
    if known and trusted:
        seconds *= math.exp(sum_trees(fit.residuals["token"], extract_training_features(choice.job)))
    elif known:
        # Physics alone was scored where the device was left out: that is its band.
        stratum = (
            serving_prediction.NEW_ACCELERATOR if stratum == serving_prediction.SEEN else serving_prediction.NEW_BOTH
        )
    most = read_work_rate(catalog, "training.utilisation").value
    seconds = max(seconds, model_flops(question) / (most * question.job.rate))
    doubt = serving_prediction.widen_for_distance(len(question.job.weak), question.job.accelerator, catalog)
    guess = serving_prediction.apply_band(seconds, fit, ("token_s", stratum, ""), doubt)
    return guess.multiply(estimate_published_gap(question, catalog)), stratum


def estimate_published_gap(question: TrainingSetup, catalog: Catalog) -> Estimate:
    """Time of a token in published runs over that of the chosen split, by the active parameters."""
    size = max(1.0, question.job.active / SMALL_MODEL_PARAMETERS)
    power = read_work_rate(catalog, "training.behind")
    return Estimate(value=size**power.value, low=size**power.low, high=size**power.high, unit="")


def model_flops(question: TrainingSetup) -> float:
    """Of a token, forward and backward, nothing computed again; attention as in token_throughput.py."""
    job = question.job
    products = FLOPS_ADAPTERS if question.subject.adapters else FLOPS_FULL
    return products * job.active + 6 * job.layers * job.hidden * job.sequence
