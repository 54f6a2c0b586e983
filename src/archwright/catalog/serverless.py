"""Accelerators paid by the second: their price, how long an idle one stays, how long a cold one takes to start."""

from __future__ import annotations

import functools
from pathlib import Path

from archwright.catalog.rows import Fact
from archwright.catalog.table import DATA, confidence, read


class Seconds(Fact):
    """One worker with one accelerator. `start_s` is from nothing to the first request, paid like work."""

    provider: str
    accelerator: str
    usd_per_second: float
    idle_s: float
    start_s_low: float
    start_s: float
    start_s_high: float


@functools.cache
def paid_by_second(folder: Path = DATA) -> tuple[Seconds, ...]:
    """Raises CatalogError AW-CAT-02 for a broken row."""
    return tuple(
        Seconds(
            provider=row.name("provider"),
            accelerator=row.name("accelerator"),
            usd_per_second=row.required("usd_per_second"),
            idle_s=row.required("idle_s"),
            start_s_low=row.required("start_s_low"),
            start_s=row.required("start_s"),
            start_s_high=row.required("start_s_high"),
            source=row.name("source"),
            as_of=row.text("as_of"),
            confidence=confidence(row.text("as_of"), row.text("confidence")),
            notes=row.text("notes"),
        )
        for row in read(folder, "serverless.csv")
    )
