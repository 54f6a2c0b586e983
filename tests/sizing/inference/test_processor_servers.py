"""The fit of server engines on processors, and where the predictor takes it."""

from __future__ import annotations

import itertools

import pytest
from tests.sizing.conftest import SUBJECTS, known

from archwright.contract.record import replace
from archwright.sizing.inference import processor_servers, processor_speed, serving_prediction
from archwright.sizing.inference.engine_instance import build_fixed_lengths
from archwright.sizing.inference.processor_servers import ServerLoad
from archwright.sizing.inference.processor_speed import HostReport
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.model.engine_memory import weights_bytes
from archwright.sizing.step_time.fitted_tables import load_table

FIT = load_table(processor_servers.TABLE)
HOST = HostReport(threads=24, instruction_set="amx", bandwidth_bytes_per_s=250e9, memory_nodes=1)
ASKED = ServingQuery(
    model="Llama-3.1-8B-Instruct",
    accelerator="Intel Xeon Platinum 8573C (24 threads)",
    precision="bf16",
    engine="vllm 0.22.1 (CPU)",
    scenario="fixed_concurrency_agg",
    concurrency=8.0,
    input_tokens=256.0,
    output_tokens=128.0,
    ttft_statistic="p50",
    tpot_statistic="p50",
    host=HOST,
)


def answer(**changes: object) -> serving_prediction.DeploymentPrediction:
    return serving_prediction.predict_deployment(replace(ASKED, **changes), SUBJECTS)


def test_every_maker_and_kind_of_load_has_bands() -> None:
    regimes = (processor_speed.MEASURED, processor_speed.STATED)
    vendors = (*processor_servers.VENDORS, processor_speed.ARM)
    kinds = processor_servers.KINDS
    for metric, vendor, kind, regime in itertools.product(processor_servers.METRICS, vendors, kinds, regimes):
        band = FIT.find_band(metric, f"{vendor} {kind}", regime)
        assert (band.stratum, band.regime) == (f"{vendor} {kind}", regime)
        assert band.low < 1 < band.high


@pytest.mark.parametrize(
    ("changes", "regime"),
    [
        ({}, "Intel closed"),
        ({"concurrency": 1.0}, "Intel single"),
        ({"scenario": "open_loop_rate"}, "Intel open"),
        ({"accelerator": "AMD EPYC 9654", "host": HostReport()}, "AMD closed"),
        ({"accelerator": "AWS Graviton4", "host": HostReport()}, "ARM closed"),
    ],
)
def test_a_server_engine_on_a_processor_takes_the_fit(changes: dict[str, object], regime: str) -> None:
    prediction = answer(**changes)
    assert (prediction.stratum, prediction.regime) == (serving_prediction.PROCESSOR_SERVER, regime)
    for time in (prediction.tpot_s, prediction.ttft_s):
        assert known(time).low < known(time).value < known(time).high
    # An answer token of one engine reads 16 GB of weights: no processor does so in less than 20 ms.
    assert known(prediction.tpot_s).value > 0.02


@pytest.mark.parametrize(
    "changes", [{"engine": "llama.cpp b4753", "precision": "Q4_K_M"}, {"engine": "some server", "precision": "Q4_K_M"}]
)
def test_other_engines_keep_their_own_figures(changes: dict[str, object]) -> None:
    assert answer(**changes).stratum != serving_prediction.PROCESSOR_SERVER


def test_more_requests_wait_longer_and_produce_more() -> None:
    few, many = answer(concurrency=2.0), answer(concurrency=32.0)
    assert known(few.tpot_s).value < known(many.tpot_s).value
    assert known(few.ttft_s).value < known(many.ttft_s).value
    assert few.tokens_per_s.value < many.tokens_per_s.value


def test_requests_beyond_the_slots_wait_for_one() -> None:
    enough, few = answer(concurrency=32.0, slots=32.0), answer(concurrency=32.0, slots=8.0)
    assert known(few.ttft_s).value > 1.5 * known(enough.ttft_s).value


def test_percentiles_rise_and_replicas_divide_the_load() -> None:
    prediction = answer()
    times = [prediction.percentiles[f"ttft_{name}_s"].value for name in ("p50", "p95", "p99")]
    assert times == sorted(times)
    assert known(prediction.ttft_s).value == pytest.approx(times[0])
    two_nodes = replace(HOST, threads=48, memory_nodes=2, bandwidth_bytes_per_s=500e9)
    pair = answer(parallelism="TP1 DP2", concurrency=16.0, host=two_nodes)
    assert known(pair.tpot_s).value < known(answer(concurrency=16.0).tpot_s).value


def test_a_prompt_alone_has_no_time_per_answer_token() -> None:
    prediction = answer(output_tokens=1.0, concurrency=1.0)
    assert prediction.tpot_s is None
    assert prediction.tokens_per_s.value == pytest.approx(
        256 / known(answer(output_tokens=1.0, concurrency=1.0, ttft_statistic="mean").ttft_s).value
    )


def test_the_steps_of_a_simulation_follow_the_fit() -> None:
    lengths = build_fixed_lengths(256, 128)
    model = SUBJECTS.model(ASKED.model)
    engine = serving_prediction.require_cpu_engine(ASKED, model, lengths, SUBJECTS)
    accelerator = SUBJECTS.accelerator(ASKED.accelerator)
    facts = processor_speed.describe_processor(accelerator, 1, HOST)
    assert facts is not None
    load = ServerLoad(processor_servers.SINGLE, 1.0, 256.0, 128.0)
    case = processor_servers.describe_case(facts, model, weights_bytes(model, 16.0), load=load)
    times = processor_servers.predict_times(case, FIT)
    step = engine.pace.decode_step(256 + 64)
    assert step.step_s(1) == pytest.approx(times.tpot_s, rel=0.02)
    first = engine.pace.uncontended_prefill(256)
    assert first.ttft_s(0.0) == pytest.approx(times.ttft_s, rel=0.15)
    assert engine.speed.stratum == "host processor, fit of Intel open"
