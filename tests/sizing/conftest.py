"""Models, hardware and engines for the tests of sizing: rows of the shipped catalog and a machine like the demo's."""

from __future__ import annotations

from typing import TypeVar

import pytest

from archwright.catalog.benchmark_names import BenchmarkNameResolver
from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.csv_table import DATA
from archwright.contract.engine_measurement import EngineReport
from archwright.contract.estimate import exact_estimate, within_factor
from archwright.contract.needs import Budget, Needs, Organisation, Workload
from archwright.contract.plan import MachineFacts
from archwright.contract.record import replace
from archwright.sizing.hardware.roofline import Hardware

T = TypeVar("T")
CATALOG = load_catalog()
SUBJECTS = BenchmarkNameResolver(CATALOG)
SMALL = CATALOG.model("SmolLM2-135M-Instruct")
EIGHT, SEVENTY = CATALOG.model("Llama-3.1-8B-Instruct"), CATALOG.model("Llama-3.1-70B-Instruct")
# A small computer at the rates of the demo's.
DESK = Hardware(
    name="this-machine",
    memory_bytes=24 << 30,
    bandwidth_bytes_per_s=exact_estimate(31e9, "bytes/s"),
    compute_flops_per_s=exact_estimate(100e9, "FLOP/s"),
)

# The engine and the processor that the shipped rows were measured with.
ENGINE = EngineReport(
    engine="llamacpp",
    build="xllamacpp 2026.10.11549",
    features=("AVX2", "FMA"),
    isa="avx2",
    processor="AuthenticAMD Zen 4",
)


def known(value: T | None) -> T:
    assert value is not None
    return value


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return CATALOG


def catalog_with(**tables: object) -> Catalog:
    """Return the shipped catalog with some other tables."""
    made = Catalog(DATA)
    made.__dict__.update(tables)
    return made


def catalog_without_rates(prefix: str) -> Catalog:
    rows = {name: row for name, row in CATALOG.work_rates.items() if not name.startswith(prefix)}
    return catalog_with(work_rates=rows)


def needs_with(*workloads: Workload, **changes: object) -> Needs:
    made = Needs(
        version=1,
        organisation=Organisation(name="Test", country="DE"),
        workloads=workloads or (Workload(name="chat", kind="chat"),),
        budget=Budget(currency="USD", horizon_months=24),
    )
    return replace(made, **changes)


@pytest.fixture
def machine() -> MachineFacts:
    return probed_machine()


def probed_machine(cores: int = 2, flops: float = 100e9, spread: float = 1.1) -> MachineFacts:
    return MachineFacts(
        cores_usable=cores,
        memory_bytes=24 << 30,
        memory_bandwidth_bytes_per_s=within_factor(31e9, 1.2, "bytes/s"),
        matmul_flops_per_s=within_factor(flops, spread, "FLOP/s"),
        disk_write_bytes_per_s=within_factor(1e9, 1.1, "bytes/s"),
        disk_free_bytes=1 << 36,
        isa="avx512",
        gpus=(),
        probed_at=0.0,
        engine=ENGINE,
    )
