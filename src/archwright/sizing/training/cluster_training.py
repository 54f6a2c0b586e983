"""Training on clusters: fine-tuning whole or by adapters, and from scratch; what a run takes on how many machines.

  device-hours = tokens x device-seconds a token / 3600 / goodput + setup x devices
  hours on n machines = device-hours / (n x devices of a machine)
Device-seconds a token: parallel_strategy.py; goodput: goodput.py, each with its band. Further machines are worth less
than the first (network, pipeline bubble, micro-batches): least and most machines give the `scaling` between them.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate, multiply_estimates, sum_estimates
from archwright.contract.evidence import Basis
from archwright.sizing.hardware.device_rates import busy_power_w, has_devices, quote_work_rates, read_work_rate
from archwright.sizing.hardware.machine import BatchWork, Machine
from archwright.sizing.inference.serving_prediction import PredictionInterval
from archwright.sizing.model.numeric_precision import matmul_rate
from archwright.sizing.model.parametric_model import build_parametric_model
from archwright.sizing.step_time.fitted_tables import load_table
from archwright.sizing.step_time.step_work import BUS_BYTES_PER_S
from archwright.sizing.training.cpu_training import size_adapter_finetuning
from archwright.sizing.training.goodput import FORMULA, Goodput, GoodputJob, predict_goodput
from archwright.sizing.training.parallel_strategy import (
    Cluster,
    ParallelPlan,
    TrainingSetup,
    choose_parallel_plan,
    device_memory_budget,
    has_fitting_scheme,
    predict_token_time,
)
from archwright.sizing.training.token_throughput import ASSUMED_SEQUENCE, TrainingJob
from archwright.sizing.training.training_memory import TrainableModel, checkpoint_bytes

TrainingMethod = Literal["full", "lora", "pretrain"]
HOUR_S = 3600.0
MOST_MACHINES = 4096
# From so many parameters on, steps grow with them.
LARGE_MODEL_PARAMETERS = 100e9
# Twice the machines must give at least this much more speed to be worth having at once.
WORTH_DOUBLING = 1.3
MACHINE_COUNTS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 1024, 2048, MOST_MACHINES)
TRAINING_PRECISION = "bf16"


class ClusterRunPrediction(NamedTuple):
    """A run on a given cluster. `token_s` are device-seconds; `device_hours` and `days` hold what is lost, too."""

    choice: ParallelPlan
    token_s: PredictionInterval
    stratum: str
    goodput: Goodput
    device_hours: Estimate
    days: Estimate


def build_training_setup(
    model: ModelSpec, accelerator: Accelerator, method: TrainingMethod, catalog: Catalog
) -> TrainingSetup:
    """In steps of the usual size, whatever the run's length: more tokens then never take fewer hours."""
    if method == "pretrain":
        row = read_work_rate(catalog, "training.batch-pretrain")
        batch = min(row.high, row.value * max(1.0, model.parameters / LARGE_MODEL_PARAMETERS))
    else:
        batch = read_work_rate(catalog, "training.batch-finetune").value
    sequence = min(ASSUMED_SEQUENCE, float(model.context_tokens or ASSUMED_SEQUENCE))
    subject = TrainableModel(model, sequence, adapters=method == "lora")
    return TrainingSetup(subject, batch, build_training_job(model, accelerator, sequence))


def build_training_job(
    model: ModelSpec, accelerator: Accelerator, sequence: float, number: str = TRAINING_PRECISION
) -> TrainingJob:
    """Unsplit, on one device; parallel_strategy.py places it."""
    return TrainingJob(
        model=model,
        accelerator=accelerator,
        format=number,
        framework="",
        parameters=float(model.parameters),
        active=float(min(model.active_parameters, model.parameters)),
        layers=model.layers,
        hidden=model.hidden,
        sequence=sequence,
        rate=matmul_rate(accelerator, number),
        wide_rate=matmul_rate(accelerator, TRAINING_PRECISION),
        bandwidth=accelerator.memory_bandwidth_bytes_per_s,
        link=accelerator.scale_up_bytes_per_s or BUS_BYTES_PER_S,
        micro_tokens=sequence,
    )


