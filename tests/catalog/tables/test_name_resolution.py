"""How tools and people spell accelerators and models."""

from __future__ import annotations

import pytest

from archwright.catalog.load import load_catalog
from archwright.catalog.tables.name_resolution import parse_machine
from archwright.errors import CatalogError

CATALOG = load_catalog()


@pytest.mark.parametrize(
    ("row", "spellings"),
    [
        ("H100-SXM-80GB", ("H100 SXM", "H100", "h100_sxm", "NVIDIA H100 80GB HBM3 (79.6 GiB)")),
        ("H100-PCIe-80GB", ("NVIDIA H100-PCIe-80GB", "NVIDIA H100 PCIe")),
        ("H100-NVL-94GB", ("NVIDIA H100 NVL",)),
        ("A100-80GB-SXM", ("NVIDIA A100-SXM4-80GB", "A100")),
        ("A100-80GB-PCIe", ("NVIDIA A100 80GB PCIe",)),
        ("A100-40GB-SXM", ("A100 SXM 40GB",)),
        ("T4", ("Tesla T4",)),
        ("V100-16GB-SXM2", ("Tesla V100-SXM2-16GB",)),
        ("L4", ("NVIDIA L4",)),
        ("L40S", ("NVIDIA L40S",)),
        ("RTX-4090", ("NVIDIA GeForce RTX 4090",)),
        ("B200-SXM", ("B200 180GB",)),
        ("GB200", ("GB200 192GB",)),
        ("Gaudi2", ("Gaudi 2",)),
        ("MI300X", ("AMD Instinct MI300X-NPS1-SPX-192GB-750W",)),
        ("CPU-XEON-8480-2S", ("CPU-XEON-8480-2S",)),
        ("Jetson-AGX-Thor", ("Jetson AGX Thor", "NVIDIA Jetson AGX Thor")),
        ("Jetson-Orin-Nano-8GB", ("Jetson Orin Nano", "Jetson Orin Nano 8 GB")),
    ],
)
def test_accelerator_spellings(row: str, spellings: tuple[str, ...]) -> None:
    assert {CATALOG.accelerator(spelling).id for spelling in spellings} == {row}


@pytest.mark.parametrize(
    ("spelling", "row"),
    [
        ("Llama 3.1 8B", "Llama-3.1-8B-Instruct"),
        ("LLAMA3.1_405B", "Llama-3.1-405B-Instruct"),
        ("nvidia/Llama-3.1-8B-Instruct-FP8", "Llama-3.1-8B-Instruct"),
        ("deepseek-ai/DeepSeek-R1", "DeepSeek-R1-0528"),
        ("openai/gpt-oss-120b", "gpt-oss-120b"),
        ("Qwen3_30B_a3B", "Qwen3-30B-A3B"),
        ("Gemma-3-4B", "Gemma-3-4B-it"),
        ("SmolLM2-135M-Instruct", "SmolLM2-135M-Instruct"),
    ],
)
def test_model_spellings(spelling: str, row: str) -> None:
    assert CATALOG.model(spelling).id == row


@pytest.mark.parametrize(
    "name", ["H1000", "CPU", "SXM", "80 GB", "NVIDIA", "", "Jetson", "RTX PRO", "Server", "CPU 4 threads (unnamed)"]
)
def test_an_accelerator_nobody_knows(name: str) -> None:
    with pytest.raises(CatalogError) as caught:
        CATALOG.accelerator(name)
    assert caught.value.code == "AW-CAT-01"


def test_the_nearest_spellings_are_offered() -> None:
    with pytest.raises(CatalogError) as caught:
        CATALOG.accelerator("H100-SXN-80GB")
    assert caught.value.nearest[0] == "H100-SXM-80GB"
    assert "did you mean H100-SXM-80GB" in caught.value.lines()
    with pytest.raises(CatalogError) as other:
        CATALOG.model("SmolLM2-135M-Instrukt")
    assert other.value.nearest[0] == "SmolLM2-135M-Instruct"
    with pytest.raises(CatalogError) as empty:
        CATALOG.model("-it")
    assert empty.value.nearest == ()


@pytest.mark.parametrize(
    ("text", "expected"),
    [("8x H100 SXM", (8, "H100 SXM")), ("8 × L4", (8, "L4")), ("2X T4", (2, "T4")), ("  L40S ", (1, "L40S"))],
)
def test_machine_strings(text: str, expected: tuple[int, str]) -> None:
    assert parse_machine(text) == expected
