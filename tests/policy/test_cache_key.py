"""The requests that share a cache entry, and those that do not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.cache_key import (
    IGNORED_PARAMETERS,
    CacheKeyParts,
    CachePolicy,
    RequestKind,
    build_canonical_key,
    is_cacheable,
)

SAMPLED: tuple[RequestKind, ...] = ("completion", "messages")
UNSAMPLED: tuple[RequestKind, ...] = ("embedding", "predict")
HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


def asked(kind: RequestKind = "chat", version: str = "m@v1", **more: object) -> CacheKeyParts:
    return CacheKeyParts(kind, version, {**HELLO, **more})


@pytest.mark.parametrize(
    ("policy", "question", "control", "wanted"),
    [
        ("off", asked(), "", False),
        ("all", asked(temperature=1), "", True),
        *(("all", asked(), control, False) for control in ("no-store", "max-age=0, No-Cache")),
        ("deterministic", asked(), "max-age=60", True),
        *(("deterministic", asked(temperature=value), "", value == 0) for value in (0, 0.0, 0.1)),
        ("deterministic", CacheKeyParts("chat", "v", {"messages": []}), "", False),
        *(("deterministic", asked(temperature=1, seed=seed), "", seed == 0) for seed in (0, None)),
        *(("deterministic", asked(kind, temperature=1), "", False) for kind in SAMPLED),
        *(("deterministic", asked(kind, temperature=1), "", True) for kind in UNSAMPLED),
    ],
)
def test_what_may_be_told_again(policy: CachePolicy, question: CacheKeyParts, control: str, wanted: bool) -> None:
    assert is_cacheable(policy, question, control) is wanted


def test_order_and_undecisive_parameters_make_no_difference() -> None:
    turned = CacheKeyParts("chat", "m@v1", dict(reversed(HELLO.items())))
    assert build_canonical_key(turned) == build_canonical_key(asked())
    for name in IGNORED_PARAMETERS:
        assert build_canonical_key(CacheKeyParts("chat", "m@v1", {**HELLO, name: "x"})) == build_canonical_key(asked())


@pytest.mark.parametrize(
    "other",
    [
        *(asked(version="m@v2"), asked("completion"), asked(temperature=0.5), asked(seed=1), asked(model="other")),
        *(asked(messages=[{"role": role, "content": text}]) for role, text in (("user", "Hi "), ("system", "Hi"))),
        *(asked(max_tokens=5), asked(tools=[{"type": "function"}]), asked(response_format={"type": "json_object"})),
        asked(a_parameter_of_tomorrow=True),
    ],
)
def test_whatever_decides_the_answer_makes_another_question(other: CacheKeyParts) -> None:
    assert build_canonical_key(other) != build_canonical_key(asked())


VALUES = st.none() | st.integers() | st.text(max_size=5) | st.lists(st.integers(), max_size=3)


@given(st.dictionaries(st.text(max_size=5), VALUES, max_size=6))
def test_only_equal_questions_are_equal(parameters: dict[str, Any]) -> None:
    parameters = {name: value for name, value in parameters.items() if name not in IGNORED_PARAMETERS}
    one = build_canonical_key(CacheKeyParts("chat", "v", parameters))
    assert build_canonical_key(CacheKeyParts("chat", "v", dict(reversed(parameters.items())))) == one
    assert build_canonical_key(CacheKeyParts("chat", "v", {**parameters, "one more": 1})) != one
    assert build_canonical_key(CacheKeyParts("chat", "v", parameters, ("beside",))) not in (
        one,
        build_canonical_key(CacheKeyParts("chat", "v", parameters, ("",))),
    )
