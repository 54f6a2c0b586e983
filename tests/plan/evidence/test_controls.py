"""Controls say what is done today, and nothing more."""

from __future__ import annotations

from collections.abc import Callable

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.evidence.controls import list_controls, predict_controls

Read = Callable[..., tuple[Needs, NeedsSource]]


def statuses(catalog: Catalog, needs: Needs) -> dict[str, str]:
    return {control.id: control.status for control in list_controls(needs, catalog, PlanProvenance())}


def test_every_rule_of_every_regulation_becomes_one_control(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of("manufacturer")
    found = list_controls(needs, catalog, PlanProvenance())
    demanded = [control for control in found if control.demanded_by.split()[0] in needs.regulations]
    assert len(demanded) == sum(len(catalog.regulations[name].controls) for name in needs.regulations)
    assert len({control.id for control in found}) == len(found)


def test_a_feature_counts_only_when_all_its_parts_are_done(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of("manufacturer")
    found = statuses(catalog, needs)
    assert found["gdpr.44-49"] == "built-in"
    assert found["soc2.cc6-1"] == "built-in"
    assert found["soc2.cc6-7"] == "later", "TLS is there, encryption at rest is not"
    assert found["iso-27001.a-5-15-5-18"] == "later", "keys are there, single sign-on is not"
    assert found["gdpr.28"] == "organisational"
    assert found["gdpr.16-18"] == "later"


def test_what_the_lake_and_the_registry_do_counts(catalog: Catalog, needs_of: Read) -> None:
    found = statuses(catalog, needs_of("manufacturer")[0])
    assert found["iso-27001.a-8-11"] == "configured", "redaction is a step that a recipe asks for"
    assert {found["iso-42001.a-6"], found["iso-42001.a-7"], found["eu-ai-act.17"]} == {"built-in"}
    assert found["gdpr.25"] == "later", "redaction is no part of the ingest itself"


def test_what_is_later_is_said(catalog: Catalog, needs_of: Read) -> None:
    ledger = PlanProvenance()
    needs, _ = needs_of("clinic")
    later = sum(control.status == "later" for control in list_controls(needs, catalog, ledger))
    assert ledger.not_sized[0].startswith(f"controls: {later} of ")


def test_ours_hold_without_any_regulation(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of(
        "startup", lambda d: d.update(regulations=[], data=[{**x, "residency": ["any"]} for x in d["data"]])
    )
    ledger = PlanProvenance()
    found = list_controls(needs, catalog, ledger)
    assert {control.id for control in found} == {"platform.access-keys", "platform.audit", "platform.tls"}
    assert ledger.not_sized == ()
    assert "needs.residency" in statuses(catalog, needs_of("startup")[0])


def test_what_reconcile_can_ask_is_promised_where_a_platform_is_brought_up(
    catalog: Catalog, needs_of: Read, desk: Plan
) -> None:
    ledger = PlanProvenance()
    controls = list_controls(needs_of("desk")[0], catalog, ledger)
    promised = predict_controls(controls, desk.options[0], ledger)
    assert [promise.query.labels["control"] for promise in promised] == [
        "platform.access-keys",
        "platform.audit",
        "platform.tls",
    ]
    assert {promise.estimate.basis for promise in promised} == {basis.id for basis in ledger.collect_bases(promised)}
    assert predict_controls(controls, replace(desk.options[0], placement="cloud"), ledger) == ()
    assert predict_controls(controls, None, ledger) == ()


def test_tls_alone_is_a_matter_of_configuration(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of("startup", lambda d: d.update(regulations=["hipaa"]))
    assert statuses(catalog, needs)["hipaa.164-312-e"] == "configured"
