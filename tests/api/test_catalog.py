"""Facts through the API and the shell: shown, checked, refreshed, compared, rolled back."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from archwright import api
from archwright.catalog.load import load_catalog
from archwright.contract.evidence import Basis
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.home import Home
from archwright.plan.plan_file import write_plan

from ..catalog import samples
from ..command_line import CommandLine, error_of

P5 = "aws:us-east-1:p5.48xlarge"


@pytest.fixture
def bring(home: Home) -> Path:
    return samples.write_all(Path("bring"))


@pytest.fixture
def bought(null_plan: Plan) -> Plan:
    """A plan that rests on an offer and a hosted model that the samples change, and on an unchanged offer."""
    facts = (f"{P5}: 55.04 USD/h, somebody", "gemini gemini-3.6-flash: somebody", "aws:us-east-1:g5.xlarge: 1 USD/h")
    basis = Basis(id="price.bought", kind="quoted", stratum="", definition="prices", facts=facts)
    return replace(null_plan, bases=(*null_plan.bases, basis))


def test_a_fact_is_shown_with_its_layers(bring: Path, cli: CommandLine) -> None:
    before = api.catalog.show(P5)
    assert [layer.layer for layer in before.chain] == ["shipped"]
    assert before.chain[0].source_kind == "api" and before.row["accelerator_count"] == 8
    price = {figure.name: figure for figure in before.chain[0].figures}["on_demand_usd_per_hour"]
    assert (price.value, price.unit) == (55.04, "USD/h")
    api.catalog.refresh(from_dir=str(bring))
    assert [layer.layer for layer in api.catalog.show(P5).chain] == ["refreshed", "shipped"]
    out = cli.text(f"catalog show {P5}")
    assert "refreshed" in out and "55.04" in out and "karpenter" in out
    for name in ("gpt-oss-120b", "L4", "llamacpp", "gdpr", "gpu.h100", "8x-h100", "EUR/USD", "SmolLM2-135M-Instruct"):
        assert api.catalog.show(name).name == name


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("H100", "H100-SXM-80GB"),
        ("Trillium", "TPUv6e"),
        ("meta-llama/Llama-3.1-8B-Instruct", "Llama-3.1-8B-Instruct"),
        ("egress.aws", "aws us-east-1 Internet egress from 100 GB"),
        ("exchange.usd-eur", "EUR/USD"),
        ("exchange.usd-jpy", "EUR/JPY"),
        ("price.node.8x-mi300x", "8x-mi300x"),
        ("part.residual", "residual"),
        (f"price.{P5}", P5),
        ("discount.aws.commit-3y.compute-mix", "aws compute mix 36 no upfront"),
        ("between-regions.gcp", "gcp Inter-region"),
    ],
)
def test_a_fact_is_found_by_another_name_and_by_the_id_that_a_plan_prints(home: Home, given: str, name: str) -> None:
    assert api.catalog.show(given).name == name


def test_what_a_plan_made_of_several_rows_is_left_to_explain(home: Home) -> None:
    assert "archwright explain plan.json" in error_of("AW-USE-04", api.catalog.show, "storage.object.aws").hint


@pytest.mark.parametrize("name", ["aws:us-east-1:p5.48large", "nothing like anything 0"])
def test_an_unknown_fact_is_answered_with_the_nearest(home: Home, name: str) -> None:
    assert error_of("AW-USE-04", api.catalog.show, name).hint


def test_the_check_runs_the_gates_and_says_how_old_things_are(cli: CommandLine) -> None:
    check = api.catalog.check()
    assert {table.table for table in check.tables} >= {"offers", "parts", "regions", "hosted_facts", "countries"}
    assert all(table.rows for table in check.tables)
    assert (len(check.gates), check.findings) == (9, ())
    assert sum(gate.exceptions for gate in check.gates) == len(load_catalog().gate_exceptions)
    offers = next(table for table in check.tables if table.table == "offers")
    assert offers.rows == len(load_catalog().offers) and offers.stale > 0
    assert "TPU7x" in check.unpriced and check.refreshed_on == "" and len(check.digest) == 64
    assert "ages as of" in cli.text("catalog check")


def test_a_wrong_fact_of_the_user_fails_the_check(home: Home, cli: CommandLine) -> None:
    home.folder("catalog")
    own = "{on_demand_usd_per_hour: 9999.0, reason: a typo, until: 2099-12-31}"
    home.catalog_overlay.write_text(f"offers: {{'{P5}': {own}}}\n")
    (finding,) = api.catalog.check().findings
    assert (finding.gate, finding.subject, finding.refuses) == ("price-of-one", P5, True)
    assert "9" in cli.text("catalog check", 1)


def test_a_refresh_is_reported_compared_audited_and_rolled_back(
    bring: Path, bought: Plan, null_plan: Plan, cli: CommandLine
) -> None:
    assert "no refreshed facts" in cli.text("catalog diff")
    out = cli.text(f"catalog refresh --from {bring}")
    for said in ("generation 0001", "gate usable-memory", "gemini:gemini-3.6-flash", "*skypilot*nebius*.csv"):
        assert said in out
    write_plan(bought, Path("plan.json"))
    write_plan(null_plan, Path("other.json"))
    (of_plan,) = api.catalog.diff().plans
    assert (of_plan.plan, of_plan.facts) == ("plan.json", (P5, "gemini:gemini-3.6-flash"))
    assert api.catalog.diff("other.json").plans == ()
    assert f"rests on {P5}" in cli.text("catalog diff plan.json").replace("\n", " ")
    assert "none of the plans found" in cli.text("catalog diff other.json")
    assert "the shipped facts are in force" in cli.text("catalog refresh --rollback")
    assert api.catalog.show(P5).chain[0].layer == "shipped"
    assert [act.action for act in api.audit.list()][:2] == ["catalog.rollback", "catalog.refresh"]


def test_a_rollback_goes_back_one_refresh(home: Home, bring: Path) -> None:
    api.catalog.refresh(from_dir=str(bring), only="grid")
    api.catalog.refresh(from_dir=str(bring), only="storage")
    report = api.catalog.refresh(rollback=True)
    assert (report.generation, report.kept["grid"], report.kept["storage"]) == ("0001", 2, 0)


def test_the_json_form_is_the_record(bring: Path, cli: CommandLine) -> None:
    report = cli.json(f"catalog refresh --from {bring} --only hosted")
    assert report["kept"]["hosted"] == 3 and report["kept"]["offers"] == 0
    assert msgspec.convert(report, api.catalog.RefreshReport) is not None


@pytest.mark.parametrize(
    ("asked", "code"),
    [
        ({}, "AW-USE-14"),
        ({"from_dir": "bring", "rollback": True}, "AW-USE-14"),
        ({"from_dir": "nowhere"}, "AW-USE-15"),
        ({"from_dir": "bring", "only": "everything"}, "AW-USE-16"),
    ],
)
def test_a_call_that_makes_no_sense_is_refused(bring: Path, asked: dict[str, object], code: str) -> None:
    error_of(code, api.catalog.refresh, **asked)


def test_a_folder_without_files_says_what_to_bring(cli: CommandLine) -> None:
    Path("empty").mkdir()
    out, err = cli.run("catalog refresh --from empty", 4)
    assert err.startswith("AW-CAT-09") and "moto/ec2/resources" in out.replace("\n", "")
    error_of("AW-CAT-08", api.catalog.refresh, rollback=True)
