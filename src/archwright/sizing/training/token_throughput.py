"""Training throughput of a cluster: device-seconds per token from FLOPs, memory traffic, exchange and pipeline bubble.

Per token and device (rates in FLOP/s of the matmul's number format; e, ea, act, ... are fitted coefficients):
  products  = 6 A x (1 + d0 / d) x recompute / (rate x e)        A active parameters, d hidden size
  attention = 6 L d s x recompute / (rate x ea)                  causal, s tokens per sequence
  traffic   = act x L d 2 bytes / bandwidth                      norms, activations, residuals
  shards    = gather x 2 bytes x N / (tokens of a micro-batch) / link   if parameters are sharded (FSDP, ZeRO-3)
  bubble    = 1 + (PP - 1) / (micro-batches x virtual stages)    factor on the sum
A sparse (MoE) model multiplies the sum by `moe`, for routing and expert exchange. Step time and GPU-hours follow.
"""

import math
import re
from collections.abc import Mapping
from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.record import Record
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.serving_prediction import NEW_ACCELERATOR, NEW_BOTH, NEW_MODEL, SEEN
from archwright.sizing.model.numeric_precision import matmul_rate
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.step_time.boosted_trees import sum_trees
from archwright.sizing.step_time.step_work import BUS_BYTES_PER_S

# Network between machines per accelerator and direction: a 400 Gbit/s port.
FABRIC_BYTES_PER_S = 50e9
DEVICES_PER_MACHINE = 8
# Link inside the machines of a cluster: every device of the fitted rows has at least this rate.
INTRA_MACHINE_BYTES_PER_S = 300e9
ASSUMED_SEQUENCE = 4096.0
TRAINING_PRECISION = "bf16"
RECOMPUTE_SHARES = {"none": 0.0, "selective": 0.25, "full": 1.0}
_NUMBERED = re.compile(r"\b(TP|PP|CP|VP|EP|MBS|GA|FSDP|micro|accum)\s*(\d+)", re.IGNORECASE)


class TrainingQuery(Record):
    """Training run as a benchmark row or a user states it."""

    model: str
    accelerator: str
    devices: int = 0
    parameters: float | None = None
    active_parameters: float | None = None
    sequence_tokens: float | None = None
    batch_tokens: float | None = None
    tokens: float | None = None
    precision: str = ""
    parallelism: str = ""
    recompute: str = ""
    framework: str = ""


class TrainingJob(NamedTuple):
    """Resolved inputs of the coefficients; the defaults are those of one device without parallelism."""

    model: ModelSpec
    accelerator: Accelerator
    format: str
    framework: str
    parameters: float
    active: float
    layers: int
    hidden: int
    sequence: float
    rate: float
    wide_rate: float
    bandwidth: float
    link: float
    micro_tokens: float
    devices: int = 1
    bubble: float = 1.0
    recompute: float = 0.0
    tp: int = 1
    sharded: bool = False
    compiled: bool = True
    weak: tuple[str, ...] = ()


class TrainingThroughput(NamedTuple):
    tokens_per_s: serving_prediction.PredictionInterval
    device_hours: serving_prediction.PredictionInterval | None
    step_s: serving_prediction.PredictionInterval | None
    stratum: str
    weak: tuple[str, ...]


def resolve_training_job(asked: TrainingQuery, subjects: BenchmarkNameResolver) -> TrainingJob:
    """Resolve a stated run. Raises CatalogError AW-CAT-01 if a name has no row."""
    accelerator = subjects.accelerator(asked.accelerator)
    model, weak = serving_prediction.resolve_model(asked.model, (asked.parameters, asked.active_parameters), subjects)
    ranks = {name.lower(): max(1, min(int(size), 100_000)) for name, size in _NUMBERED.findall(asked.parallelism)}
    if not asked.parallelism:
        weak.append("parallelism is not stated")
    sequence = asked.sequence_tokens or ASSUMED_SEQUENCE
    micro = ranks.get("micro", ranks.get("mbs", 1))
    parameters = asked.parameters or float(model.parameters)
    text = asked.recompute.lower()
    recompute = "selective" if "selective" in text else "full" if text in ("true", "full", "yes", "1") else "none"
    stages, rounds = ranks.get("pp", 1), ranks.get("ga", ranks.get("accum", 8)) * ranks.get("vp", 1)
    job = build_training_job(model, accelerator, sequence, parse_training_precision(asked.precision))
    return job._replace(
        framework=asked.framework.lower().split(" ")[0].split("-")[0],
        parameters=parameters,
        active=min(asked.active_parameters or float(model.active_parameters), parameters),
        link=job.link if asked.devices <= DEVICES_PER_MACHINE else FABRIC_BYTES_PER_S,
        devices=max(asked.devices, 1),
        micro_tokens=micro * sequence / ranks.get("cp", 1),
        bubble=1 + (stages - 1) / max(rounds, 1),
        recompute=RECOMPUTE_SHARES[recompute],
        tp=ranks.get("tp", 1),
        sharded="fsdp0" not in asked.parallelism.lower() and stages == 1,
        compiled="eager" not in asked.precision.lower(),
        weak=tuple(weak),
    )


