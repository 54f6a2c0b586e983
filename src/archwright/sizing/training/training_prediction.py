"""What `predict training` answers: a stated split as a benchmark row states it, else the fastest that fits.

Throughput of a stated split comes from token_throughput.py, as scored against benchmarks; of a chosen one from
parallel_strategy.py. Memory, checkpoints, goodput, days and cost are the same for both.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.sizing.hardware.device_rates import quote_work_rates, read_work_rate
from archwright.sizing.inference.serving_prediction import PredictionInterval, resolve_model
from archwright.sizing.step_time.fitted_tables import load_table
from archwright.sizing.training import cluster_training, token_throughput
from archwright.sizing.training.goodput import Goodput, predict_goodput
from archwright.sizing.training.parallel_strategy import (
    Cluster,
    TrainingSetup,
    adapter_time_share,
    choose_parallel_plan,
    device_memory_budget,
    model_flops,
    parse_scheme,
    place_job,
    predict_token_time,
)
from archwright.sizing.training.training_memory import TrainableModel, break_down_memory, checkpoint_bytes

FORMULA = "sizing/training: products, attention, traffic, exchange, bubble (token_throughput.py); memory; goodput"
DEFINITIONS = {
    "mfu": "FLOPs a token needs, 6 N + attention (4 N for adapters), over the device's stated rate in that format",
    "memory_bytes_per_device": "largest use of a device: weights, gradients, moments, activations, scores",
    "device_hours": "throughput only: restarts, evaluation and data stages come on top",
    "goodput": "share of the machine time that goes into steps that last",
    "run_device_hours": "device hours over goodput, with setup",
    "days": "of the whole run on these devices",
    "checkpoint_bytes": "trained weights and their moments",
    "checkpoint_s": "to write one checkpoint from all machines at once",
    "checkpoint_interval_s": "between two checkpoints, where least is lost",
    "cost_usd": "run_device_hours at the stated price",
}


class TrainingPrediction(NamedTuple):
    model: ModelSpec
    accelerator: Accelerator
    layout: str
    stratum: str
    estimates: dict[str, Estimate]
    facts: tuple[str, ...]
    weak: tuple[str, ...]
    assumed: tuple[str, ...]


class LayoutPerformance(NamedTuple):
    """Where the work lies and how fast it goes: device-seconds a token, bytes counted on a device."""

    layout: str
    token_s: PredictionInterval
    bytes_held: float
    stratum: str
    weak: tuple[str, ...]


def predict_training_run(
    asked: token_throughput.TrainingQuery, subjects: BenchmarkNameResolver, usd_per_hour: float | None = None
) -> TrainingPrediction | None:
    """None where no split fits. Raises CatalogError AW-CAT-01 for a name nobody knows."""
    accelerator = subjects.accelerator(asked.accelerator)
    model, weak = resolve_model(asked.model, (asked.parameters, asked.active_parameters), subjects)
    method = parse_method(asked.parallelism)
    subject = TrainableModel(
        model, asked.sequence_tokens or token_throughput.ASSUMED_SEQUENCE, adapters=method == "lora"
    )
    job = cluster_training.build_training_job(
        model, accelerator, subject.sequence, token_throughput.parse_training_precision(asked.precision)
    )
    batch = asked.batch_tokens or subject.sequence * max(asked.devices, 1)
    question = TrainingSetup(subject, batch, job._replace(weak=tuple(weak)))
    cluster = build_cluster(accelerator, asked.devices)
    split = _choose_layout(asked, question, cluster, subjects)
    if split is None:
        return None
    catalog = subjects.catalog
    run = cluster_training.TrainingRunSpec(asked.tokens or 0.0, method)
    lost = predict_goodput(run.goodput_job(subject, cluster), catalog)
    estimates = _speed_estimates(split, asked, question, catalog)
    if asked.tokens:
        written = exact_estimate(checkpoint_bytes(subject), "bytes")
        estimates |= _run_estimates(split, asked.tokens, (cluster, lost, written), usd_per_hour, catalog)
    named = ["training.memory", "training.behind"]
    named += ["training.setup"] if asked.tokens else []
    named += ["training.lora"] if asked.tokens and subject.adapters else []
    quotes = quote_work_rates(catalog, *named)
    return TrainingPrediction(
        model=model,
        accelerator=accelerator,
        layout=split.layout,
        stratum=split.stratum,
        estimates=estimates,
        facts=(*lost.facts, *quotes) if asked.tokens else quotes,
        weak=split.weak,
        assumed=() if parse_scheme(asked.parallelism, asked.devices) else ("split: the fastest that fits",),
    )


def parse_method(layout: str) -> cluster_training.TrainingMethod:
    said = layout.lower()
    return "lora" if "lora" in said else "pretrain" if "scratch" in said else "full"


def build_cluster(accelerator: Accelerator, devices: int) -> Cluster:
    """Machines of eight with a port for each device, as the fitted rows have them; one smaller machine."""
    each = next(size for size in (token_throughput.DEVICES_PER_MACHINE, 4, 2, 1) if devices % size == 0)
    if devices <= token_throughput.DEVICES_PER_MACHINE:
        each = max(devices, 1)
    return Cluster(accelerator, each, max(devices, 1) // each, token_throughput.FABRIC_BYTES_PER_S * each)


def _choose_layout(
    asked: token_throughput.TrainingQuery, question: TrainingSetup, cluster: Cluster, subjects: BenchmarkNameResolver
) -> LayoutPerformance | None:
    scheme = parse_scheme(asked.parallelism, cluster.devices)
    if scheme is None:
        choice = choose_parallel_plan(question, cluster, device_memory_budget(cluster.accelerator, subjects.catalog))
        if choice is None:
            return None
        token_s, stratum = predict_token_time(question, choice, subjects.catalog, trusted=not question.job.weak)
        weak, text, kept = question.job.weak, choice.scheme.layout_text, choice.held.total
    else:
        got = token_throughput.predict_throughput(asked, subjects)
        token_s, stratum, weak = got.tokens_per_s.inverse, got.stratum, got.weak
        kept, text = break_down_memory(question.subject, scheme).total, scheme.layout_text
        if question.subject.adapters:
            job = place_job(question, scheme, cluster)
            token_s = token_s.scaled(adapter_time_share(job, load_table("training").coefficients["token"]))
        if kept > cluster.accelerator.memory_bytes:
            weak = (*weak, "the stated split exceeds the devices' memory")
    if question.subject.adapters:
        token_s = cluster_training.adapter_token_s(token_s, subjects.catalog)
    # No device computes faster than its stated rate: the fast end stops at utilisation 1.
    least_s = model_flops(question) / question.job.rate
    capped = token_s._replace(low=min(max(token_s.low, least_s), token_s.value))
    return LayoutPerformance(text, capped, kept, stratum, weak)


def _speed_estimates(
    split: LayoutPerformance, asked: token_throughput.TrainingQuery, question: TrainingSetup, catalog: Catalog
) -> dict[str, Estimate]:
    speed = split.token_s.inverse.to_estimate("tokens/s")
    found = {
        "tokens_per_s_per_device": speed,
        "mfu": speed.scaled(model_flops(question) / question.job.rate, unit="fraction"),
        "memory_bytes_per_device": read_work_rate(catalog, "training.memory").scaled(split.bytes_held, unit="bytes"),
    }
    if asked.batch_tokens and asked.devices:
        found["step_s"] = split.token_s.to_estimate("s").scaled(asked.batch_tokens / asked.devices)
    return found


def _run_estimates(
    split: LayoutPerformance,
    tokens: float,
    job: tuple[Cluster, Goodput, Estimate],
    usd_per_hour: float | None,
    catalog: Catalog,
) -> dict[str, Estimate]:
    """Of the whole run; `job` ends with the bytes of a checkpoint."""
    cluster, lost, written = job
    stepping = split.token_s.to_estimate("s").scaled(tokens / cluster_training.HOUR_S, unit="h")
    hours = cluster_training.total_device_hours(stepping, lost, cluster, catalog)
    found = {
        "device_hours": stepping,
        "checkpoint_bytes": written,
        "goodput": lost.share,
        "run_device_hours": hours,
        "days": hours.scaled(1 / cluster.devices / 24, unit="days"),
        "checkpoint_s": lost.checkpoint_s,
        "checkpoint_interval_s": lost.interval_s,
    }
    if usd_per_hour is not None:
        found["cost_usd"] = hours.scaled(usd_per_hour, unit="USD")
    return found
