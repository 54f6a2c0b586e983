"""Models, hardware and engines for the tests of sizing: rows of the shipped catalog and a machine like the demo's."""

from __future__ import annotations

from typing import TypeVar

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.contract.estimate import within_factor
from archwright.contract.plan import MachineFacts

T = TypeVar("T")


def known(value: T | None) -> T:
    assert value is not None
    return value


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load_catalog()


@pytest.fixture
def machine() -> MachineFacts:
    return MachineFacts(
        cores_usable=2,
        memory_bytes=24 << 30,
        memory_bandwidth_bytes_per_s=within_factor(31e9, 1.2, "bytes/s"),
        matmul_flops_per_s=within_factor(100e9, 1.1, "FLOP/s"),
        disk_write_bytes_per_s=within_factor(1e9, 1.1, "bytes/s"),
        disk_free_bytes=1 << 36,
        isa="avx512",
        gpus=(),
        probed_at=0.0,
    )
