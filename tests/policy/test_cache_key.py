"""What is asked for again, and what is another question."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.cache_key import UNDECISIVE, Asked, Kind, Policy, canonical, repeatable

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


def asked(kind: Kind = "chat", version: str = "m@v1", **more: object) -> Asked:
    return Asked(kind, version, {**HELLO, **more})


@pytest.mark.parametrize(
    ("policy", "question", "control", "wanted"),
    [
        ("off", asked(), "", False),
        ("deterministic", asked(), "", True),
        ("deterministic", asked(temperature=0.0), "", True),
        ("deterministic", asked(temperature=0.1), "", False),
        ("deterministic", Asked("chat", "v", {"messages": []}), "", False),
        ("deterministic", asked(temperature=1, seed=0), "", True),
        ("deterministic", asked(temperature=1, seed=None), "", False),
        ("deterministic", asked("completion", temperature=1), "", False),
        ("deterministic", asked("messages", temperature=1), "", False),
        ("deterministic", asked("embedding", temperature=1), "", True),
        ("deterministic", asked("predict", temperature=1), "", True),
        ("all", asked(temperature=1), "", True),
        ("all", asked(), "no-store", False),
        ("all", asked(), "max-age=0, No-Cache", False),
        ("deterministic", asked(), "max-age=60", True),
    ],
)
def test_what_may_be_told_again(policy: Policy, question: Asked, control: str, wanted: bool) -> None:
    assert repeatable(policy, question, control) is wanted


def test_order_and_undecisive_parameters_make_no_difference() -> None:
    turned = Asked("chat", "m@v1", dict(reversed(HELLO.items())))
    assert canonical(turned) == canonical(asked())
    for name in UNDECISIVE:
        assert canonical(Asked("chat", "m@v1", {**HELLO, name: "x"})) == canonical(asked())


@pytest.mark.parametrize(
    "other",
    [
        asked(version="m@v2"),
        asked("completion"),
        asked(temperature=0.5),
        asked(seed=1),
        asked(messages=[{"role": "user", "content": "Hi "}]),
        asked(messages=[{"role": "system", "content": "Hi"}]),
        asked(model="other"),
        asked(max_tokens=5),
        asked(tools=[{"type": "function"}]),
        asked(response_format={"type": "json_object"}),
        asked(a_parameter_of_tomorrow=True),
    ],
)
def test_whatever_decides_the_answer_makes_another_question(other: Asked) -> None:
    assert canonical(other) != canonical(asked())


VALUES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=6))
def test_only_equal_questions_are_equal(parameters: dict[str, Any]) -> None:
    parameters = {name: value for name, value in parameters.items() if name not in UNDECISIVE}
    one = canonical(Asked("chat", "v", parameters))
    assert canonical(Asked("chat", "v", dict(reversed(parameters.items())))) == one
    assert canonical(Asked("chat", "v", {**parameters, "one more": 1})) != one
    assert canonical(Asked("chat", "v", parameters, ("beside",))) not in (
        one,
        canonical(Asked("chat", "v", parameters, ("",))),
    )
