"""The cheapest machine that holds the limits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from archwright.catalog.facts import Catalog
from archwright.catalog.rows import Offer
from archwright.catalog.table import DATA
from archwright.contract.needs import Needs, NeedsSource
from archwright.contract.record import replace
from archwright.errors import CatalogError
from archwright.plan.demand import Demand, text_demands
from archwright.plan.search import Search, accelerator_engine, bound_requests_per_s, cheapest, quantisation_for
from archwright.simulate.serving import one_replica, run

Read = Callable[..., tuple[Needs, NeedsSource]]


@pytest.fixture
def demand_of(needs_of: Read) -> Callable[..., Demand]:
    def made(peak: float, **slo: Any) -> Demand:
        def change(document: dict[str, Any]) -> None:
            workload = document["workloads"][0]
            workload["slo"] = slo
            workload["traffic"]["requests_per_second"]["peak"] = peak

        return text_demands(needs_of("startup", change)[0])[0]

    return made


def offer(catalog: Catalog, name: str) -> Offer:
    return next(found for found in catalog.offers if found.id == name)


def test_of_equal_accelerators_the_cheapest_host_is_kept(catalog: Catalog) -> None:
    small, big = offer(catalog, "aws:us-east-1:g6.xlarge"), offer(catalog, "aws:us-east-1:g6.4xlarge")
    assert cheapest([big, small]) == [small]
    assert len(cheapest([small, offer(catalog, "aws:us-east-1:g6.12xlarge")])) == 2


def test_eight_bits_where_the_accelerator_multiplies_them(catalog: Catalog) -> None:
    engine = accelerator_engine(catalog)
    assert quantisation_for(engine, catalog.accelerator("L4")) == "fp8"
    assert quantisation_for(engine, catalog.accelerator("A100-80GB-SXM")) == "bf16"
    assert quantisation_for(replace(engine, quantisations=("bf16",)), catalog.accelerator("L4")) == "bf16"


def test_without_an_engine_for_accelerators_nothing_is_guessed() -> None:
    bare = Catalog(DATA)
    bare.__dict__["engines"] = {}
    with pytest.raises(CatalogError) as caught:
        accelerator_engine(bare)
    assert caught.value.code == "AW-CAT-30"


def test_replicas_start_at_the_bound(catalog: Catalog, demand_of: Callable[..., Demand]) -> None:
    search, model = Search(catalog, 1), catalog.models["Phi-4"]
    here = [offer(catalog, "aws:us-east-1:g6e.xlarge")]
    demand = demand_of(300.0)
    candidate = search.ranked(demand, [model], here)[0]
    assert candidate.replicas * bound_requests_per_s(candidate.spec) >= demand.peak_at_horizon
    assert (candidate.replicas - 1) * bound_requests_per_s(candidate.spec) < demand.peak_at_horizon
    unlimited = search.best(demand, [model], here)
    assert unlimited is not None and unlimited.spec.replicas == candidate.replicas


def test_the_least_replicas_that_hold_a_limit(catalog: Catalog, demand_of: Callable[..., Demand]) -> None:
    search, model = Search(catalog, 1), catalog.models["Phi-4"]
    here = [offer(catalog, "aws:us-east-1:g6e.xlarge")]
    free = search.best(demand_of(300.0), [model], here)
    assert free is not None
    limit = run(one_replica(free.spec), 1.0).ttft_p95_s * 0.5
    held = search.best(demand_of(300.0, ttft_p95_s=limit), [model], here)
    assert held is not None
    assert held.misses == ()
    assert held.spec.replicas > free.spec.replicas
    assert run(one_replica(held.spec), 1.0).ttft_p95_s <= limit


def test_a_limit_nothing_holds_is_reported_on_the_nearest(catalog: Catalog, demand_of: Callable[..., Demand]) -> None:
    here = [offer(catalog, "aws:us-east-1:g6e.xlarge")]
    found = Search(catalog, 1).best(demand_of(3.0, tpot_p95_s=1e-7), [catalog.models["Phi-4"]], here)
    assert found is not None
    assert [miss.constraint for miss in found.misses] == ["support-chat.tpot_p95_s"]


def test_what_fits_nowhere_is_nothing(catalog: Catalog, demand_of: Callable[..., Demand]) -> None:
    here = [offer(catalog, "aws:us-east-1:g4dn.xlarge")]
    assert Search(catalog, 1).best(demand_of(3.0), [catalog.models["DeepSeek-V3"]], here) is None
