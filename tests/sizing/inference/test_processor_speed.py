"""The fit of local engines on processors: the rule, its bands, and that the predictor takes the fit's times."""

from __future__ import annotations

import csv
import itertools
from pathlib import Path

import pytest
from tests.sizing.conftest import SUBJECTS, known

from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.sizing import benchmark_reader
from archwright.sizing.inference import processor_speed, serving_prediction
from archwright.sizing.inference.processor_speed import HostReport, ProcessorFacts
from archwright.sizing.inference.serving_prediction import ServingQuery
from archwright.sizing.model.engine_memory import weights_bytes
from archwright.sizing.step_time.fitted_tables import load_table

FIT = load_table(processor_speed.TABLE)
SWEEP = Path(__file__).parents[3] / "bench" / "engine" / "sweep.csv"
MODEL = SUBJECTS.model("Llama-3.1-8B-Instruct")
WEIGHTS = weights_bytes(MODEL, SUBJECTS.catalog.quantisations["Q4_K_M"].bits_per_weight)
GENOA = ProcessorFacts(
    vendor="AMD",
    microarchitecture="Zen4",
    instruction_set="avx512-bf16",
    threads=16,
    bandwidth_bytes_per_s=120e9,
    bandwidth_measured=True,
)
ASKED = ServingQuery(
    model="Llama-3.1-8B-Instruct",
    accelerator="AMD EPYC 9654 (16 threads)",
    precision="Q4_K_M",
    engine="llama.cpp b4753",
    scenario="batch1_decode",
    concurrency=1.0,
    input_tokens=0.0,
    output_tokens=128.0,
)


def predict_token_s(facts: ProcessorFacts, phase: processor_speed.TokenPhase) -> float:
    work = processor_speed.describe_work(phase, MODEL, WEIGHTS, context=64)
    return processor_speed.predict_token_s(facts, work, FIT).value


def test_every_stratum_has_bands_of_its_own_kind() -> None:
    regimes = (processor_speed.MEASURED, processor_speed.STATED)
    kinds, sizes = processor_speed.KINDS, processor_speed.SIZES
    for metric, kind, size, regime in itertools.product(("tpot_s", "ttft_s"), kinds, sizes, regimes):
        band = FIT.find_band(metric, f"{kind} {size}", regime)
        assert (band.stratum, band.regime) == (f"{kind} {size}", regime)
        assert band.low < 1 < band.high


def test_more_memory_and_more_threads_make_large_models_faster() -> None:
    wider = replace(GENOA, bandwidth_bytes_per_s=240e9)
    fewer = replace(GENOA, threads=4)
    assert predict_token_s(wider, "decode") < predict_token_s(GENOA, "decode")
    assert predict_token_s(GENOA, "prefill") < predict_token_s(fewer, "prefill") / 2


def test_a_barrier_per_layer_makes_many_threads_slow_for_a_small_model() -> None:
    small = SUBJECTS.model("SmolLM2-135M-Instruct")
    work = processor_speed.describe_work("decode", small, weights_bytes(small, 5.0), context=64)
    rule = FIT.coefficients["decode"]
    times = [
        processor_speed.compute_step_parts(replace(GENOA, threads=threads), work, rule).total_s for threads in (16, 128)
    ]
    assert times[0] < times[1]


def test_an_unknown_processor_has_the_rate_of_its_instruction_set() -> None:
    rule = FIT.coefficients["prefill"]
    unknown = replace(GENOA, microarchitecture="Zen9")
    assert processor_speed.find_thread_rate(unknown, rule) == rule["flops.avx512-bf16"]
    assert processor_speed.find_thread_rate(replace(unknown, instruction_set="*"), rule) == rule["flops"]


