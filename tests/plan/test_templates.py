"""Plans of the templates: feasible, every workload priced, and the load's band in the costs that follow the load."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.needs.reader import parse_needs
from archwright.needs.template import read_template
from archwright.plan.planner import make_plan

NOW = datetime(2026, 11, 28, 12, 0, tzinfo=UTC)
NAMES = ("insurer", "publisher", "logistics", "public-administration", "game-studio", "research-laboratory")


def plan_template(name: str, *changes: tuple[str, str]) -> Plan:
    catalog, text = load_catalog(), read_template(name)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return make_plan(*parse_needs(text.encode(), f"{name}.yaml", catalog), catalog, None, NOW)


def check_plan(plan: Plan) -> None:
    option = plan.chosen_option
    assert option is not None and option.feasible, plan.options
    assert not [text for text in plan.not_sized if text.startswith("workload ") and "not included" in text]
    assert not [note for note in option.notes if "not included" in note]


@pytest.mark.nightly
@pytest.mark.parametrize("name", NAMES)
def test_every_template_has_a_feasible_plan(name: str) -> None:
    check_plan(plan_template(name))


def test_the_load_of_users_is_a_driver_of_hosted_costs() -> None:
    """The token cost is uncertain by the load's band; with the requests stated it is less so."""
    only = [("allow: [cloud, hosted-api, serverless]", "allow: [hosted-api]")]
    plan = plan_template("game-studio", *only)
    check_plan(plan)
    option = plan.chosen_option
    assert option is not None
    tokens = {line.name.partition(":")[0]: line for line in option.cost_lines if line.category == "tokens"}
    load = next(basis for basis in plan.bases if basis.id == "load.characters")
    assert "load.characters" in tokens["characters"].drivers and "load.code" in tokens["code"].drivers
    assert any("25,000 users x 2 x 6 turns" in fact for fact in load.facts)
    assumed = [text for text in plan.assumptions if text.startswith("characters: ")]
    assert any("peak_over_mean 2.5 (1.7 to 5) ratio" in text and "replaces it" in text for text in assumed)
    assert any("times the planned load" in text for text in assumed)
    stated = [("users: 25000 ", "requests_per_second: {mean: 3, peak: 8} "), ("      requests_per_user_day: 2\n", "")]
    sure = plan_template("game-studio", *only, *stated).chosen_option
    assert sure is not None
    exact = next(line for line in sure.cost_lines if line.name.startswith("characters:"))
    assert exact.amount.factor < tokens["characters"].amount.factor


@pytest.mark.nightly
def test_jobs_use_parts_of_owned_machines_beside_a_load() -> None:
    """A monthly LoRA and data processing need no machine of their own while owned accelerators are free."""
    plan = plan_template("research-laboratory")
    home = next(one for one in plan.options if one.name == "on-premises")
    machines = {(one.machine, one.kind) for one in home.purchases if one.pool in ("species-model", "sensors")}
    assert home.feasible and machines == {("4x-a100-80gb-pcie", "owned")}
