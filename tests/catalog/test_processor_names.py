"""Names of processors, chips with unified memory and cloud machine types, as people type them."""

from __future__ import annotations

import pytest
from tests.sizing.conftest import SUBJECTS

from archwright.catalog.processor_names import read_machine_types, read_processor_families, resolve_processor
from archwright.catalog.tables.csv_table import DATA
from archwright.errors import CatalogError

# name, architecture, cores, GB/s as the vendors' pages state them
PROCESSORS = [
    ("Core i7-1185G7", "Tiger Lake", 4, 59.7),
    ("11th Gen Intel(R) Core(TM) i7-1185G7 @ 3.00GHz", "Tiger Lake", 4, 59.7),
    ("Intel Core i9-14900K", "Raptor Lake", 24, 89.6),
    ("Core Ultra 7 258V", "Lunar Lake", 8, 136.5),
    ("CPU: AMD Ryzen 9 7950X 16-Core Processor", "Zen 4", 16, 83.2),
    ("AMD Ryzen 7 7840U w/ Radeon 780M Graphics", "Zen 4", 8, 102.4),
    ("AMD Ryzen Threadripper PRO 5975WX 32-Cores", "Zen 3", 32, 204.8),
    ("Intel Xeon E5-2680 v4 @ 2.40GHz", "Broadwell-EP", 14, 76.8),
    ("AMD EPYC 9454P 48-Core Processor", "Zen 4", 48, 460.8),
    ("Raspberry Pi 5 Model B", "Cortex-A76", 4, 17.1),
    ("AWS Graviton3", "Neoverse-V1", 64, 307.2),
]
MACHINE_TYPES = [
    ("c8g.8xlarge", "Neoverse-V2", 32),
    ("m7i.2xlarge", "Sapphire Rapids", 4),
    ("r6a.large", "Zen 3", 1),
    ("c3d-standard-30", "Zen 4", 15),
    ("Standard_D16as_v5", "Zen 3", 8),
    ("D8ps_v6", "Neoverse-N2", 8),
]


@pytest.mark.parametrize(("name", "arch", "cores", "bandwidth_gb_per_s"), PROCESSORS)
def test_a_processor_is_known_by_its_numbering(name: str, arch: str, cores: int, bandwidth_gb_per_s: float) -> None:
    row = SUBJECTS.accelerator(name)
    assert (row.kind, row.arch) == ("cpu", arch)
    assert row.notes.startswith(f"{cores} cores; ")
    assert row.memory_bandwidth_bytes_per_s == pytest.approx(bandwidth_gb_per_s * 1e9)
    assert row.confidence == "recalled"


@pytest.mark.parametrize(("name", "arch", "cores"), MACHINE_TYPES)
def test_a_machine_type_has_the_cores_that_its_size_means(name: str, arch: str, cores: int) -> None:
    row = SUBJECTS.accelerator(name)
    assert (row.id, row.arch) == (name, arch)
    assert row.notes.startswith(f"{cores} cores; ")


def test_a_row_is_called_as_the_vendor_calls_the_product() -> None:
    row = SUBJECTS.accelerator("11th Gen Intel(R) Core(TM) i7-1185G7 CPU @ 3.00GHz")
    assert row.id == "11th-Gen-Intel-Core-i7-1185G7"


def test_a_machine_type_has_its_part_of_the_memory_channels() -> None:
    whole, part = SUBJECTS.accelerator("AWS Graviton3"), SUBJECTS.accelerator("c7g.4xlarge")
    assert part.memory_bandwidth_bytes_per_s == pytest.approx(whole.memory_bandwidth_bytes_per_s * 16 / 64)


def test_threads_of_a_client_leave_its_memory_and_those_of_a_server_divide_it() -> None:
    client, server = (SUBJECTS.accelerator(name) for name in ("Core i7-1185G7", "AMD EPYC 9254 24-Core Processor"))
    half_client = SUBJECTS.accelerator("Core i7-1185G7 (2 threads)")
    half_server = SUBJECTS.accelerator("AMD EPYC 9254 24-Core Processor (12 threads)")
    assert half_client.memory_bandwidth_bytes_per_s == client.memory_bandwidth_bytes_per_s
    assert half_server.memory_bandwidth_bytes_per_s == pytest.approx(server.memory_bandwidth_bytes_per_s / 2)
    assert (half_client.notes[:7], half_server.notes[:8]) == ("2 cores", "12 cores")


