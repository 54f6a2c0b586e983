"""Search for the fastest parallel scheme (TP, PP, DP, EP, ZeRO, recomputation) that fits a cluster.

Every scheme is counted (training_memory.py) and timed by the fitted physics (token_throughput.py). The scheme with the
fewest device-seconds per token among those that fit is chosen. In addition to the fit:
- link: between machines each device's share of the machine's network, instead of the port that the fit assumed;
- gradient all-reduce of unsharded copies: 2 (d - 1) / d x 2 bytes x trained / link, once per step.
"""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator
from archwright.sizing.hardware.device_rates import read_work_rate
from archwright.sizing.inference import serving_prediction
from archwright.sizing.model.architecture import attention_flops
from archwright.sizing.step_time.fitted_tables import load_table
from archwright.sizing.step_time.step_work import BUS_BYTES_PER_S
from archwright.sizing.training import training_memory
from archwright.sizing.training.token_throughput import (
    FABRIC_BYTES_PER_S,
    FLOPS_ADAPTERS,
    FLOPS_FULL,
    TokenTime,
    TrainingJob,
    band_token_time,
    classify_training_stratum,
    read_ranks,
    sum_terms,
    token_terms,
)

# Network of a machine without a stated rate: 25 Gbit/s.
NETWORK_BYTES_PER_S = 25e9 / 8
# At this rate and above, parameters are gathered faster than they are used.
FAST_LINK_BYTES_PER_S = 25e9
WIDEST_TENSOR, DEEPEST_PIPELINE, LARGEST_MICRO_BATCH = 8, 64, 8


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


def parse_scheme(layout: str, devices: int) -> training_memory.ParallelScheme | None:
    """Parse a stated layout ("FSDP8 micro 2 full"); None if the text states no ranks."""
    ranks = read_ranks(layout)
    if not ranks.keys() & {"fsdp", "tp", "pp"}:
        return None
    tensor, pipeline = ranks.get("tp", 1), ranks.get("pp", 1)
    return training_memory.ParallelScheme(
        tensor,
        pipeline,
        max(1, devices // (tensor * pipeline)),
        stage=1 if pipeline > 1 or "fsdp0" in layout.lower() else 3,
        micro=ranks.get("mbs", 1),
        rounds=ranks.get("ga", 1),
        recompute=next((kind for kind in ("selective", "full") if kind in layout.lower()), "none"),
        expert=ranks.get("ep", 1),
    )


class TrainingSetup(NamedTuple):
    """The trained model in steps of `batch` tokens; `job`: names and rates, resolved once for all schemes."""

    subject: training_memory.TrainableModel
    batch: float
    job: TrainingJob


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
            fitting = training_memory.fit_recompute(setup.subject, tried, space)
            if fitting is None:  # a larger micro-batch needs more memory
                break
            chosen, memory = fitting
            job = place_job(setup, chosen, cluster)
            seconds = scheme_token_s(setup, chosen, job, k)
            if plan is None or seconds < plan.seconds:
                plan = ParallelPlan(chosen, memory, job, seconds)
    return plan


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
                expert = training_memory.expert_ranks(setup.subject.model, data)
                yield training_memory.ParallelScheme(tensor, pipeline, data, stage, 1, rounds, expert=expert)


def _powers_of_two(most: int) -> Iterator[int]:
    size = 1
    while size <= most:
        yield size
        size *= 2


def place_job(setup: TrainingSetup, scheme: training_memory.ParallelScheme, cluster: Cluster) -> TrainingJob:
    return setup.job._replace(
        link=cluster.link,
        devices=cluster.devices,
        micro_tokens=scheme.micro * setup.subject.sequence,
        step_tokens=setup.batch,
        bubble=1 + (scheme.pipeline - 1) / scheme.rounds,
        recompute=training_memory.RECOMPUTE_SHARES[scheme.recompute],
        tp=scheme.tensor,
        ep=scheme.expert,
        sharded=scheme.stage == 3 and scheme.pipeline == 1 and scheme.data > 1,
        adapters=setup.subject.adapters,
        packed=setup.subject.packed,
    )


def scheme_token_s(
    setup: TrainingSetup, scheme: training_memory.ParallelScheme, job: TrainingJob, k: Mapping[str, float]
) -> float:
    seconds = sum_terms(token_terms(job), k)
    if scheme.data > 1 and not job.sharded:
        trained = setup.subject.trained_parameters / (scheme.tensor * scheme.pipeline)
        sent = 2 * (scheme.data - 1) / scheme.data * training_memory.GRADIENT_BYTES * trained
        step_tokens = scheme.data * scheme.micro * scheme.rounds * setup.subject.sequence
        seconds += sent / job.link * scheme.devices / step_tokens
    return seconds


def predict_token_time(
    setup: TrainingSetup, choice: ParallelPlan, catalog: Catalog, *, trusted: bool = True
) -> TokenTime:
    """Return the device-seconds per token of a chosen layout with the band of their stratum.

    `trusted`: the model has a row, so the residual trees apply; an assumed architecture uses the physics alone. The
    fastest of many predicted schemes may be too fast, so it is limited to the highest published MFU. Otherwise it is as
    fast as the fastest published scheme (bench/sizing/splits.py)."""
    seen = load_table("training").seen
    stratum = classify_training_stratum(choice.job, seen)
    if not trusted:
        # The physics alone was scored with the device left out, so the band of that stratum applies.
        known = serving_prediction.model_identity(choice.job.model) in seen["model"]
        stratum = serving_prediction.NEW_ACCELERATOR if known else serving_prediction.NEW_BOTH
    least = model_flops(setup) / (read_work_rate(catalog, "training.utilisation").value * setup.job.rate)
    return band_token_time(choice.job, (choice.seconds, least), stratum, catalog)


def model_flops(setup: TrainingSetup) -> float:
    """Return the model FLOPs per token, forward and backward without recomputation (token_throughput.py)."""
    job = setup.job
    products = FLOPS_ADAPTERS if setup.subject.adapters else FLOPS_FULL
    return products * job.active + 3 * attention_flops(job.model, job.sequence / 2)
