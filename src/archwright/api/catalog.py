"""Facts: `catalog list`, `show`, `check`, `diff`, `refresh`."""

import difflib
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import get_args

from archwright import settings
from archwright.api.context import open_home, write_audit_record
from archwright.catalog.catalog import Catalog
from archwright.catalog.layers import refreshed_layer
from archwright.catalog.listing import CatalogFilters, CatalogListing, list_catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.refresh import catalog_diff
from archwright.catalog.refresh import catalog_refresh as refreshing
from archwright.catalog.refresh.catalog_diff import CatalogDiff
from archwright.catalog.refresh.catalog_refresh import RefreshReport
from archwright.catalog.refresh.fact_view import FactView, LayerFact, named_rows_by_table, view_fact
from archwright.catalog.refresh.plausibility_checks import (
    EXCEPTIONS,
    PLAUSIBILITY_CHECKS,
    CheckedFacts,
    Finding,
    run_checks,
)
from archwright.catalog.tables.metadata_records import FactClass
from archwright.catalog.tables.records import Fact
from archwright.catalog.tables.row_names import find_row_of_basis
from archwright.contract.record import Record
from archwright.errors import CatalogError, UsageError, argument_error
from archwright.home import locate_home
from archwright.plan.plan_file import read_plan

__all__ = [
    "CatalogCheck",
    "CatalogDiff",
    "CatalogFilters",
    "CatalogListing",
    "FactView",
    "LayerFact",
    "RefreshReport",
    "check",
    "diff",
    "list",
    "refresh",
    "show",
]

NO_FILTERS = CatalogFilters()


class TableCheck(Record):
    """One table of the catalog: all rows; recalled, stale and expired rows; distinct sources."""

    table: str
    rows: int
    recalled: int
    stale: int
    expired: int
    sources: int


class GateCheck(Record):
    """One plausibility gate: rows that it refuses, rows that it only flags, exceptions with a reason."""

    gate: str
    refused: int
    flagged: int
    exceptions: int


class GateFinding(Record):
    gate: str
    subject: str
    says: str
    refuses: bool


class CatalogCheck(Record):
    """`unpriced`: accelerators without an offer; `lapsed`: the user's own facts whose last day has passed."""

    tables: tuple[TableCheck, ...]
    gates: tuple[GateCheck, ...]
    findings: tuple[GateFinding, ...]
    unpriced: tuple[str, ...]
    lapsed: tuple[str, ...]
    today: str
    refreshed_on: str
    digest: str


def list(table: str, *, filters: CatalogFilters = NO_FILTERS) -> CatalogListing:  # noqa: A001 - the verb's name
    """List accelerators, devices, models, offers or nodes (machines to buy) that fit `filters`."""
    return list_catalog(load_catalog(locate_home(settings.load())), table, filters)


def show(name: str) -> FactView:
    """Return the fact called `name`, or behind a plan's basis of that id, with its layers, the layer in force first."""
    catalog = load_catalog(locate_home(settings.load()))
    tables = named_rows_by_table(catalog)
    within = [key for rows in tables.values() for key in rows]
    for spelling in (name, *_resolve_aliases(catalog, name), *filter(None, (find_row_of_basis(name, within),))):
        for table, rows in tables.items():
            if spelling in rows:
                return view_fact(catalog, table, spelling, rows[spelling])
    near = tuple(difflib.get_close_matches(name, within, 3, 0.5))
    similar = f"did you mean {' or '.join(near)}?" if near else "archwright catalog check lists the tables"
    hint = f"{similar} For a number that a plan computed: archwright explain plan.json NAME"
    raise UsageError("AW-USE-04", f"the catalog has no fact {name!r}", hint=hint, nearest=near)


def _resolve_aliases(catalog: Catalog, name: str) -> Iterator[str]:
    """Yield the ids for another spelling of a name, as needs files and other tools write it."""
    for known in (catalog.accelerator, catalog.model):
        try:
            yield known(name).id
        except CatalogError:
            continue


