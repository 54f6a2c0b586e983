"""Time, speed and process memory of a training run on this machine.

train_s is the time in steps, from the first to the last, without loading, checkpoints and export.

  train_s = (first + steps) x arithmetic / rate + steps x fixed / rate of one thread
  arithmetic = dense FLOPs / share + attention FLOPs / attention share
  fixed = fixed + fixed per layer x layers + fixed per unit x units
  memory = process + max(loading, lasting + (1 + step share) x step)

`rate` is the probed, sustained matmul rate in FLOP/s with the run's threads. Shares and fixed costs are the catalog's
row for this kind of work, in FLOPs of the probe, because a noisy neighbour slows down both. Steps: training_flops.py.
"""

from typing import NamedTuple

from archwright.catalog.tables.records import TrainingEfficiency
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.evidence import Basis, Prediction, Query
from archwright.contract.lineage import Task
from archwright.contract.plan import MachineFacts
from archwright.contract.record import Record, replace
from archwright.sizing.hardware.roofline import matrix_rate
from archwright.sizing.training.training_flops import BoostedTreesStep, LoraStep, NetworkStep

DAY_S = 86400.0
# Measured: two threads on two busy cores reached 0.7 to 0.9 of the rate of one thread.
CONTENDED_CORE_SHARE = 0.7
UNITS: dict[Task, str] = {"text-lora": "tokens", "image-classifier": "rows", "tabular-classifier": "rows"}


class TrainingLoad(Record):
    """A run: mean `units` of a step, `largest` step, `learned` share of units, `busy` threads of other processes."""

    name: str
    task: Task
    steps: int
    threads: int
    units: Estimate
    largest: Estimate
    learned: Estimate
    work: LoraStep | NetworkStep | BoostedTreesStep
    busy: float = 0.0


def predict_training(
    load: TrainingLoad, machine: MachineFacts, efficiency: TrainingEfficiency
) -> tuple[tuple[Prediction, ...], tuple[Basis, ...]]:
    """Return predictions of time, speed and memory of the run, and their bases."""
    rates = training_rates(machine, load.threads, load.busy)
    name = f"{load.name}.training"
    seconds, speed = _predict_times(load, rates, efficiency, name)
    estimates = {
        "train_s": seconds,
        "train_tokens_per_s": speed,
        "train_memory_bytes": _predict_memory(load, efficiency, f"{name}.memory"),
    }
    predictions = tuple(
        Prediction(
            id=f"{load.name}.{metric}.last",
            metric=metric,
            workload=load.name,
            estimate=estimate,
            query=Query(metric=metric, labels={"name": load.name}, statistic="last", window_s=DAY_S),
        )
        for metric, estimate in estimates.items()
    )
    return predictions, _build_bases(load, rates, efficiency, name)


class MatrixRates(NamedTuple):
    """Matmul rates in FLOP/s: of all threads (arithmetic) and of one thread (fixed costs, which do not parallelise)."""

    all: Estimate
    one: Estimate


def training_rates(machine: MachineFacts, threads: int, busy: float = 0.0) -> MatrixRates:
    """Return the rates of a run; threads beyond the cores add nothing.

    If the threads use every core, one busy neighbour stalls all of them: the low end falls to CONTENDED_CORE_SHARE of
    one thread. With `busy` other threads, the low end is at most the run's share of the cores x the high end."""
    used = min(threads, machine.cores_usable)
    rate, one = matrix_rate(machine, used), matrix_rate(machine, 1)
    low = rate.low if used == 1 or used < machine.cores_usable else min(rate.low, one.low * CONTENDED_CORE_SHARE)
    fair = min(1.0, machine.cores_usable / (busy + used))
    every = replace(rate, low=min(rate.low, low, rate.high * fair))
    return MatrixRates(every, replace(one, low=min(one.low, one.high * fair)))


def run_time_s(
    load: TrainingLoad, row: TrainingEfficiency, size: tuple[float, float], rates: tuple[float, float]
) -> float:
    """Return the seconds of all steps of `size` (units, learned share) at `rates` (all threads, one thread)."""
    work = load.work.flops(*size)
    arithmetic = work.dense / row.share_of_matmul + work.attention / row.attention_share_of_matmul
    fixed = row.fixed_flops + row.fixed_flops_per_layer * load.work.layers + row.fixed_flops_per_unit * size[0]
    return (row.first_steps + load.steps) * arithmetic / rates[0] + load.steps * fixed / rates[1]


