"""Errors of lower layers become responses without details that a client must not see."""

from __future__ import annotations

from typing import Any

import pytest

from archwright.errors import ArchwrightError, EngineError, ErrorLocation, InternalError, OperateError, StoreError
from archwright.http_client.client import EngineRefused
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
        (refused(401, {"message": "your key sk-123"}), 502, "engine_failed"),
        (refused(404, {"message": "no model"}), 502, "engine_failed"),
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
    if status in (429, 502, 503):
        assert dict(found.headers())[b"retry-after"]


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