@pytest.mark.parametrize("name", ["AMD EPYC 9654 (16 threads)", "Core i7-1185G7", "AWS Graviton4 (8 threads)"])
def test_the_predictor_takes_the_times_of_the_fit(name: str) -> None:
    accelerator = SUBJECTS.accelerator(name)
    facts = processor_speed.describe_processor(accelerator, 1, HostReport())
    assert facts is not None
    answer = serving_prediction.predict_deployment(replace(ASKED, accelerator=name), SUBJECTS)
    work = processor_speed.describe_work("decode", MODEL, WEIGHTS, context=65, kernels="b4753")
    expected = processor_speed.predict_token_s(facts, work, FIT)
    assert known(answer.tpot_s).value == pytest.approx(expected.value, rel=0.02)
    assert known(answer.tpot_s).high == pytest.approx(expected.high, rel=0.05)
    prompt = replace(ASKED, accelerator=name, scenario="batch1_prefill", input_tokens=512.0, output_tokens=0.0)
    first = known(serving_prediction.predict_deployment(prompt, SUBJECTS).ttft_s)
    reading = processor_speed.describe_work("prefill", MODEL, WEIGHTS, context=256, kernels="b4753")
    assert first.value == pytest.approx(512 * processor_speed.predict_token_s(facts, reading, FIT).value, rel=0.1)


def test_requests_at_once_share_the_processor() -> None:
    alone, crowded = (
        known(serving_prediction.predict_deployment(replace(ASKED, concurrency=count), SUBJECTS).tpot_s).value
        for count in (1.0, 8.0)
    )
    assert alone < crowded < 8 * alone


def test_a_report_of_the_host_replaces_what_the_name_says() -> None:
    cells = {"threads_used": "8", "bw_read_all_bytes_s": "2e10", "numa_nodes": "2", "amx_int8": "1", "avx2": "1"}
    report = benchmark_reader.read_host_report(cells)
    assert report == HostReport(threads=8, instruction_set="amx", bandwidth_bytes_per_s=2e10, memory_nodes=2)
    facts = processor_speed.describe_processor(SUBJECTS.accelerator("AMD EPYC 9654 (96 threads)"), 1, report)
    assert facts is not None
    assert (facts.threads, facts.bandwidth_measured, facts.memory_nodes) == (8, True, 2)
    named = processor_speed.describe_processor(SUBJECTS.accelerator("AMD EPYC 9654 (96 threads)"), 1, HostReport())
    assert named is not None
    assert (named.threads, named.bandwidth_measured) == (96, False)


def test_hostile_columns_of_a_row_say_nothing() -> None:
    cells = {"threads_used": "1e99", "bw_read_all_bytes_s": "-3", "numa_nodes": "nan", "avx2": "yes"}
    assert benchmark_reader.read_host_report(cells) == HostReport()


def test_a_new_build_on_arm_may_read_prompts_faster() -> None:
    graviton = replace(GENOA, vendor="AWS", microarchitecture="Neoverse-V2", instruction_set="neon")
    fitted, other = (
        processor_speed.predict_token_s(
            graviton,
            processor_speed.describe_work("prefill", MODEL, WEIGHTS, context=64, kernels=kernels),
            FIT,
        )
        for kernels in (processor_speed.FITTED_BUILD, processor_speed.LLAMACPP)
    )
    assert other.low == pytest.approx(fitted.low / processor_speed.NEWER_ARM_GAIN)
    assert other.high == fitted.high


def test_our_own_measurements_on_another_build_are_in_the_band() -> None:
    """bench/engine/sweep.csv was measured by this project on one thread of a Zen 4 and is not in the fit."""
    facts = replace(GENOA, threads=1, bandwidth_bytes_per_s=22.5e9, server=True)
    models = {"1B": "Llama-3.2-1B-Instruct", "3B": "Llama-3.2-3B-Instruct", "8B": "Llama-3.1-8B-Instruct"}
    inside = []
    for row in csv.DictReader(SWEEP.read_text(encoding="utf-8").splitlines()):
        if row["quantisation"] != "Q4_K_M" or row["shape"] not in models or row["threads"] != "1":
            continue
        model = SUBJECTS.model(models[row["shape"]])
        work = processor_speed.describe_work("decode", model, float(row["bytes"]), context=64)
        inside.append(processor_speed.predict_token_s(facts, work, FIT).contains(float(row["decode_1_s"])))
    assert len(inside) >= 3
    assert sum(inside) >= len(inside) - 1


def test_a_processor_without_cores_keeps_the_row_of_the_engine() -> None:
    bare = replace(SUBJECTS.accelerator("AMD EPYC 9654"), notes="not offered by any plan")
    assert processor_speed.describe_processor(bare, 1, HostReport()) is None


def test_an_unknown_name_is_refused() -> None:
    with pytest.raises(CatalogError, match="unknown accelerator"):
        serving_prediction.predict_deployment(replace(ASKED, accelerator="Frobnicator 9"), SUBJECTS)
