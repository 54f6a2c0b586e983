"""Training on clusters (full fine-tuning, LoRA, pre-training): hours of a run by number of machines.

  device-hours = tokens x device-seconds per token / 3600 / goodput + setup x devices
  hours on n machines = device-hours / (n x devices of a machine)
Device-seconds per token: parallel_strategy.py; goodput: goodput.py, each with its interval. A doubling of the machines
adds less than the one before (network, bubble, micro-batches), unless memory limits the smaller cluster.
"""

import math
from typing import Literal, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate, multiply_estimates, sum_estimates
from archwright.contract.evidence import Basis
from archwright.sizing.hardware.device_rates import busy_power_w, has_devices, quote_work_rates, read_work_rate
from archwright.sizing.hardware.machine import BatchWork, Machine
from archwright.sizing.model.parametric_model import build_parametric_model
from archwright.sizing.step_time.fitted_tables import load_table
from archwright.sizing.training.cpu_training import size_adapter_finetuning
from archwright.sizing.training.goodput import FORMULA, Goodput, GoodputJob, predict_goodput
from archwright.sizing.training.parallel_strategy import (
    Cluster,
    ParallelPlan,
    TrainingSetup,
    choose_parallel_plan,
    predict_token_time,
)
from archwright.sizing.training.token_throughput import (
    ASSUMED_SEQUENCE,
    TRAINING_PRECISION,
    TokenTime,
    build_training_job,
)
from archwright.sizing.training.training_memory import TrainableModel, checkpoint_bytes, device_memory_budget

TrainingMethod = Literal["full", "lora", "pretrain"]
HOUR_S = 3600.0
MOST_MACHINES = 4096
# Above this size the batch of a pre-training step grows with the parameters.
LARGE_MODEL_PARAMETERS = 100e9
# Minimum speed-up of twice the machines.
WORTH_DOUBLING = 1.3
MACHINE_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, MOST_MACHINES)


class ClusterRunPrediction(NamedTuple):
    """A run on a given cluster; `device_hours` and `days` with the lost time."""

    choice: ParallelPlan
    time: TokenTime
    goodput: Goodput
    device_hours: Estimate
    days: Estimate


def build_training_setup(
    model: ModelSpec,
    accelerator: Accelerator,
    method: TrainingMethod,
    catalog: Catalog,
    number: str = TRAINING_PRECISION,
) -> TrainingSetup:
    """Return the setup with the usual step size, independent of the run's length, so hours are monotone in tokens."""
    if method == "pretrain":
        row = read_work_rate(catalog, "training.batch-pretrain")
        batch = min(row.high, row.value * max(1.0, model.parameters / LARGE_MODEL_PARAMETERS))
    else:
        batch = read_work_rate(catalog, "training.batch-finetune").value
    sequence = min(ASSUMED_SEQUENCE, float(model.context_tokens or ASSUMED_SEQUENCE))
    subject = TrainableModel(model, sequence, adapters=method == "lora")
    return TrainingSetup(subject, batch, build_training_job(model, accelerator, sequence, number))


class TrainingRunSpec(NamedTuple):
    """Tokens and method of a run; `trusted`: the model has a row, so its configuration may be a fitted one."""

    tokens: float
    method: TrainingMethod
    trusted: bool = True

    def goodput_job(self, subject: TrainableModel, cluster: Cluster) -> GoodputJob:
        stages = "training.stages-pretrain" if self.method == "pretrain" else "training.stages-finetune"
        return GoodputJob(checkpoint_bytes(subject), cluster.devices, cluster.machines, stages)


def predict_cluster_run(
    setup: TrainingSetup, cluster: Cluster, run: TrainingRunSpec, catalog: Catalog
) -> ClusterRunPrediction | None:
    """Predict a run; None if no scheme fits the cluster."""
    choice = choose_parallel_plan(setup, cluster, device_memory_budget(cluster.accelerator, catalog))
    if choice is None:
        return None
    time = predict_token_time(setup, choice, catalog, trusted=run.trusted)
    goodput = predict_goodput(run.goodput_job(setup.subject, cluster), catalog)
    hours = total_device_hours(time.seconds.scaled(run.tokens / HOUR_S, unit="h"), goodput, cluster, catalog)
    days = hours.scaled(1 / cluster.devices / 24, unit="days")
    return ClusterRunPrediction(choice, time, goodput, hours, days)


def total_device_hours(step_hours: Estimate, goodput: Goodput, cluster: Cluster, catalog: Catalog) -> Estimate:
    """Return the device-hours of a run: `step_hours` (device-hours in steps) / goodput + setup."""
    steps = multiply_estimates([step_hours, goodput.share.divide_amount(1.0, "")], "h")
    return sum_estimates([steps, read_work_rate(catalog, "training.setup").scaled(cluster.devices / HOUR_S)], "h")


