"""Plans of thirteen organisations, and what an experienced architect would refuse to sign in each.

`needs/` has the organisations and `refusals.yaml` the refusals, each with a bound and its source. The rules of every
plan (evidence, prices, known hosted models, tied services) hold for all of them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from archwright.catalog.catalog import Catalog
from archwright.catalog.layers.freshness import parse_as_of
from archwright.catalog.tables.records import ModelSpec
from archwright.contract.needs import TEXT_KINDS, Needs, Workload
from archwright.contract.plan import Option, Plan
from archwright.needs.reader import parse_needs
from archwright.plan.planner import make_plan

from ...planned import Planned
from ..conftest import MACHINE, NOW

HERE = Path(__file__).parent
REFUSALS: dict[str, list[dict[str, Any]]] = yaml.load((HERE / "refusals.yaml").read_text(), yaml.CSafeLoader)
NAMES = sorted(path.stem for path in (HERE / "needs").glob("*.yaml"))
# The smaller plans; the others take four fifths of the time of all.
EACH_COMMIT = {"hospital", "translators", "law-firm", "office"}
ORGANISATIONS = [name if name in EACH_COMMIT else pytest.param(name, marks=pytest.mark.nightly) for name in NAMES]
PlanOf = Callable[[str], tuple[Needs, Plan]]


def read_needs_file(name: str) -> bytes:
    return (HERE / "needs" / f"{name}.yaml").read_bytes()


@pytest.fixture(scope="module")
def signed(catalog: Catalog, planned: Planned) -> PlanOf:
    """The needs and the plan of an organisation; the plan is made once for all workers."""

    def make(name: str) -> tuple[Needs, Plan]:
        needs, source = parse_needs(read_needs_file(name), f"{name}.yaml", catalog)
        return needs, planned.find(f"sanity {source.digest}", lambda: make_plan(needs, source, catalog, MACHINE, NOW))

    return make


def chosen(plan: Plan) -> Option:
    assert plan.chosen_option is not None, [(one.name, one.misses) for one in plan.options]
    return plan.chosen_option


class Expert:
    """The checks of `refusals.yaml`; each raises AssertionError with what is wrong."""

    def __init__(self, catalog: Catalog, needs: Needs, plan: Plan) -> None:
        self.catalog, self.needs, self.plan, self.option = catalog, needs, plan, chosen(plan)

    def workload(self, refusal: dict[str, Any]) -> Workload:
        return next(one for one in self.needs.workloads if one.name == refusal["workload"])

    def model(self, refusal: dict[str, Any]) -> str:
        planned = next(one for one in self.plan.workloads if one.name == refusal["workload"])
        return planned.model or self.option.models[refusal["workload"]]

    def least_score(self, refusal: dict[str, Any]) -> None:
        planned = next(one for one in self.plan.workloads if one.name == refusal["workload"])
        scores = {one.benchmark: one for one in planned.evidence}
        for benchmark, least in refusal["bound"].items():
            assert benchmark in scores, f"{self.model(refusal)} is chosen without a word on {benchmark}"
            assert scores[benchmark].low >= least, f"{self.model(refusal)}: {scores[benchmark]}"

    def speaks_languages(self, refusal: dict[str, Any]) -> None:
        model = self.find_specialist(self.model(refusal))
        wanted = set(self.workload(refusal).languages)
        assert wanted and wanted <= set(model.languages), f"{model.id} speaks {model.languages}"

    def find_specialist(self, name: str) -> ModelSpec:
        found = self.catalog.find_specialist(name)
        assert found is not None, name
        return found

    def sees_images(self, refusal: dict[str, Any]) -> None:
        name = self.model(refusal)
        assert name in self.catalog.document_parsers or self.catalog.image_model("", name) is not None

    def most_per_user(self, refusal: dict[str, Any]) -> None:
        total = self.option.total_cost
        assert total is not None
        each = total.value / self.plan.horizon_months / refusal["users"]
        assert each <= refusal["bound"], f"{each:.0f} {self.plan.currency} per user and month"

    def most_a_month(self, refusal: dict[str, Any]) -> None:
        total = self.option.total_cost
        assert total is not None and total.value / self.plan.horizon_months <= refusal["bound"], total

    def most_hired(self, refusal: dict[str, Any]) -> None:
        hired = {one.role: one.hired for one in self.option.staff}
        assert sum(hired.values()) <= refusal["bound"], hired

    def buys_no_machines(self, refusal: dict[str, Any]) -> None:
        bought = [one for one in self.option.purchases if one.kind not in ("owned",) and one.pool != "gateway"]
        assert any(one.kind == "owned" for one in self.option.purchases)
        assert not bought, bought

    def most_devices(self, refusal: dict[str, Any]) -> None:
        pools = [one for one in self.option.pools if refusal["workload"] in one.workloads]
        devices = sum(pool.replicas * max(pool.accelerator_count, 1) for pool in pools)
        assert devices <= refusal["bound"], pools

    def most_machines(self, refusal: dict[str, Any]) -> None:
        assert 0 < sum(one.peak for one in self.option.purchases) <= refusal["bound"], self.option.purchases

    def most_training_cost(self, refusal: dict[str, Any]) -> None:
        name = refusal["workload"]
        cost = sum(line.total_over(self.plan.horizon_months) for line in self.option.cost_lines if name in line.name)
        assert cost <= refusal["bound"], cost

    def countries(self, refusal: dict[str, Any]) -> None:
        places = {pool.country for pool in (*self.option.pools, *self.plan.upstreams) if pool.country}
        assert places <= set(refusal["bound"]), places

    def placements(self, refusal: dict[str, Any]) -> None:
        assert self.option.placement in refusal["bound"]


@pytest.mark.parametrize("name", ORGANISATIONS)
def test_an_expert_would_sign(signed: PlanOf, catalog: Catalog, name: str) -> None:
    expert = Expert(catalog, *signed(name))
    assert REFUSALS[name]
    for refusal in REFUSALS[name]:
        getattr(expert, refusal["check"])(refusal)
        assert "bound" not in refusal or refusal["source"]


@pytest.mark.parametrize("name", ORGANISATIONS)
def test_no_hosted_model_is_unknown_for_want_of_a_row(signed: PlanOf, name: str) -> None:
    _, plan = signed(name)
    for option in plan.options:
        assert not [miss for miss in option.misses if ".quality." in miss.constraint and miss.value == "unknown"]


@pytest.mark.parametrize("name", ORGANISATIONS)
def test_models_are_chosen_on_evidence(signed: PlanOf, name: str) -> None:
    needs, plan = signed(name)
    texts = {one.name for one in needs.workloads if one.kind in TEXT_KINDS}
    for planned in plan.workloads:
        if planned.name in texts:
            assert planned.evidence and all(one.source and one.as_of for one in planned.evidence)
            assert all(one.low <= one.value <= one.high for one in planned.evidence)


@pytest.mark.parametrize("name", ORGANISATIONS)
def test_three_choices_stand_side_by_side(signed: PlanOf, name: str) -> None:
    needs, plan = signed(name)
    if not any(one.kind in TEXT_KINDS for one in needs.workloads):
        return
    cheap, tenth, best = plan.decision.choices
    assert (cheap.kind, tenth.kind, best.kind) == ("cheapest", "best-within-tenth", "best-within-budget")
    assert tenth.total_cost.value <= cheap.total_cost.value * 1.1 + 1
    for workload, quality in cheap.quality.items():
        assert best.quality[workload] >= quality - 1e-9


@pytest.mark.parametrize("name", ORGANISATIONS)
def test_every_price_of_the_choice_has_a_date(signed: PlanOf, catalog: Catalog, name: str) -> None:
    _, plan = signed(name)
    offers = {one.instance_type: one for one in catalog.offers}
    for purchase in chosen(plan).purchases:
        row = catalog.nodes.get(purchase.machine) or offers.get(purchase.machine)
        if row is not None and purchase.kind != "owned":
            assert parse_as_of(row.as_of) is not None, row


@pytest.mark.parametrize("name", [pytest.param("hospital", marks=pytest.mark.nightly), "translators"])
def test_an_emptied_score_is_answered_within_the_band_of_its_estimate(
    catalog: Catalog, tmp_path: Path, name: str
) -> None:
    """The model still passes the floor if its estimate does; the plan costs the same, within 1 %."""
    needs, source = parse_needs(read_needs_file(name), f"{name}.yaml", catalog)
    workload = next(one for one in needs.workloads if one.quality)
    benchmark, floor = next(iter(workload.quality.items()))
    before = make_plan(needs, source, catalog, MACHINE, NOW)
    model = chosen(before).models[workload.name]
    known = {one.benchmark: one for one in next(w for w in before.workloads if w.name == workload.name).evidence}
    folder = tmp_path / "data"
    shutil.copytree(catalog.folder, folder)
    table = folder / "llm_quality.csv"
    rows = table.read_text().splitlines()
    kept = [row for row in rows if not (row.startswith(f"{model},") and row.split(",")[2] == benchmark)]
    table.write_text("\n".join(kept) + "\n")
    emptied = Catalog(folder)
    provider = chosen(before).provider
    scores = emptied.open_evidence(model) or emptied.hosted_evidence(provider, model)
    estimate = scores[benchmark]
    assert estimate.estimated and estimate.low <= known[benchmark].value <= estimate.high
    after = make_plan(needs, source, emptied, MACHINE, NOW)
    if estimate.low >= floor:
        assert not any(".quality" in miss.constraint for miss in chosen(after).misses)
        old, new = chosen(before).total_cost, chosen(after).total_cost
        assert old is not None and new is not None and new.value == pytest.approx(old.value, rel=0.01)
