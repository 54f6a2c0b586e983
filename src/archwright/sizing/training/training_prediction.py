"""What `predict training` answers: a stated split as a benchmark row states it, else the fastest that fits.

Throughput of a stated split comes from throughput.predict, the very path that is scored against benchmarks; of a
chosen one from training_scheme.py. Memory, checkpoints, goodput, days and cost are the same for both.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.contract.estimate import Estimate, exact_estimate
from archwright.sizing.hardware.device_rates import facts, rate
from archwright.sizing.inference import serving_prediction
from archwright.sizing.inference.serving_prediction import Guess
from archwright.sizing.step_time import fitted_tables
from archwright.sizing.training import token_throughput
from archwright.sizing.training.cluster_training import HOUR_S, Method, Run, adapters_s, job_of, run_hours
from archwright.sizing.training.goodput import Goodput, goodput
from archwright.sizing.training.goodput import Job as Exposed
from archwright.sizing.training.parallel_strategy import (
    Cluster,
    Question,
    adapters_share,
    best,
    model_flops,
    pace,
    placed,
    room,
    stated,
)
from archwright.sizing.training.token_throughput import ASSUMED_SEQUENCE, FABRIC_BYTES_PER_S, IN_A_MACHINE, Training
from archwright.sizing.training.training_memory import Subject, checkpoint_bytes, held

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


class Told(NamedTuple):
    model: ModelSpec
    accelerator: Accelerator
    layout: str
    stratum: str
    estimates: dict[str, Estimate]
    facts: tuple[str, ...]
    weak: tuple[str, ...]
    assumed: tuple[str, ...]


class Split(NamedTuple):
    """Where the work lies and how fast it goes: device-seconds a token, bytes counted on a device."""

    layout: str
    token_s: Guess
    bytes_held: float
    stratum: str
    weak: tuple[str, ...]


def answer(asked: Training, subjects: BenchmarkNameResolver, usd_per_hour: float | None = None) -> Told | None:
    """None where no split fits. Raises CatalogError AW-CAT-01 for a name nobody knows."""
    accelerator = subjects.accelerator(asked.accelerator)
    model, weak = serving_prediction.model_of(asked.model, (asked.parameters, asked.active_parameters), subjects)
    method = method_of(asked.parallelism)
    subject = Subject(model, asked.sequence_tokens or ASSUMED_SEQUENCE, adapters=method == "lora")
    job = job_of(model, accelerator, subject.sequence, token_throughput.number_of(asked.precision))
    batch = asked.batch_tokens or subject.sequence * max(asked.devices, 1)
    question = Question(subject, batch, job._replace(weak=tuple(weak)))
    cluster = cluster_of(accelerator, asked.devices)
    split = _split(asked, question, cluster, subjects)
    if split is None:
        return None
    catalog = subjects.catalog
    run = Run(asked.tokens or 0.0, method)
    exposed = Exposed(checkpoint_bytes(subject), cluster.devices, cluster.machines, run.stages)
    lost = goodput(exposed, catalog)
    estimates = _speeds(split, asked, question, catalog) | _totals(
        split, run, (cluster, lost, exposed.checkpoint_bytes), usd_per_hour, catalog
    )
    named = ("training.memory", "training.behind", "training.setup", *(("training.lora",) if subject.adapters else ()))
    return Told(
        model=model,
        accelerator=accelerator,
        layout=split.layout,
        stratum=split.stratum,
        estimates=estimates,
        facts=(*lost.facts, *facts(catalog, *named)) if asked.tokens else facts(catalog, *named[:2]),
        weak=split.weak,
        assumed=() if stated(asked.parallelism, asked.devices) else ("split: the fastest that fits",),
    )


def method_of(layout: str) -> Method:
    said = layout.lower()
    return "lora" if "lora" in said else "pretrain" if "scratch" in said else "full"


def cluster_of(accelerator: Accelerator, devices: int) -> Cluster:
    """Machines of eight with a port for each device, as the fitted rows have them; one smaller machine."""
    each = next(size for size in (IN_A_MACHINE, 4, 2, 1) if devices % size == 0)
    if devices <= IN_A_MACHINE:
        each = max(devices, 1)
    return Cluster(accelerator, each, max(devices, 1) // each, FABRIC_BYTES_PER_S * each)


def _split(asked: Training, question: Question, cluster: Cluster, subjects: BenchmarkNameResolver) -> Split | None:
    scheme = stated(asked.parallelism, cluster.devices)
    if scheme is None:
        choice = best(question, cluster, room(cluster.accelerator, subjects.catalog))
        if choice is None:
            return None
        token_s, stratum = pace(question, choice, subjects.catalog, trusted=not question.job.weak)
        weak, text, kept = question.job.weak, choice.scheme.text, choice.held.total
    else:
        got = token_throughput.predict(asked, subjects)
        token_s, stratum, weak = got.tokens_per_s.inverse, got.stratum, got.weak
        kept, text = held(question.subject, scheme).total, scheme.text
        if question.subject.adapters:
            token_s = token_s.scaled(
                adapters_share(placed(question, scheme, cluster), fitted_tables.load("training").coefficients["token"])
            )
        if kept > cluster.accelerator.memory_bytes:
            weak = (*weak, "the stated split exceeds the devices' memory")
    if question.subject.adapters:
        token_s = adapters_s(token_s, subjects.catalog)
    return Split(text, _possible(token_s, model_flops(question) / question.job.rate), kept, stratum, weak)


def _possible(token_s: Guess, least_s: float) -> Guess:
    """No device computes faster than its stated rate: the fast end stops at `least_s`, utilisation 1."""
    return token_s._replace(low=min(max(token_s.low, least_s), token_s.value))


def _speeds(split: Split, asked: Training, question: Question, catalog: Catalog) -> dict[str, Estimate]:
    speed = split.token_s.inverse.estimate("tokens/s")
    found = {
        "tokens_per_s_per_device": speed,
        "mfu": speed.scaled(model_flops(question) / question.job.rate, unit="fraction"),
        "memory_bytes_per_device": rate(catalog, "training.memory").scaled(split.bytes_held, unit="bytes"),
    }
    if asked.batch_tokens and asked.devices:
        found["step_s"] = split.token_s.estimate("s").scaled(asked.batch_tokens / asked.devices)
    return found


def _totals(
    split: Split, run: Run, job: tuple[Cluster, Goodput, float], usd_per_hour: float | None, catalog: Catalog
) -> dict[str, Estimate]:
    """Of the whole run; nothing where its tokens are not stated. `job` ends with the bytes of a checkpoint."""
    if not run.tokens:
        return {}
    cluster, lost, written = job
    stepping = split.token_s.estimate("s").scaled(run.tokens / HOUR_S, unit="h")
    hours = run_hours(stepping, lost, cluster, catalog)
    found = {
        "device_hours": stepping,
        "checkpoint_bytes": exact_estimate(written, "bytes"),
        "goodput": lost.share,
        "run_device_hours": hours,
        "days": hours.scaled(1 / cluster.devices / 24, unit="days"),
        "checkpoint_s": lost.checkpoint_s,
        "checkpoint_interval_s": lost.interval_s,
    }
    if usd_per_hour is not None:
        found["cost_usd"] = hours.scaled(usd_per_hour, unit="USD")
    return found
