"""Findings of `archwright drift`."""

import json
from typing import Any, Literal

from archwright.contract.record import Record

LONGEST_VALUE = 200
DriftCode = Literal["drift.missing", "drift.extra", "drift.changed"]


class Drift(Record):
    """One difference. `code` is stable; `field` with the values of both sides is for a changed object."""

    code: DriftCode
    subject: str
    field: str = ""
    expected: str = ""
    found: str = ""


def describe_value(value: Any) -> str:
    """Return a value in one line, cut at LONGEST_VALUE; empty for a field that is not there."""
    if value is None:
        return ""
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE]}..."
