from __future__ import annotations

import csv
import datetime as dt
import gzip
import io
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from archwright.contract.evidence import Deviation
from archwright.contract.plan import Plan
from archwright.errors import ReconcileError
from archwright.reconcile.bills import compare_bills

from .costed_plan import line, make_costed_plan

PLAN = make_costed_plan()
ROW = {
    "EffectiveCost": "500",
    "BilledCost": "1",
    "BillingCurrency": "USD",
    "ChargePeriodStart": "2026-12-01T00:00:00Z",
    "ChargePeriodEnd": "2026-12-16T05:00:00Z",
    "ChargeCategory": "Usage",
    "ServiceCategory": "Compute",
    "Tags": "",
}
# The period is half a month of 730 h.
HALF = 365.0


def write_bill(path: Path, *rows: dict[str, str]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, {**ROW, "ChargeClass": ""})
    writer.writeheader()
    writer.writerows([{**ROW, **row} for row in rows])
    data = text.getvalue().encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return str(path)


def compare(path: Path, *rows: dict[str, str], plan: Plan = PLAN) -> dict[str, Deviation]:
    found = compare_bills(plan, [write_bill(path, *rows)])
    return {one.prediction_id.removeprefix("bill.cost_per_month."): one for one in found}


@pytest.mark.parametrize("name", ["bill.csv", "bill.csv.gz"])
def test_a_bill_is_compared_per_month_and_group(tmp_path: Path, name: str) -> None:
    found = compare(tmp_path / name, {}, {"ServiceCategory": "Storage", "EffectiveCost": "20"})
    machines, storage, total = found["machines"], found["storage"], found["total"]
    assert machines.measured is not None and storage.measured is not None and total.measured is not None
    # The first year costs 9,000 / 12 per month, three quarters of the mean.
    assert machines.predicted.value == pytest.approx(750) and machines.predicted.low == pytest.approx(600)
    assert machines.measured.value == pytest.approx(500 * 730 / HALF)
    assert (machines.verdict, storage.verdict, total.verdict) == ("within", "worse", "within")
    assert total.measured.value == pytest.approx(1040) and total.predicted.value == pytest.approx(760)
    assert machines.metric == "cost_per_month" and set(found) == {"machines", "storage", "total"}


def test_a_bill_that_is_too_low_is_no_success_but_better(tmp_path: Path) -> None:
    assert compare(tmp_path / "b.csv", {"EffectiveCost": "10"})["machines"].verdict == "better"


def test_the_second_year_has_its_own_cost(tmp_path: Path) -> None:
    later = {"ChargePeriodStart": "2027-12-01T00:00:00Z", "ChargePeriodEnd": "2027-12-16T05:00:00Z"}
    assert compare(tmp_path / "b.csv", later)["machines"].predicted.value == pytest.approx(1500)


def test_only_tagged_rows_count_if_any_row_is_tagged(tmp_path: Path) -> None:
    rows = (
        {"Tags": f'{{"user:archwright-plan": "{PLAN.digest[:12]}"}}', "EffectiveCost": "300"},
        {"Tags": '{"archwright/pool": "assistant", "team": "x"}', "EffectiveCost": "100"},
        {"Tags": '{"archwright_pool": "of-somebody-else"}', "EffectiveCost": "1000"},
        {"Tags": f'{{"archwright/plan": "{PLAN.digest[:4]}"}}', "EffectiveCost": "1000"},
        {"Tags": '{"archwright/plan": "ffffffffffff", "archwright/pool": "assistant"}', "EffectiveCost": "1000"},
        {"Tags": '{"myarchwright/plan-b": "assistant"}', "EffectiveCost": "1000"},
    )
    measured = compare(tmp_path / "b.csv", *rows)["machines"].measured
    assert measured is not None
    assert measured.value == pytest.approx(800) and measured.samples == 2


def test_rows_of_a_bundle_count_by_the_option_that_they_are_tagged_with(tmp_path: Path) -> None:
    rows = (
        {"Tags": f'{{"user:archwright-option": "{PLAN.chosen}"}}', "EffectiveCost": "300"},
        {"Tags": f'{{"archwright-option": "{PLAN.chosen}", "archwright-pool": "one two"}}', "EffectiveCost": "100"},
        {"Tags": '{"archwright-option": "another-option", "archwright-pool": "assistant"}', "EffectiveCost": "1000"},
        {"Tags": '{"team": "x"}', "EffectiveCost": "1000"},
    )
    measured = compare(tmp_path / "b.csv", *rows)["machines"].measured
    assert measured is not None
    assert measured.value == pytest.approx(800) and measured.samples == 2


def test_taxes_credits_and_corrections_are_left_out_and_stated(tmp_path: Path) -> None:
    odd = [
        {"ChargeCategory": "Tax"},
        {"ChargeCategory": "Credit", "EffectiveCost": "-70"},
        {"ChargeClass": "Correction"},
    ]
    row = compare(tmp_path / "b.csv", {}, *odd)["machines"]
    assert row.measured is not None and row.measured.value == pytest.approx(1000)
    assert "left out: 930.00 USD" in row.evidence


def test_a_commitment_does_not_extend_the_period(tmp_path: Path) -> None:
    year = {"ChargeCategory": "Purchase", "ChargePeriodEnd": "2027-12-01T00:00:00Z", "EffectiveCost": "0"}
    row = compare(tmp_path / "b.csv", {}, year)["machines"]
    assert row.measured is not None and row.measured.value == pytest.approx(1000)


