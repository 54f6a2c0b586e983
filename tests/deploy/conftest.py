"""Plans of the examples for the bundles, made once per run and shared with the other tests; and their bundles."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
from tests.examples import read_example
from tests.plan.conftest import MACHINE, NOW
from tests.planned import Planned

from archwright import __version__
from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.contract.plan import Plan
from archwright.deploy.deployment import Deployment, build_deployment
from archwright.deploy.render import find_target, list_targets, render_bundle, select_option
from archwright.deploy.rendering.bundle import FileBundle
from archwright.deploy.rendering.components import Pins
from archwright.needs.reader import parse_needs
from archwright.plan.planner import make_plan

EXAMPLES = ("desk", "startup", "clinic", "manufacturer")
MadePlan = Callable[[str], Plan]
MadeBundle = Callable[..., FileBundle]
MadeDeployment = Callable[..., Deployment]


@pytest.fixture(scope="session")
def catalog() -> Catalog:
    return load_catalog()


@pytest.fixture(scope="session")
def made_plan(planned: Planned, catalog: Catalog) -> MadePlan:
    """The plan of an example."""

    def make(name: str) -> Plan:
        needs, source = parse_needs(read_example(name).encode(), "needs.yaml", catalog)
        made = partial(make_plan, needs, source, catalog, MACHINE, NOW)
        return planned.find(f"{source.digest} {MACHINE} {NOW}", made, keep=True)

    return make


@pytest.fixture(scope="session")
def made_bundle(made_plan: MadePlan, catalog: Catalog) -> MadeBundle:
    """The bundle of an example, or of a given plan, for a target; `option` is a name, `pins` what a user resolved."""

    def make(
        plan: str | Plan, target: str, option: str | None = None, pins: Pins | None = None, environment: str = ""
    ) -> FileBundle:
        made = made_plan(plan) if isinstance(plan, str) else plan
        row = find_target(target, environment)
        chosen = select_option(made, row, option, "plan.json")
        return render_bundle(made, chosen, row, catalog, pins or Pins(), __version__)

    return make


@pytest.fixture(scope="session")
def made_deployment(made_plan: MadePlan, catalog: Catalog) -> MadeDeployment:
    def make(plan: str | Plan, target: str, option: str | None = None) -> Deployment:
        made = made_plan(plan) if isinstance(plan, str) else plan
        return build_deployment(
            made, select_option(made, find_target(target), option, "plan.json"), catalog, {}, __version__
        )

    return make


def list_cases(plans: dict[str, Plan]) -> list[tuple[str, str]]:
    """Every example x target that it has an option for."""
    return [
        (name, target.name)
        for name, plan in plans.items()
        for target in list_targets()
        if any(target.can_render(option) for option in plan.options)
    ]
