"""The user's own facts: every table a plan reads, a reason and a last day, and errors that point at the place."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from archwright.catalog.catalog import OVERLAID
from archwright.catalog.load import load_catalog
from archwright.catalog.refresh import fact_view
from archwright.catalog.tables.csv_table import table_schemas
from archwright.catalog.tables.records import Fact
from archwright.errors import CatalogError

from ..samples import OWN, TODAY, load_own


@pytest.mark.parametrize("table", OVERLAID)
def test_every_table_takes_the_users_row_and_shows_it(table: str, tmp_path: Path) -> None:
    shipped = load_catalog(today=TODAY).rows_by_name(table)
    name = next(iter(shipped))
    catalog = load_own(tmp_path, {table: {name: {**OWN, "notes": "ours", "source": "the contract"}}})
    row = catalog.rows_by_name(table)[name]
    assert isinstance(row, Fact)
    assert (row.source, row.notes, row.confidence) == ("the contract", "ours", "high")
    view = fact_view.view_fact(catalog, table, name, fact_view.named_rows_by_table(catalog)[table][name])
    assert view.chain[0].layer == view.chain[0].source_kind == "user" and len(view.chain) == 2
    others = [other for other in shipped if other != name]
    assert all(catalog.rows_by_name(table)[other] == shipped[other] for other in others)


def test_every_kind_of_fact_that_ages_can_be_the_users() -> None:
    ageing = {name: table.ages_as for name, table in table_schemas().items() if table.ages_as}
    assert set(ageing.values()) <= set(OVERLAID)
    kinds = {type(row).__name__ for table in OVERLAID for row in load_catalog(today=TODAY).rows_by_name(table).values()}
    assert kinds >= set(ageing)


def test_what_a_plan_reads_follows_the_user(tmp_path: Path) -> None:
    catalog = load_own(
        tmp_path,
        {
            "parts": {"staff.europe": {**OWN, "low": 50000, "typical": 60000, "high": 70000}},
            "tariffs": {"electricity DE": {**OWN, "commercial_usd_per_kwh": 0.11}},
            "exchange_rates": {"EUR/USD": {**OWN, "rate": 1.2, "low_12m": 1.2, "high_12m": 1.2}},
            "hosted_facts": {"openai * place US": {**OWN, "name": "EEA"}},
            "storage_prices": {"aws us-east-1 Internet egress from 100 GB": {**OWN, "usd_per_byte": 1e-11}},
            "hosted": {"anthropic:claude-haiku-4-5": {**OWN, "input_usd_per_token": 5e-7}},
            "scores": {},
            "commitments": {"aws EC2 all Linux types 12 no upfront": {**OWN, "discount": 0.5}},
            "nodes": {"8x-h100": {**OWN, "price_usd": 2e5, "price_low_usd": 2e5, "price_high_usd": 2e5}},
        },
    )
    assert catalog.electricity_usd_per_kwh("DE").value == 0.11
    assert catalog.exchange_rate("EUR", "USD").value == 1.2
    assert catalog.hosted_places("openai", "any") == ("EEA",)
    assert catalog.nodes["8x-h100"].price_usd == 2e5
    assert catalog.parts["staff.europe"].typical == 60000
    assert [row.discount for row in catalog.commitments if row.source == OWN["reason"]] == [0.5]
    assert [row.usd_per_byte for row in catalog.storage_prices if row.source == OWN["reason"]] == [1e-11]
    assert [row.input_usd_per_token for row in catalog.hosted if row.source == OWN["reason"]] == [5e-7]
    assert "until 2027-12-31" in catalog.nodes["8x-h100"].notes


STAFF = "parts:\n  staff.europe:\n"
DATED = STAFF + "    reason: r\n    until: 2027-01-01\n"


@pytest.mark.parametrize(
    ("text", "code", "line", "field", "word"),
    [
        ("part:\n  staff.europe: {}\n", 1, 1, None, "parts"),
        ("nodes: {}\nparts:\n  staff.euope: {typical: 1, reason: r, until: 2027-01-01}\n", 1, 3, None, "staff.europe"),
        (f"{DATED}    tipical: 1\n", 4, 5, "tipical", "typical"),
        (f"{DATED}    low: dear\n", 4, 5, "low", "float"),
        (f"{STAFF}    typical: 1\n    until: 2027-01-01\n", 4, 2, "reason", "reason"),
        (f"{STAFF}    typical: 1\n    reason: r\n", 4, 2, "until", "until"),
        (f"{STAFF}    reason: r\n    until: soon\n", 4, 4, "until", "not a day"),
        ("parts: {}\nnodes: {}\nparts: {}\n", 4, 3, "parts", "line 1"),
        (f"{DATED}    low: 1\n    low: 2\n", 4, 6, "low", "twice"),
        ("parts:\n  - staff.europe\n", 4, 2, None, "a mapping"),
        ("parts:\n  staff.europe: 5\n", 4, 2, None, "a mapping"),
        ("parts:\n  staff.europe: {\n", 4, 3, None, "YAML"),
    ],
)
def test_a_refusal_names_file_line_field_and_what_is_near(
    tmp_path: Path, text: str, code: int, line: int, field: str | None, word: str
) -> None:
    with pytest.raises(CatalogError) as caught:
        assert load_own(tmp_path, text).parts
    error = caught.value
    assert error.code == f"AW-CAT-{code:02d}" and error.where.file is not None
    assert error.where.file.endswith("user.yaml") and (error.where.line, error.where.field) == (line, field)
    assert word in f"{error.message} {error.hint} {error.nearest}"


def test_names_are_those_of_one_row() -> None:
    catalog = load_catalog(today=TODAY)
    twice = {}
    for table in OVERLAID:
        rows = getattr(catalog, table)
        twice[table] = len(rows) - len(catalog.rows_by_name(table))
    assert {table: count for table, count in twice.items() if count} == {}
    assert msgspec.to_builtins(catalog.rows_by_name("offers")["aws:us-east-1:p5.48xlarge"])["provider"] == "aws"
