"""Purchase rules: expired prices, undated prices, export control."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from archwright.catalog.catalog import Catalog
from archwright.catalog.load import load_catalog
from archwright.catalog.tables.export_rules import read_export_rules
from archwright.contract.plan import ConstraintViolation, PurchaseKind
from archwright.contract.record import replace
from archwright.needs.reader import parse_needs
from archwright.needs.template import TEMPLATES, read_template
from archwright.plan.accounting.budget import OptionDraft
from archwright.plan.accounting.fleet import Location
from archwright.plan.capacity.candidates import MachineFinder, list_tasks
from archwright.plan.options import purchase_rules as rules
from archwright.plan.options.option_builder import BuiltOption
from archwright.plan.planner import make_plan
from archwright.report.plan_texts import describe_miss

from ...planned import Planned
from ..conftest import MACHINE, NOW
from ..cost.test_operating_costs import needs_of as needs_named
from ..fleet_samples import house, own_fleet
from ..option_samples import buy, draft

LATE = ConstraintViolation(constraint="a.deadline_h", value=2.0, limit=1.0)


def made(catalog: Catalog, node: str, usd: float, *misses: ConstraintViolation) -> BuiltOption:
    fleet = own_fleet(needs_named("clinic"), catalog, node, ("letters",))
    return BuiltOption(draft("on-premises", buy(usd), misses=misses, placement="on-premises", fleets=(fleet,)))


def francs(usd: float) -> str:
    return f"{usd / 2:,.0f} CHF"


def test_the_saving_of_an_expired_price_is_noted(catalog: Catalog) -> None:
    dated = made(catalog, "8x-h100", 900)
    assert not catalog.has_valid_price(catalog.nodes["8x-gaudi3"]), "the row that the rule is about"
    found = rules.prefer_valid_prices(dated, made(catalog, "8x-gaudi3", 600), catalog, francs)
    assert found.draft.fleets == dated.draft.fleets and not found.draft.misses
    assert found.draft.notes == (
        "an option with 8x-gaudi3, whose price is undated or expired, would cost 150 CHF less over the horizon. "
        "Ask for a quote, or use --accept-stale",
    )
    assert rules.prefer_valid_prices(dated, made(catalog, "8x-gaudi3", 950), catalog, francs) == dated
    # Another mix of machines with valid prices is no reason to mention a saving.
    assert rules.prefer_valid_prices(dated, made(catalog, "8x-h200", 600), catalog, francs) == dated


def test_an_expired_price_is_missed_if_no_other_option_keeps_the_limits(catalog: Catalog) -> None:
    late = made(catalog, "8x-h100", 900, LATE)
    for stale, missed in (((), ["stale_facts"]), ((LATE,), ["a.deadline_h"])):
        found = rules.prefer_valid_prices(late, made(catalog, "8x-gaudi3", 600, *stale), catalog, francs)
        assert [miss.constraint for miss in found.draft.misses] == missed


def test_an_uncertain_price_needs_a_quote(catalog: Catalog) -> None:
    assert rules.describe_uncertain_prices(made(catalog, "8x-h100", 1).draft, catalog) == ()
    (note,) = rules.describe_uncertain_prices(made(catalog, "8x-mi300x", 1).draft, catalog)
    assert note.startswith("ask for a quote: the price of 8x-mi300x")


def test_an_uncertain_price_enters_at_the_upper_end_of_its_band(catalog: Catalog) -> None:
    finder, site = MachineFinder(needs_named("clinic"), catalog), Location("on-premises", "on-premises", "DE", "DE")
    hosts = {host.machine.id: host for host in finder.list_purchasable(site)}
    for name, row in catalog.nodes.items():
        if (host := hosts.get(name)) is not None and host.node is not None:
            uncertain = row.confidence in ("low", "recalled")
            assert (host.node.price_usd > row.price_usd) == uncertain, name
            assert not uncertain or host.node.price_usd >= row.price_high_usd, name
    assert hosts["jetson-agx-thor"].node is not None
    assert hosts["jetson-agx-thor"].node.price_usd == pytest.approx(3499 * 1.5), "one quote: the band of its confidence"


QUICK = ("startup",)
SLOW = [pytest.param(name, marks=pytest.mark.nightly) for name in TEMPLATES if name not in QUICK]


@pytest.mark.parametrize("template", [*QUICK, *SLOW])
def test_an_invalid_price_never_wins(catalog: Catalog, planned: Planned, template: str) -> None:
    """The machines of every option have a dated price that has not expired; chosen ones have at most one stale fact."""
    needs, source = parse_needs(read_template(template).encode(), "needs.yaml", catalog)
    plan = planned.find(f"{source.digest} {MACHINE} {NOW}", lambda: make_plan(needs, source, catalog, MACHINE, NOW))
    offers = {offer.id: offer for offer in catalog.offers}
    checked = 0
    for option in plan.options:
        for line in (line for line in option.purchases if line.kind != "owned"):
            ids = [f"{option.provider}:{region}:{line.machine}" for region in option.regions]
            node = catalog.nodes.get(line.machine)
            rows = [offers[name] for name in ids if name in offers] if node is None else [node]
            for row in rows:
                assert catalog.has_valid_price(row), (option.name, line.machine)
                facts = [row, *([catalog.accelerators[row.accelerator]] if row.accelerator else [])]
                stale = [one.id for one in facts if catalog.freshness(one) == "stale"]
                assert option.name != plan.chosen or len(stale) <= 1, stale
                checked += 1
    assert checked or template == "desk", "rows that the rule is about"


def test_an_old_spot_price_enters_at_the_upper_end_of_its_drift(catalog: Catalog) -> None:
    row = next(offer for offer in catalog.offers if offer.id == "aws:us-east-1:p5.48xlarge")
    (sold,) = (offer for offer in catalog.sold_offers("aws") if offer.id == row.id)
    assert row.spot_usd_per_hour and sold.on_demand_usd_per_hour == row.on_demand_usd_per_hour
    assert sold.spot_usd_per_hour == pytest.approx(row.spot_usd_per_hour * 1.49)
    day = date.fromisoformat(row.as_of)
    for age, factor in ((0, 1.0), (181, None)):
        (later,) = (o for o in load_catalog(today=day + timedelta(age)).sold_offers("aws") if o.id == row.id)
        assert later.spot_usd_per_hour == (None if factor is None else pytest.approx(row.spot_usd_per_hour * factor))


def test_only_a_small_organisation_buys_desk_side_machines(catalog: Catalog) -> None:
    needs = needs_named("startup")
    task, site = list_tasks(needs, catalog)[0], Location("on-premises", "on-premises", "US", "US")

    def forms(employees: int | None) -> set[str]:
        finder = MachineFinder(replace(needs, organisation=replace(needs.organisation, employees=employees)), catalog)
        hosts = (host for host in finder.list_purchasable(site) if finder.is_suitable(task, host))
        return {host.node.form for host in hosts if host.node is not None}

    assert forms(12) == {"rack", "desk"} and forms(None) == forms(5200) == {"rack"}


def bought(catalog: Catalog, country: str, node: str = "8x-h100", purchase: PurchaseKind = "bought") -> OptionDraft:
    fleet = own_fleet(needs_named("clinic"), catalog, node, ("letters",), where=house(country))
    return draft("on-premises", placement="on-premises", fleets=(fleet._replace(purchase=purchase),))


@pytest.mark.parametrize(
    ("country", "headquarters", "outcome"),
    [
        ("DE", "DE", ""),
        ("CN", "CN", "condition"),
        ("DE", "CN", "condition"),
        ("KP", "KP", "export"),
        ("CU", "CU", "export"),
        ("IL", "IL", ""),
    ],
)
def test_export_rules_count_for_the_place_and_the_buyer(
    catalog: Catalog, country: str, headquarters: str, outcome: str
) -> None:
    found = rules.check_export_control(bought(catalog, country), headquarters)
    texts = [note.partition(":")[0] for note in found.notes] + [miss.constraint for miss in found.misses]
    assert texts == ([outcome] if outcome else [])


def test_an_export_violation_is_a_sentence(catalog: Catalog) -> None:
    (miss,) = rules.check_export_control(bought(catalog, "KP"), "KP").misses
    assert describe_miss(miss) == "US export rules block H100-SXM-80GB in KP (group E:1)"


def test_owned_and_small_machines_need_no_export_licence(catalog: Catalog) -> None:
    for one in (bought(catalog, "CN", "cpu-2-socket"), bought(catalog, "CN", purchase="owned")):
        assert rules.check_export_control(one, "CN") == one
    large, small = (rules.compute_total_performance(catalog.accelerators[name]) for name in ("H100-SXM-80GB", "T4"))
    assert large > 4800 > rules.ADVANCED_PERFORMANCE > small


def test_every_export_rule_has_groups_and_a_source() -> None:
    assert all(rule.groups and rule.source for rule in read_export_rules().values())
    assert {name for name, rule in read_export_rules().items() if rule.outcome == "denied"} == {"CU", "IR", "KP", "SY"}
