"""The bench client against real HTTP servers on loopback, correct and faulty."""

from __future__ import annotations

import asyncio
import statistics
import time

import msgspec
import pytest

from archwright.contract.needs import TokenLength
from archwright.contract.plan import LoadSpec
from archwright.contract.record import replace
from archwright.policy.traffic import peak_arrivals
from archwright.reconcile.bench import BenchProgress, BenchTarget, BenchTimeouts, run_bench

from ..command_line import error_of
from .conftest import KEY, PER_WORD, PROBES, QUICK, TEMPLATE, Endpoint, Serve, bench
from .fake_endpoint import Request, Response

pytestmark = pytest.mark.enable_socket


def test_the_client_agrees_with_a_server_of_known_timings(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(ttft_s=0.08, tpot_s=0.012)
    load = replace(load, closed_s=1.5)
    result = bench(serve(endpoint), load, BenchTimeouts(), workload="chat")
    peak, closed = result.phases
    ttft = statistics.median(peak.collect_values(lambda r: r.ttft_s) + closed.collect_values(lambda r: r.ttft_s))
    tpot = statistics.median(peak.collect_values(lambda r: r.tpot_s) + closed.collect_values(lambda r: r.tpot_s))
    # Other work of the machine delays the client; the fastest requests agree.
    assert min(peak.collect_values(lambda r: r.ttft_s)) == pytest.approx(min(endpoint.ttfts), rel=0.25)
    assert min(peak.collect_values(lambda r: r.tpot_s)) == pytest.approx(min(endpoint.tpots), rel=0.25)
    assert [request.due_s for request in peak.requests] == [arrival.at_s for arrival in peak_arrivals(load)]
    assert peak.count("finished") == len(peak.requests)
    assert all(request.sent_s >= request.due_s for request in peak.requests)
    assert 1 <= closed.count("cut") <= load.concurrency
    mean = load.output_tokens.mean
    expected = load.concurrency * mean / (ttft + (mean - 1) * tpot)
    assert closed.tokens_delivered / closed.window_s == pytest.approx(expected, rel=0.35)
    assert closed.window_s > load.closed_s - 0.3
    assert peak.ended_at <= closed.started_at <= time.time()
    assert not any("ignore_eos" in note or "usage" in note for note in result.notes)


def test_the_traffic_is_the_plans_and_no_two_prompts_open_alike(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint()
    result = bench(serve(endpoint), load, workload="chat")
    sent = endpoint.bodies[PROBES:]
    arrivals = peak_arrivals(load)
    for body, arrival in zip(sent, arrivals, strict=False):
        words = body["messages"][0]["content"].split()
        assert TEMPLATE + PER_WORD * len(words) == pytest.approx(max(arrival.input_tokens, TEMPLATE + 1), abs=1.5)
        assert (body["max_tokens"], body["ignore_eos"]) == (arrival.output_tokens, True)
        assert body["stream_options"] == {"include_usage": True}
    openings = [tuple(body["messages"][0]["content"].split()[:2]) for body in endpoint.bodies]
    openings = [opening for opening in openings if len(opening) == 2]  # of single words there are only so many
    assert len(set(openings)) == len(openings) > len(endpoint.bodies) / 2
    assert {headers["Authorization"] for headers in endpoint.headers} == {f"Bearer {KEY}"}
    assert {headers["x-archwright-workload"] for headers in endpoint.headers} == {"chat"}
    assert result.tokens_per_word == pytest.approx(PER_WORD, abs=0.02)


def test_neither_key_nor_prompt_nor_answer_is_in_the_result(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint()
    result = bench(serve(endpoint), load)
    text = msgspec.json.encode(result).decode()
    assert KEY not in text
    assert endpoint.bodies[PROBES]["messages"][0]["content"] not in text
    assert "word word" not in text
    assert KEY not in repr(BenchTarget("http://h/v1", KEY, "m"))
    assert "x-archwright-workload" not in endpoint.headers[0]


def test_an_endpoint_that_knows_no_ignore_eos_is_asked_without_it(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(refuse=frozenset({"ignore_eos"}))
    result = bench(serve(endpoint), load)
    assert [("ignore_eos" in body) for body in endpoint.bodies[:2]] == [True, False]
    assert not any("ignore_eos" in body for body in endpoint.bodies[1:])
    assert any("refuses ignore_eos" in note for note in result.notes)


def test_a_strict_endpoint_gets_the_newer_limit_field(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(refuse=frozenset({"ignore_eos", "max_tokens", "stream_options"}), usage="plain")
    result = bench(serve(endpoint), load)
    assert set(endpoint.bodies[-1]) == {"model", "messages", "stream", "max_completion_tokens"}
    assert any("no usage in streams" in note for note in result.notes)


@pytest.mark.parametrize(("usage", "guessed"), [("plain", False), ("none", True)])
def test_without_usage_in_streams_chunks_are_counted(serve: Serve, load: LoadSpec, usage: str, guessed: bool) -> None:
    result = bench(serve(Endpoint(usage=usage)), load)
    peak = result.phases[0]
    assert [request.output_tokens for request in peak.requests] == [request.asked_tokens for request in peak.requests]
    assert any("no usage in streams" in note for note in result.notes)
    assert any("assume" in note for note in result.notes) == guessed
    assert guessed or result.tokens_per_word == pytest.approx(PER_WORD, abs=0.02)


def test_single_failures_are_counted_and_noted(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(fault=Endpoint.replying(503, "{}"), faulty=lambda n: n > PROBES and n % 3 == 0)
    result = bench(serve(endpoint), load)
    for phase in result.phases:
        failed = phase.count("failed")
        assert 0 < failed < len(phase.requests)
        assert f"{phase.name}: {failed} of {len(phase.requests)} requests failed: AW-REC-18" in " ".join(result.notes)
    assert len(endpoint.bodies) < 20_000


def test_streams_that_die_in_the_middle_are_failures_without_tpot(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(fault=Endpoint.dying, faulty=lambda n: n > PROBES and n % 2 == 0)
    peak = bench(serve(endpoint), load).phases[0]
    broken = [request for request in peak.requests if request.outcome == "failed"]
    assert broken
    assert {request.code for request in broken} == {"AW-REC-17"}
    assert all(request.tpot_s is None for request in broken)


def test_a_connection_that_the_server_let_go_between_requests_is_no_failure(serve: Serve, load: LoadSpec) -> None:
    """Some servers close a kept connection only when its next request arrives."""
    endpoint = Endpoint()
    served: set[int] = set()

    async def once(request: Request) -> Response:
        if id(request.transport) in served:
            return await Endpoint.slamming(request)
        connections.append(request.transport)
        served.add(id(request.transport))
        return await endpoint(request)

    connections: list[asyncio.WriteTransport] = []  # kept, so that no id is used twice
    result = bench(serve(once), load)
    assert sum(phase.count("failed") for phase in result.phases) == 0
    assert len(connections) == len(endpoint.bodies)


def test_requests_sent_late_are_counted_and_reported(serve: Serve, load: LoadSpec) -> None:
    result = run_bench(BenchTarget(serve(Endpoint()), None, "small"), load, lambda _: time.sleep(0.2), limits=QUICK)
    peak = result.phases[0]
    assert peak.late_count > 0
    assert f"peak: {peak.late_count} of {len(peak.requests)} requests were sent late" in " ".join(result.notes)


def test_a_key_over_plain_http_beyond_this_machine_is_noted(serve: Serve, load: LoadSpec) -> None:
    url = serve(Endpoint())
    assert not any("without encryption" in note for note in bench(url, load).notes)
    assert any("without encryption" in note for note in bench(url.replace("127.0.0.1", "0.0.0.0"), load).notes)


def test_a_phase_in_which_everything_fails_is_an_error(serve: Serve, load: LoadSpec) -> None:
    error = error_of("AW-REC-18", bench, serve(Endpoint(fault=Endpoint.replying(503, "{}"))), load)
    failed = f"all {len(peak_arrivals(load))} requests of the peak phase failed"
    assert error.message.startswith(f"{failed}; most often: the server answers 503")


def test_a_server_that_stops_answering_is_an_error(serve: Serve, load: LoadSpec) -> None:
    url, limits = serve(Endpoint(fault=Endpoint.hanging)), BenchTimeouts(idle_s=2.0, drain_s=0.2)
    assert "none of the" in error_of("AW-REC-16", bench, url, replace(load, peak_s=0.5), limits).message


def test_the_drain_is_bounded_and_what_it_cuts_is_noted(serve: Serve, load: LoadSpec) -> None:
    endpoint = Endpoint(fault=Endpoint.stalling, faulty=lambda n: n > PROBES and n % 4 == 0)
    result = bench(serve(endpoint), load, BenchTimeouts(idle_s=2.5, drain_s=0.2))
    peak = result.phases[0]
    assert peak.count("cut") > 0, "not finished when the server goes on"
    assert any("were cancelled after the drain" in note for note in result.notes)


def test_short_answers_are_noted(serve: Serve, load: LoadSpec) -> None:
    async def curt(request: Request) -> Response:
        response = await Endpoint.begin(request)
        await Endpoint.event(response, {"choices": [{"delta": {"reasoning_content": "a"}, "finish_reason": "stop"}]})
        return response

    result = bench(serve(Endpoint(fault=curt)), replace(load, output_tokens=TokenLength(mean=20, p95=30)))
    assert any("responses had 1 tokens on average" in note for note in result.notes)


def test_progress_is_told_for_both_phases(serve: Serve, load: LoadSpec) -> None:
    told: list[BenchProgress] = []
    run_bench(BenchTarget(serve(Endpoint()), None, "small"), load, told.append, limits=QUICK)
    assert {progress.phase for progress in told} == {"peak", "closed"}
    last = [progress for progress in told if progress.phase == "peak"][-1]
    assert (last.started, last.finished, last.failed) == (len(peak_arrivals(load)), len(peak_arrivals(load)), 0)
    assert last.elapsed_s >= last.total_s == load.peak_s


def test_a_broken_progress_callback_does_not_stop_the_bench_half_way(serve: Serve, load: LoadSpec) -> None:
    def broken(progress: BenchProgress) -> None:
        raise RuntimeError("closed terminal")

    with pytest.raises(RuntimeError, match="closed terminal"):
        run_bench(BenchTarget(serve(Endpoint()), None, "small"), load, broken, limits=QUICK)
