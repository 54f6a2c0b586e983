"""Did predictions move? A few deployments, frozen: a change here is meant, or it is a mistake.

After a new fit `python tests/gate/test_predictions.py` prints the new figures; docs/accuracy.md says whether they are
better.
"""

from __future__ import annotations

import pytest

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.sizing.inference import serving_prediction
from archwright.sizing.training import token_throughput

SUBJECTS = BenchmarkNameResolver(Catalog(DATA))
# model, accelerator, devices, layout, format, engine, in flight, prompt, answer
ASKED = (
    ("Llama-3.1-70B", "h100_sxm", 4, "TP4", "fp8", "vllm 0.18.0", 64, 1024, 1024),
    ("deepseek-ai/DeepSeek-R1", "h200_sxm", 8, "TP8 EP8", "fp8", "sglang 0.5.9", 32, 8192, 1024),
    ("openai/gpt-oss-120b", "b200_sxm", 1, "TP1", "fp4", "trtllm 1.2.0", 16, 1024, 8192),
    ("Mixtral-8x7B", "h100_sxm", 2, "TP2", "fp8", "vllm 0.18.0", 32, 1024, 512),
    ("Qwen3-32B", "b300_sxm", 1, "TP1", "fp8", "trtllm 1.2.0", 32, 1024, 512),
    ("Llama-3.1-8B", "MI300X", 1, "TP1", "bf16", "vllm 0.18.0", 128, 512, 512),
)
TRAINED = (
    ("Llama 3.1 8B", "H100 SXM 80GB", 64, "FSDP64 micro 1", "bf16", 8192),
    ("Llama 3.1 70B", "B200", 256, "TP4 PP4 GA32 FSDP0 MBS1", "fp8", 8192),
    ("MPT-7b", "Gaudi 2", 8, "FSDP8 micro 4", "bf16", 2048),
)


def served(row: tuple[str, str, int, str, str, str, int, int, int]) -> tuple[float, float]:
    model, accelerator, devices, layout, number, engine, sent, prompt, answer = row
    asked = serving_prediction.ServingQuery(
        model=model,
        accelerator=accelerator,
        devices=devices,
        parallelism=layout,
        precision=number,
        engine=engine,
        scenario="fixed_concurrency_agg",
        concurrency=float(sent),
        input_tokens=float(prompt),
        output_tokens=float(answer),
    )
    found = serving_prediction.predict_deployment(asked, SUBJECTS)
    assert found.tpot_s is not None
    assert found.ttft_s is not None
    return found.tpot_s.value * 1e3, found.ttft_s.value * 1e3


def trained(row: tuple[str, str, int, str, str, int]) -> float:
    model, accelerator, devices, layout, number, length = row
    asked = token_throughput.TrainingQuery(
        model=model,
        accelerator=accelerator,
        devices=devices,
        parallelism=layout,
        precision=number,
        sequence_tokens=float(length),
    )
    return 1 / token_throughput.predict_stated_run(asked, SUBJECTS).seconds.value


SERVED_MS = (
    (19.6891, 263.591),
    (32.4775, 1142),
    (5.50002, 73.341),
    (13.2246, 189.072),
    (11.0893, 257.338),
    (15.762, 326.59),
)
TRAINED_TOKENS_PER_S = (
    7360.3,
    2837.27,
    6422.99,
)


def test_serving() -> None:
    for row, frozen in zip(ASKED, SERVED_MS, strict=True):
        assert served(row) == pytest.approx(frozen, rel=1e-3), row


def test_training() -> None:
    for row, frozen in zip(TRAINED, TRAINED_TOKENS_PER_S, strict=True):
        assert trained(row) == pytest.approx(frozen, rel=1e-3), row


if __name__ == "__main__":
    for asked in ASKED:
        tpot, ttft = served(asked)
        print(f"    ({tpot:.6g}, {ttft:.6g}),")
    for run in TRAINED:
        print(f"    {trained(run):.6g},")
