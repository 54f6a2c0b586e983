"""The embedded engine of this machine: batches of prompts that a cancellation ends in time."""

from __future__ import annotations

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.estimate import exact_estimate
from archwright.contract.plan import MachineFacts
from archwright.contract.record import replace
from archwright.simulate.local_engine import build_engine_settings, build_local_spec, choose_batch_tokens

from .conftest import build_load


@pytest.mark.parametrize(
    ("rate", "batch"), [(0.5, 16), (53, 16), (54, 32), (106, 32), (107, 64), (214, 128), (853, 256), (1e5, 512)]
)
def test_a_batch_takes_at_most_its_share_of_two_seconds(rate: float, batch: int) -> None:
    assert choose_batch_tokens(rate) == batch


def test_a_slower_machine_reads_smaller_batches_and_the_engine_gets_them() -> None:
    catalog = load_catalog()
    (artefact,) = catalog.artefacts.values()
    model = catalog.models[artefact.model]
    load = build_load("assistant", model.id, 0.3, ((120, 400), (60, 128)), 2)
    found = []
    for flops in (400e9, 100e9, 10e9):
        machine = MachineFacts(
            cores_usable=2,
            memory_bytes=24 << 30,
            memory_bandwidth_bytes_per_s=exact_estimate(31e9, "bytes/s"),
            matmul_flops_per_s=exact_estimate(flops, "FLOP/s"),
            disk_write_bytes_per_s=exact_estimate(1e9, "bytes/s"),
            disk_free_bytes=1 << 40,
            isa="avx512",
            gpus=(),
            probed_at=0.0,
        )
        spec = build_local_spec(model, artefact, machine, catalog, load, 1280)
        settings = build_engine_settings(spec, replace(artefact, template_tools=True))
        assert settings == {"threads": 1, "batch_tokens": spec.batch_tokens, "template_tools": True}
        found.append(spec.batch_tokens)
    assert found == [256, 64, 16]
