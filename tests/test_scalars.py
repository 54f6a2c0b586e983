"""Plain scalars as YAML 1.2 reads them."""

from __future__ import annotations

import math

import pytest

from archwright.scalars import resolve_scalar

TEXTS = "NO no yes on off y tRUE nULL 12:30:45 2026-11-24 1_000 1,000 -0x10 0b1 . e3 1e inf nan 0.99.1 \u0661\u0662"
VALUES: dict[str, str | int | float | bool | None] = {
    **{text: text for text in (*TEXTS.split(), "9" * 101)},
    **dict.fromkeys(("", "~", "null", "Null")),
    **{"True": True, "true": True, "FALSE": False},
    **{"0": 0, "-17": -17, "+3": 3, "010": 10, "0o10": 8, "0x10": 16},
    **{"1e3": 1000.0, "15.0e+6": 15e6, "1.": 1.0, ".5": 0.5, "-.5E-1": -0.05},
    **{".inf": math.inf, "+.INF": math.inf, "-.Inf": -math.inf},
}


@pytest.mark.parametrize("text", list(VALUES))
def test_plain_scalar(text: str) -> None:
    value = resolve_scalar(text)
    assert (type(value), value) == (type(VALUES[text]), VALUES[text])


def test_not_a_number() -> None:
    value = resolve_scalar(".NaN")
    assert isinstance(value, float) and math.isnan(value)
