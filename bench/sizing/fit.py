"""Writes the fitted tables of the catalog: `python -m bench.sizing.fit TRUTH`, TRUTH a folder of measured rows.

The rows stay where they are; what ships is coefficients, trees, bands and where they came from.
"""

from __future__ import annotations

import datetime
import hashlib
import sys
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


def provenance(path: Path, used: int, left_out: int, loss: str) -> fitted_tables.FitProvenance:
    return fitted_tables.FitProvenance(
        file=path.name,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        rows_used=used,
        rows_left_out=left_out,
        date=datetime.datetime.now(tz=datetime.UTC).date().isoformat(),
        command="python -m bench.sizing.fit TRUTH",
        licence=LICENCE,
        loss=loss,
    )


def bands_of(outs: Sequence[Residual[Any]], strata: Sequence[str]) -> list[fitted_tables.ConformalBand]:
    """A band per metric and stratum, and one per regime with rows enough; the whole stratum's comes last."""
    made = []
    for metric in sorted({out.metric for out in outs}):
        for stratum in strata:
            own = [out for out in outs if out.metric == metric and out.stratum == stratum]
            regimes = sorted({out.regime for out in own})
            plain = [out for out in own if out.regime != serving_prediction.DISAGGREGATED]
            for regime in [name for name in regimes if sum(out.regime == name for out in own) >= LEAST_OF_A_REGIME]:
                made.append(_band(metric, stratum, regime, [out for out in own if out.regime == regime]))
            if plain:
                made.append(_band(metric, stratum, "any", plain))
    return made


def _band(metric: str, stratum: str, regime: str, outs: Sequence[Residual[Any]]) -> fitted_tables.ConformalBand:
    low, high = validation.band(outs)
    return fitted_tables.ConformalBand(
        metric=metric,
        stratum=stratum,
        regime=regime,
        low=round(low, 4),
        high=round(high, 4),
        rows=len(outs),
        median_error=round(validation.median_error(outs), 4),
    )


def serving_fit(path: Path) -> fitted_tables.FittedTable:
    rows, left_out = fitting.read(path)
    own = fitting.loops(rows)
    tpot = fitting.fit_tpot(rows)
    ttft = fitting.fit_ttft(rows, tpot)
    outs = [out for stratum in validation.STRATA for out in validation.out_of_fold(rows, stratum)]
    bands = bands_of(outs, list(validation.STRATA))
    offline = validation.offline(rows)
    bands += [_band("pace_s", stratum, "any", offline) for stratum in validation.STRATA]
    return fitted_tables.FittedTable(
        provenance=provenance(path, len(own), len(rows) - len(own) + left_out, "soft L1 of log ratios; trees L1"),
        coefficients={
            name: {key: float(f"{value:.5g}") for key, value in sorted(k.items())}
            for name, k in (("tpot", tpot), ("ttft", ttft))
        },
        residuals=fitting.fit_tables(rows, tpot, ttft),
        seen={
            "model": tuple(sorted({row.model for row in own})),
            "accelerator": tuple(sorted({row.accelerator for row in own})),
            "pair": tuple(sorted({f"{row.model} {row.accelerator}" for row in own})),
            "engine": fitting.FAMILIES,
        },
        bands=tuple(bands),
    )


def main(folder: Path) -> None:
    out = DATA / "fits"
    out.mkdir(exist_ok=True)
    for name, made in (
        ("serving", serving_fit(folder / "inference.csv")),
        ("training", fit_training.training_fit(folder, provenance)),
    ):
        (out / f"{name}.json").write_bytes(msgspec.json.encode(made) + b"\n")
        print(f"wrote {name}.json")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
