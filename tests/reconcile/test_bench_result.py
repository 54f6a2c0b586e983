from __future__ import annotations

import pytest

from archwright.reconcile.bench_result import BenchPhase, BenchRequestTiming, RequestOutcome


def timing(
    outcome: RequestOutcome = "finished", *, first: float | None = 1.2, tokens: int = 11, chunks: int = 11
) -> BenchRequestTiming:
    return BenchRequestTiming(
        due_s=0.9,
        sent_s=1.0,
        first_s=first,
        last_s=None if first is None else first + 1.0,
        ended_s=2.5,
        asked_tokens=11,
        input_tokens=None,
        output_tokens=tokens,
        chunks=chunks,
        outcome=outcome,
    )


def phase(*requests: BenchRequestTiming) -> BenchPhase:
    return BenchPhase(name="closed", started_at=100.0, ended_at=110.0, load_s=10.0, requests=requests)


def test_the_definitions() -> None:
    request = timing()
    assert request.ttft_s == pytest.approx(0.2)
    assert request.tpot_s == pytest.approx(0.1)
    assert request.latency_s == pytest.approx(1.5)
    assert request.late_s == pytest.approx(0.1)


def test_unfinished_requests_and_single_tokens_have_no_tpot() -> None:
    for request in (timing("cut"), timing("failed"), timing(tokens=1), timing(first=None)):
        assert request.tpot_s is None
    assert timing("cut").latency_s is None
    assert timing("cut").ttft_s == pytest.approx(0.2)
    assert timing(first=None).ttft_s is None


def test_a_phase_counts_tokens_of_cut_streams_at_the_finished_rate() -> None:
    counted = phase(timing(tokens=20, chunks=10), timing("cut", tokens=5, chunks=5), timing("failed", chunks=9))
    assert counted.tokens_delivered == 20 + 2 * 5
    assert phase(timing("cut", chunks=4)).tokens_delivered == 4
    assert [counted.count(outcome) for outcome in ("finished", "cut", "failed")] == [1, 1, 1]
    assert counted.late_count == 3
    assert counted.window_s == 10.0
