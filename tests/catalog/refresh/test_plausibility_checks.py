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


def price(offer: Offer, value: float | None, **changes: object) -> CheckedFacts:
    return with_offer(replace(offer, on_demand_usd_per_hour=value, **changes))


def rates(name: str, **flops: float) -> CheckedFacts:
    return with_accelerator(name, flops=flops)


def host(name: str) -> CheckedFacts:
    return price(M8G, 0.739, id=f"gcp:us-central1:{name}", provider="gcp", instance_type=name)


P5_USD, LLAMA = P5.on_demand_usd_per_hour or 0, CATALOG.models["Llama-3.1-8B-Instruct"]
TWICE = replace(LLAMA, parameters=LLAMA.parameters * 2)
NEWER = {"id": "newer", "instance_type": "m9g.16xlarge"}
DISCOUNTS = ("spot_usd_per_hour", "commit_1y_usd_per_hour", "commit_3y_usd_per_hour")
SLICE = {"id": "slice", "accelerator_count": 1, "accelerator_share": 0.125}


@pytest.mark.parametrize(
    ("gate", "facts", "subject", "says"),
    [
        *(("price-of-one", price(P5, P5_USD * times), P5.id, "median") for times in (0.1, 20.0, 0.0)),
        # The price of a slice counts for its share.
        ("price-of-one", price(P5, 0.9, **SLICE), "", ""),
        # Marketed memory taken for usable memory, and the memory of a device in the wrong unit.
        ("usable-memory", with_accelerator("H200-SXM-141GB", memory_bytes=192 << 30), "H200-SXM-141GB", ""),
        ("usable-memory", SHIPPED._replace(memory_gib={P5.id: 0.078, M8G.id: 1.0}), P5.id, ""),
        ("usable-memory", SHIPPED._replace(memory_gib={P5.id: 512.0, M8G.id: 1.0}), P5.id, ""),
        ("usable-memory", SHIPPED._replace(memory_gib={P5.id: 80.0}), "", ""),
        # A sparse rate sold as dense, a vector rate sold as matrix rate.
        ("dense-rates", rates("H100-SXM-80GB", bf16=989e12, fp8=3958e12), "H100-SXM-80GB", "fp8"),
        ("dense-rates", rates("H100-PCIe-80GB", fp32=67e12, bf16=101e12), "H100-PCIe-80GB", "32-bit"),
        ("dense-rates", rates("H100-PCIe-80GB", fp32=67e12), "", ""),
        ("accelerator-charged", host("a2-highgpu-2g"), "gcp:us-central1:a2-highgpu-2g", ""),
        ("accelerator-charged", host("a3-megagpu-8g"), "gcp:us-central1:a3-megagpu-8g", ""),
        ("size-order", price(M8G, 0.01), M8G.id, "costs"),
        # The same price as the older generation, no generation, no price.
        ("size-order", price(M8G, M8G.on_demand_usd_per_hour, **NEWER), "", ""),
        ("size-order", price(M8G, 0.001, id="unnamed", instance_type="big"), "", ""),
        ("size-order", price(M8G, None), "", ""),
        ("recount", SHIPPED._replace(models=(TWICE, *SHIPPED.models[1:])), LLAMA.id, ""),
        *(("below-list", price(P5, P5_USD, **{field: usd}), P5.id, "") for field in DISCOUNTS for usd in (60.0, 0.0)),
        *(("below-list", price(M8G, usd), M8G.id, "list price") for usd in (None, 0.0)),
        ("known-accelerators", with_offer(replace(P5, accelerator="H1000")), P5.id, "no row"),
        ("known-accelerators", with_offer(replace(P5, accelerator=None)), P5.id, "nothing"),
        ("known-accelerators", with_offer(replace(P5, accelerator_count=0)), P5.id, "0 x"),
    ],
)
def test_a_planted_error_is_found_by_its_gate(gate: str, facts: CheckedFacts, subject: str, says: str) -> None:
    findings = found(gate, facts)
    assert {one.subject for one in findings} == ({subject} if subject else set())
    assert len(findings) == 1 or gate == "size-order" or not subject
    assert all(one.refuses and says in one.says for one in findings)


def test_a_newer_generation_that_costs_less_is_flagged_only() -> None:
    (one,) = found("size-order", price(M8G, 1.0, **NEWER))
    assert (one.subject, one.refuses) == ("newer", False)


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
