"""How long a training run takes, how fast it goes and how much memory its process needs.

train_s is the time spent in steps, from the first to the last: loading, checkpoints and the export are not in it.

  train_s = (first + steps) x arithmetic / rate + steps x fixed / rate of one thread
  arithmetic = dense FLOPs / share + attention FLOPs / attention share
  fixed = fixed + fixed per layer x layers + fixed per unit x units
  memory = process + max(loading, lasting + (1 + step share) x step)

`rate` is the machine's probed, sustained matrix rate at the run's threads. Shares and fixed costs are the catalog's row
for this kind of work, in FLOPs of the probe, since a busy neighbour slows both. Steps: training_flops.py.
"""

from __future__ import annotations

from typing import NamedTuple

from archwright.catalog.tables.records import TrainingEfficiency
from archwright.contract.estimate import Estimate, multiply_estimates
from archwright.contract.evidence import Basis, Prediction, Query
from archwright.contract.lineage import Task
from archwright.contract.plan import MachineFacts
from archwright.contract.record import Record
from archwright.sizing.hardware.roofline import matrix_rate
from archwright.sizing.training.training_flops import BoostedTreesStep, LoraStep, NetworkStep

DAY_S = 86400.0
# Measured: two threads on two busy cores made between 0.7 and 0.9 of what one made.
CONTENDED_CORE_SHARE = 0.7
UNITS: dict[Task, str] = {"text-lora": "tokens", "image-classifier": "rows", "tabular-classifier": "rows"}


class TrainingLoad(Record):
    """What is to be trained. `units` are those of one step (tokens, rows) on average, `largest` those of the largest
    step; `learned` is the share of them that is learned from. `busy` is how many threads of others want a core."""

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
    """Time, speed and memory of the run, each with the basis it names."""
    rates = training_rates(machine, load.threads, load.busy)
    of = f"{load.name}.training"
    seconds, speed = _predict_times(load, rates, efficiency, of)
    found = {
        "train_s": seconds,
        "train_tokens_per_s": speed,
        "train_memory_bytes": _predict_memory(load, efficiency, f"{of}.memory"),
    }
    predictions = tuple(
        Prediction(
            id=f"{load.name}.{metric}.last",
            metric=metric,
            workload=load.name,
            estimate=estimate,
            query=Query(metric=metric, labels={"name": load.name}, statistic="last", window_s=DAY_S),
        )
        for metric, estimate in found.items()
    )
    return predictions, _build_bases(load, rates, efficiency, of)


class MatrixRates(NamedTuple):
    """Of matrix products: of all threads together, for arithmetic, and of one, for what does not spread."""

    all: Estimate
    one: Estimate


def training_rates(machine: MachineFacts, threads: int, busy: float = 0.0) -> MatrixRates:
    """More threads than cores add nothing; with a core for each thread and none to spare, a neighbour stalls all.

    With `busy` other threads the low end is the run's share of the cores of the best that the probe saw."""
    used = min(threads, machine.cores_usable)
    rate, one = matrix_rate(machine, used), matrix_rate(machine, 1)
    low = rate.low if used == 1 or used < machine.cores_usable else min(rate.low, one.low * CONTENDED_CORE_SHARE)
    fair = min(1.0, machine.cores_usable / (busy + used))
    return MatrixRates(_with_lower_bound(rate, min(low, rate.high * fair)), _with_lower_bound(one, one.high * fair))


def _with_lower_bound(rate: Estimate, low: float) -> Estimate:
    return Estimate(value=rate.value, low=min(rate.low, low), high=rate.high, unit=rate.unit)


def run_time_s(
    load: TrainingLoad, row: TrainingEfficiency, size: tuple[float, float], rates: tuple[float, float]
) -> float:
    """Seconds of all steps of `size` (units, share learned) at these rates (of all threads, of one)."""
    work = load.work.flops(*size)
    arithmetic = work.dense / row.share_of_matmul + work.attention / row.attention_share_of_matmul
    fixed = row.fixed_flops + row.fixed_flops_per_layer * load.work.layers + row.fixed_flops_per_unit * size[0]
    return (row.first_steps + load.steps) * arithmetic / rates[0] + load.steps * fixed / rates[1]


