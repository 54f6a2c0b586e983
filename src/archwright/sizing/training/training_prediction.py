"""Prediction of `predict training`: for the stated parallel layout, else for the fastest layout that fits.

The throughput of a stated layout is that of token_throughput.py, as scored against benchmarks; of a chosen layout that
of parallel_strategy.py. Memory, checkpoints, goodput, days and cost have the same formulas for both.
"""

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.record import replace
from archwright.contract.sizing_prediction import SizingPrediction
from archwright.sizing.hardware.device_rates import quote_work_rates, read_work_rate
from archwright.sizing.inference.serving_prediction import resolve_model
from archwright.sizing.model.numeric_precision import parse_precision
from archwright.sizing.step_time.fitted_tables import load_table
from archwright.sizing.training import cluster_training, token_throughput
from archwright.sizing.training.goodput import Goodput, predict_goodput
from archwright.sizing.training.parallel_strategy import (
    Cluster,
    TrainingSetup,
    choose_parallel_plan,
    model_flops,
    parse_scheme,
    predict_token_time,
)
from archwright.sizing.training.training_memory import (
    TrainableModel,
    break_down_memory,
    checkpoint_bytes,
    device_memory_budget,
    fit_recompute,
)

NARROW_FORMATS = ("fp8", "fp4")
FORMULA = "sizing/training: products, attention, traffic, exchange, bubble (token_throughput.py); memory; goodput"
DEFINITIONS = {
    "mfu": "model FLOPs per token, 6 N + attention (adapters: 4 N), x tokens/s over the device's stated FLOP/s",
    "memory_bytes_per_device": "peak memory of a device: weights, gradients, optimiser moments, activations, logits",
    "device_hours": "time in steps only, without restarts, evaluation and data stages",
    "goodput": "share of the machine time spent in steps that are not lost",
    "run_device_hours": "device_hours / goodput + setup",
    "days": "duration of the whole run on these devices",
    "checkpoint_bytes": "trained weights and their optimiser moments",
    "checkpoint_s": "time to write one checkpoint from all machines at once",
    "checkpoint_interval_s": "time between two checkpoints that minimises the lost time",
    "cost_usd": "run_device_hours x the stated price",
}


def predict_training_run(
    asked: token_throughput.TrainingQuery, subjects: BenchmarkNameResolver, usd_per_hour: float | None = None
) -> SizingPrediction | None:
    """Predict a training run; None if no layout fits. Raises CatalogError AW-CAT-01 if a name has no row."""
    accelerator = subjects.accelerator(asked.accelerator)
    model, weak = resolve_model(asked.model, (asked.parameters, asked.active_parameters), subjects)
    method = parse_method(asked.parallelism)
    sequence = asked.sequence_tokens or token_throughput.ASSUMED_SEQUENCE
    subject = TrainableModel(model, sequence, method == "lora", packed="qlora" in asked.parallelism.lower())
    number = token_throughput.parse_training_precision(asked.precision)
    job = token_throughput.build_training_job(model, accelerator, sequence, number)
    batch = asked.batch_tokens or sequence * max(asked.devices, 1)
    setup = TrainingSetup(subject, batch, job._replace(weak=tuple(weak)))
    cluster = build_cluster(accelerator, asked.devices)
    chosen = _choose_layout(asked, setup, cluster, subjects)
    if chosen is None:
        return None
    layout, time, held = chosen
    catalog = subjects.catalog
    run = cluster_training.TrainingRunSpec(asked.tokens or 0.0, method)
    goodput = predict_goodput(run.goodput_job(subject, cluster), catalog)
    speed, memory = time.seconds.divide_amount(1.0, "tokens/s"), read_work_rate(catalog, "training.memory")
    estimates = {
        "tokens_per_s_per_device": speed,
        "mfu": speed.scaled(model_flops(setup) / setup.job.rate, unit="fraction"),
        "memory_bytes_per_device": memory.scaled(held, unit="bytes"),
    }
    if asked.batch_tokens and asked.devices:
        estimates["step_s"] = time.seconds.scaled(asked.batch_tokens / asked.devices)
    if asked.tokens:
        estimates |= _run_estimates(time.seconds, asked.tokens, subject, cluster, goodput, catalog)
        if usd_per_hour is not None:
            estimates["cost_usd"] = estimates["run_device_hours"].scaled(usd_per_hour, unit="USD")
    quotes = quote_work_rates(catalog, "training.memory", *(["training.setup"] if asked.tokens else []))
    return SizingPrediction(
        model=model.id,
        accelerator=accelerator.id,
        devices=asked.devices,
        stratum=time.stratum,
        estimates=estimates,
        definitions={key: text for key, text in DEFINITIONS.items() if key in estimates},
        formula=FORMULA,
        sources=(
            load_table("training").provenance.citation,
            model.source,
            accelerator.source,
            *(goodput.facts if asked.tokens else ()),
            *quotes,
        ),
        weak=time.weak,
        assumed=_list_assumptions(asked, accelerator),
        layout=layout,
    )


