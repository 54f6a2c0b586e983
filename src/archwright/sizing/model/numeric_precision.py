"""Number format of a deployment, parsed from free text: bits of weights and KV cache, format of the matmul.

Four-bit MoE models keep attention and output head in 16 bits, as every published four-bit MoE checkpoint does.
A device without the format multiplies in the next wider format that it supports.
"""

import math
import re
from typing import NamedTuple

from archwright.catalog.tables.records import Accelerator, ModelSpec
from archwright.errors import CatalogError

_WORDS = (
    ("fp4", re.compile(r"nvfp4|mxfp4|fp4")),
    ("nf4", re.compile(r"nf4|bitsandbytes")),
    ("int4", re.compile(r"int4|w4a16|awq|gptq|q4_[01]|4.?bit")),
    ("int8", re.compile(r"int8|w8a8")),
    ("fp8", re.compile(r"fp8|float8|e4m3")),
    ("fp32", re.compile(r"fp32|float32|tf32")),
    ("bf16", re.compile(r"bf16|bfloat|fp?16|float16|half|16.?bit")),
    *((name, re.compile(name)) for name in ("q4", "q5", "q6", "q8")),
)
# Bits per weight, scales included: blocks of 16 or 32 weights share one 8-bit scale. The formats of GGUF files
# (q4 to q8) mix blocks, also in attention and output head.
WEIGHT_BITS = {"fp4": 4.5, "int4": 4.5, "int8": 8.0, "fp8": 8.0, "fp32": 32.0, "bf16": 16.0}
WEIGHT_BITS |= {"q4": 4.85, "q5": 5.7, "q6": 6.6, "q8": 8.5, "nf4": 4.13}
FALLBACK_DTYPES = {
    "fp4": ("fp4", "fp8", "bf16", "fp16"),
    "fp8": ("fp8", "bf16", "fp16"),
    "int8": ("int8", "fp8", "bf16", "fp16"),
    "int4": ("bf16", "fp16"),
    "bf16": ("bf16", "fp16"),
    "fp32": ("tf32", "fp32", "bf16"),
    **dict.fromkeys(("q4", "q5", "q6", "q8", "nf4"), ("bf16", "fp16")),
}


class NumericPrecision(NamedTuple):
    """Number format `name` of the weights; `stated` is False if the format was assumed.

    `cache`: format of the KV cache; empty: eight bits beside weights of at most eight bits, else sixteen."""

    name: str
    stated: bool = True
    cache: str = ""

    @property
    def expert_bits(self) -> float:
        return WEIGHT_BITS[self.name]

    def trunk_bits(self, sparse: bool) -> float:
        return 16.0 if sparse and self.name in ("fp4", "int4") else WEIGHT_BITS[self.name]

    @property
    def cache_bits(self) -> float:
        return WEIGHT_BITS[self.cache] if self.cache else 8.0 if self.name in ("fp4", "fp8", "int8") else 16.0


def parse_precision(precision: str, model: str) -> NumericPrecision:
    """Parse the precision column, else the model's name; if neither names a format, assume bf16."""
    texts = (precision.lower(), model.lower())
    found = next((name for text in texts for name, pattern in _WORDS if pattern.search(text)), None)
    return NumericPrecision(found or "bf16", stated=found is not None)


def read_published_precision(model: ModelSpec) -> NumericPrecision:
    """Return the format of the published checkpoint: its row's, else its name's, else an assumed bf16."""
    return parse_precision(model.published_format, model.id)


def list_candidate_precisions(
    model: ModelSpec, accelerator: Accelerator, *, native: bool = False
) -> list[NumericPrecision]:
    """Return the formats of a deployment that states no format, most likely first.

    The published format, then narrower formats from wide to narrow. A narrower format is supported by the device's
    matmul, or is int4 unpacked to 16 bits. `native`: a model published in 16 bits is first in the device's own format,
    eight bits if it multiplies them faster."""
    first, rates = read_published_precision(model), accelerator.flops
    if native and not first.stated:
        first = NumericPrecision("fp8" if rates.get("fp8", 0.0) > rates.get("bf16", math.inf) else "bf16")
    names = ("fp8", "fp4") if "fp4" in rates else ("fp8", "int4") if "fp8" in rates else ("int8", "int4")
    return [first, *(NumericPrecision(name, stated=False) for name in names if WEIGHT_BITS[name] < first.expert_bits)]


def matmul_rate(accelerator: Accelerator, name: str) -> float:
    """Return the dense matmul rate in FLOP/s for weights of a format; without a fallback format, the highest rate.

    Raises CatalogError AW-CAT-11 if the device's row states no rate."""
    rates = accelerator.flops
    if not rates:
        message = f"the catalog states no FLOP rate of {accelerator.id}"
        hint = "add the vendor's rate to the accelerators of your own facts, or name a device with a rate"
        raise CatalogError("AW-CAT-11", message, hint=hint)
    return next((rates[dtype] for dtype in FALLBACK_DTYPES[name] if dtype in rates), max(rates.values()))
