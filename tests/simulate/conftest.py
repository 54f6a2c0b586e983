"""The demo's spec: the small model on one thread of a quiet machine, under the desk's load."""

from __future__ import annotations

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.estimate import within_factor
from archwright.contract.needs import TokenLength
from archwright.contract.plan import LoadSpec
from archwright.simulate.serving_simulation import ServingSpec
from archwright.sizing.hardware.roofline import Hardware


@pytest.fixture(scope="session")
def desk() -> ServingSpec:
    catalog = load_catalog()
    return ServingSpec(
        model=catalog.models["SmolLM2-135M-Instruct"],
        engine=catalog.engines["llamacpp"],
        efficiency=catalog.efficiency("llamacpp", "Q4_1", "avx512"),
        hardware=Hardware(
            name="this-machine",
            memory_bytes=24 << 30,
            bandwidth_bytes_per_s=within_factor(31e9, 1.1, "bytes/s"),
            compute_flops_per_s=within_factor(100e9, 1.05, "FLOP/s"),
        ),
        quantisation="Q4_1",
        bits_per_weight=5.0,
        file_bytes=98_362_432,
        load=LoadSpec(
            workload="assistant",
            model="SmolLM2-135M-Instruct",
            requests_per_second=0.3,
            input_tokens=TokenLength(mean=120, p95=400),
            output_tokens=TokenLength(mean=60, p95=128),
            concurrency=4,
        ),
        slots=4,
        context_tokens=1280,
        replicas=1,
        batch_tokens=64,
        template_tokens=30,
        shared_prefix_tokens=24,
    )
