"""Chooses the efficiency row of an engine, quantisation and instruction set, or of a training task."""

from collections.abc import Iterable

from archwright.catalog.tables.records import Efficiency, TrainingEfficiency
from archwright.contract.lineage import Task
from archwright.contract.record import replace
from archwright.errors import CatalogError

WILDCARD = "*"
GPU = "gpu"
# A row fitted on one instruction set or quantisation is less certain for another: each different key widens both
# factors by this. A row with "*" already has the width for any key.
WIDEN_PER_KEY = 1.25


def choose_efficiency(rows: Iterable[Efficiency], engine: str, quantisation: str, isa: str) -> Efficiency:
    """Choose the nearest row: exact, other instruction set of its kind, other quantisation, generic.

    Among equals the widest row wins. Unless the row matches exactly, it is returned under the requested keys with
    wider factors and lower confidence. Raises CatalogError AW-CAT-05 if no row applies.
    """
    measured = ((_match_distance(row, engine, quantisation, isa), row) for row in rows)
    found = [(distance, row) for distance, row in measured if distance is not None]
    if not found:
        message = f"no efficiency is known for {engine} with {quantisation} on {isa}"
        raise CatalogError("AW-CAT-05", message, hint="use an engine of the catalog's engine table")
    distance, row = min(found, key=lambda pair: (pair[0], -pair[1].high_factor))
    if distance == 0:
        return row
    different = (row.quantisation not in (quantisation, WILDCARD)) + (row.isa not in (isa, WILDCARD))
    factors = {name: getattr(row, name) * WIDEN_PER_KEY**different for name in ("low_factor", "high_factor")}
    confidence = "recalled" if row.confidence == "recalled" else "low"
    return replace(row, engine=engine, quantisation=quantisation, isa=isa, **factors, confidence=confidence)


def _match_distance(row: Efficiency, engine: str, quantisation: str, isa: str) -> int | None:
    """Return the distance of a row from the keys, 0 for an exact match; None if the row does not apply."""
    if row.engine not in (engine, WILDCARD) or (row.kind != "any" and (row.kind == GPU) != (isa == GPU)):
        return None
    # Own and requested key, distance of another key, distance of "*".
    keys = ((row.isa, isa, 1, 4), (row.quantisation, quantisation, 2, 4), (row.engine, engine, 16, 16))
    return sum((wild if own == WILDCARD else other) for own, asked, other, wild in keys if own != asked)


def choose_training(rows: Iterable[TrainingEfficiency], task: Task, isa: str) -> TrainingEfficiency:
    """Choose the row of `task` for `isa`, else for any set. Raises CatalogError AW-CAT-05 without either."""
    found = {row.isa: row for row in rows if row.task == task and row.isa in (isa, WILDCARD)}
    if not found:
        message = f"no efficiency is known for training a {task} on {isa}"
        raise CatalogError("AW-CAT-05", message, hint="add a row to the catalog's table of training efficiencies")
    return found.get(isa) or found[WILDCARD]
