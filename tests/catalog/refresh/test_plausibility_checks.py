"""Each gate finds the error it was made for, planted into real rows, and nothing in the shipped ones."""

from __future__ import annotations

import pytest

from archwright.catalog.load import load_catalog
from archwright.catalog.refresh import plausibility_checks
from archwright.catalog.refresh.plausibility_checks import CheckedFacts, Finding
from archwright.catalog.tables.metadata_records import PlausibilityException
from archwright.catalog.tables.records import Offer
from archwright.contract.record import replace

CATALOG = load_catalog()
SHIPPED = CheckedFacts(CATALOG.accelerators, CATALOG.offers, tuple(CATALOG.models.values()))
P5 = next(row for row in CATALOG.offers if row.id == "aws:us-east-1:p5.48xlarge")
M8G = next(row for row in CATALOG.offers if row.id == "aws:us-east-1:m8g.16xlarge")


def with_offer(*changed: Offer) -> CheckedFacts:
    names = {row.id for row in changed}
    return SHIPPED._replace(offers=(*changed, *(row for row in CATALOG.offers if row.id not in names)))


def with_accelerator(name: str, **changes: object) -> CheckedFacts:
    row = replace(CATALOG.accelerators[name], **changes)
    return SHIPPED._replace(accelerators={**CATALOG.accelerators, name: row})


def found(gate: str, facts: CheckedFacts) -> list[Finding]:
    return [one for one in plausibility_checks.run_checks(facts, CATALOG.gate_exceptions) if one.gate == gate]


def test_the_shipped_rows_pass_every_gate() -> None:
    assert plausibility_checks.run_checks(SHIPPED, CATALOG.gate_exceptions) == ()
    assert len(plausibility_checks.PLAUSIBILITY_CHECKS) == 8


def test_every_exception_has_a_reason_and_a_needless_one_is_found() -> None:
    assert all(row.notes for row in CATALOG.gate_exceptions)
    extra = PlausibilityException(gate="recount", subject="phi-4", notes="none", source="s")
    (one,) = plausibility_checks.run_checks(SHIPPED, (*CATALOG.gate_exceptions, extra))
    assert (one.gate, one.subject) == (plausibility_checks.EXCEPTIONS, "recount phi-4")


@pytest.mark.parametrize("times", [0.1, 20.0, 0.0])
def test_a_price_far_from_its_class(times: float) -> None:
    planted = with_offer(replace(P5, on_demand_usd_per_hour=(P5.on_demand_usd_per_hour or 0) * times))
    (one,) = found("price-of-one", planted)
    assert one.subject == P5.id and one.refuses and "median" in one.says


def test_a_price_of_a_slice_counts_for_its_share() -> None:
    slice_ = replace(P5, id="slice", accelerator_count=1, accelerator_share=0.125, on_demand_usd_per_hour=0.9)
    assert found("price-of-one", with_offer(slice_)) == []


def test_marketing_memory_taken_for_usable_memory() -> None:
    (one,) = found("usable-memory", with_accelerator("H200-SXM-141GB", memory_bytes=192 << 30))
    assert one.subject == "H200-SXM-141GB"


@pytest.mark.parametrize("stated", [0.078, 512.0])
def test_memory_of_a_device_in_the_wrong_unit(stated: float) -> None:
    (one,) = found("usable-memory", SHIPPED._replace(memory_gib={P5.id: stated, M8G.id: 1.0}))
    assert one.subject == P5.id
    assert found("usable-memory", SHIPPED._replace(memory_gib={P5.id: 80.0})) == []


def test_a_sparse_rate_sold_as_dense() -> None:
    rates = {**CATALOG.accelerators["H100-SXM-80GB"].flops, "fp8": 3958e12}
    (one,) = found("dense-rates", with_accelerator("H100-SXM-80GB", flops=rates))
    assert "fp8" in one.says


def test_a_vector_rate_sold_as_matrix_rate() -> None:
    rates = {"fp32": 67e12, "bf16": 101e12}
    (one,) = found("dense-rates", with_accelerator("H100-PCIe-80GB", flops=rates))
    assert "32-bit" in one.says
    assert found("dense-rates", with_accelerator("H100-PCIe-80GB", flops={"fp32": 67e12})) == []


@pytest.mark.parametrize("name", ["a2-highgpu-2g", "a3-megagpu-8g"])
def test_a_host_price_without_its_accelerators(name: str) -> None:
    host = replace(M8G, id=f"gcp:us-central1:{name}", provider="gcp", instance_type=name, on_demand_usd_per_hour=0.739)
    (one,) = found("accelerator-charged", with_offer(host))
    assert one.subject == host.id


def test_a_larger_machine_that_costs_less() -> None:
    cheap = replace(M8G, on_demand_usd_per_hour=0.01)
    names = [one.subject for one in found("size-order", with_offer(cheap))]
    assert names and set(names) == {M8G.id}


def test_a_newer_generation_that_costs_less_is_flagged_only() -> None:
    newer = replace(M8G, id="newer", instance_type="m9g.16xlarge", on_demand_usd_per_hour=1.0)
    (one,) = found("size-order", with_offer(newer))
    assert (one.subject, one.refuses) == ("newer", False)
    same = replace(newer, on_demand_usd_per_hour=M8G.on_demand_usd_per_hour)
    assert found("size-order", with_offer(same)) == []


def test_machines_without_a_price_or_a_generation_have_no_order() -> None:
    unnamed = replace(M8G, id="unnamed", instance_type="big", on_demand_usd_per_hour=0.001)
    assert found("size-order", with_offer(unnamed)) == []
    unpriced = replace(M8G, on_demand_usd_per_hour=None)
    assert found("size-order", with_offer(unpriced)) == []


def test_a_wrong_count_of_parameters() -> None:
    model = CATALOG.models["Llama-3.1-8B-Instruct"]
    wrong = replace(model, parameters=model.parameters * 2)
    (one,) = found("recount", SHIPPED._replace(models=(wrong, *SHIPPED.models[1:])))
    assert one.subject == model.id


@pytest.mark.parametrize("field", ["spot_usd_per_hour", "commit_1y_usd_per_hour", "commit_3y_usd_per_hour"])
def test_a_discounted_price_above_the_list_price(field: str) -> None:
    (one,) = found("below-list", with_offer(replace(P5, **{field: 60.0})))
    assert one.subject == P5.id
    (zero,) = found("below-list", with_offer(replace(P5, **{field: 0.0})))
    assert zero.subject == P5.id


@pytest.mark.parametrize("price", [None, 0.0])
def test_a_list_price_is_needed(price: float | None) -> None:
    (one,) = found("below-list", with_offer(replace(M8G, on_demand_usd_per_hour=price)))
    assert one.subject == M8G.id


@pytest.mark.parametrize("changes", [{"accelerator": "H1000"}, {"accelerator": None}, {"accelerator_count": 0}])
def test_an_accelerator_without_a_row_or_a_count(changes: dict[str, object]) -> None:
    (one,) = found("known-accelerators", with_offer(replace(P5, **changes)))
    assert one.subject == P5.id


@pytest.mark.parametrize(
    ("name", "family"),
    [
        ("m8g.16xlarge", "m8g"),
        ("m7i.metal-24xl", "m7i.metal"),
        ("Standard_D16ads_v5", "Standard_D#ads_v5"),
        ("a2-highgpu-8g", "a2-highgpu-#g"),
        ("n2-standard-8", "n2-standard-#"),
        ("cluster", "cluster"),
    ],
)
def test_a_family_is_the_type_without_its_size(name: str, family: str) -> None:
    assert plausibility_checks.machine_family(name) == family
