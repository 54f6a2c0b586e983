"""Controls say what is done today, and nothing more."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.evidence import Control
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.plan.accounting.provenance import PlanProvenance
from archwright.plan.evidence.controls import list_controls, predict_controls

from ..conftest import edit

Read = Callable[..., tuple[Needs, NeedsSource]]
OURS = {"platform.access-keys", "platform.audit", "platform.tls"}


def controls_of(catalog: Catalog, needs: Needs, ledger: PlanProvenance | None = None) -> dict[str, Control]:
    return {control.id: control for control in list_controls(needs, catalog, ledger or PlanProvenance())}


def test_every_rule_of_every_regulation_becomes_one_control(catalog: Catalog, needs_of: Read) -> None:
    needs, _ = needs_of("manufacturer")
    found = list_controls(needs, catalog, PlanProvenance())
    demanded = [control for control in found if control.demanded_by.split()[0] in needs.regulations]
    assert len(demanded) == sum(len(catalog.regulations[name].controls) for name in needs.regulations)
    assert len({control.id for control in found}) == len(found)


@pytest.mark.parametrize(
    ("control", "status"),
    [
        ("gdpr.44-49", "built-in"),
        ("soc2.cc6-1", "built-in"),
        ("soc2.cc6-7", "later"),  # TLS is there, encryption at rest is not
        ("iso-27001.a-5-15-5-18", "later"),  # keys are there, single sign-on is not
        ("gdpr.28", "organisational"),
        ("gdpr.16-18", "later"),
        ("iso-27001.a-8-11", "command"),  # redaction is a step that a recipe asks for
        ("iso-27001.a-8-10", "configured"),  # erasure and retention
        ("iso-27001.a-5-12-5-13", "configured"),  # the labels of policies
        ("gdpr.20", "command"),  # an export
        ("soc2.a1-1-a1-3", "later"),  # nothing tests a restore
        ("iso-42001.a-6", "later"),
        ("iso-42001.a-7", "later"),
        ("eu-ai-act.17", "later"),  # a list of promotions is no quality management system
        ("eu-ai-act.53-annex-xi-xii", "organisational"),  # no copyright policy
        ("gdpr.25", "later"),  # a design review is none of ours
        ("hipaa.164-312-e", "configured"),  # TLS alone
    ],
)
def test_a_feature_counts_only_when_all_its_parts_are_done(
    catalog: Catalog, needs_of: Read, control: str, status: str
) -> None:
    change = edit({"regulations": ["hipaa"]}) if control.startswith("hipaa") else None
    assert controls_of(catalog, needs_of("manufacturer", change)[0])[control].status == status


def test_what_is_later_is_reported(catalog: Catalog, needs_of: Read) -> None:
    ledger = PlanProvenance()
    found = controls_of(catalog, needs_of("clinic")[0], ledger)
    tasks = sum(control.is_task for control in found.values())
    assert 0 < tasks < len(found) and ledger.not_sized[0].startswith(f"controls: {tasks} of ")


@pytest.mark.parametrize(
    ("control", "missing", "provided"),
    [
        ("gdpr.16-18", "correction and restriction of records", "archwright data erase"),
        ("gdpr.5-1-b-e", "rules for minimisation and accuracy", "archwright data retain"),
        ("gdpr.13-15", "privacy notice template", "archwright data export"),
        ("gdpr.25", "design review", "archwright key list"),
        ("eu-ai-act.17", "quality management system", "archwright models history"),
    ],
)
def test_a_task_names_what_is_missing_and_the_commands_for_the_rest(
    catalog: Catalog, needs_of: Read, control: str, missing: str, provided: str
) -> None:
    found = controls_of(catalog, needs_of("manufacturer")[0])[control]
    assert found.missing == missing and provided in found.provided and found.checks == ()


def test_ours_hold_without_any_regulation(catalog: Catalog, needs_of: Read) -> None:
    ledger, free = PlanProvenance(), edit({"regulations": [], "data.*.residency": ["any"]})
    assert controls_of(catalog, needs_of("startup", free)[0], ledger).keys() == OURS
    assert ledger.not_sized == ()
    assert "needs.residency" in controls_of(catalog, needs_of("startup")[0])


def test_a_plan_with_a_platform_predicts_what_reconcile_can_measure(
    catalog: Catalog, needs_of: Read, desk: Plan
) -> None:
    ledger, option = PlanProvenance(), desk.options[0]
    controls = list_controls(needs_of("desk")[0], catalog, ledger)
    promised = predict_controls(controls, option, ledger)
    assert {promise.query.labels["control"] for promise in promised} == {*OURS, "platform.residency"} and len(
        promised
    ) == 4
    assert {promise.estimate.basis for promise in promised} == {basis.id for basis in ledger.collect_bases(promised)}
    assert predict_controls(controls, replace(option, placement="cloud"), ledger) == ()
    assert predict_controls(controls, None, ledger) == ()
