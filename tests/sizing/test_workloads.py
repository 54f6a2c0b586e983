"""Capacity of a machine for images, tables, embedding and data processing, with bases and monotonicity."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, known

from archwright.contract.needs import SLO, TokenLength
from archwright.contract.record import replace
from archwright.sizing.hardware.device_rates import busy_power_w, host_cores, host_flops, read_work_rate
from archwright.sizing.hardware.machine import BatchWork, Machine, SteadyCapacity
from archwright.sizing.workloads.data_processing import size_data_processing
from archwright.sizing.workloads.embedding import (
    size_embedding_batch,
    size_embedding_serving,
    text_flops,
)
from archwright.sizing.workloads.tabular import row_service_s, size_tabular_serving
from archwright.sizing.workloads.vision import image_flops, size_image_serving

NO_LIMIT = SLO()
GIB = 2.0**30


def machine(name: str | None = None, count: int = 1, cores: int = 16) -> Machine:
    own = CATALOG.accelerator(name) if name else None
    return Machine(f"{count}x {name}", own, count if name else 0, cores, 64e9)


def holds(found: SteadyCapacity) -> None:
    (basis,) = found.bases
    assert found.requests_per_s.basis == found.latency_p95_s.basis == basis.id
    assert found.requests_per_s.low < found.requests_per_s.value < found.requests_per_s.high
    assert basis.formula
    assert len(basis.facts) > 2
    assert found.busy_w > 0
    assert (found.ttft_p95_s, found.tpot_p95_s) == (None, None)


# pytorch/vision: num_params and _ops (multiply-adds, in units of 1e9) at 224 x 224 pixels.
@pytest.mark.parametrize(("parameters", "gmacs"), [(25_557_032, 4.089), (5_288_548, 0.386)])
def test_published_classifiers_lie_in_the_band(parameters: int, gmacs: float) -> None:
    found = image_flops(224.0 * 224.0, parameters, CATALOG)
    assert found.low * 0.95 <= 2e9 * gmacs <= found.high


# NVIDIA/DeepLearningExamples, triton/resnet50: ResNet-50 in 16 bits, images a second at their best.
@pytest.mark.parametrize(("name", "images"), [("A100-80GB-SXM", 4890), ("T4", 1280)])
def test_published_image_rates_lie_in_the_band(name: str, images: float) -> None:
    found = size_image_serving(machine(name), "w", 224.0 * 224.0, 25.6e6, NO_LIMIT, CATALOG)
    busy = read_work_rate(CATALOG, "load.most").value
    assert found.requests_per_s.low <= images * busy <= found.requests_per_s.high


def test_images_on_a_device_and_on_the_host() -> None:
    device = size_image_serving(machine("L4"), "images", 1e6, 25e6, SLO(latency_p95_s=1.0), CATALOG)
    host = size_image_serving(machine(), "images", 1e6, 25e6, SLO(latency_p95_s=1.0), CATALOG)
    holds(device)
    holds(host)
    assert device.latency_p95_s.value <= 1.0
    assert (device.engines, device.devices) == (1, 1)
    assert (host.engines, host.devices, host.slots) == (1, 0, 1)
    assert device.requests_per_s.value > host.requests_per_s.value
    # An image of 149 GFLOP takes longer than a second on one core of 72 GFLOP/s, but not on all cores together.
    assert host.latency_p95_s.value <= 1.0
    assert (host.misses, device.misses) == ((), ())
    late = size_image_serving(machine(cores=2), "images", 1e6, 25e6, SLO(latency_p95_s=1.0), CATALOG)
    assert [miss.constraint for miss in late.misses] == ["images.latency_p95_s"]


def test_rows_of_features_take_the_host_even_where_there_is_a_device() -> None:
    plain = size_tabular_serving(machine(), "t", 140, SLO(latency_p95_s=0.05), CATALOG)
    beside = size_tabular_serving(machine("L4"), "t", 140, SLO(latency_p95_s=0.05), CATALOG)
    holds(plain)
    assert plain.requests_per_s.value == beside.requests_per_s.value
    assert beside.devices == 0
    assert plain.latency_p95_s.value <= 0.05
    # Measured: 873 us of one core per request; the trees add 1 %.
    assert 0.0008 <= row_service_s(140, CATALOG).value * read_work_rate(CATALOG, "host.scaling").value <= 0.0011


# michaelfeil/infinity, docs/benchmarking.md: requests/s of 115,000 tokens in 256 texts; 16 threads for the host.
@pytest.mark.parametrize(
    ("name", "model", "requests"),
    [("L4", "bge-large-en-v1.5", 0.54), (None, "bge-small-en-v1.5", 0.08)],
)
def test_published_embedding_rates_lie_in_the_band(name: str | None, model: str, requests: float) -> None:
    found = known(size_embedding_batch(machine(name), CATALOG.embedders[model], "w", 115_000, CATALOG))
    assert found.machine_hours.low <= 1 / requests / 3600 <= found.machine_hours.high
    assert found.machine_hours.value == pytest.approx(1 / requests / 3600, rel=0.25)


def test_embedding_flops() -> None:
    """A causal model's tokens see half of the text on average."""
    model = CATALOG.embedders["bge-m3"]
    body = model.parameters - model.vocabulary * model.hidden
    assert text_flops(model, 100.0) == pytest.approx(100 * (2 * body + 4 * 24 * 1024 * 100))
    causal = replace(model, attention="gqa")
    assert text_flops(model, 100.0) - text_flops(causal, 100.0) == pytest.approx(100 * 4 * 24 * 1024 * 50)


