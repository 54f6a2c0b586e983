"""Chooses the efficiency row: for an engine, a quantisation and an instruction set; for a training task and one."""

from __future__ import annotations

from collections.abc import Iterable

from archwright.catalog.tables.records import Efficiency, TrainingEfficiency
from archwright.contract.lineage import Task
from archwright.contract.record import replace
from archwright.errors import CatalogError

WILDCARD = "*"
GPU = "gpu"
# A row fitted on one instruction set or quantisation says less about another: each foreign key widens both
# factors by this much. A row that states "*" already carries the width of standing for any.
WIDEN_PER_KEY = 1.25


def choose_efficiency(rows: Iterable[Efficiency], engine: str, quantisation: str, isa: str) -> Efficiency:
    """Exact; else another instruction set of the same kind; else another quantisation; else the generic rows.

    Among equals the widest. The row comes back under the asked keys, its factors widened and its confidence
    lowered unless it matched. Raises CatalogError AW-CAT-05 when nothing at all applies.
    """
    measured = ((_match_distance(row, engine, quantisation, isa), row) for row in rows)
    found = [(distance, row) for distance, row in measured if distance is not None]
    if not found:
        message = f"no efficiency is known for {engine} with {quantisation} on {isa}"
        raise CatalogError("AW-CAT-05", message, hint="name an engine of the catalog's engine table")
    distance, row = min(found, key=lambda pair: (pair[0], -pair[1].high_factor))
    if distance == 0:
        return row
    foreign = (row.quantisation not in (quantisation, WILDCARD)) + (row.isa not in (isa, WILDCARD))
    widened = WIDEN_PER_KEY**foreign
    return replace(
        row,
        engine=engine,
        quantisation=quantisation,
        isa=isa,
        low_factor=row.low_factor * widened,
        high_factor=row.high_factor * widened,
        confidence="recalled" if row.confidence == "recalled" else "low",
    )


def _match_distance(row: Efficiency, engine: str, quantisation: str, isa: str) -> int | None:
    """How far a row is from the question, 0 for a match; None when it says nothing about it."""
    if row.engine not in (engine, WILDCARD):
        return None
    if row.kind != "any" and (row.kind == GPU) != (isa == GPU):
        return None
    return (
        _key_distance(row.isa, isa, foreign=1, wild=4)
        + _key_distance(row.quantisation, quantisation, foreign=2, wild=4)
        + _key_distance(row.engine, engine, foreign=16, wild=16)
    )


def _key_distance(own: str, asked: str, *, foreign: int, wild: int) -> int:
    if own == asked:
        return 0
    return wild if own == WILDCARD else foreign


def choose_training(rows: Iterable[TrainingEfficiency], task: Task, isa: str) -> TrainingEfficiency:
    """The row of `task` for `isa`, else for any set. Raises CatalogError AW-CAT-05 without either."""
    found = {row.isa: row for row in rows if row.task == task and row.isa in (isa, WILDCARD)}
    if not found:
        message = f"no efficiency is known for training a {task} on {isa}"
        raise CatalogError("AW-CAT-05", message, hint="add a row to the catalog's table of training efficiencies")
    return found.get(isa) or found[WILDCARD]