def _predict_times(
    load: TrainingLoad, rates: MatrixRates, row: TrainingEfficiency, of: str
) -> tuple[Estimate, Estimate]:
    """Seconds of the run, and units a second of stepping."""
    units, learned = load.units, load.learned
    middle, usual = (rates.all.value, rates.one.value), (units.value, learned.value)
    value = run_time_s(load, row, usual, middle)
    fast, slow = (rates.all.high, rates.one.high), (rates.all.low, rates.one.low)
    pace = [run_time_s(load, row, usual, end) / value for end in (fast, slow)]
    shares = Estimate(value=1.0, low=1 / row.low_factor, high=row.high_factor, unit="")
    doubts = [Estimate(value=1.0, low=pace[0], high=pace[1], unit=""), shares]
    least = run_time_s(load, row, (units.low, learned.low), middle)
    most = run_time_s(load, row, (units.high, learned.high), middle)
    seconds = Estimate(value=value, low=least, high=most, unit="s")
    # What a unit costs does not only rise with the units of a step: fixed costs spread over more of them.
    sizes = [(n, share) for n in (units.low, units.value, units.high) for share in (learned.low, learned.high)]
    costs = [run_time_s(load, row, size, middle) / (load.steps * size[0]) for size in sizes]
    cost = value / (load.steps * units.value)
    each = multiply_estimates([Estimate(value=cost, low=min(costs), high=max(costs), unit="s"), *doubts], "s")
    speed = each.divide_amount(1.0, f"{UNITS[load.task]}/s", f"{of}.speed")
    return multiply_estimates([seconds, *doubts], "s", f"{of}.time"), speed


def _predict_memory(load: TrainingLoad, row: TrainingEfficiency, basis: str) -> Estimate:
    """The process and the larger of loading and the largest step."""
    largest, learned = load.largest, load.learned
    sizes = ((largest.low, learned.low), (largest.value, learned.value), (largest.high, learned.high))
    held = [load.work.memory(*size, row.dtype) for size in sizes]
    low, value, high = (
        row.process_bytes + max(part.loading, part.lasting + (1 + row.memory_step_share) * part.step) for part in held
    )
    own = Estimate(value=value, low=low, high=high, unit="bytes")
    sure = Estimate(value=1.0, low=1 / row.memory_low_factor, high=row.memory_high_factor, unit="")
    return multiply_estimates([own, sure], "bytes", basis)


def _build_bases(load: TrainingLoad, rates: MatrixRates, row: TrainingEfficiency, of: str) -> tuple[Basis, ...]:
    """One per number, under the ids the estimates name."""
    unit, more = UNITS[load.task], row.first_steps
    step = f"the first step's arithmetic counts {more:g} times more; {load.work.formula}" if more else load.work.formula
    size, rate, shares, band, source = _list_facts(load, rates, row)
    held = load.work.memory(load.largest.value, load.learned.value, row.dtype)
    shown = {"process": row.process_bytes, **held._asdict()}
    parts = ", ".join(f"{name} {part / 1e6:.0f} MB" for name, part in shown.items())
    parts += f"; band 1/{row.memory_low_factor:g} to {row.memory_high_factor:g}"
    timing = (size, rate, shares, band, source)
    spent = "time spent in steps, first to last; checkpoints are not in it, a step made again counts once"
    held_most = f"process + max(loading, lasting + {1 + row.memory_step_share:g} x step)"
    return (
        _build_basis(row, f"{of}.time", spent, (f"steps x step / rate; {step}", *timing)),
        _build_basis(
            row, f"{of}.speed", f"{unit} gone through per second of stepping", (f"units / step; {step}", *timing)
        ),
        _build_basis(
            row, f"{of}.memory", "largest resident set of the training process", (held_most, size, parts, source)
        ),
    )


def _list_facts(load: TrainingLoad, rates: MatrixRates, row: TrainingEfficiency) -> tuple[str, str, str, str, str]:
    """Size of the work, rate of the machine, shares of it, their band, their source."""
    learned, rate = load.learned, rates.all
    size = f"{load.steps} steps of {load.units.value:,.0f} {UNITS[load.task]}, the largest {load.largest.value:,.0f}"
    if learned.low < learned.high:
        size += f"; learned from {learned.value:.0%} of them [{learned.low:.0%}, {learned.high:.0%}]"
    return (
        size,
        f"{load.threads} thread{'s' if load.threads > 1 else ''}: {rate.value / 1e9:.0f} GFLOP/s "
        f"[{rate.low / 1e9:.0f}, {rate.high / 1e9:.0f}], probed before the run beside {load.busy:.1f} busy threads",
        f"share of the matrix rate {row.share_of_matmul:g}, of attention {row.attention_share_of_matmul:g}; fixed "
        f"{row.fixed_flops / 1e6:g}, per layer {row.fixed_flops_per_layer / 1e6:g}, per unit "
        f"{row.fixed_flops_per_unit / 1e6:g} MFLOP of the probe",
        f"band of the shares 1/{row.low_factor:g} to {row.high_factor:g}",
        f"{row.source} ({row.as_of or 'undated'}, {row.confidence})",
    )


def _build_basis(row: TrainingEfficiency, name: str, definition: str, made: tuple[str, ...]) -> Basis:
    """`made`: the formula, then the facts."""
    sure = row.confidence in ("high", "medium")
    return Basis(
        id=name,
        kind="calibrated" if sure else "assumed",
        stratum=f"{'measured' if sure else row.confidence} row: {row.task} {row.dtype} {row.isa}",
        definition=definition,
        formula=made[0],
        facts=made[1:],
    )
