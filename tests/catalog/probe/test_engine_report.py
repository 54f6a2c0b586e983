"""The report of the embedded engine: what its library was compiled for, and the processor it runs on."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright.catalog.probe.engine_report import build_report, read_engine_report, read_processor

LINE = "CPU : SSE3 = 1 | AVX = 1 | AVX2 = 1 | AVX512 = 0 | REPACK = 1 | "
CPUINFO = """processor : 0
vendor_id : GenuineIntel
cpu family : 6
model : 207
model name : Intel(R) Xeon(R) Processor
stepping : 2

processor : 1
vendor_id : Other
"""


def test_only_features_that_the_build_uses_count() -> None:
    report = build_report(LINE, "xllamacpp 1.2", "GenuineIntel 6-207-2 Xeon")
    assert report.features == ("AVX", "AVX2", "REPACK", "SSE3") and report.isa == "avx2"
    assert (report.engine, report.build) == ("llamacpp", "xllamacpp 1.2")


@pytest.mark.parametrize(
    ("line", "isa"),
    [
        ("CPU : AMX_INT8 = 1 | AVX512_VNNI = 1 | AVX2 = 1 |", "amx"),
        ("CPU : AVX512_BF16 = 1 | AVX512_VNNI = 1 | AVX512 = 1 |", "avx512-bf16"),
        ("CPU : AVX512 = 1 | AVX2 = 1 |", "avx512"),
        ("CPU : NEON = 1 | ARM_FMA = 1 |", "neon"),
        ("CPU : SSE3 = 1 |", "sse"),
        ("", "sse"),
    ],
)
def test_the_widest_feature_names_the_code_path(line: str, isa: str) -> None:
    assert build_report(line, "b", "p").isa == isa


def test_the_first_processor_is_named_by_vendor_numbers_and_product(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/cpuinfo").write_text(CPUINFO, encoding="utf-8")
    assert read_processor(tmp_path) == "GenuineIntel 6-207-2 Intel(R) Xeon(R) Processor"
    assert read_processor(tmp_path / "none", "Apple M4 Pro") == "Apple M4 Pro"
    assert read_processor(tmp_path / "none") == "unknown"


def test_the_installed_engine_reports_its_build(processes: None) -> None:
    report = read_engine_report()
    assert report is not None and report.build.startswith("xllamacpp 20")
    assert report.features and report.processor != "unknown"
