"""Time, speed and memory of training runs: by hand, against measurements, and monotonicity."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, SMALL, probed_machine

from archwright.contract.estimate import Estimate, exact_estimate
from archwright.contract.evidence import Prediction
from archwright.contract.lineage import Task
from archwright.contract.metrics import METRIC_BY_QUANTITY
from archwright.contract.plan import MachineFacts
from archwright.contract.record import replace
from archwright.sizing.training.local_training import TrainingLoad, predict_training, run_time_s, training_rates
from archwright.sizing.training.training_flops import BoostedTreesStep, LoraStep, NetworkStep, build_convolution_step

LORA = LoraStep(model=SMALL, ffn=1536, rank=8)
NATIVE = CATALOG.training_efficiency("text-lora", "avx512-bf16")
KINDS: dict[Task, LoraStep | NetworkStep | BoostedTreesStep] = {
    "text-lora": LORA,
    "image-classifier": build_convolution_step((8, 8, 1), (16, 32), 10, 1797),
    "tabular-classifier": BoostedTreesStep(features=9, trees_per_round=1, data_rows=44_000),
}


def a_load(tokens: float = 512, steps: int = 40, threads: int = 1, rank: int = 8) -> TrainingLoad:
    return TrainingLoad(
        name="assistant",
        task="text-lora",
        steps=steps,
        threads=threads,
        units=exact_estimate(tokens, "tokens"),
        largest=exact_estimate(tokens, "tokens"),
        learned=exact_estimate(0.5, ""),
        work=replace(LORA, rank=rank),
    )


def of_task(task: Task) -> TrainingLoad:
    size = exact_estimate(64.0, "rows")
    return replace(a_load(), task=task, units=size, largest=size, learned=exact_estimate(1.0, ""), work=KINDS[task])


def estimates(load: TrainingLoad, machine: MachineFacts) -> tuple[Estimate, Estimate, Estimate]:
    seconds, speed, memory = predict_training(load, machine, NATIVE)[0]
    return seconds.estimate, speed.estimate, memory.estimate


def test_forty_steps_by_hand(machine: MachineFacts) -> None:
    """A step: 253.9 GFLOP at 1.05 of 100 GFLOP/s, 63.4 of attention at 0.78, 30 layers x 0.6 GFLOP: 3.41 s."""
    seconds, speed, memory = estimates(a_load(), machine)
    step_s = 253.926 / 1.05 / 100 + 63.418 / 0.78 / 100 + 30 * 0.6 / 100
    assert seconds.value == pytest.approx(40 * step_s, rel=1e-3)
    assert speed.value == pytest.approx(512 / step_s, rel=1e-3)
    assert memory.value == pytest.approx(570e6 + 309.1e6 + 1.2 * 731.4e6, rel=1e-3)
    assert estimates(a_load(16), machine)[2].value == 570e6 + 6 * 135e6, "a small step needs what loading needs"


@pytest.mark.parametrize(
    ("tokens", "learned", "gflops", "tokens_per_s"),
    [(60, 0.39, 98.1, 117.0), (143, 0.50, 97.7, 151.3), (266, 0.51, 97.2, 145.6), (484, 0.54, 98.8, 147.7),
     (1012, 0.60, 94.9, 113.4), (1554, 0.59, 90.7, 95.1)],
)  # fmt: skip
def test_measured_speeds_lie_within_an_eighth(tokens: int, learned: float, gflops: float, tokens_per_s: float) -> None:
    """By the processor's time, bench/training/measure.py text-lora, 2026-11-24 (the first and last at rank 32)."""
    load = replace(a_load(tokens, rank=32 if tokens in (60, 1554) else 8), learned=exact_estimate(learned, ""))
    assert estimates(load, probed_machine(flops=gflops * 1e9))[1].value == pytest.approx(tokens_per_s, rel=0.125)


