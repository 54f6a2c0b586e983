"""Search for the fastest parallel scheme (TP, PP, DP, ZeRO, recomputation) that fits a cluster.

Every scheme is counted (training_memory.py) and timed by the fitted physics (token_throughput.py). The scheme with the
fewest device-seconds per token among those that fit is chosen. In addition to the fit:
- link: between machines each device's share of the machine's network, instead of the port that the fit assumed;
- tensor ranks on devices without a scale-up link exchange over the PCIe bus;
- gradient all-reduce of unsharded copies: 2 (d - 1) / d x 2 bytes x trained / link, once per step;
- adapters: no matmuls for the gradients of frozen weights, 4 + 2 r instead of 6 + 2 r FLOPs (r: recomputed share).
"""

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

# Network of a machine without a stated rate: 25 Gbit/s.
NETWORK_BYTES_PER_S = 25e9 / 8
# At this rate and above, parameters are gathered faster than they are used.
FAST_LINK_BYTES_PER_S = 25e9
WIDEST_TENSOR, DEEPEST_PIPELINE, LARGEST_MICRO_BATCH = 8, 64, 8
# Published runs of models up to this size are about as fast as the prediction of the chosen scheme.
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
        """Return the bytes/s per direction from a device to the farthest other device."""
        inside = self.accelerator.scale_up_bytes_per_s or BUS_BYTES_PER_S
        if self.machines == 1:
            return inside
        return min(inside, FABRIC_BYTES_PER_S, (self.network or NETWORK_BYTES_PER_S) / self.per_machine)


class ParallelPlan(NamedTuple):
    """A scheme that fits, with its memory per device and the physics' device-seconds per token."""

    scheme: training_memory.ParallelScheme
    held: training_memory.MemoryBreakdown
    job: TrainingJob
    seconds: float


_RANK = re.compile(r"\b(FSDP|TP|PP|MBS|micro|GA|accum)\s*(\d+)", re.IGNORECASE)


