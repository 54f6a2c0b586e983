"""Traffic of a cluster and its fabric, of the front end, and ingest."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG

from archwright.contract.needs import RequestRate, TokenLength, Traffic, Workload, WorkloadKind
from archwright.sizing.infrastructure import network
from archwright.sizing.infrastructure.network import (
    FAST_PORT_BYTES_PER_S,
    MAX_WAIT_SHARE,
    MOST_PORTS,
    STANDARD_PORT_BYTES_PER_S,
    NetworkJob,
    choose_fabric,
    plan_switches,
)

DEVICE = CATALOG.accelerator("H100 SXM")
RATE = 989e12


def job(parameters: float = 70e9, trained: float | None = None, machines: int = 4) -> NetworkJob:
    return NetworkJob("tune", parameters, parameters if trained is None else trained, machines, 8, RATE)


def test_a_sharded_step_gathers_the_weights_twice_and_scatters_the_gradients() -> None:
    assert job().exchanged_bytes == pytest.approx(3 * 2 * 70e9 * 3 / 4)
    assert job(trained=1e8).exchanged_bytes == pytest.approx(2 * 4 * 1e8 * 3 / 4), "adapters: only their gradients"


def test_a_full_tune_of_a_large_model_takes_a_fast_fabric_and_its_adapters_do_not() -> None:
    fast, plain = choose_fabric(job(), CATALOG), choose_fabric(job(trained=1e8), CATALOG)
    assert fast.waits_plain > MAX_WAIT_SHARE >= fast.waits and fast.ports in (1, 2, 4, 8)
    assert plain.ports == 0 and plain.waits == plain.waits_plain <= MAX_WAIT_SHARE


def test_the_fewest_ports_that_suffice_are_taken() -> None:
    found = choose_fabric(job(), CATALOG)
    slower, overlap = found.ports / 2 * FAST_PORT_BYTES_PER_S, CATALOG.parameter("collective.overlap").value
    waits = network.network_wait_share(job().exchanged_bytes, job().compute_s(CATALOG), slower, overlap)
    assert waits > MAX_WAIT_SHARE


def test_where_no_network_suffices_the_widest_is_taken_and_what_remains_is_reported() -> None:
    greedy = NetworkJob("tune", 70e9, 70e9, 4, 8, 100 * RATE)
    found = choose_fabric(greedy, CATALOG)
    assert found.ports == MOST_PORTS and found.waits > MAX_WAIT_SHARE


@given(st.floats(1e9, 1e12), st.integers(2, 512))
@settings(max_examples=60)
def test_a_wider_network_never_waits_longer(parameters: float, machines: int) -> None:
    one = job(parameters, machines=machines)
    found = choose_fabric(one, CATALOG)
    assert 0 < found.waits <= found.waits_plain < 1
    assert one.exchanged_bytes <= job(parameters, machines=machines + 1).exchanged_bytes


def test_one_machine_or_an_unknown_model_has_no_job() -> None:
    assert network.build_network_job("tune", (1e9, 1e9), 1, 8, DEVICE) is None
    assert network.build_network_job("tune", (1e9, 0.0), 4, 8, DEVICE) is None
    assert network.build_network_job("tune", (1e9, 1e9), 4, 0, None) is None
    found = network.build_network_job("tune", (1e9, 1e9), 4, 8, DEVICE)
    assert found is not None and found.rate == DEVICE.flops["bf16"]


def test_tensors_over_two_machines_exchange_more_than_stages() -> None:
    model = CATALOG.model("Qwen3-32B")
    tensors, stages = network.cross_machine_bytes(model, 1.0, 2)
    assert stages == 2 * model.hidden
    assert tensors == pytest.approx(4 * model.layers * stages / 2)


def test_switches_one_or_leaves_and_a_spine() -> None:
    assert plan_switches(0) == network.SwitchTopology(0, 0, 0)
    assert plan_switches(64) == network.SwitchTopology(64, 1, 64)
    assert plan_switches(128) == network.SwitchTopology(128, 4 + 2, 256)


def test_messages_by_kind() -> None:
    text = Traffic(input_tokens=TokenLength(mean=100, p95=200), output_tokens=TokenLength(mean=10, p95=20))
    token, width = CATALOG.parameter("answer.token").value, CATALOG.parameter("text.bytes").value

    def message(kind: WorkloadKind, traffic: Traffic | None) -> network.MessageSize:
        return network.estimate_message_size(Workload(name="a", kind=kind, traffic=traffic), CATALOG)

    assert message("chat", text) == network.MessageSize(100 * width, 10 * token, ("answer.token",))
    assert message("embedding", text).answer == 4 * CATALOG.parameter("vector.dimensions").value
    picture = message("image-classification", Traffic(image_pixels=1e6, parameters=1e6))
    assert picture.request == 1e6 * CATALOG.parameter("picture.bytes").value
    row = message("tabular-prediction", Traffic(features=10))
    assert (row.request, row.answer) == (40, CATALOG.parameter("answer.record").value)
    assert message("pretrain", None) == network.MessageSize(0, 0, ())


def test_the_front_end_carries_the_peaks_of_all() -> None:
    rows = Traffic(requests_per_second=RequestRate(mean=1, peak=10), features=10)
    one = Workload(name="a", kind="tabular-prediction", traffic=rows)
    each = 40 + CATALOG.parameter("answer.record").value
    silent = Workload(name="b", kind="pretrain")
    assert network.front_end_bandwidth((one, one, silent), CATALOG) == 20 * each
    assert network.front_end_bandwidth((one,), CATALOG, growth=3) == 30 * each


def test_what_data_processing_takes_in() -> None:
    work = Workload(name="etl", kind="data-processing", traffic=Traffic(gib_per_day=24))
    assert network.monthly_ingest_bytes(work) == 730 * 2**30
    assert network.monthly_ingest_bytes(Workload(name="etl", kind="data-processing")) == 0


def test_waiting_is_what_arithmetic_does_not_hide() -> None:
    share = network.network_wait_share(STANDARD_PORT_BYTES_PER_S, 1.0, STANDARD_PORT_BYTES_PER_S, 0.5)
    assert share == pytest.approx(0.5 / 1.5)
