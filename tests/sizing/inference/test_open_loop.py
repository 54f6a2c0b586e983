"""Latencies of one engine under Poisson requests: against queueing theory, and properties of any engine."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.contract.needs import SLO, TokenLength
from archwright.contract.record import replace
from archwright.sizing.hardware.roofline import EngineStep
from archwright.sizing.inference.open_loop import (
    GATEWAY_S,
    IDLE_UTILISATION,
    LIMITED_LATENCIES,
    MAX_UTILISATION,
    Z95,
    MaxLoad,
    OpenLoop,
    RequestProfile,
    build_request_profile,
)
from archwright.sizing.step_time.engine_step_times import STEPS_PER_PREFILL, StepTokens, UncontendedPrefill

CHAT = (TokenLength(mean=1800, p95=4200), TokenLength(mean=220, p95=600))


class Line(NamedTuple):
    base: float
    slope: float

    def step_s(self, batch: float) -> float:
        return self.base + self.slope * batch


class Plain(NamedTuple):
    """Steps of `base` + `slope` per answer, prompts of `token` seconds per token."""

    base: float = 0.01
    slope: float = 1e-4
    token: float = 1e-5
    started_s: float = 0.0

    @property
    def tokens(self) -> StepTokens:
        return StepTokens()

    def step_s(self, step: EngineStep) -> float:
        return self.base + self.slope * step.answering + self.token * step.prompt_tokens

    def decode_step(self, context: float) -> Line:
        return Line(self.base, self.slope * (1 + context / 1e4))

    def prefill_s(self, tokens: float, seen: float) -> float:
        return self.token * tokens

    def uncontended_prefill(self, prompt: float) -> UncontendedPrefill:
        return UncontendedPrefill(0.0, 0.0, self.token * prompt)


def engine(pace: Plain | None = None, slots: int = 256, chunk: int = 2048) -> OpenLoop:
    return OpenLoop(pace or Plain(), build_request_profile(*CHAT), slots, chunk)


def test_lengths_are_log_normal_and_cut() -> None:
    fixed = build_request_profile(TokenLength(mean=100, p95=100), TokenLength(mean=10, p95=10))
    assert fixed == RequestProfile(100, 100, 10, 1.0)
    flow = build_request_profile(*CHAT)
    sigma = Z95 - math.sqrt(Z95**2 - 2 * math.log(4200 / 1800))
    assert flow.spread == pytest.approx(math.exp(sigma**2))
    assert flow.context == 1910
    assert build_request_profile(TokenLength(mean=100, p95=1000), CHAT[1]).spread == pytest.approx(math.exp(Z95**2))
    assert build_request_profile(TokenLength(mean=100, p95=390), CHAT[1]).spread == pytest.approx(1.5 * 3.9)
    assert build_request_profile(CHAT[0], TokenLength(mean=0.2, p95=0.5)).answer == 1.0


def test_the_rate_is_littles_law_at_the_time_between_tokens() -> None:
    at = engine().at_batch(20.0)
    pace, share = Plain(), 20 / 220
    decode = pace.decode_step(1910).step_s(21)
    assert at.decode_s == decode
    assert at.rate == pytest.approx(20 / (220 * (decode + share * pace.prefill_s(1800, 0))))


def test_an_idle_engine_answers_as_if_alone() -> None:
    at = engine().idle
    assert at.batch == IDLE_UTILISATION
    assert at.rate == pytest.approx(0.0, abs=1e-3)
    late = math.hypot(2400 * 1e-5 + 2 * at.decode_s, at.decode_s / 2)
    alone = 0.018 + STEPS_PER_PREFILL * at.decode_s
    assert at.ttft_p95_s == pytest.approx(alone + GATEWAY_S + late, rel=2e-3)
    assert at.latency_p95_s == pytest.approx(at.ttft_p95_s + at.tpot_p95_s * 219)


def test_prompts_of_one_length_wait_as_an_m_d_1_queue() -> None:
    """With nearly free decode steps the engine is an M/D/1 server of prompts, with the textbook's wait."""
    flow = build_request_profile(TokenLength(mean=1000, p95=1000), TokenLength(mean=1, p95=1))
    at = OpenLoop(Plain(base=1e-4, slope=0.0, token=1e-4), flow, 100, 2048).at_rate(8.0)
    assert at.reading == pytest.approx(0.8, rel=1e-3)
    mean_wait = 0.8 * 0.1 / (2 * 0.2)
    assert at.inside == pytest.approx(at.batch + at.rate * (0.1 + 2 * mean_wait), rel=2e-2)
    waits = at.ttft_p95_s - 0.1 - GATEWAY_S
    assert waits == pytest.approx(mean_wait / 0.8 * math.log(20 * 0.8) + mean_wait, rel=2e-2)


def test_without_limits_a_stated_share_of_what_saturates_it() -> None:
    loop = engine()
    found = loop.find_max_load(SLO())
    assert found.broken == ()
    at = found.point
    crowd = at.inside + Z95 * math.sqrt(at.inside)
    saturated = loop.at_rate(1e9).rate
    assert at.rate == pytest.approx(MAX_UTILISATION * saturated, rel=1e-4) or crowd == pytest.approx(256, rel=1e-3)


