"""Chooses the efficiency row of an engine, quantisation and instruction set, or of a training task."""

from collections.abc import Iterable

from archwright.catalog.tables.records import Efficiency, TrainingEfficiency
from archwright.contract.engine_measurement import EngineReport
from archwright.contract.lineage import Task
from archwright.contract.record import replace
from archwright.errors import CatalogError

WILDCARD = "*"
GPU = "gpu"
# A row fitted on one instruction set or quantisation is less certain for another: each different key widens both
# factors by this. A row with "*" already has the width for any key.
WIDEN_PER_KEY = 1.25
# The band of an engine on a processor that no row was measured on. Measured once: on an Intel Xeon (Sapphire Rapids)
# the shares of an AMD EPYC (Zen 4) were too high by 1.7 for answers and 2.3 for prompts.
UNSEEN_LOW_FACTOR = 2.0
UNSEEN_HIGH_FACTOR = 2.5


def choose_efficiency(rows: Iterable[Efficiency], engine: str, quantisation: str, isa: str) -> Efficiency:
    """Choose the nearest row: exact, other instruction set of its kind, other quantisation, generic.

    Among equals the widest row wins, then the slowest. Unless the row matches exactly, it is returned under the
    requested keys with wider factors and lower confidence. Raises CatalogError AW-CAT-05 if no row applies.
    """
    measured = ((_match_distance(row, engine, quantisation, isa), row) for row in rows)
    found = [(distance, row) for distance, row in measured if distance is not None]
    if not found:
        message = f"no efficiency is known for {engine} with {quantisation} on {isa}"
        raise CatalogError("AW-CAT-05", message, hint="use an engine of the catalog's engine table")
    distance, row = min(found, key=lambda pair: (pair[0], -pair[1].high_factor, pair[1].prefill_share_of_matmul))
    if distance == 0:
        return row
    different = (row.quantisation not in (quantisation, WILDCARD)) + (row.isa not in (isa, WILDCARD))
    factors = {name: getattr(row, name) * WIDEN_PER_KEY**different for name in ("low_factor", "high_factor")}
    confidence = "recalled" if row.confidence == "recalled" else "low"
    return replace(row, engine=engine, quantisation=quantisation, isa=isa, **factors, confidence=confidence)


def derive_for_engine(row: Efficiency, report: EngineReport | None, threads: int) -> Efficiency:
    """Return the row if it was measured with this very engine, else with the band of an unseen processor.

    `report`: None if the engine is unknown, for example on a machine elsewhere. Rows that were fitted over several
    processors have the band of an unseen processor already.
    """
    differences = list_differences(row, report, threads) if row.build else []
    if not differences:
        return row
    return replace(
        row,
        low_factor=max(row.low_factor, UNSEEN_LOW_FACTOR),
        high_factor=max(row.high_factor, UNSEEN_HIGH_FACTOR),
        source=f"derived, because {'; '.join(differences)}: {row.source}",
        confidence="recalled" if row.confidence == "recalled" else "low",
    )


def list_differences(row: Efficiency, report: EngineReport | None, threads: int) -> list[str]:
    """Return what differs between the engine of a row and the engine here, empty if nothing does."""
    if report is None:
        return ["the engine there is not known"]
    pairs = (
        ("build", row.build, report.build),
        ("code path", row.isa, report.isa),
        ("processor", row.processor, report.processor),
        ("threads", str(row.threads), str(threads)),
    )
    return [f"{name} {here} instead of {measured}" for name, measured, here in pairs if measured != here]


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
