"""The fast path and the field checks return the same request or the same error."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from archwright.serving.http.errors import ApiError
from archwright.serving.requests import fast_path, request_validation
from archwright.serving.requests.field_checks import decode_body
from archwright.serving.requests.request_validation import GenerationRequest

from ..conftest import Entry, directory, endpoint


def spec(model: str, address: str, **changes: Any) -> Entry:
    given: dict[str, Any] = {"pool": model, "context_tokens": 100, **changes}
    return endpoint(model=model, workload=f"{model}-work", addresses=(address,), **given)


DIRECTORY = directory(spec("m", "unix:e"), spec("far", "https://e/v1", engine_model="vendor/x", vision=True))
TURNS = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["system", "user", "assistant", "developer", "tool", "x"]), "content": st.text()}
    )
    | st.fixed_dictionaries({"role": st.just("user"), "content": st.text(), "name": st.text(max_size=3)}),
    max_size=3,
)
NUMBERS = st.none() | st.booleans() | st.integers(-3, 200) | st.floats(-3, 3) | st.sampled_from(["1", 2**63, -(2**63)])
FIELDS: dict[str, st.SearchStrategy[Any]] = {
    "model": st.sampled_from(["m", "far", "far-work", "nobody", 7]),
    "messages": TURNS,
    **dict.fromkeys(("max_tokens", "max_completion_tokens", "temperature", "top_p", "presence_penalty"), NUMBERS),
    **dict.fromkeys(("frequency_penalty", "seed", "n", "stop", "user", "logprobs", "store", "strange"), NUMBERS),
    "stream": st.booleans() | st.none(),
    "stream_options": st.fixed_dictionaries({"include_usage": st.booleans()}) | st.just({}) | st.none(),
}
GOOD = {"model": "m", "messages": [{"role": "user", "content": "hello"}]}
BODIES = st.dictionaries(st.sampled_from(sorted(FIELDS)), st.none(), max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({name: FIELDS[name] for name in names})
)


def outcome(ask: Any) -> GenerationRequest | tuple[int, str | None, str]:
    try:
        found: GenerationRequest = ask()
    except ApiError as refusal:
        return refusal.status, refusal.param, refusal.message
    return found


@settings(max_examples=600, deadline=None, database=None)
@given(changes=BODIES)
@example(changes={"seed": -1, "temperature": 1, "stream": True, "stream_options": {"include_usage": True}})
@example(changes={"max_tokens": 5, "max_completion_tokens": 5})
@example(changes={"max_tokens": 5, "max_completion_tokens": 6})
@example(changes={"max_tokens": 101})
@example(changes={"stream_options": {}})
def test_both_ways_agree(changes: dict[str, Any]) -> None:
    body = {**GOOD, **changes}
    data = json.dumps(body).encode("utf-8", "surrogatepass")
    long = outcome(lambda: request_validation.validate_chat(decode_body(data), DIRECTORY, None))
    assert outcome(lambda: fast_path.parse_chat(data, DIRECTORY, None)) == long
