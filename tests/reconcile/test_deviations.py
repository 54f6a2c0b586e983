from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.contract.estimate import Estimate
from archwright.contract.evidence import Measurement, Prediction, Query, Statistic
from archwright.contract.plan import Plan
from archwright.contract.record import replace
from archwright.reconcile.deviations import reconcile_plan, select_measurements

from ..small_plans import PLAN

NUMBERS = st.floats(0, 1e12, allow_nan=False)


def prediction(name: str, band: tuple[float, float, float], metric: str = "ttft_s") -> Prediction:
    low, value, high = sorted(band)
    return Prediction(
        id=name,
        metric=metric,
        workload="w",
        estimate=Estimate(value=value, low=low, high=high, unit="u"),
        query=Query(metric=metric, labels={"workload": "w"}, statistic="p95", window_s=60),
    )


def measurement(plan: Plan, name: str, number: float, **changes: object) -> Measurement:
    made = Measurement(
        plan_digest=plan.digest,
        prediction_id=name,
        at=100.0,
        source="gateway",
        value=number,
        unit="u",
        statistic="p95",
        samples=9,
        window_s=10.0,
        evidence="asked",
    )
    return replace(made, **changes)


@given(
    st.lists(st.tuples(st.tuples(NUMBERS, NUMBERS, NUMBERS), st.one_of(st.none(), NUMBERS)), max_size=8),
    st.sampled_from(["ttft_s", "tokens_per_s"]),
)
def test_within_exactly_when_inside_the_band_and_coverage_counts_it(
    cases: list[tuple[tuple[float, float, float], float | None]], metric: str
) -> None:
    plan = replace(PLAN, predictions=tuple(prediction(str(n), band, metric) for n, (band, _) in enumerate(cases)))
    measured = {str(n): measurement(plan, str(n), value) for n, (_, value) in enumerate(cases) if value is not None}
    result = reconcile_plan(plan, measured)
    assert [deviation.prediction_id for deviation in result.deviations] == [p.id for p in plan.predictions]
    held = 0
    for deviation, (band, value) in zip(result.deviations, cases, strict=True):
        low, _, high = sorted(band)
        if value is None:
            assert deviation.verdict == "unknown"
            assert deviation.measured is None
            continue
        assert (deviation.verdict == "within") == (low <= value <= high)
        if value > high:
            assert deviation.verdict == ("better" if metric == "tokens_per_s" else "worse")
        if value < low:
            assert deviation.verdict == ("worse" if metric == "tokens_per_s" else "better")
        held += low <= value <= high
    assert result.coverage == (held / len(measured) if measured else None)
    assert reconcile_plan(plan, measured) == result


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"plan_digest": "another"}, "measured for another plan"),
        ({"unit": "ms"}, "measured in ms, predicted in u"),
        ({"samples": 0}, "no samples"),
        ({"value": float("nan")}, "not a finite number"),
        ({"value": float("inf")}, "not a finite number"),
    ],
)
def test_a_measurement_that_answers_nothing_is_unknown_and_says_why(changes: dict[str, object], why: str) -> None:
    plan = replace(PLAN, predictions=(prediction("a", (1, 2, 3)),))
    (deviation,) = reconcile_plan(plan, {"a": measurement(plan, "a", 2.0, **changes)}).deviations
    assert (deviation.measured, deviation.verdict) == (None, "unknown")
    assert deviation.evidence == f"asked  # {why}"


def test_a_gap_is_reported_beside_the_query() -> None:
    plan = replace(PLAN, predictions=(prediction("a", (1, 2, 3)),))
    (deviation,) = reconcile_plan(plan, {}, {"a": "nobody asked"}).deviations
    assert deviation.evidence == plan.predictions[0].query.promql() + "  # nobody asked"
    (plain,) = reconcile_plan(plan, {}).deviations
    assert plain.evidence == plan.predictions[0].query.promql()


@pytest.mark.parametrize(
    ("statistic", "printed", "samples"),
    [("rate", "mean", 9), ("last", "max", 1), ("p95", "p95", 9), ("mean", "mean", 9)],
)
def test_only_the_four_statistics_of_the_answer_are_printed(statistic: Statistic, printed: str, samples: int) -> None:
    plan = replace(PLAN, predictions=(prediction("a", (1, 2, 3)),))
    (deviation,) = reconcile_plan(plan, {"a": measurement(plan, "a", 2.0, statistic=statistic)}).deviations
    assert deviation.measured is not None
    assert (deviation.measured.statistic, deviation.measured.samples) == (printed, samples)


def test_the_newest_window_wins_and_inside_it_the_better_source() -> None:
    client = measurement(PLAN, "a", 1.0, source="client", at=100.0)
    gateway = measurement(PLAN, "a", 2.0, source="gateway", at=99.0)
    scraped = measurement(PLAN, "a", 3.0, source="prometheus", at=100.5)
    strange = measurement(PLAN, "a", 4.0, source="oracle", at=100.4)
    old_gateway = measurement(PLAN, "a", 5.0, source="gateway", at=50.0)
    other = measurement(PLAN, "b", 6.0, source="client")
    assert select_measurements([client, gateway, scraped, strange, old_gateway, other]) == {"a": gateway, "b": other}
    assert select_measurements([old_gateway, client])["a"] == client
    assert select_measurements([strange, scraped])["a"] == scraped
    assert select_measurements([old_gateway, gateway])["a"] == gateway
    assert select_measurements([]) == {}