class TrainingRunSpec(NamedTuple):
    """`trusted`: the model has a row of its own, so its configuration may be a fitted one."""

    tokens: float
    method: TrainingMethod
    trusted: bool = True

    def goodput_job(self, subject: TrainableModel, cluster: Cluster) -> GoodputJob:
        stages = "training.stages-pretrain" if self.method == "pretrain" else "training.stages-finetune"
        return GoodputJob(checkpoint_bytes(subject), cluster.devices, cluster.machines, stages)


def predict_cluster_run(
    asked: TrainingSetup, cluster: Cluster, run: TrainingRunSpec, catalog: Catalog
) -> ClusterRunPrediction | None:
    """None where no split of the cluster fits."""
    choice = choose_parallel_plan(asked, cluster, device_memory_budget(cluster.accelerator, catalog))
    if choice is None:
        return None
    token_s, stratum = predict_token_time(asked, choice, catalog, trusted=run.trusted)
    if asked.subject.adapters:
        token_s = adapter_token_s(token_s, catalog)
    lost = predict_goodput(run.goodput_job(asked.subject, cluster), catalog)
    hours = total_device_hours(token_s.to_estimate("s").scaled(run.tokens / HOUR_S), lost, cluster, catalog)
    days = hours.scaled(1 / cluster.devices / 24, unit="days")
    return ClusterRunPrediction(choice, token_s, stratum, lost, hours, days)


def total_device_hours(stepping: Estimate, lost: Goodput, cluster: Cluster, catalog: Catalog) -> Estimate:
    """Device-hours of a run whose steps take `stepping`."""
    steps = multiply_estimates([stepping, lost.share.divide_amount(1.0, "")], "h")
    return sum_estimates([steps, read_work_rate(catalog, "training.setup").scaled(cluster.devices / HOUR_S)], "h")


def adapter_token_s(token_s: PredictionInterval, catalog: Catalog) -> PredictionInterval:
    """What adapters cost beside their arithmetic, and how little that is known."""
    return token_s.multiply(read_work_rate(catalog, "training.lora"))


def size_finetuning(
    machine: Machine, model: ModelSpec, method: Literal["full", "lora"], tokens: float, workload: str, catalog: Catalog
) -> BatchWork | None:
    """One run over `tokens` tokens; None where it fits no number of such machines."""
    if not has_devices(machine):
        return size_adapter_finetuning(machine, model, tokens, workload, catalog) if method == "lora" else None
    return _size_training(machine, model, TrainingRunSpec(tokens, method), workload, catalog)


def size_pretraining(
    machine: Machine, parameters: float, tokens: float, workload: str, catalog: Catalog
) -> BatchWork | None:
    """A dense model of so many parameters from scratch; its shape is the middle of the open models of that size."""
    if not has_devices(machine):
        return None
    model = build_parametric_model(f"{parameters / 1e9:g}B", parameters, parameters)
    return _size_training(machine, model, TrainingRunSpec(tokens, "pretrain", trusted=False), workload, catalog)