def size_finetuning(
    machine: Machine, model: ModelSpec, method: Literal["full", "lora"], tokens: float, workload: str, catalog: Catalog
) -> BatchWork | None:
    """Size one run over `tokens` tokens; None if it fits no number of such machines."""
    if not has_devices(machine):
        return size_adapter_finetuning(machine, model, tokens, workload, catalog) if method == "lora" else None
    return _size_training(machine, model, TrainingRunSpec(tokens, method), workload, catalog)


def size_pretraining(
    machine: Machine, parameters: float, tokens: float, workload: str, catalog: Catalog
) -> BatchWork | None:
    """Size the pre-training of a dense model of `parameters`; its shape is assumed (parametric_model.py)."""
    if not has_devices(machine):
        return None
    model = build_parametric_model(f"{parameters / 1e9:g}B", parameters, parameters)
    return _size_training(machine, model, TrainingRunSpec(tokens, "pretrain", trusted=False), workload, catalog)


def _size_training(
    machine: Machine, model: ModelSpec, run: TrainingRunSpec, workload: str, catalog: Catalog
) -> BatchWork | None:
    assert machine.accelerator is not None
    setup = build_training_setup(model, machine.accelerator, run.method, catalog)
    cluster = Cluster(machine.accelerator, machine.accelerator_count, 1, machine.network_bytes_per_s)
    clusters = (cluster._replace(machines=count) for count in MACHINE_COUNTS)
    runs = ((one, predict_cluster_run(setup, one, run, catalog)) for one in clusters)
    least, first = next(((one, found) for one, found in runs if found is not None), (cluster, None))
    if first is None:
        return None
    curve = _time_wider_clusters(setup, (least, first), run, catalog)
    kind = {"full": "full fine-tuning", "lora": "LoRA fine-tuning", "pretrain": "pre-training"}[run.method]
    sizes = f"sequences of {setup.subject.sequence:,.0f} tokens, steps of {setup.batch:,.0f} tokens"
    basis = f"{workload}.{machine.id}.training"
    return BatchWork(
        model=model.id,
        machine_hours=first.device_hours.scaled(1 / least.per_machine, basis=basis),
        least=least.machines,
        most=curve[-1][0],
        scaling=1.0,
        busy_w=busy_power_w(machine, catalog, accelerated=True),
        bases=(_build_basis(basis, setup, first, run, catalog),),
        assumptions=(f"{kind}: {TRAINING_PRECISION}, {sizes}, Adam with 32-bit copies",),
        unstated=machine.id if machine.network_bytes_per_s is None else "",
        curve=curve,
    )


def _time_wider_clusters(
    setup: TrainingSetup, least: tuple[Cluster, ClusterRunPrediction], run: TrainingRunSpec, catalog: Catalog
) -> tuple[tuple[int, float], ...]:
    """Return machines and hours of a run by factors of four, then of two, whose doublings give WORTH_DOUBLING."""
    cluster, found = least
    curve = [(cluster.machines, found.days.value * 24)]
    for step in (4, 2):
        while cluster.machines * step <= MOST_MACHINES:
            wider = cluster._replace(machines=cluster.machines * step)
            tried = predict_cluster_run(setup, wider, run, catalog)
            least_gain = WORTH_DOUBLING ** math.log2(step) / step
            if tried is None or found.time.seconds.value < tried.time.seconds.value * least_gain:
                break
            cluster, found = wider, tried
            curve.append((cluster.machines, found.days.value * 24))
    return tuple(curve)


def _build_basis(
    name: str, setup: TrainingSetup, run: ClusterRunPrediction, spec: TrainingRunSpec, catalog: Catalog
) -> Basis:
    scheme, fit = run.choice.scheme, load_table("training").provenance
    model, device = setup.subject.model, setup.job.accelerator
    flops = "4 N + attention, no gradients of frozen weights" if setup.subject.adapters else "6 N + attention"
    return Basis(
        id=name,
        kind="calibrated",
        stratum=run.time.stratum,
        definition="machine-hours of the run on the fewest machines: steps, checkpoints, interruptions, repeated work",
        formula=f"tokens x device-seconds per token ({flops}; token_throughput) / goodput + setup; goodput = {FORMULA}",
        facts=(
            f"{spec.tokens:,.0f} tokens; {model.id}: {model.parameters / 1e9:,.3g} billion parameters ({model.source})",
            f"fastest layout that fits {scheme.devices} x {device.id}: {scheme.layout_text}; "
            f"{run.choice.held.total / 2**30:,.0f} GiB counted on each",
            f"fitted {fit.date} on {fit.rows_used} measured rows (sha256 {fit.sha256[:12]})",
            f"{device.id}: {device.source} ({device.as_of or 'undated'})",
            *(f"weak: {reason}" for reason in run.time.weak),
            *run.goodput.facts,
            *quote_work_rates(catalog, "training.memory", "training.setup"),
        ),
    )
