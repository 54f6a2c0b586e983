"""Provider quotas: a risk above the usual quota, a violation above the maximum."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from archwright.catalog.catalog import Catalog
from archwright.contract.needs import Budget
from archwright.plan.accounting.fleet import MachineFleet
from archwright.plan.capacity.quotas import check_machine_quotas as check_quotas
from archwright.plan.capacity.quotas import check_token_quota
from archwright.plan.capacity.service_levels import CheckedLevel
from archwright.plan.demand.forecast import list_text_demands

from ..cost.test_operating_costs import needs_of
from ..fleet_samples import CLOUD, own_fleet, rented_fleet

BUDGET = Budget(currency="EUR", horizon_months=36)


def check_machine_quotas(fleets: list[MachineFleet], catalog: Catalog) -> CheckedLevel:
    return check_quotas(fleets, BUDGET, catalog)


Rent = Callable[[int], MachineFleet]


@pytest.fixture
def rented(catalog: Catalog) -> Rent:
    return lambda count: rented_fleet(needs_of("startup"), catalog, ("support-chat",), count=count)


def test_all_machines_at_one_provider_count_together(catalog: Catalog, rented: Rent) -> None:
    quota, each = catalog.parameter("quota.aws"), rented(1).machine.accelerator_count
    usual, most = int(quota.value / each), int(quota.high / each)
    half = rented(usual // 2)
    one, two = (check_machine_quotas(fleets, catalog) for fleets in ([half], [half, half]))
    assert not one.notes and not two.notes and one.limits[0].probability > two.limits[0].probability
    (limit,), misses, (note,) = check_machine_quotas([half, half, rented(1)], catalog)
    assert not misses and "at aws" in note and limit.at_least and 0.4 < limit.probability < 0.5
    (_, (miss,), notes) = check_machine_quotas([rented(most + 1)], catalog)
    assert miss.limit == quota.high and not notes
    elsewhere = rented(usual)._replace(where=CLOUD._replace(provider="another"))
    (note,) = check_machine_quotas([elsewhere], catalog).notes
    assert "at another" in note, "an unknown provider has a smaller quota"


def test_serverless_quotas_are_smaller_and_owned_machines_need_none(catalog: Catalog, rented: Rent) -> None:
    workers = rented(200)
    workers = workers._replace(where=workers.where._replace(placement="serverless"))
    assert check_machine_quotas([workers], catalog).notes
    own = own_fleet(needs_of("startup"), catalog, "2x-l4", ("support-chat",), 100_000)
    assert check_machine_quotas([own._replace(purchase="owned")], catalog) == CheckedLevel()
    assert check_machine_quotas([own], catalog).misses, "above the maximum"


def test_tokens_have_a_tier_too(catalog: Catalog) -> None:
    (demand,) = list_text_demands(needs_of("startup"))
    quota = catalog.parameter("quota.tokens")
    per_second = demand.peak_at_horizon * (demand.input_tokens.mean + demand.output_tokens.mean)
    for share, found in ((0.99, (0, 0)), (1.01, (0, 1))):
        _, misses, notes = check_token_quota(demand.scaled_by(share * quota.value / per_second), "p", catalog)
        assert (len(misses), len(notes)) == found
    assert check_token_quota(demand.scaled_by(1.01 * quota.high / per_second), "p", catalog).misses


def test_monthly_peaks_follow_the_mean(rented: Rent) -> None:
    fleet = rented(1)._replace(machines=(0.1, 0.2), peak=400)
    assert fleet.monthly_peaks == (200.0, 400.0)
    assert fleet._replace(machines=(0.0, 0.0)).monthly_peaks == (0.0, 0.0)