def test_services_without_a_line_are_shown_and_not_assessed(tmp_path: Path) -> None:
    found = compare(tmp_path / "b.csv", {}, {"ServiceCategory": "Security"})
    assert found["Security"].verdict == "unknown" and "no line" in found["Security"].evidence
    assert found["storage"].verdict == "unknown" and "no charge" in found["storage"].evidence


def test_managed_endpoints_are_machines_unless_tokens_are_bought(tmp_path: Path) -> None:
    row = {"ServiceCategory": "AI and Machine Learning"}
    assert compare(tmp_path / "b.csv", row)["machines"].verdict == "within"
    bought = make_costed_plan(lines=(line("tokens of m", "tokens", 1000.0),))
    assert compare(tmp_path / "b.csv", row, plan=bought)["tokens"].verdict == "within"


@pytest.mark.parametrize(
    ("row", "code", "field"),
    [
        ({"EffectiveCost": "much"}, "AW-REC-36", "EffectiveCost"),
        ({"ServiceCategory": ""}, "AW-REC-36", None),
        ({"ChargePeriodStart": "soon"}, "AW-REC-36", "ChargePeriodStart"),
        ({"Tags": "[1]"}, "AW-REC-36", None),
        ({"BillingCurrency": "EUR"}, "AW-REC-37", "BillingCurrency"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: dict[str, str], code: str, field: str | None) -> None:
    with pytest.raises(ReconcileError) as caught:
        compare(tmp_path / "b.csv", {}, row)
    assert (caught.value.code, caught.value.where.line, caught.value.where.field) == (code, 3, field)


def test_a_missing_column_is_named(tmp_path: Path) -> None:
    path = tmp_path / "b.csv"
    path.write_text("BilledCost,BillingCurrency\n1,USD\n")
    with pytest.raises(ReconcileError) as caught:
        compare_bills(PLAN, [str(path)])
    assert caught.value.code == "AW-REC-36" and "ChargePeriodStart" in caught.value.message


def test_a_file_without_charges_of_the_plan_is_refused(tmp_path: Path) -> None:
    foreign = write_bill(tmp_path / "a.csv", {"Tags": '{"archwright/plan": "ffffffffffff"}'})
    for file in (foreign, write_bill(tmp_path / "b.csv"), str(tmp_path / "absent.csv")):
        with pytest.raises(ReconcileError) as caught:
            compare_bills(PLAN, [file])
        assert caught.value.code == "AW-REC-35"


def test_parquet_with_typed_columns(tmp_path: Path) -> None:
    start = dt.datetime(2026, 12, 1, tzinfo=dt.UTC)
    table = {
        "EffectiveCost": pa.array([Decimal("500.0"), Decimal("0.0")], pa.decimal128(12, 2)),
        "BillingCurrency": ["USD", "USD"],
        "ChargePeriodStart": [start, start],
        "ChargePeriodEnd": [start + dt.timedelta(hours=HALF)] * 2,
        "ServiceCategory": ["Compute", "Compute"],
        "Tags": pa.array([[("archwright/pool", "assistant")]] * 2, pa.map_(pa.string(), pa.string())),
    }
    parquet.write_table(pa.table(table), tmp_path / "b.parquet")
    rows = compare_bills(PLAN, [str(tmp_path / "b.parquet")])
    assert rows[0].measured is not None and rows[0].measured.value == pytest.approx(1000)


@pytest.mark.parametrize(
    ("row", "code"),
    [
        ({"EffectiveCost": "NaN"}, "AW-REC-36"),
        ({"EffectiveCost": "inf"}, "AW-REC-36"),
        ({"EffectiveCost": "=1+1"}, "AW-REC-36"),
        ({"ChargePeriodEnd": "2026-11-01T00:00:00Z"}, "AW-REC-36"),
        ({"Tags": "[1]"}, "AW-REC-36"),
        ({"ServiceCategory": "x" * 200_000}, "AW-REC-35"),
    ],
)
def test_amounts_and_periods_that_cannot_be_added_are_refused(tmp_path: Path, row: dict[str, str], code: str) -> None:
    with pytest.raises(ReconcileError) as caught:
        compare(tmp_path / "bill.csv", row)
    assert caught.value.code == code


@pytest.mark.parametrize("name", ["bill.csv", "bill.csv.gz", "bill.parquet"])
def test_other_bytes_than_a_bill_are_refused(tmp_path: Path, name: str) -> None:
    whole = gzip.compress(bytes(range(256)) * 400)
    for data in (bytes(range(256)), whole[:200], whole[:20] + b"\xff" * 50 + whole[70:], b"A,B,A\n1,2,3\n"):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ReconcileError, match="cannot be read") as caught:
            compare_bills(PLAN, [str(tmp_path / name)])
        assert caught.value.code == "AW-REC-35"


def test_a_time_without_a_zone_is_utc_and_a_file_counts_once(tmp_path: Path) -> None:
    mixed = [{}, {"ChargePeriodStart": "2026-12-01T00:00:00"}]
    path = write_bill(tmp_path / "bill.csv", *mixed)
    once, twice = compare_bills(PLAN, [path]), compare_bills(PLAN, [path, path])
    assert once[-1].measured is not None and once[-1].measured.samples == 2
    assert once[-1].measured == twice[-1].measured