def check() -> CatalogCheck:
    """Check the age and sources of each table, and run the plausibility gates."""
    catalog = load_catalog(locate_home(settings.load()))
    facts = CheckedFacts(catalog.accelerators, catalog.offers, tuple(catalog.models.values()))
    found = run_checks(facts, catalog.gate_exceptions)
    tables = named_rows_by_table(catalog)
    return CatalogCheck(
        tables=tuple(_check_table(catalog, name, rows.values()) for name, rows in tables.items()),
        gates=tuple(_check_gate(catalog, name, found) for name in (*PLAUSIBILITY_CHECKS, EXCEPTIONS)),
        findings=tuple(GateFinding(**one._asdict()) for one in found),
        unpriced=catalog.unpriced_accelerators(),
        lapsed=catalog.expired_overrides,
        today=catalog.today.isoformat(),
        refreshed_on=catalog.refreshed_layer.made_at,
        digest=catalog.digest,
    )


def _check_table(catalog: Catalog, name: str, rows: Iterable[Record]) -> TableCheck:
    listed = [*rows]
    states = [catalog.freshness(row) for row in listed if isinstance(row, Fact)]
    return TableCheck(
        table=name,
        rows=len(listed),
        recalled=sum(getattr(row, "confidence", None) == "recalled" for row in listed),
        stale=states.count("stale"),
        expired=states.count("expired"),
        sources=len({str(getattr(row, "source", "")) for row in listed}),
    )


def _check_gate(catalog: Catalog, name: str, found: Iterable[Finding]) -> GateCheck:
    mine = [one.refuses for one in found if one.gate == name]
    exceptions = sum(row.gate == name for row in catalog.gate_exceptions)
    return GateCheck(gate=name, refused=mine.count(True), flagged=mine.count(False), exceptions=exceptions)


def diff(plan: str | None = None) -> CatalogDiff:
    """Compare the refreshed layer with the rows below it, and name the plans that rest on a changed fact.

    `plan`: a plan.json; default: the running plan and the folder's plan.json.
    """
    home = locate_home(settings.load())
    paths = [Path(plan)] if plan is not None else [path for path in (home.plan, Path("plan.json")) if path.is_file()]
    return catalog_diff.diff_catalog(load_catalog(home), {str(path): read_plan(path) for path in paths})


def refresh(*, from_dir: str | None = None, only: str | None = None, rollback: bool = False) -> RefreshReport:
    """Refresh the shipped facts from files of public sources in `from_dir`; nothing is fetched.

    `only`: one class of facts. `rollback`: restore the facts in force before the last refresh.
    """
    feeds = _parse_fact_class(only)
    if (from_dir is None) == (not rollback):
        hint = "archwright catalog refresh --from DIR, or archwright catalog refresh --rollback"
        raise argument_error("AW-USE-14", "give either a folder or --rollback", "from_dir", hint)
    with open_home() as (_chosen, home, store):
        if from_dir is None:
            name = refreshed_layer.roll_back(home.catalog_refreshed)
            write_audit_record(store, "catalog.rollback", name or "shipped")
            return RefreshReport(generation=name, kept=refreshing.count_rows(load_catalog(home).refreshed_layer))
        folder = Path(from_dir)
        if not folder.is_dir():
            hint = "give the folder that holds the sources' files: --from DIR"
            raise argument_error("AW-USE-15", f"{from_dir} is not a folder", "from_dir", hint)
        home.folder("catalog", "refreshed")
        today = datetime.now(UTC).date()
        report = refreshing.refresh_catalog(load_catalog(home), home.catalog_refreshed, folder, feeds, today)
        write_audit_record(store, "catalog.refresh", report.generation)
        return report


def _parse_fact_class(only: str | None) -> FactClass | None:
    known: tuple[FactClass, ...] = get_args(FactClass)
    found = next((feeds for feeds in known if feeds == only), None)
    if found is None and only is not None:
        hint = f"use one of {', '.join(known)}"
        raise argument_error("AW-USE-16", f"{only!r} is not a class of facts", "only", hint, known)
    return found
