"""The demo's spec: the small model on one thread of a quiet machine, under the desk's load."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.catalog.load import load_catalog
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.estimate import within_factor
from archwright.contract.needs import TokenLength
from archwright.contract.plan import LoadSpec
from archwright.simulate.serving_simulation import ServingSpec
from archwright.sizing.hardware.roofline import Hardware


def build_load(
    workload: str, model: str, rate: float, lengths: tuple[tuple[float, float], ...], concurrency: int
) -> LoadSpec:
    """`lengths`: mean and 95th percentile of the input and of the output tokens."""
    reads, writes = (TokenLength(mean=mean, p95=p95) for mean, p95 in lengths)
    return LoadSpec(
        workload=workload,
        model=model,
        requests_per_second=rate,
        input_tokens=reads,
        output_tokens=writes,
        concurrency=concurrency,
    )


def build_serving_spec(
    model: ModelSpec, hardware: Hardware, load: LoadSpec, *, quantisation: str, **changes: Any
) -> ServingSpec:
    """One replica of llama.cpp with a slot for each request in flight."""
    catalog = load_catalog()
    own = {"model": model, "engine": catalog.engines["llamacpp"], "hardware": hardware, "load": load}
    changes |= own | {"efficiency": catalog.efficiency("llamacpp", quantisation, "avx2")}
    return ServingSpec(quantisation=quantisation, slots=load.concurrency, replicas=1, **changes)


@pytest.fixture(scope="session")
def desk() -> ServingSpec:
    model = load_catalog().models["SmolLM2-135M-Instruct"]
    return build_serving_spec(
        model,
        Hardware(
            name="this-machine",
            memory_bytes=24 << 30,
            bandwidth_bytes_per_s=within_factor(31e9, 1.1, "bytes/s"),
            compute_flops_per_s=within_factor(100e9, 1.05, "FLOP/s"),
        ),
        build_load("assistant", model.id, 0.3, ((120, 400), (60, 128)), 4),
        quantisation="Q4_1",
        bits_per_weight=5.0,
        file_bytes=98_362_432,
        context_tokens=1280,
        batch_tokens=64,
        template_tokens=30,
        shared_prefix_tokens=24,
    )
