"""Asks the library of the embedded engine which code it runs on this processor.

`python -P -m archwright.catalog.probe.engine_report` prints the report as JSON, `null` without the library. It is a
process of its own, because the library takes memory and threads, and a processor without its features kills it.
"""

import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from archwright.contract.engine_measurement import EngineReport
from archwright.python_process import build_module_command, run_entry_point
from archwright.settings import child_environment

MODULE = "archwright.catalog.probe.engine_report"
ENGINE, PACKAGE = "llamacpp", "xllamacpp"
DEADLINE_S = 60.0
ROOT = Path("/")
# Features of ggml's processor backend, the widest first, and the catalog's name of the instruction set.
INSTRUCTION_SETS = (
    ("AMX_INT8", "amx"),
    ("AVX512_BF16", "avx512-bf16"),
    ("AVX512_VNNI", "avx512-vnni"),
    ("AVX512", "avx512"),
    ("AVX2", "avx2"),
    ("NEON", "neon"),
)
_FEATURE = re.compile(r"(\w+) = 1")
_PROCESSOR_FIELD = re.compile(r"^(vendor_id|cpu family|model|stepping|model name)\s*: (.*)$", re.MULTILINE)


def read_engine_report() -> EngineReport | None:
    """Return the report of the installed engine; None if it is not installed or does not run on this processor."""
    command = build_module_command(MODULE)
    try:
        done = subprocess.run(
            command, env=child_environment({}), capture_output=True, timeout=DEADLINE_S, check=True, cwd="/"
        )
        return msgspec.json.decode(done.stdout, type=EngineReport | None)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
        return None


def build_report(system_info: str, build: str, processor: str) -> EngineReport:
    """Return the report from the library's line of features, such as `CPU : AVX2 = 1 | FMA = 1 | `."""
    features = tuple(sorted(_FEATURE.findall(system_info)))
    isa = next((name for feature, name in INSTRUCTION_SETS if feature in features), "sse")
    return EngineReport(engine=ENGINE, build=build, features=features, isa=isa, processor=processor)


def read_processor(root: Path = ROOT, device: str = "") -> str:
    """Return `vendor family-model-stepping name` of the first processor, else the library's name of the `device`."""
    try:
        text = (root / "proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    fields: dict[str, str] = {}
    for name, value in _PROCESSOR_FIELD.findall(text):
        fields.setdefault(name, value.strip())
    if "vendor_id" not in fields:
        return device or "unknown"
    numbers = "-".join(fields.get(name, "?") for name in ("cpu family", "model", "stepping"))
    return f"{fields['vendor_id']} {numbers} {fields.get('model name', device)}".strip()


def _report_library() -> EngineReport | None:
    try:
        import xllamacpp  # noqa: PLC0415  the heavy extra of this adapter
    except ImportError:
        return None
    library: Any = xllamacpp
    devices = library.get_device_info()
    device = str(devices[0]["description"]) if devices else ""
    return build_report(library.get_system_info(), f"{PACKAGE} {_read_version()}", read_processor(device=device))


def _read_version() -> str:
    try:
        return version(PACKAGE)
    except PackageNotFoundError:
        return "unknown"


def main(_arguments: Sequence[str]) -> None:
    sys.stdout.buffer.write(msgspec.json.encode(_report_library()))


if __name__ == "__main__":
    run_entry_point(main)
