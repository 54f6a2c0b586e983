"""Switch points and loads in the terms of the needs."""

from __future__ import annotations

import pytest

from archwright.contract.decision import CostDriver
from archwright.contract.estimate import Estimate
from archwright.contract.needs import RequestRate, Traffic, Workload
from archwright.plan.explain.formatting import describe_load, describe_switch_point


def test_a_switch_point_has_the_unit_of_its_fact() -> None:
    stored = Estimate(value=3 * 2.0**40, low=2.0**40, high=4 * 2.0**40, unit="bytes")
    fact = CostDriver(
        basis="b", name="stored", estimate=stored, share=0.5, flips_to="x", flips_at=3.5 * 2.0**40, inside=True
    )
    assert "is 3 TiB (1 to 4); at 3.5 TiB, inside its interval" in describe_switch_point(fact)


RATE = RequestRate(mean=0.2, peak=0.694)
CASES = (
    (
        Workload(
            name="a", kind="speech-to-text", traffic=Traffic(documents=90, refresh="day", audio_s=2400, deadline_h=6)
        ),
        "60 hours of audio in 90 files each day, done within 6 h",
    ),
    (
        Workload(
            name="a",
            kind="document-parsing",
            traffic=Traffic(documents=9000, refresh="month", pages_per_document=12),
        ),
        "9,000 documents of 12 pages each month",
    ),
    (
        Workload(name="a", kind="rerank", traffic=Traffic(requests_per_second=RATE)),
        "0.694 requests/s at today's peak",
    ),
    (
        Workload(name="a", kind="data-processing", traffic=Traffic(gib_per_day=140, deadline_h=12)),
        "140 GiB a day, done within 12 h",
    ),
    (Workload(name="a", kind="finetune", tokens=4e7, every="month"), "40 M tokens in a run each month"),
    (Workload(name="a", kind="finetune"), ""),
)


@pytest.mark.parametrize(("workload", "said"), CASES)
def test_the_load_is_reported_in_the_terms_of_the_needs(workload: Workload, said: str) -> None:
    assert describe_load(workload) == said
