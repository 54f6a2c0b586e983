"""A YAML sheet of one kind of accelerator: memory, dense rates, links, watts. Its file's name is the accelerator's."""

from __future__ import annotations

from pathlib import PurePath
from typing import Any

import msgspec
import yaml

from archwright.catalog.sources.source_records import AcceleratorSpec, FileContext, SourceFacts

RATES = {"bf16": "bfloat16_tc_flops", "int8": "int8_tc_flops", "fp8": "fp8_tc_flops", "fp4": "fp4_tc_flops"}


class _Node(msgspec.Struct):
    intra_node_bw: float | None = None


class _Sheet(msgspec.Struct):
    gpu: dict[str, Any]
    node: _Node = msgspec.field(default_factory=_Node)


def read(data: bytes, file: FileContext) -> SourceFacts:
    try:
        sheet = msgspec.convert(yaml.load(data, Loader=yaml.CSafeLoader), _Sheet)
    except yaml.YAMLError as error:
        raise ValueError(f"not valid YAML: {error}") from error
    rates = {dtype: _read_number(sheet.gpu, name) for dtype, name in RATES.items()}
    device = AcceleratorSpec(
        name=PurePath(file.name).stem.replace("_", " "),
        memory_bytes=round(_read_number(sheet.gpu, "mem_capacity") or 0),
        bandwidth_bytes_per_s=_read_number(sheet.gpu, "mem_bw") or 0.0,
        flops={dtype: rate for dtype, rate in rates.items() if rate},
        scale_up_bytes_per_s=sheet.node.intra_node_bw,
        tdp_w=_read_number(sheet.gpu, "power"),
    )
    if not device.memory_bytes or not device.bandwidth_bytes_per_s or not device.flops:
        raise ValueError("states no memory, no bandwidth or no rate")
    return SourceFacts(devices=(device,))


def _read_number(stated: dict[str, Any], name: str) -> float | None:
    value = stated.get(name)
    return msgspec.convert(value, float, strict=False) if isinstance(value, int | float | str) else None
