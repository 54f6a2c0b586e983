"""Speech and documents sized by published rates; reranking as embedding of pairs."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.sizing.conftest import CATALOG, known

from archwright.contract.needs import SLO, TokenLength
from archwright.sizing.hardware.machine import Machine
from archwright.sizing.workloads.embedding import size_rerank_serving
from archwright.sizing.workloads.published_rate import (
    SPEECH_SERVED,
    device_gain,
    estimate_device_rate,
    size_parsing_batch,
    size_speech_serving,
)

TURBO, PARSER = CATALOG.speech_models["whisper-large-v3-turbo"], CATALOG.document_parsers["MinerU2.5-2509-1.2B"]
RERANKER = CATALOG.rerankers["bge-reranker-v2-m3"]


def machine(name: str | None, count: int = 1) -> Machine:
    return Machine(f"{count}x {name}", CATALOG.accelerator(name) if name else None, count if name else 0, 16, 64e9)


def test_the_reference_device_has_its_published_rate() -> None:
    reference = CATALOG.accelerator(TURBO.reference)
    gain = device_gain(reference, reference)
    assert (gain.low, gain.value, gain.high) == (1, 1, 1)
    rate = estimate_device_rate(reference, TURBO, SPEECH_SERVED, CATALOG)
    assert rate.low < rate.value < TURBO.rate_per_s < rate.high


# arXiv 2509.22186: 2.12 pages/s on an A100 and 1.70 on an RTX 4090.
def test_a_second_published_device_lies_in_the_band() -> None:
    gain = device_gain(CATALOG.accelerator("RTX-4090"), CATALOG.accelerator(PARSER.reference))
    assert gain.low <= 1.70 / 2.12 <= gain.high
    faster = device_gain(CATALOG.accelerator("H100-SXM-80GB"), CATALOG.accelerator(PARSER.reference))
    assert 1 < faster.low < faster.value < faster.high


def test_speech_takes_devices_that_hold_the_model() -> None:
    found = known(size_speech_serving(machine("L4"), TURBO, "calls", 60, SLO(latency_p95_s=20), CATALOG))
    (basis,) = found.bases
    assert found.requests_per_s.basis == found.latency_p95_s.basis == basis.id
    assert found.requests_per_s.low < found.requests_per_s.value < found.requests_per_s.high
    assert found.latency_p95_s.value <= 20
    assert "scaled to L4" in basis.stratum
    assert any("hours of audio an hour" in text for text in found.assumptions)
    assert size_speech_serving(machine(None), TURBO, "calls", 60, SLO(), CATALOG) is None
    large = CATALOG.speech_models["Voxtral-Small-24B-2507"]
    assert size_speech_serving(machine("L4"), large, "calls", 60, SLO(), CATALOG) is None


def test_parsing_hours_grow_with_pages_and_shrink_with_devices() -> None:
    one, four = (known(size_parsing_batch(machine("L4", n), PARSER, "w", 1e6, CATALOG)) for n in (1, 4))
    assert one.machine_hours.value == pytest.approx(4 * four.machine_hours.value)
    more = known(size_parsing_batch(machine("L4"), PARSER, "w", 2e6, CATALOG))
    assert more.machine_hours.value == pytest.approx(2 * one.machine_hours.value)
    assert size_parsing_batch(machine(None), PARSER, "w", 1e6, CATALOG) is None


@given(st.floats(1, 5000), st.floats(1.05, 4))
@settings(max_examples=25, deadline=None)
def test_more_work_per_request_means_fewer_requests(size: float, more: float) -> None:
    for limit in (SLO(), SLO(latency_p95_s=5)):
        audio = [size_speech_serving(machine("L4"), TURBO, "w", one, limit, CATALOG) for one in (size, size * more)]
        tokens = [TokenLength(mean=one * 100, p95=one * 150) for one in (size, size * more)]
        pairs = [size_rerank_serving(machine("L4"), RERANKER, "w", one, limit, CATALOG) for one in tokens]
        for less, greater in (audio, pairs):
            fewer, most = known(greater), known(less)
            if not fewer.misses:
                assert fewer.requests_per_s.value <= most.requests_per_s.value * 1.12


def test_a_rerank_request_is_its_pairs() -> None:
    forty = known(size_rerank_serving(machine("L4"), RERANKER, "w", TokenLength(mean=20480, p95=20480), SLO(), CATALOG))
    one = known(size_rerank_serving(machine("L4"), RERANKER, "w", TokenLength(mean=512, p95=512), SLO(), CATALOG))
    assert one.requests_per_s.value == pytest.approx(40 * forty.requests_per_s.value, rel=0.1)
    assert "40 pairs" in forty.assumptions[-1]
