"""Writes the fitted tables of the catalog: `python -m bench.sizing.fit TRUTH`, TRUTH a folder of measured rows.

The rows stay where they are; what ships is coefficients, trees, bands and where they came from.
"""

from __future__ import annotations

import datetime
import hashlib
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
from bench.sizing import fit_training, fitting, validation
from bench.sizing.validation import Residual

from archwright.catalog.tables.csv_table import DATA
from archwright.sizing.inference import serving_prediction
from archwright.sizing.step_time import fitted_tables

LEAST_OF_A_REGIME = 40
LICENCE = "numbers measured and published by others (sources: docs/accuracy.md); no row of theirs is shipped"


def provenance(paths: Sequence[Path], used: int, left_out: int, loss: str) -> fitted_tables.FitProvenance:
    return fitted_tables.FitProvenance(
        file=" + ".join(path.name for path in paths),
        sha256=hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest(),
        rows_used=used,
        rows_left_out=left_out,
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        command="python -m bench.sizing.fit TRUTH",
        licence=LICENCE,
        loss=loss,
    )


def bands_of(outs: Sequence[Residual[Any]], strata: Sequence[str]) -> list[fitted_tables.ConformalBand]:
    """A band per metric and stratum, and one per regime with rows enough; the whole stratum's comes last.

    A user's own deployment is a new source, so each band is at least as wide as that of the unseen source."""
    made: dict[tuple[str, str, str], fitted_tables.ConformalBand] = {}
    for metric in sorted({out.metric for out in outs}):
        for stratum in (serving_prediction.NEW_SOURCE, *strata):
            own = [out for out in outs if out.metric == metric and out.stratum == stratum]
            plain = [out for out in own if out.regime != serving_prediction.DISAGGREGATED]
            counts = Counter(out.regime for out in own)
            named = sorted(name for name, count in counts.items() if count >= LEAST_OF_A_REGIME)
            for regime in [*named, serving_prediction.SERVER, "any"]:
                part = plain if regime == "any" else [out for out in own if out.regime == regime]
                if regime == serving_prediction.SERVER:
                    part = [out for out in own if out.regime in serving_prediction.SERVER_LOADS]
                if part:
                    source = made.get((metric, serving_prediction.NEW_SOURCE, regime))
                    made[metric, stratum, regime] = _band(metric, stratum, regime, part, source)
    return list(made.values())


def _band(
    metric: str, stratum: str, regime: str, outs: Sequence[Residual[Any]], source: fitted_tables.ConformalBand | None
) -> fitted_tables.ConformalBand:
    low, high = validation.band(outs)
    if source is not None:
        low, high = min(low, source.low), max(high, source.high)
    return fitted_tables.ConformalBand(
        metric=metric,
        stratum=stratum,
        regime=regime,
        low=round(low, 4),
        high=round(high, 4),
        rows=len(outs),
        median_error=round(validation.median_error(outs), 4),
    )


def serving_fit(folder: Path) -> fitted_tables.FittedTable:
    rows, left_out = fitting.read(folder)
    own, fit = [row for row in rows if row.fitted], fitting.fit_all(rows)
    outs = validation.all_strata(rows)
    paths = [folder / name for name in fitting.TABLES]
    return fitted_tables.FittedTable(
        provenance=provenance(paths, len(own), len(rows) - len(own) + left_out, "soft L1 of log ratios; trees L1"),
        coefficients={
            name: {key: float(f"{value:.5g}") for key, value in sorted(k.items())} for name, k in fit.by_name.items()
        },
        residuals=fitting.fit_tables(rows, fit),
        seen={
            "model": tuple(sorted({row.model for row in own})),
            "accelerator": tuple(sorted({row.accelerator for row in own})),
            "pair": tuple(sorted({f"{row.model} {row.accelerator}" for row in own})),
            "engine": tuple(sorted({row.found.case.engine for row in own} - {"other"})),
            "engine_vendor": fitting.list_engine_vendors(own),
            "families": fitting.FAMILIES,
        },
        bands=tuple(bands_of(outs, list(validation.STRATA)[:3])),
    )


def main(folder: Path) -> None:
    out = DATA / "fits"
    out.mkdir(exist_ok=True)
    for name, made in (
        ("serving", serving_fit(folder)),
        ("training", fit_training.training_fit(folder, provenance)),
    ):
        (out / f"{name}.json").write_bytes(msgspec.json.encode(made) + b"\n")
        print(f"wrote {name}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