@pytest.mark.parametrize(
    ("largest", "learned", "rank", "peak_mb"),
    [(183, 0.5, 8, 1357), (276, 0.51, 8, 1360), (520, 0.54, 8, 1773), (1058, 0.6, 8, 2812), (1539, 0.59, 32, 3822),
     (622, 0.55, 8, 2043)],
)  # fmt: skip
def test_measured_peaks_lie_within_a_tenth(largest: int, learned: float, rank: int, peak_mb: float) -> None:
    """Resident set of the same runs; the last run used the whole platform."""
    load = replace(a_load(largest, rank=rank), learned=exact_estimate(learned, ""))
    assert estimates(load, probed_machine())[2].value == pytest.approx(peak_mb * 1e6, rel=0.1)


@pytest.mark.parametrize("task", KINDS)
def test_every_prediction_has_a_query_and_a_basis(task: Task) -> None:
    load, row = of_task(task), CATALOG.training_efficiency(task, "avx512-bf16")
    predictions, bases = predict_training(load, probed_machine(), row)
    units = {"train_s": "s", "train_tokens_per_s": "tokens/s", "train_memory_bytes": "bytes"}
    if task != "text-lora":
        units["train_tokens_per_s"] = "rows/s"
    assert {p.metric: p.estimate.unit for p in predictions} == units
    assert {p.id for p in predictions} == {f"assistant.{metric}.last" for metric in units}
    known = {basis.id: basis for basis in bases}
    for promise in predictions:
        assert promise.query.metric in METRIC_BY_QUANTITY
        assert (promise.query.labels, promise.query.statistic) == ({"name": "assistant"}, "last")
        basis = known[promise.estimate.basis]
        assert basis.formula and basis.definition and any(row.source in fact for fact in basis.facts)
        assert basis.kind == "calibrated" and task in basis.stratum
    assert len(known) == 3


def test_a_derived_row_is_called_an_assumption() -> None:
    row = CATALOG.training_efficiency("text-lora", "avx512")
    bases = predict_training(a_load(threads=2), probed_machine(8), row)[1]
    assert {(basis.kind, basis.stratum) for basis in bases} == {("assumed", "low row: text-lora bf16 avx512")}
    assert any("2 threads: " in fact for fact in bases[0].facts)


def test_what_is_not_known_exactly_widens_the_band_and_is_told() -> None:
    sure = a_load()
    unsure = replace(
        sure,
        units=Estimate(value=512, low=450, high=560, unit="tokens"),
        largest=Estimate(value=560, low=512, high=660, unit="tokens"),
        learned=Estimate(value=0.5, low=0.4, high=0.7, unit=""),
    )
    for narrow, wide in zip(estimates(sure, probed_machine()), estimates(unsure, probed_machine()), strict=True):
        assert wide.factor > narrow.factor
    told = [fact for basis in predict_training(unsure, probed_machine(), NATIVE)[1] for fact in basis.facts]
    assert any("learned share 50% [40%, 70%]" in fact for fact in told)
    assert not any("learned" in f for basis in predict_training(sure, probed_machine(), NATIVE)[1] for f in basis.facts)


def test_the_first_step_costs_more_in_arithmetic_alone() -> None:
    load, row = of_task("tabular-classifier"), CATALOG.training_efficiency("tabular-classifier", "neon")
    size, rates = (1000.0, 1.0), (1e9, 1e9)
    fixed = row.fixed_flops + row.fixed_flops_per_layer + 1000 * row.fixed_flops_per_unit
    arithmetic = 1000 * 9 / row.share_of_matmul
    expected = (40 * fixed + (40 + row.first_steps) * arithmetic) / 1e9
    assert run_time_s(load, row, size, rates) == pytest.approx(expected)


def test_fixed_costs_do_not_spread_over_threads() -> None:
    load, row = of_task("image-classifier"), CATALOG.training_efficiency("image-classifier", "avx2")
    one, many = (run_time_s(load, row, (64.0, 1.0), (rate, 1e9)) for rate in (1e9, 1e12))
    assert many > 40 * row.fixed_flops / 1e9 > 0.5 * one


