"""Errors of lower layers become responses without details that a client must not see."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archwright.errors import ArchwrightError, EngineError, ErrorLocation, InternalError, OperateError, StoreError
from archwright.http_client.client import EngineRefused
from archwright.serving.http.engine_refusals import LengthRefusal, parse_length_refusal
from archwright.serving.http.errors import ApiError, redact_locations, to_api_error


def refused(status: int, error: object) -> EngineRefused:
    return EngineRefused(status, {"error": error}, ErrorLocation("unix:/run/x.sock"))


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (ApiError(418, "as it is", openai_code="x"), 418, "x"),
        (EngineError("AW-ENG-01", "gone"), 503, "engine_unavailable"),
        (StoreError("AW-STO-01", "full"), 503, "audit_unavailable"),
        (InternalError("AW-INT-01", "bug in /src/x.py"), 500, "bug"),
        (OperateError("AW-OPS-01", "the disk is full"), 503, "unavailable"),
        (refused(400, {"message": "bad grammar", "type": "invalid_request_error"}), 400, "engine_refused"),
        (refused(422, {"message": "bad"}), 400, "engine_refused"),
        (refused(400, "plain words"), 400, "engine_refused"),
        (refused(400, None), 400, "engine_refused"),
        (refused(400, {"type": "exceed_context_size_error"}), 400, "context_length_exceeded"),
        (refused(400, {"message": "maximum context length is 5"}), 400, "context_length_exceeded"),
        (refused(500, {"message": "input is too large to process"}), 400, "context_length_exceeded"),
        (refused(501, {"message": "This server does not support embeddings."}), 400, "engine_refused"),
        (refused(500, {"message": "image input is not supported - hint: mmproj"}), 400, "engine_refused"),
        (refused(500, {"message": "CUDA error: operation not supported"}), 502, "engine_failed"),
        (refused(401, {"message": "your key sk-123"}), 502, "upstream_misconfigured"),
        (refused(403, "sk-123 may not"), 502, "upstream_misconfigured"),
        (refused(404, {"message": "model `x` does not exist"}), 502, "upstream_misconfigured"),
        (refused(404, {"code": "DeploymentNotFound", "message": "/srv"}), 502, "upstream_misconfigured"),
        (refused(400, {"code": "model_not_found"}), 502, "upstream_misconfigured"),
        (refused(404, {"message": "Not Found"}), 502, "engine_failed"),
        (refused(429, {"code": "insufficient_quota", "message": "sk-123"}), 429, "insufficient_quota"),
        (refused(429, {"type": "insufficient_quota"}), 429, "insufficient_quota"),
        (refused(402, {"message": "Insufficient Balance"}), 429, "insufficient_quota"),
        (refused(400, {"message": "Your credit balance is too low to access"}), 429, "insufficient_quota"),
        (refused(400, {"code": "content_filter", "message": "filtered: /srv"}), 400, "content_filter"),
        (refused(400, {"code": "content_filter", "message": "the context length"}), 400, "content_filter"),
        (refused(429, {"message": "slow"}), 429, "engine_overloaded"),
        (refused(503, {"message": "Loading model"}), 503, "engine_unavailable"),
        (refused(500, {"message": "boom"}), 502, "engine_failed"),
    ],
)
def test_mapping(error: ArchwrightError, status: int, code: str) -> None:
    found = to_api_error(error)
    assert (found.status, found.openai_code) == (status, code)
    said = found.encode_body()
    for secret in (b"/src", b"/run", b"sk-123", b"unix:"):
        assert secret not in said
    headers = dict(found.headers())
    if code in ("upstream_misconfigured", "insufficient_quota"):
        assert headers[b"x-should-retry"] == b"false" and b"retry-after" not in headers
        assert "operator" in found.message and "Retry after" not in found.message
    elif status in (429, 502, 503):
        assert headers[b"retry-after"] and b"x-should-retry" not in headers


@pytest.mark.parametrize(
    ("said", "prompt", "context"),
    [
        ("However, you requested 4119 tokens (23 in the messages, 4096 in the completion).", "23", 2048),
        ("However, your request has 23 input tokens.", "23", 2048),
        ("However, you requested 4096 output tokens and your prompt contains 23 input tokens, in all.", "23", 2048),
        (
            "However, you requested 99 output tokens and your prompt contains at least 23 input tokens",
            "at least 23",
            2048,
        ),
    ],
)
def test_a_max_tokens_that_does_not_fit_is_named(said: str, prompt: str, context: int) -> None:
    found = to_api_error(refused(400, {"message": f"This model's maximum context length is {context} tokens. {said}"}))
    assert (found.status, found.param, found.openai_code) == (400, "max_tokens", "context_length_exceeded")
    assert f"holds {context} tokens; the prompt has {prompt}." in found.message
    assert "prompt is too long" not in found.message
    assert ("Send at most 2025." in found.message) == (prompt == "23")


LENGTHS = [
    (
        "'max_tokens' or 'max_completion_tokens' is too large: 8000. This model's maximum context length is 4096 "
        "tokens and your request has 2778 input tokens (8000 > 4096 - 2778). None",
        LengthRefusal(4096, 2778),
        1318,
    ),
    (
        "This model's maximum context length is 1024 tokens. However, you requested 0 output tokens and your prompt "
        "contains at least 1025 input tokens, for a total of at least 1025 tokens. (value=1025)",
        LengthRefusal(1024, 1025, exact=False),
        0,
    ),
    (
        "This model's maximum context length is 2048 tokens. However, you requested 1048 output tokens and your prompt "
        "contains at least 1001 input tokens, for a total of at least 2049 tokens.",
        LengthRefusal(2048, 1001, exact=False),
        256,
    ),
    (
        "This model's maximum context length is 4097 tokens, however you requested 4116 tokens (3860 in your prompt; "
        "256 for  the completion).",
        LengthRefusal(4097, 3860),
        237,
    ),
    ("This model's maximum context length is 900 tokens. However, your messages resulted in 950 tokens.", None, -50),
    (
        "Requested token count exceeds the model's maximum context length of 202752 tokens. You requested a total of "
        "202941 tokens: 170941 tokens from the input messages and 32000 tokens for the completion.",
        LengthRefusal(202752, 170941),
        31811,
    ),
    ("The input (50 tokens) is longer than the model's context length (40 tokens).", LengthRefusal(40, 50), -10),
    (
        "You passed 1900 input tokens and requested 200 output tokens. However, the model's context length is only "
        "2048 tokens, resulting in a maximum input length of 1848 tokens.",
        LengthRefusal(2048, 1900),
        148,
    ),
    ("This model's maximum context length is 64 tokens.", LengthRefusal(64), 8),
    ("'max_tokens' is 4096, but this model's context holds 64 tokens", LengthRefusal(64), 8),
    ("prompt is too long: 70 tokens > 64 maximum. This model's", LengthRefusal(64, 70), -6),
]


@pytest.mark.parametrize(("said", "refusal", "fits"), LENGTHS)
def test_the_engines_figures_are_read(said: str, refusal: LengthRefusal | None, fits: int) -> None:
    found = parse_length_refusal(refused(400, {"message": said}))
    assert found is not None and found == (refusal or LengthRefusal(900, 950))
    assert found.fit_length(40000) == fits
    assert parse_length_refusal(refused(400, {"message": f"'x' is wrong: {said}"})) is None, (
        "a quoted text is no figure"
    )
    assert parse_length_refusal(refused(500, {"message": said})) is None


@given(st.builds(LengthRefusal, st.integers(1, 4000), st.integers(0, 4000), st.booleans()), st.integers(1, 5000))
def test_a_repeated_request_is_never_longer(refusal: LengthRefusal, length: int) -> None:
    shorter = refusal.fit_length(length)
    assert shorter < length
    if shorter > 0 and refusal.prompt and refusal.exact:
        assert refusal.prompt + shorter <= refusal.context


def test_context_counts_are_passed_on() -> None:
    error = {"type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512}
    said = to_api_error(refused(400, error)).message
    # The message has the words of OpenAI and of Anthropic, since clients look for either.
    assert "This model's maximum context length is 512 tokens. However, your messages resulted in 900 tokens." in said
    assert "prompt is too long: 900 tokens > 512 maximum" in said
    elsewhere = {"message": "This model's maximum context length is 5 tokens, see /srv/m"}
    found = to_api_error(refused(400, elsewhere))
    assert found.message == "prompt is too long: This model's maximum context length is 5 tokens, see ..."


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot open /var/lib/models/a.gguf: no", "cannot open ...: no"),
        ("at unix:/run/e.sock and http://10.0.0.1:80/v1 now", "at ... and ... now"),
        ("yes/no and 1/2 stay", "yes/no and 1/2 stay"),
        ("two\n  lines", "two lines"),
    ],
)
def test_places_are_taken_out(text: str, shown: str) -> None:
    assert redact_locations(text) == shown


def test_long_texts_are_cut() -> None:
    assert len(redact_locations("word " * 1000)) == 400
    assert len(redact_locations("a" * 500_000)) == 400, "in no time: an engine may quote a whole prompt"


def test_types_and_headers() -> None:
    kinds = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error"}
    for status, kind in {**kinds, 429: "rate_limit_error", 504: "server_error"}.items():
        body: Any = ApiError(status, "x").openai_body()
        assert body["error"]["type"] == kind
    assert ApiError(401, "x").headers() == [(b"www-authenticate", b"Bearer")]
    assert ApiError(405, "x", allow=("GET", "POST")).headers() == [(b"allow", b"GET, POST")]
    assert ApiError(400, "x").headers() == []
