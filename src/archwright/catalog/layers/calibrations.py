"""The measured layer: this machine's rates, and the shares that its engines reached, which correct shipped rows."""

import math
from typing import NamedTuple

import msgspec

from archwright.catalog.tables.records import Efficiency, ModelSpec
from archwright.contract.plan import MachineFacts
from archwright.contract.record import Record, replace
from archwright.home import Home

# A calibration measures these fields; the rest of a row stays.
SHARES = (
    "prefill_share_of_matmul",
    "decode_share_of_matmul",
    "decode_share_of_matmul_batched",
    "decode_share_of_bandwidth",
    "low_factor",
    "high_factor",
)


class Calibration(Record):
    """The row that one calibration run measured with `model`; its keys are those of the shipped row it replaces."""

    model: str
    parameters: int
    row: Efficiency
    measured_at: float

    @property
    def key(self) -> tuple[str, str, str, str]:
        return (self.model, *_row_key(self.row))


class MeasuredLayer(NamedTuple):
    """Measurements of this machine: its rates (None before a probe), and its engines."""

    machine: MachineFacts | None = None
    calibrations: tuple[Calibration, ...] = ()


NOT_MEASURED = MeasuredLayer()


def read_calibrations(home: Home) -> tuple[Calibration, ...]:
    """Return the calibrations of `home`, none if the file is missing, unreadable or of an older version."""
    try:
        return msgspec.json.decode(home.engine_calibrations.read_bytes(), type=tuple[Calibration, ...])
    except (OSError, ValueError):
        return ()


def apply_calibrations(row: Efficiency, model: ModelSpec, known: tuple[Calibration, ...]) -> Efficiency:
    """Return the measured row of this model; for another model, the means of its shipped and a measured row.

    The measured row of the model with the most similar number of parameters counts. Geometric means of shares and
    factors: a deviation of one size is half the machine's and half the size's, as far as one run can tell.
    """
    same = [one for one in known if _row_key(one.row) == _row_key(row)]
    if not same:
        return row
    nearest = min(same, key=lambda one: (one.model != model.id, abs(math.log(one.parameters / model.parameters))))
    if nearest.model == model.id:
        return nearest.row
    means = {name: math.sqrt(getattr(row, name) * getattr(nearest.row, name)) for name in SHARES}
    source = f"{row.source}; half corrected by: {nearest.row.source}"
    return replace(row, source=source, as_of=nearest.row.as_of, **means)


def _row_key(row: Efficiency) -> tuple[str, str, str]:
    return row.engine, row.quantisation, row.isa