def test_a_neighbour_stalls_threads_without_a_core_to_spare() -> None:
    machine = probed_machine(cores=4)
    one, three, four, many = (training_rates(machine, threads) for threads in (1, 3, 4, 64))
    assert one.all == one.one == three.one and one.all.value == 100e9
    assert three.all.low > one.all.low > four.all.low
    assert four.all.value > three.all.value and four == many
    assert training_rates(probed_machine(cores=1), 1) == one


def test_over_minutes_a_thread_gets_its_share_of_the_cores() -> None:
    machine = probed_machine(cores=2)
    quiet, fits, crowded = (training_rates(machine, 1, busy) for busy in (0.0, 0.9, 7.0))
    assert quiet == fits
    assert crowded.all.low == pytest.approx(crowded.all.high * 2 / 8) == crowded.one.low
    assert (crowded.all.value, crowded.all.high) == (quiet.all.value, quiet.all.high)
    calm, restless = (estimates(replace(a_load(), busy=busy), machine) for busy in (0.0, 7.0))
    assert restless[1].low < 0.5 * calm[1].low and restless[1].high == pytest.approx(calm[1].high)
    facts = predict_training(replace(a_load(), busy=7.0), machine, NATIVE)[1][0].facts
    assert any("with 7.0 other busy threads" in fact for fact in facts)


@given(st.integers(16, 4096), st.integers(0, 4096), st.integers(1, 1000), st.integers(0, 1000), st.integers(1, 255))
def test_more_tokens_steps_or_rank_never_need_less(tokens: int, more: int, steps: int, again: int, rank: int) -> None:
    machine = probed_machine()
    base = estimates(a_load(tokens, steps, rank=rank), machine)
    assert estimates(a_load(tokens + more, steps, rank=rank), machine)[0].value >= base[0].value
    assert estimates(a_load(tokens, steps + again, rank=rank), machine)[0].value >= base[0].value
    wider = estimates(a_load(tokens, steps, rank=rank + 1), machine)
    assert wider[0].value >= base[0].value and wider[2].value >= base[2].value


@given(st.integers(1, 64), st.integers(1, 64), st.integers(2, 96))
def test_more_threads_are_not_slower(threads: int, more: int, cores: int) -> None:
    machine = probed_machine(cores)
    few, lots = estimates(a_load(threads=threads), machine), estimates(a_load(threads=threads + more), machine)
    assert lots[0].value <= few[0].value and lots[1].value >= few[1].value


@given(st.floats(1e9, 1e12), st.floats(1.05, 4), st.sampled_from(sorted(KINDS)))
def test_a_wider_probe_makes_a_wider_prediction(flops: float, spread: float, task: Task) -> None:
    row = CATALOG.training_efficiency(task, "avx512-bf16")

    def asked(width: float) -> tuple[Prediction, ...]:
        return predict_training(of_task(task), probed_machine(flops=flops, spread=width), row)[0]

    for calm, restless in zip(asked(spread), asked(spread * 1.5), strict=True):
        assert 0 < calm.estimate.low <= calm.estimate.value <= calm.estimate.high
        if calm.metric == "train_memory_bytes":
            assert restless.estimate == calm.estimate
        else:
            assert restless.estimate.factor > calm.estimate.factor
            assert restless.estimate.value == pytest.approx(calm.estimate.value)


def test_the_middle_of_the_speed_is_the_middle_of_the_time() -> None:
    for task in KINDS:
        row = CATALOG.training_efficiency(task, "sse")
        seconds, speed, _ = predict_training(of_task(task), probed_machine(), row)[0]
        units = of_task(task).units.value * 40
        assert speed.estimate.value == pytest.approx(units / seconds.estimate.value)