def _predict_times(
    load: TrainingLoad, rates: MatrixRates, row: TrainingEfficiency, name: str
) -> tuple[Estimate, Estimate]:
    """Return the seconds of the run, and units per second in steps."""
    units, learned = load.units, load.learned
    usual_rates, usual_size = (rates.all.value, rates.one.value), (units.value, learned.value)
    value = run_time_s(load, row, usual_size, usual_rates)
    ends = ((rates.all.high, rates.one.high), (rates.all.low, rates.one.low))
    fast, slow = (run_time_s(load, row, usual_size, end) / value for end in ends)
    bands = [
        Estimate(value=1.0, low=fast, high=slow, unit=""),
        Estimate(value=1.0, low=1 / row.low_factor, high=row.high_factor, unit=""),
    ]
    least = run_time_s(load, row, (units.low, learned.low), usual_rates)
    most = run_time_s(load, row, (units.high, learned.high), usual_rates)
    seconds = Estimate(value=value, low=least, high=most, unit="s")
    # The cost of a unit is not monotone in the units of a step: fixed costs are spread over more units.
    sizes = [(n, share) for n in (units.low, units.value, units.high) for share in (learned.low, learned.high)]
    costs = [run_time_s(load, row, size, usual_rates) / (load.steps * size[0]) for size in sizes]
    cost = Estimate(value=value / (load.steps * units.value), low=min(costs), high=max(costs), unit="s")
    speed = multiply_estimates([cost, *bands], "s").divide_amount(1.0, f"{UNITS[load.task]}/s", f"{name}.speed")
    return multiply_estimates([seconds, *bands], "s", f"{name}.time"), speed


def _predict_memory(load: TrainingLoad, row: TrainingEfficiency, basis: str) -> Estimate:
    """Return the memory of the process: its base plus the larger of loading and the largest step."""
    largest, learned = load.largest, load.learned
    sizes = ((largest.low, learned.low), (largest.value, learned.value), (largest.high, learned.high))
    steps = [load.work.memory(*size, row.dtype) for size in sizes]
    low, value, high = (
        row.process_bytes + max(step.loading, step.lasting + (1 + row.memory_step_share) * step.step) for step in steps
    )
    counted = Estimate(value=value, low=low, high=high, unit="bytes")
    band = Estimate(value=1.0, low=1 / row.memory_low_factor, high=row.memory_high_factor, unit="")
    return multiply_estimates([counted, band], "bytes", basis)


def _build_bases(load: TrainingLoad, rates: MatrixRates, row: TrainingEfficiency, name: str) -> tuple[Basis, ...]:
    """Return one basis per number, with the ids that the estimates name."""
    learned, rate, more = load.learned, rates.all, row.first_steps
    step = f"the first step has {more:g} times more arithmetic; {load.work.formula}" if more else load.work.formula
    size = f"{load.steps} steps of {load.units.value:,.0f} {UNITS[load.task]}, the largest {load.largest.value:,.0f}"
    if learned.low < learned.high:
        size += f"; learned share {learned.value:.0%} [{learned.low:.0%}, {learned.high:.0%}]"
    source = f"{row.source} ({row.as_of or 'undated'}, {row.confidence})"
    timing = (
        size,
        f"{load.threads} thread{'s' if load.threads > 1 else ''}: {rate.value / 1e9:.0f} GFLOP/s "
        f"[{rate.low / 1e9:.0f}, {rate.high / 1e9:.0f}], probed before the run with {load.busy:.1f} other busy threads",
        f"share of the matmul rate {row.share_of_matmul:g}, of attention {row.attention_share_of_matmul:g}; fixed "
        f"{row.fixed_flops / 1e6:g}, per layer {row.fixed_flops_per_layer / 1e6:g}, per unit "
        f"{row.fixed_flops_per_unit / 1e6:g} MFLOP of the probe",
        f"band of the shares 1/{row.low_factor:g} to {row.high_factor:g}",
        source,
    )
    memory = load.work.memory(load.largest.value, learned.value, row.dtype)._asdict()
    parts = ", ".join(f"{part} {held / 1e6:.0f} MB" for part, held in {"process": row.process_bytes, **memory}.items())
    parts += f"; band 1/{row.memory_low_factor:g} to {row.memory_high_factor:g}"
    peak = f"process + max(loading, lasting + {1 + row.memory_step_share:g} x step)"
    trusted = row.confidence in ("high", "medium")
    rows: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
        (
            "time",
            "time in steps, first to last; without checkpoints; a repeated step counts once",
            f"steps x step / rate; {step}",
            timing,
        ),
        ("speed", f"{UNITS[load.task]} per second in steps", f"units / step; {step}", timing),
        ("memory", "largest resident set of the training process", peak, (size, parts, source)),
    )
    return tuple(
        Basis(
            id=f"{name}.{metric}",
            kind="calibrated" if trusted else "assumed",
            stratum=f"{'measured' if trusted else row.confidence} row: {row.task} {row.dtype} {row.isa}",
            definition=definition,
            formula=formula,
            facts=facts,
        )
        for metric, definition, formula, facts in rows
    )