@pytest.mark.parametrize(
    ("name", "id_", "memory_gib"),
    [
        ("MacBook Pro M4 Max 64 GB", "Apple-M4-Max-40-core-GPU", 64),
        ("Mac Studio M3 Ultra 256GB", "Apple-M3-Ultra-60-core-GPU", 256),
        ("Apple M3 Pro (18-core GPU) 18GB", "Apple-M3-Pro-18-core-GPU", 18),
    ],
)
def test_unified_memory_is_the_stated_one(name: str, id_: str, memory_gib: int) -> None:
    row = SUBJECTS.accelerator(name)
    assert row.id == id_
    assert row.memory_bytes == memory_gib * 2**30


def test_a_plain_name_of_two_chips_means_their_middle_with_a_band_that_holds_both() -> None:
    small, large = (SUBJECTS.accelerator(f"Apple M5 Max ({cores}-core GPU)") for cores in (32, 40))
    plain = SUBJECTS.accelerator("Apple M5 Max")
    assert plain.id == "Apple-M5-Max"
    band = plain.band(plain.memory_bandwidth_bytes_per_s, "bytes/s")
    assert band.low < small.memory_bandwidth_bytes_per_s < band.value < large.memory_bandwidth_bytes_per_s < band.high
    assert plain.flops["bf16"] == pytest.approx((small.flops["bf16"] * large.flops["bf16"]) ** 0.5)
    assert plain.notes == "the middle of Apple-M5-Max-32-core-GPU, Apple-M5-Max-40-core-GPU"


@pytest.mark.parametrize(
    ("name", "id_"),
    [
        ("RTX 4060 Ti 16GB", "RTX-4060-Ti-16GB"),
        ("RTX 4060 Ti", "RTX-4060-Ti"),
        ("NVIDIA GeForce RTX 4070 Laptop GPU", "RTX-4070-Laptop"),
        ("NVIDIA GeForce RTX 4070", "RTX-4070"),
        ("AMD Radeon RX 7900 XT", "RX-7900-XT"),
        ("Radeon RX 7900 XTX", "RX-7900-XTX"),
        ("Apple M2", "Apple-M2"),
        ("DGX Spark GB10 128GB", "GB10"),
        ("Ryzen AI Max+ 395 128GB (Strix Halo iGPU)", "Radeon-8060S"),
    ],
)
def test_a_graphics_card_is_told_from_its_relatives(name: str, id_: str) -> None:
    assert SUBJECTS.accelerator(name).id == id_


@pytest.mark.parametrize(
    "name", ["", "64 GB", "Mac mini", "AMD Radeon Graphics", "c8g.huge", "c8g.0xlarge", "D0s_v5", "Apple M4 Pro 0GB"]
)
def test_what_names_no_machine_is_refused_with_the_code(name: str) -> None:
    with pytest.raises(CatalogError) as raised:
        SUBJECTS.accelerator(name)
    assert raised.value.code == "AW-CAT-01"


@pytest.mark.parametrize("text", ["x", "(", "xeon ", "1", "9xlarge", "Apple M4 "])
def test_a_long_text_is_refused_before_it_is_compared(text: str) -> None:
    with pytest.raises(CatalogError) as raised:
        SUBJECTS.accelerator(text * 100_000)
    assert raised.value.code == "AW-CAT-01"
    assert len(raised.value.message) < 300


def test_no_cores_are_not_stated_cores() -> None:
    row = SUBJECTS.accelerator("AMD EPYC 9254 0-Core Processor")
    assert row.notes.startswith("96 cores; ") and row.memory_bandwidth_bytes_per_s > 0


def test_every_machine_type_runs_on_a_processor_of_a_known_family() -> None:
    unknown = [row.processor for row in read_machine_types(DATA) if resolve_processor(row.processor, DATA) is None]
    assert unknown == []


def test_every_family_states_facts_that_a_prediction_needs() -> None:
    families = read_processor_families(DATA)
    assert all(row.cores >= 1 and row.mem_bw_gbs > 1 and row.source for row in families)