@pytest.mark.parametrize("name", LIMITED_LATENCIES)
def test_a_limit_is_used_up(name: str) -> None:
    free = engine().find_max_load(SLO()).point
    idle = engine().idle
    limit = (getattr(free, name) + getattr(idle, name)) / 2
    held = engine().find_max_load(SLO(**{name: limit}))
    assert getattr(held.point, name) == pytest.approx(limit, rel=1e-3)
    assert getattr(held.point, name) <= limit
    assert held.point.rate < free.rate


def test_a_limit_that_an_idle_engine_breaks_is_named_and_dropped() -> None:
    found = engine().find_max_load(SLO(ttft_p95_s=0.001, tpot_p95_s=0.05))
    assert found.broken == (("ttft_p95_s", engine().idle.ttft_p95_s),)
    assert found.point == engine().find_max_load(SLO(tpot_p95_s=0.05)).point


def test_a_rate_out_of_reach_is_a_full_engine() -> None:
    loop = engine(slots=8)
    assert loop.at_rate(1e9).inside == pytest.approx(8, rel=1e-3)
    assert loop.at_rate(0.0) == loop.idle


def test_an_engine_that_reads_for_hours_is_idle_at_fewer_requests() -> None:
    slow = OpenLoop(Plain(token=1.0), build_request_profile(CHAT[0], TokenLength(mean=1, p95=1)), 256, 2048)
    assert slow.idle.batch < IDLE_UTILISATION / 1000
    assert slow.idle.reading < 2 * IDLE_UTILISATION


def test_prompts_that_come_faster_than_they_are_read_wait_for_ever() -> None:
    at = engine(Plain(token=1e-3), chunk=256).at_batch(200.0)
    assert at.reading >= 1
    assert at.ttft_p95_s == at.inside == math.inf


lengths = st.builds(
    lambda reads, tail, writes: (TokenLength(mean=reads, p95=reads * tail), TokenLength(mean=writes, p95=writes * 2)),
    *(st.floats(1e-3, 1e9), st.floats(1, 6), st.floats(1e-3, 1e9)),
)
limits = st.one_of(st.none(), st.floats(1e-4, 1e4))
slos = st.builds(SLO, ttft_p95_s=limits, tpot_p95_s=limits, latency_p95_s=limits)
paces = st.builds(
    Plain, base=st.floats(1e-4, 1), slope=st.floats(0, 1e-2), token=st.floats(1e-7, 1e-2), started_s=st.floats(0, 0.1)
)


def most(pace: Plain, flow: tuple[TokenLength, TokenLength], slo: SLO, slots: int = 64) -> MaxLoad:
    return OpenLoop(pace, build_request_profile(*flow), slots, 2048).find_max_load(slo)


@settings(max_examples=60, deadline=None)
@given(paces, lengths, slos, st.sampled_from(LIMITED_LATENCIES), st.floats(1, 100))
def test_a_looser_limit_never_carries_less(
    pace: Plain, flow: tuple[TokenLength, TokenLength], slo: SLO, name: str, looser: float
) -> None:
    tight = most(pace, flow, slo)
    limit = getattr(slo, name)
    loose = most(pace, flow, replace(slo, **{name: None if limit is None else limit * looser}))
    assert len(loose.broken) <= len(tight.broken)
    if len(loose.broken) == len(tight.broken):
        assert loose.point.rate >= tight.point.rate


@settings(max_examples=60, deadline=None)
@given(paces, lengths, slos, st.floats(1, 20), st.booleans())
def test_longer_requests_never_go_faster(
    pace: Plain, flow: tuple[TokenLength, TokenLength], slo: SLO, longer: float, prompts: bool
) -> None:
    reads, writes = flow
    old = reads if prompts else writes
    new = TokenLength(mean=old.mean * longer, p95=old.p95 * longer)
    grown = (new, writes) if prompts else (reads, new)
    short, long = most(pace, flow, slo), most(pace, grown, slo)
    hair = 100 * OpenLoop(pace, build_request_profile(*grown), 64, 2048).idle.batch
    if not long.broken and long.point.batch > hair:
        assert short.broken == ()
        assert long.point.rate <= short.point.rate * (1 + 1e-3)


@settings(max_examples=60, deadline=None)
@given(paces, lengths, slos, st.integers(1, 256))
def test_what_is_found_holds_and_is_a_number(
    pace: Plain, flow: tuple[TokenLength, TokenLength], slo: SLO, slots: int
) -> None:
    found = most(pace, flow, slo, slots)
    assert all(math.isfinite(value) and value >= 0 for value in found.point)
    assert min(found.point.rate, found.point.ttft_p95_s, found.point.tpot_p95_s) > 0
    broken = {name for name, _ in found.broken}
    for name in LIMITED_LATENCIES:
        limit = getattr(slo, name)
        assert limit is None or name in broken or getattr(found.point, name) <= limit
    assert found.point.inside <= slots