def _size_training(
    machine: Machine, model: ModelSpec, run: TrainingRunSpec, workload: str, catalog: Catalog
) -> BatchWork | None:
    assert machine.accelerator is not None
    asked = build_training_setup(model, machine.accelerator, run.method, catalog)
    cluster = Cluster(machine.accelerator, machine.accelerator_count, 1, machine.network_bytes_per_s)
    space = device_memory_budget(machine.accelerator, catalog)
    tried = (cluster._replace(machines=n) for n in MACHINE_COUNTS)
    least = next((one for one in tried if has_fitting_scheme(asked, one, space)), None)
    first = None if least is None else predict_cluster_run(asked, least, run, catalog)
    if least is None or first is None:
        return None
    most, last = _widest_useful_cluster(asked, (least, first.choice), space)
    scaling = _machine_scaling(asked, (least, first.choice), (most, last))
    basis = f"{workload}.{machine.id}.training"
    # What one machine would take, so that `least` of them take what was found for them.
    alone = first.device_hours.scaled((1 + (least.machines - 1) * scaling) / least.devices, basis=basis)
    return BatchWork(
        model=model.id,
        machine_hours=alone,
        least=least.machines,
        most=most.machines,
        scaling=scaling,
        busy_w=busy_power_w(machine, catalog, accelerated=True),
        bases=(_build_basis(basis, asked, first, run, catalog),),
        assumptions=_list_assumptions(asked, run.method),
        unstated=machine.id if machine.network_bytes_per_s is None else "",
    )


def _widest_useful_cluster(
    asked: TrainingSetup, least: tuple[Cluster, ParallelPlan], space: float
) -> tuple[Cluster, ParallelPlan]:
    """The most machines worth having at once, by steps of four, then of two."""
    cluster, choice = least
    for step in (4, 2):
        while cluster.machines * step <= MOST_MACHINES:
            wider = cluster._replace(machines=cluster.machines * step)
            tried = choose_parallel_plan(asked, wider, space)
            if tried is None or step * choice.seconds / tried.seconds < WORTH_DOUBLING ** math.log2(step):
                break
            cluster, choice = wider, tried
    return cluster, choice


def _machine_scaling(
    asked: TrainingSetup, first: tuple[Cluster, ParallelPlan], last: tuple[Cluster, ParallelPlan]
) -> float:
    """Of each further machine, so that hours = alone / (1 + (n - 1) x scaling) holds at both ends."""
    (least, few), (most, many) = first, last
    if most.machines == least.machines:
        return 1.0
    slow, fast = few.seconds / least.machines, many.seconds / most.machines
    found = (slow - fast) / (fast * (most.machines - 1) - slow * (least.machines - 1))
    return min(max(found, 0.01), 1.0) if found > 0 else 1.0


def _list_assumptions(asked: TrainingSetup, method: TrainingMethod) -> tuple[str, ...]:
    kind = {"full": "fine-tuning whole", "lora": "training adapters", "pretrain": "training from scratch"}[method]
    sizes = f"sequences of {asked.subject.sequence:,.0f} tokens, steps of {asked.batch:,.0f} tokens"
    return (f"{kind}: {TRAINING_PRECISION}, {sizes}, Adam with 32-bit copies",)


def _build_basis(
    name: str, asked: TrainingSetup, found: ClusterRunPrediction, run: TrainingRunSpec, catalog: Catalog
) -> Basis:
    scheme, made = found.choice.scheme, load_table("training").provenance
    model, device = asked.subject.model, asked.job.accelerator
    adapters = ("training.lora",) if asked.subject.adapters else ()
    flops = "4 N + attention, no gradients of frozen weights" if adapters else "6 N + attention"
    return Basis(
        id=name,
        kind="calibrated",
        stratum=found.stratum,
        definition="hours of one machine for the whole run: steps, checkpoints, interruptions, repeated work",
        formula=f"tokens x device-seconds a token ({flops}; token_throughput) / goodput + setup; goodput = {FORMULA}",
        facts=(
            f"{run.tokens:,.0f} tokens; {model.id}: {model.parameters / 1e9:,.3g} billion parameters ({model.source})",
            f"fastest split that fits {scheme.devices} x {device.id}: {scheme.layout_text}; "
            f"{found.choice.held.total / 2**30:,.0f} GiB counted on each",
            f"fitted {made.date} on {made.rows_used} measured rows (sha256 {made.sha256[:12]})",
            f"{device.id}: {device.source} ({device.as_of or 'undated'})",
            *found.goodput.facts,
            *quote_work_rates(catalog, *adapters, "training.memory", "training.setup"),
        ),
    )