def build_training_job(
    model: ModelSpec, accelerator: Accelerator, sequence: float, number: str = TRAINING_PRECISION
) -> TrainingJob:
    """Return the job on one device without parallelism; parallel_strategy.py places it."""
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


def parse_training_precision(precision: str) -> str:
    text = precision.lower()
    return "fp8" if "fp8" in text or "float8" in text else "fp32" if "fp32" in text else TRAINING_PRECISION


def seconds_per_token(job: TrainingJob, k: Mapping[str, float]) -> float:
    """Return the device-seconds per token with the fitted coefficients `k`."""
    again = 1 + job.recompute / 3
    shape = 1 + k["d0"] / job.hidden
    products = 6 * job.active * shape * again / (job.rate * k["e"]) * k.get(f"format.{job.format}", 1.0)
    attention = 6 * job.layers * job.hidden * job.sequence * again / (job.wide_rate * k["ea"])
    traffic = k["act"] * job.layers * job.hidden * 2 / job.bandwidth
    shards = k["gather"] * 2 * job.parameters / job.tp / job.micro_tokens / job.link if job.sharded else 0.0
    exchanged = tensor_exchange_s(job, k, job.link if job.devices <= DEVICES_PER_MACHINE else INTRA_MACHINE_BYTES_PER_S)
    total = (products + attention + traffic + exchanged + shards) * job.bubble
    total *= 1 if job.compiled else k["eager"]
    if job.active < 0.9 * job.parameters:
        total *= k["moe"]
    return total * k.get(f"framework.{job.framework}", 1.0)


def tensor_exchange_s(job: TrainingJob, k: Mapping[str, float], link: float) -> float:
    """Return the seconds per token that tensor-parallel ranks exchange activations, over `link` bytes/s."""
    return k["ex"] * job.layers * job.hidden * 2 * (job.tp - 1) / job.tp / link


def extract_training_features(job: TrainingJob) -> list[float]:
    """Return the features of the residual trees; their order is part of the fitted table."""
    return [
        math.log(job.active),
        math.log(job.hidden),
        math.log(job.sequence),
        math.log(job.micro_tokens),
        math.log(job.devices),
        job.recompute,
        float(job.format == "fp8"),
        math.log(job.wide_rate),
        math.log(job.bandwidth),
        math.log(job.active / job.parameters),
        math.log(job.tp),
        math.log(job.bubble),
        job.accelerator.memory_bytes / 2**30,
    ]


def classify_training_stratum(job: TrainingJob, seen: Mapping[str, tuple[str, ...]]) -> str:
    seen_model = serving_prediction.model_identity(job.model) in seen["model"]
    if job.accelerator.id in seen["accelerator"]:
        return SEEN if seen_model else NEW_MODEL
    return NEW_ACCELERATOR if seen_model else NEW_BOTH


def predict_throughput(
    asked: TrainingQuery, subjects: BenchmarkNameResolver, fit: fitted_tables.FittedTable | None = None
) -> TrainingThroughput:
    """Predict the throughput of a stated run. Raises CatalogError AW-CAT-01 if a name has no row."""
    fit = fit or fitted_tables.load_table("training")
    job = resolve_training_job(asked, subjects)
    stratum = classify_training_stratum(job, fit.seen)
    seconds = seconds_per_token(job, fit.coefficients["token"])
    if stratum in (SEEN, NEW_MODEL):
        seconds *= math.exp(sum_trees(fit.residuals["token"], extract_training_features(job)))
    widening = serving_prediction.widen_for_distance(len(job.weak), job.accelerator, subjects.catalog)
    token_s = serving_prediction.apply_band(seconds, fit, ("token_s", stratum, ""), widening)
    hours = token_s.scaled(asked.tokens / 3600) if asked.tokens else None
    step = token_s.scaled(asked.batch_tokens / job.devices) if asked.batch_tokens and asked.devices else None
    return TrainingThroughput(token_s.inverse, hours, step, stratum, job.weak)
