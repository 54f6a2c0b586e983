"""The load of a workload in words, for each way to state it."""

from __future__ import annotations

import pytest

from archwright.contract.needs import RequestRate, Traffic, Workload
from archwright.plan.explain.formatting import describe_load

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
def test_the_load_is_said_in_the_terms_of_the_needs(workload: Workload, said: str) -> None:
    assert describe_load(workload) == said
