"""The load from what people know: monotone, replaced by what the file states, and remembered in the source."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from archwright.catalog.load import load_catalog
from archwright.contract.needs import DerivedLoad, Needs, NeedsSource, Traffic, Workload
from archwright.errors import NeedsError
from archwright.home import Home
from archwright.needs.reader import parse_needs
from archwright.plan.capacity.machine_count import compute_running_hours
from archwright.plan.demand.forecast import HOURS_PER_MONTH, RUNS_PER_MONTH, SECONDS_PER_HOUR, forecast_demand


def read(kind: str, traffic: dict[str, object], country: str = "DE", **workload: object) -> tuple[Needs, NeedsSource]:
    tree = {
        "version": 1,
        "organisation": {"name": "a", "country": country},
        "workloads": [{"name": "a", "kind": kind, "traffic": traffic, **workload}],
        "data": [{"name": "mail", "size_gib": 1, "languages": ["pl", "en"]}, {"name": "silent", "size_gib": 1}],
        "budget": {"currency": "EUR", "horizon_months": 12},
    }
    return parse_needs(yaml.safe_dump(tree).encode(), "needs.yaml", load_catalog())


def convert(kind: str, **traffic: object) -> tuple[Traffic, DerivedLoad]:
    needs, source = read(kind, traffic)
    made = needs.workloads[0].traffic
    assert made is not None
    return made, source.loads[0]


def volume(traffic: Traffic) -> tuple[float, float, float]:
    """Return requests per second, at the peak and on average, and tokens of a prompt."""
    rate, length = traffic.requests_per_second, traffic.input_tokens
    assert rate is not None and length is not None and rate.mean <= rate.peak and length.mean <= length.p95
    return rate.mean, rate.peak, length.mean


KINDS: dict[str, dict[str, Any]] = {
    "chat": {"users": 40.0, "requests_per_user_day": 3.0, "turns": 2.0, "agent_steps": 1.0},
    "completion": {"users": 40.0, "requests_per_user_day": 50.0, "agent_steps": 2.0},
    "embedding": {"users": 40.0, "requests_per_user_day": 3.0},
    "rerank": {"users": 40.0, "requests_per_user_day": 3.0},
    "batch-text": {"documents": 5000.0, "pages_per_document": 3.0, "agent_steps": 1.0, "refresh": "week"},
    "vision-language": {"documents": 5000.0, "pages_per_document": 3.0, "refresh": "day"},
}


@settings(deadline=None, max_examples=60)
@given(
    st.sampled_from([(kind, field) for kind, row in KINDS.items() for field in row if field != "refresh"]), st.data()
)
def test_more_of_anything_is_never_less_load(case: tuple[str, str], draw: st.DataObject) -> None:
    kind, field = case
    given_fields = {name: value for name, value in KINDS[kind].items() if name == field or draw.draw(st.booleans())}
    given_fields = {
        **given_fields,
        **{name: KINDS[kind][name] for name in ("users", "documents") if name in KINDS[kind]},
    }
    if "documents" in given_fields:
        given_fields["refresh"] = KINDS[kind]["refresh"]
    fewer = volume(convert(kind, **given_fields)[0])
    more = volume(convert(kind, **{**given_fields, field: KINDS[kind][field] * draw.draw(st.floats(1, 50))})[0])
    assert all(a <= b * (1 + 1e-12) for a, b in zip(fewer, more, strict=True))


def test_users_make_the_stated_number_of_requests() -> None:
    """A day has users x conversations x turns x steps requests, on five of seven days, in the open hours."""
    traffic, load = convert("rag", users=700, requests_per_user_day=2, turns=5, agent_steps=3, hours_per_day=8)
    rate = traffic.requests_per_second
    assert rate is not None and math.isclose(rate.mean * 8 * SECONDS_PER_HOUR, 700 * 2 * 5 * 3 * 5 / 7)
    assert traffic.users == 700 and traffic.turns == 5
    assert not {"requests_per_user_day", "turns", "hours_per_day"} & {one.name for one in load.values}


def test_a_prompt_grows_by_half_of_the_conversation() -> None:
    lengths = {"input_tokens": {"mean": 500, "p95": 900}, "output_tokens": {"mean": 100, "p95": 200}}
    once, _ = convert("chat", users=10, turns=1, **lengths)
    often, load = convert("chat", users=10, turns=5, **lengths)
    message = next(one.estimate.value for one in load.values if one.name == "message_tokens")
    assert once.input_tokens is not None and once.input_tokens.mean == 500
    assert often.input_tokens is not None and often.input_tokens.mean == 500 + 4 / 2 * (message + 100)
    assert often.input_tokens.p95 == 900 + 4 * (message + 100)


def test_what_the_file_states_wins() -> None:
    stated = {"requests_per_second": {"mean": 1.5, "peak": 2.5}, "input_tokens": {"mean": 5, "p95": 6}}
    needs, source = read("chat", {**stated, "output_tokens": {"mean": 7, "p95": 8}})
    traffic = needs.workloads[0].traffic
    assert traffic is not None and volume(traffic) == (1.5, 2.5, 5) and source.loads == ()
    assert traffic.hours_per_day == 24
    steps, _ = convert("chat", agent_steps=4, **stated)
    assert steps.requests_per_second is not None and steps.requests_per_second.peak == 10


def test_documents_are_done_by_their_deadline() -> None:
    traffic, _ = convert("batch-text", documents=9000, refresh="week", deadline_h=10, pages_per_document=2)
    rate = traffic.requests_per_second
    assert rate is not None and math.isclose(rate.peak * 10 * SECONDS_PER_HOUR, 9000)
    assert math.isclose(rate.mean * HOURS_PER_MONTH * SECONDS_PER_HOUR, 9000 * RUNS_PER_MONTH["week"])
    demand = forecast_demand(Workload(name="a", kind="batch-text", traffic=traffic), 12)
    assert demand is not None and sum(level.hours for level in demand.levels) == pytest.approx(HOURS_PER_MONTH)
    assert demand.requests(0) == pytest.approx(demand.requests_per_month)
    paid = sum(
        hours * count for one in compute_running_hours(demand, 1e9)[:1] for hours, count in zip(*one, strict=True)
    )
    assert paid == pytest.approx(10 * RUNS_PER_MONTH["week"]), "one machine runs for ten hours a week"


def test_every_derived_value_is_in_its_band_and_its_override_removes_it() -> None:
    traffic, load = convert("chat", users=40)
    assert load.band.low < 1 < load.band.high
    for one in load.values:
        assert one.estimate.low <= one.estimate.value <= one.estimate.high and one.reason
    stated = {"requests_per_user_day": 3, "turns": 2, "hours_per_day": 10}
    fixed, _ = convert("chat", users=40, **stated)
    assert fixed.requests_per_second is not None and traffic.requests_per_second is not None
    lengths = {name: {"mean": 5, "p95": 6} for name in ("input_tokens", "output_tokens")}
    known, tight = convert("chat", users=40, **stated, **lengths)
    assert known.turns == 2 and tight.band.factor < load.band.factor
    assert {one.override for one in tight.values} == {"traffic.requests_per_second", "traffic.input_tokens"}


def test_chat_lengths_are_those_of_the_cited_trace() -> None:
    """The figures of `load_rules.csv` that name the trace; its statistics were computed once, on 19,366 rows."""
    rows = {(rule.kind, rule.quantity): rule for rule in load_catalog().load_rules}
    found = [rows["chat", f"{name}_tokens.{part}"].typical for name in ("input", "output") for part in ("mean", "p95")]
    assert found == [1155, 4083, 211, 451]
    assert all(rule.low <= rule.typical <= rule.high and rule.source and rule.as_of for rule in rows.values())
    folder = Path(__file__).parents[2] / "src" / "archwright" / "catalog" / "data"
    with (folder / "load_rules.csv").open(encoding="utf-8") as opened:
        assert len(rows) == sum(1 for _ in csv.DictReader(opened)), "each quantity of a kind has one row"


def test_languages_come_from_data_then_from_the_country() -> None:
    def languages(country: str = "DE", **workload: object) -> tuple[str, ...]:
        return read("chat", {"users": 4}, country, **workload)[0].workloads[0].languages

    assert languages() == ("de", "en")
    assert languages("CH") == ("de", "fr", "it", "en")
    assert languages("US") == languages("AQ") == ("en",)
    assert languages(data=["silent", "mail"]) == ("pl", "en")
    assert languages(data=["mail"], languages=["sv"]) == ("sv",)
    _, source = read("chat", {"users": 4})
    assert "a: languages de, en: the official languages of DE, and English" in source.defaults


def test_every_country_speaks_known_languages() -> None:
    catalog = load_catalog()
    spoken = {code for row in catalog.country_languages.values() for code in row.languages}
    assert spoken <= catalog.languages.keys() and len(catalog.country_languages) == 245


@settings(deadline=None, max_examples=80)
@given(st.sampled_from(sorted(KINDS)), st.data())
def test_any_number_is_a_load_or_one_error(kind: str, draw: st.DataObject) -> None:
    numbers = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1e-320, 1e10, 1e15, -0.0, 1e6])
    traffic = {name: value if isinstance(value, str) else draw.draw(numbers) for name, value in KINDS[kind].items()}
    try:
        made, load = convert(kind, **traffic)
    except NeedsError as error:
        assert error.where.line and error.hint
    else:
        assert math.isfinite(sum(volume(made))) and math.isfinite(load.band.factor)


def test_a_rule_of_the_user_replaces_the_shipped_rule(home: Home) -> None:
    """Also if its value lies outside the shipped interval."""
    home.folder("catalog").joinpath("user.yaml").write_text(
        "load_rules:\n  chat turns: {typical: 9, reason: survey of our users, until: 2099-01-31}\n", encoding="utf-8"
    )
    text = "version: 1\norganisation: {name: a, country: DE}\nbudget: {currency: EUR, horizon_months: 3}\n"
    text += "workloads: [{name: a, kind: chat, traffic: {users: 10}}]\n"
    _, source = parse_needs(text.encode(), "needs.yaml", load_catalog(home))
    turns = next(one for one in source.loads[0].values if one.name == "turns")
    assert turns.estimate.value == turns.estimate.high == 9 and "survey of our users" in turns.reason