def _list_assumptions(asked: token_throughput.TrainingQuery, accelerator: Accelerator) -> tuple[str, ...]:
    assumptions: list[str] = []
    if not parse_scheme(asked.parallelism, asked.devices):
        assumptions.append("layout: the fastest that fits")
    number_format = parse_precision(asked.precision, "").name
    if number_format in NARROW_FORMATS and number_format not in accelerator.flops:
        text = f"format: {accelerator.id} does not compute in {number_format}, so steps run in a wider format"
        assumptions.append(text)
    return tuple(assumptions)


def parse_recompute(layout: str) -> str:
    """Return the recomputation that a layout states: "selective", "full", or "" for the least that fits."""
    for recompute in ("selective", "full"):
        if recompute in layout.lower():
            return recompute
    return ""


def parse_method(layout: str) -> cluster_training.TrainingMethod:
    text = layout.lower()
    return "lora" if "lora" in text else "pretrain" if "scratch" in text else "full"


def build_cluster(accelerator: Accelerator, devices: int) -> Cluster:
    """Return machines of eight devices with one port each, as the fitted rows have, or one smaller machine."""
    each = next(size for size in (token_throughput.DEVICES_PER_MACHINE, 4, 2, 1) if devices % size == 0)
    if devices <= token_throughput.DEVICES_PER_MACHINE:
        each = max(devices, 1)
    return Cluster(accelerator, each, max(devices, 1) // each, token_throughput.FABRIC_BYTES_PER_S * each)


def _choose_layout(
    asked: token_throughput.TrainingQuery, setup: TrainingSetup, cluster: Cluster, subjects: BenchmarkNameResolver
) -> tuple[str, token_throughput.TokenTime, float] | None:
    """Return the layout, its speed, and its counted bytes per device; None if none fits."""
    scheme = parse_scheme(asked.parallelism, cluster.devices)
    space = device_memory_budget(cluster.accelerator, subjects.catalog)
    if scheme is None:
        choice = choose_parallel_plan(setup, cluster, space)
        if choice is None:
            return None
        time = predict_token_time(setup, choice, subjects.catalog, trusted=not setup.job.weak)
        scheme, memory = choice.scheme, choice.held.total
    else:
        time = token_throughput.predict_stated_run(asked, subjects)
        if not asked.recompute:
            fitting = fit_recompute(setup.subject, scheme, space)
            scheme = fitting[0] if fitting else scheme._replace(recompute="full")
        memory = break_down_memory(setup.subject, scheme).total
        if memory > cluster.accelerator.memory_bytes:
            time = time._replace(weak=(*time.weak, "the stated layout exceeds the devices' memory"))
    # A device is not faster than its stated rate: the fast end of the band stops at MFU 1.
    least_s = model_flops(setup) / setup.job.rate
    capped = replace(time.seconds, low=min(max(time.seconds.low, least_s), time.seconds.value))
    return scheme.layout_text, time._replace(seconds=capped), memory


def _run_estimates(
    token_s: Estimate,
    tokens: float,
    subject: TrainableModel,
    cluster: Cluster,
    goodput: Goodput,
    catalog: Catalog,
) -> dict[str, Estimate]:
    steps = token_s.scaled(tokens / cluster_training.HOUR_S, unit="h")
    hours = cluster_training.total_device_hours(steps, goodput, cluster, catalog)
    return {
        "device_hours": steps,
        "checkpoint_bytes": exact_estimate(checkpoint_bytes(subject), "bytes"),
        "goodput": goodput.share,
        "run_device_hours": hours,
        "days": hours.scaled(1 / cluster.devices / 24, unit="days"),
        "checkpoint_s": goodput.checkpoint_s,
        "checkpoint_interval_s": goodput.interval_s,
    }
