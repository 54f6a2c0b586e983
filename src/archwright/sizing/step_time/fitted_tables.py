"""The fitted tables: coefficients, residual trees and bands, each file with where it came from.

Written by bench/sizing/fit.py from measured rows that stay outside the repository; read once, on first use.
A band is a pair of factors on the predicted value, per metric, stratum and regime; "" is any regime.
"""

from __future__ import annotations

from functools import cache

import msgspec

from archwright.catalog.tables.csv_table import DATA
from archwright.contract.record import Record
from archwright.errors import CatalogError, ErrorLocation
from archwright.sizing.step_time.boosted_trees import RegressionTree


class FitProvenance(Record):
    """What was fitted on, when and how."""

    file: str
    sha256: str
    rows_used: int
    rows_left_out: int
    date: str
    command: str
    licence: str
    loss: str


class ConformalBand(Record):
    """90 % of grouped out-of-fold measurements lay in value x low to value x high."""

    metric: str
    stratum: str
    regime: str
    low: float
    high: float
    rows: int
    median_error: float


class FittedTable(Record):
    """`coefficients` per target; `seen` per kind of name: what the rows held, as a stratum is asked for."""

    provenance: FitProvenance
    coefficients: dict[str, dict[str, float]]
    residuals: dict[str, tuple[RegressionTree, ...]]
    seen: dict[str, tuple[str, ...]]
    bands: tuple[ConformalBand, ...]

    def find_band(self, metric: str, stratum: str, regime: str) -> ConformalBand:
        """The regime's own band, else that of the stratum."""
        own = [row for row in self.bands if row.metric == metric and row.stratum == stratum]
        return next((row for row in own if row.regime == regime), own[-1])


@cache
def load_table(name: str) -> FittedTable:
    """The fit called `name`: serving or training. Raises CatalogError AW-CAT-03 when it is missing or broken."""
    path = DATA / "fits" / f"{name}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=FittedTable)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        where, hint = ErrorLocation(str(path)), "reinstall archwright"
        raise CatalogError("AW-CAT-03", f"the fitted table is unusable: {error}", where=where, hint=hint) from error