def parse_scheme(layout: str, devices: int) -> training_memory.ParallelScheme | None:
    """Parse a stated layout ("FSDP8 micro 2 full"); None if the text states no ranks."""
    ranks = {name.lower(): min(max(int(size), 1), 100_000) for name, size in _RANK.findall(layout)}
    if not ranks.keys() & {"fsdp", "tp", "pp"}:
        return None
    tensor, pipeline = ranks.get("tp", 1), ranks.get("pp", 1)
    return training_memory.ParallelScheme(
        tensor,
        pipeline,
        max(1, devices // (tensor * pipeline)),
        stage=1 if pipeline > 1 or "fsdp0" in layout.lower() else 3,
        micro=ranks.get("mbs", ranks.get("micro", 1)),
        rounds=ranks.get("ga", ranks.get("accum", 1)),
        recompute=next((kind for kind in ("selective", "full") if kind in layout.lower()), "none"),
    )


class TrainingSetup(NamedTuple):
    """The trained model in steps of `batch` tokens; `job`: names and rates, resolved once for all schemes."""

    subject: training_memory.TrainableModel
    batch: float
    job: TrainingJob


def device_memory_budget(accelerator: Accelerator, catalog: Catalog) -> float:
    """Return the counted bytes for which a device has space, allocator waste included.

    Usable memory over the geometric mean of the usual and the highest measured / counted ratio. A CPU row states no
    memory: no limit."""
    if not accelerator.memory_bytes:
        return math.inf
    usable = accelerator.memory_bytes - read_work_rate(catalog, "training.workspace").value
    over = read_work_rate(catalog, "training.memory")
    return usable / math.sqrt(over.value * over.high)


def choose_parallel_plan(setup: TrainingSetup, cluster: Cluster, space: float) -> ParallelPlan | None:
    """Return the fastest scheme within `space` bytes per device; None if no scheme fits.

    Over fast links a pipeline is used only if nothing else fits: the physics ignore that stages differ in length."""
    schemes = list(_iterate_schemes(setup, cluster))
    if cluster.link >= FAST_LINK_BYTES_PER_S:
        plan = _fastest_plan(setup, cluster, space, [scheme for scheme in schemes if scheme.pipeline == 1])
        if plan is not None:
            return plan
    return _fastest_plan(setup, cluster, space, schemes)


def _fastest_plan(
    setup: TrainingSetup, cluster: Cluster, space: float, schemes: list[training_memory.ParallelScheme]
) -> ParallelPlan | None:
    k = load_table("training").coefficients["token"]
    plan: ParallelPlan | None = None
    for scheme in schemes:
        for micro in _powers_of_two(min(LARGEST_MICRO_BATCH, scheme.rounds)):
            tried = scheme._replace(micro=micro, rounds=scheme.rounds // micro)
            if tried.rounds < tried.pipeline:
                break
            fitting = _least_recompute(setup.subject, tried, space)
            if fitting is None:  # a larger micro-batch needs more memory
                break
            chosen, memory = fitting
            job = place_job(setup, chosen, cluster)
            seconds = scheme_token_s(setup, chosen, job, k)
            if plan is None or seconds < plan.seconds:
                plan = ParallelPlan(chosen, memory, job, seconds)
    return plan


def has_fitting_scheme(setup: TrainingSetup, cluster: Cluster, space: float) -> bool:
    """True if any scheme needs at most `space` bytes per device."""
    subject = setup.subject
    model, trained = subject.model, subject.trained_parameters
    states = (
        training_memory.WEIGHT_BYTES * model.parameters
        + (training_memory.GRADIENT_BYTES + training_memory.MOMENT_BYTES) * trained
    ) / cluster.devices
    return states <= space and any(
        training_memory.break_down_memory(subject, scheme._replace(recompute="full")).total <= space
        for scheme in _iterate_schemes(setup, cluster)
    )


def _iterate_schemes(setup: TrainingSetup, cluster: Cluster) -> Iterator[training_memory.ParallelScheme]:
    """Yield the schemes that use all devices with one sequence per micro-batch; tensor ranks stay inside a machine."""
    sequences = max(1, int(setup.batch / setup.subject.sequence))
    for tensor in _powers_of_two(min(cluster.per_machine, WIDEST_TENSOR)):
        for pipeline in _powers_of_two(min(DEEPEST_PIPELINE, setup.subject.model.layers)):
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
    memory = training_memory.break_down_memory(subject, scheme)
    free = space - (memory.total - memory.activations)
    for recompute in RECOMPUTE_SHARES if free > 0 else ():
        tried = scheme._replace(recompute=recompute)
        activations = training_memory.stored_activation_bytes(subject, tried)
        if activations <= free:
            return tried, memory._replace(activations=activations)
    return None


def place_job(setup: TrainingSetup, scheme: training_memory.ParallelScheme, cluster: Cluster) -> TrainingJob:
    return setup.job._replace(
        link=cluster.link,
        devices=cluster.devices,
        micro_tokens=scheme.micro * setup.subject.sequence,
        bubble=1 + (scheme.pipeline - 1) / scheme.rounds,
        recompute=RECOMPUTE_SHARES[scheme.recompute],
        tp=scheme.tensor,
        sharded=scheme.stage == 3 and scheme.pipeline == 1 and scheme.data > 1,
    )


def scheme_token_s(
    setup: TrainingSetup, scheme: training_memory.ParallelScheme, job: TrainingJob, k: Mapping[str, float]
) -> float:
    seconds = seconds_per_token(job, k)
    if setup.subject.adapters:
        seconds *= adapter_time_share(job, k)
    inside = job.accelerator.scale_up_bytes_per_s or BUS_BYTES_PER_S
    if scheme.tensor > 1 and job.devices > DEVICES_PER_MACHINE and inside < INTRA_MACHINE_BYTES_PER_S:
        slow, fast = (tensor_exchange_s(job, k, link) for link in (inside, INTRA_MACHINE_BYTES_PER_S))
        seconds += (slow - fast) * job.bubble
    if scheme.data > 1 and not job.sharded:
        trained = setup.subject.trained_parameters / (scheme.tensor * scheme.pipeline)
        sent = 2 * (scheme.data - 1) / scheme.data * training_memory.GRADIENT_BYTES * trained
        step_tokens = scheme.data * scheme.micro * scheme.rounds * setup.subject.sequence
        seconds += sent / job.link * scheme.devices / step_tokens
    return seconds


def adapter_time_share(job: TrainingJob, k: Mapping[str, float]) -> float:
    """Return the time of a token over that of full training if only adapters are trained."""
    whole, without_matmuls = seconds_per_token(job, k), seconds_per_token(job._replace(rate=math.inf), k)
    saved = (FLOPS_FULL - FLOPS_ADAPTERS) / (FLOPS_FULL + FLOPS_RECOMPUTE * job.recompute)
    return 1 - saved * (whole - without_matmuls) / whole


def predict_token_time(
    setup: TrainingSetup, choice: ParallelPlan, catalog: Catalog, *, trusted: bool = True
) -> tuple[serving_prediction.PredictionInterval, str]:
    """Return the device-seconds per token with the band of their stratum, and the stratum.

    `trusted`: the model has a row, so the residual trees apply; an assumed architecture uses the physics alone. The
    fastest of many predicted schemes is biased to be too fast. Therefore it is limited to the highest published MFU and
    slowed down by the gap between published runs of large models and such a choice."""
    fit = load_table("training")
    stratum = classify_training_stratum(choice.job, fit.seen)
    seconds = choice.seconds
    known = stratum in (serving_prediction.SEEN, serving_prediction.NEW_MODEL)
    if known and trusted:
        seconds *= math.exp(sum_trees(fit.residuals["token"], extract_training_features(choice.job)))
    elif known:
        # The physics alone was scored with the device left out, so the band of that stratum applies.
        seen = stratum == serving_prediction.SEEN
        stratum = serving_prediction.NEW_ACCELERATOR if seen else serving_prediction.NEW_BOTH
    max_mfu = read_work_rate(catalog, "training.utilisation").value
    seconds = max(seconds, model_flops(setup) / (max_mfu * setup.job.rate))
    widening = serving_prediction.widen_for_distance(len(setup.job.weak), setup.job.accelerator, catalog)
    token_s = serving_prediction.apply_band(seconds, fit, ("token_s", stratum, ""), widening)
    return token_s.multiply(estimate_published_gap(setup, catalog)), stratum


def estimate_published_gap(setup: TrainingSetup, catalog: Catalog) -> Estimate:
    """Return the time per token of published runs over that of the chosen scheme, by active parameters."""
    size = max(1.0, setup.job.active / SMALL_MODEL_PARAMETERS)
    power = read_work_rate(catalog, "training.behind")
    return Estimate(value=size**power.value, low=size**power.low, high=size**power.high, unit="")


def model_flops(setup: TrainingSetup) -> float:
    """Return the model FLOPs per token, forward and backward without recomputation (token_throughput.py)."""
    job = setup.job
    products = FLOPS_ADAPTERS if setup.subject.adapters else FLOPS_FULL
    return products * job.active + 6 * job.layers * job.hidden * job.sequence
