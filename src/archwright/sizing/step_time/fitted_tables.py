"""Fitted tables: coefficients, residual trees and conformal bands, with the provenance of the fit.

bench/sizing/fit.py writes them from measured rows that are not in the repository. A table is read on first use.
A band is a pair of factors on the predicted value, per metric, stratum and regime ("": any regime).
"""

from functools import cache

import msgspec

from archwright.catalog.tables.csv_table import DATA
from archwright.contract.record import Record
from archwright.errors import CatalogError, ErrorLocation
from archwright.sizing.step_time.boosted_trees import RegressionTree


class FitProvenance(Record):
    file: str
    sha256: str
    rows_used: int
    rows_left_out: int
    date: str
    command: str
    licence: str
    loss: str

    @property
    def citation(self) -> str:
        return f"fitted {self.date} on {self.rows_used} rows of {self.file} (sha256 {self.sha256[:12]}): {self.licence}"


class ConformalBand(Record):
    """Interval [value x low, value x high] that held 90 % of the grouped out-of-fold measurements."""

    metric: str
    stratum: str
    regime: str
    low: float
    high: float
    rows: int
    median_error: float


class FittedTable(Record):
    """One fit: `coefficients` per target; `seen`: the names in the fitted rows, per kind ("model", "pair", ...)."""

    provenance: FitProvenance
    coefficients: dict[str, dict[str, float]]
    residuals: dict[str, tuple[RegressionTree, ...]]
    seen: dict[str, tuple[str, ...]]
    bands: tuple[ConformalBand, ...]

    def find_band(self, metric: str, stratum: str, regime: str) -> ConformalBand:
        """Return the band of the regime, else the last one of the stratum."""
        own = [row for row in self.bands if row.metric == metric and row.stratum == stratum]
        return next((row for row in own if row.regime == regime), own[-1])


@cache
def load_table(name: str) -> FittedTable:
    """Return the fit "serving" or "training". Raises CatalogError AW-CAT-03 if its file is missing or broken."""
    path = DATA / "fits" / f"{name}.json"
    try:
        return msgspec.json.decode(path.read_bytes(), type=FittedTable)
    except (OSError, msgspec.DecodeError, msgspec.ValidationError) as error:
        where, hint = ErrorLocation(str(path)), "reinstall archwright to restore the file"
        raise CatalogError("AW-CAT-03", f"the fitted table cannot be read: {error}", where=where, hint=hint) from error