def test_embedding_under_a_limit_and_in_bulk() -> None:
    model = CATALOG.embedders["bge-m3"]
    lengths = TokenLength(mean=500, p95=1500)
    found = known(size_embedding_serving(machine("L4"), model, "index", lengths, SLO(latency_p95_s=0.5), CATALOG))
    holds(found)
    assert found.model == "bge-m3"
    assert found.context_tokens == model.context_tokens
    assert found.latency_p95_s.value <= 0.5
    host = known(size_embedding_serving(machine(), model, "index", lengths, NO_LIMIT, CATALOG))
    holds(host)
    bulk = known(size_embedding_batch(machine(), model, "index", 154e6, CATALOG))
    assert bulk.machine_hours.basis == bulk.bases[0].id
    assert bulk.hours(4) == pytest.approx(bulk.hours(1) / 4)


def test_texts_are_cut_to_the_models_context() -> None:
    model = CATALOG.embedders["bge-large-en-v1.5"]
    long = known(size_embedding_serving(machine("L4"), model, "w", TokenLength(mean=5000, p95=9000), NO_LIMIT, CATALOG))
    cut = known(size_embedding_serving(machine("L4"), model, "w", TokenLength(mean=512, p95=512), NO_LIMIT, CATALOG))
    assert long.requests_per_s == cut.requests_per_s


def test_an_embedding_model_that_does_not_fit_is_none() -> None:
    model = CATALOG.embedders["Qwen3-Embedding-8B"]
    small = machine()._replace(ram_bytes=8e9)
    assert size_embedding_serving(machine("T4"), model, "w", TokenLength(mean=10, p95=20), NO_LIMIT, CATALOG) is None
    assert size_embedding_batch(small, model, "w", 1e6, CATALOG) is None


def test_data_processing() -> None:
    found = size_data_processing(machine(), 2600, "telemetry", CATALOG)
    assert found.machine_hours.basis == found.bases[0].id == "telemetry.1x None.work"
    # 1 / (1 / 60 + 1 / 9.5) MB/s per core, x 0.8 if all eight cores work.
    assert found.machine_hours.value == pytest.approx(2600 * GIB / (8.20e6 * 0.8 * 8) / 3600, rel=0.01)
    assert found.hours(3) < found.hours(2) < found.hours(1)
    assert size_data_processing(machine(), 0.1, "w", CATALOG).most == 1


def test_two_threads_are_a_core_and_one_core_is_one() -> None:
    assert (host_cores(machine(cores=16)), host_cores(machine(cores=1))) == (8, 1)
    one, eight = host_flops(machine(cores=2), CATALOG), host_flops(machine(cores=16), CATALOG)
    assert eight.value == pytest.approx(8 * one.value)


def test_a_processors_row_is_the_host() -> None:
    row = machine("CPU-EPYC-9654-2S")
    for found in (
        size_image_serving(row, "w", 1e6, 25e6, NO_LIMIT, CATALOG),
        size_embedding_serving(row, CATALOG.embedders["bge-m3"], "w", TokenLength(mean=10, p95=20), NO_LIMIT, CATALOG),
    ):
        assert found is not None
        assert found.devices == 0


def test_draw() -> None:
    device = machine("L4", 4)
    assert busy_power_w(device, CATALOG, accelerated=True) > busy_power_w(device, CATALOG, accelerated=False)
    unstated = device._replace(accelerator=replace(CATALOG.accelerator("L4"), tdp_w=None))
    assert busy_power_w(unstated, CATALOG, accelerated=True) > busy_power_w(device, CATALOG, accelerated=True)


@settings(max_examples=30, deadline=None)
@given(
    pixels=st.floats(1e4, 1e7),
    parameters=st.floats(1e6, 5e8),
    name=st.sampled_from(["L4", "H100-SXM-80GB", None]),
    more=st.floats(1.2, 4.0),
)
def test_larger_images_or_models_are_never_carried_faster(
    pixels: float, parameters: float, name: str | None, more: float
) -> None:
    def carried(wide: float, large: float) -> float:
        return size_image_serving(machine(name), "w", wide, large, NO_LIMIT, CATALOG).requests_per_s.value

    # The smallest batch within 10 % of the best rate is used.
    assert carried(pixels * more, parameters) <= carried(pixels, parameters) / 0.9
    assert carried(pixels, parameters * more) <= carried(pixels, parameters) / 0.9


@settings(max_examples=30, deadline=None)
@given(features=st.integers(1, 2000), cores=st.integers(1, 256), gib=st.floats(0.01, 1e6))
def test_more_work_takes_longer_and_more_cores_less(features: int, cores: int, gib: float) -> None:
    assert row_service_s(features + 1, CATALOG).value > row_service_s(features, CATALOG).value

    def hours(size: float, threads: int) -> BatchWork:
        return size_data_processing(machine(cores=threads), size, "w", CATALOG)

    assert hours(2 * gib, cores).machine_hours.value > hours(gib, cores).machine_hours.value
    assert hours(gib, 2 * cores).machine_hours.value <= hours(gib, cores).machine_hours.value
    found = hours(gib, cores)
    assert found.hours(3) <= found.hours(2) <= found.hours(1)
