"""Facts: `catalog show`, `catalog check`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping

from archwright import settings
from archwright.api.context import home_of
from archwright.catalog.facts import Catalog
from archwright.catalog.load import load
from archwright.contract.record import Record
from archwright.errors import UsageError


class TableCheck(Record):
    """One table of the catalog: rows, rows that are only recalled, distinct sources."""

    table: str
    rows: int
    recalled: int
    sources: int


def show(name: str) -> Record:
    """The row called `name`: a model, accelerator, offer, engine, regulation or model file."""
    catalog = load(home_of(settings.load()))
    tables = _named(catalog)
    for table in tables:
        if name in table:
            return table[name]
    near = tuple(difflib.get_close_matches(name, [key for table in tables for key in table], 3, 0.5))
    raise UsageError("AW-USE-04", f"the catalog has no {name!r}", hint=_did_you_mean(near), nearest=near)


def _did_you_mean(near: tuple[str, ...]) -> str:
    return f"did you mean {' or '.join(near)}?" if near else "archwright catalog check lists the tables"


def _named(catalog: Catalog) -> tuple[Mapping[str, Record], ...]:
    return (
        catalog.models,
        catalog.accelerators,
        {offer.id: offer for offer in catalog.offers},
        {f"{model.provider}:{model.id}": model for model in catalog.hosted},
        catalog.engines,
        catalog.regulations,
    )


def check() -> tuple[TableCheck, ...]:
    """How much of each table is known, and from how many sources."""
    catalog = load(home_of(settings.load()))
    tables: dict[str, Iterable[object]] = {
        "accelerators": catalog.accelerators.values(),
        "offers": catalog.offers,
        "open models": catalog.models.values(),
        "hosted models": catalog.hosted,
        "quality scores": catalog.scores,
        "exchange rates": catalog.exchange_rates,
        "engines": catalog.engines.values(),
        "regulations": catalog.regulations.values(),
    }
    return tuple(_checked(name, list(rows)) for name, rows in tables.items())


def _checked(name: str, rows: list[object]) -> TableCheck:
    recalled = sum(1 for row in rows if getattr(row, "confidence", None) == "recalled")
    sources = {str(getattr(row, "source", "")) for row in rows}
    return TableCheck(table=name, rows=len(rows), recalled=recalled, sources=len(sources))
