"""When a provider that is full wants to be asked again is told to the client: in seconds, and within bounds."""

from __future__ import annotations

import time
from email.utils import formatdate
from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
from tests.serving.fake_provider import Place, Script

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket
BODY = [b'{"error": {"message": "too many requests"}}']


@pytest.fixture
def platform(start: Start, place: Place) -> Platform:
    return start([{"addresses": (place.url,), "health_path": "/models"}], [])


def told(platform: Platform, place: Place, status: int, said: str | None, **fields: Any) -> tuple[int, int]:
    """The status a client gets, and the seconds it is told to wait."""
    headers = {} if said is None else {"Retry-After": said}
    place.script = Script(BODY, status, "application/json", headers=headers)
    reply = platform.chat(**fields)
    return reply.status, int(reply.headers["retry-after"])


def test_it_is_passed_on_and_nonsense_is_not(platform: Platform, place: Place) -> None:
    for status, said, seconds in (
        (429, "17", 17),
        (503, "40", 40),
        (529, " 5 ", 5),
        (429, None, 1),
        (429, "0", 1),
        (429, "-5", 1),
        (429, "1.5", 1),
        (429, "soon", 1),
        (429, "86400", 3_600),
        (503, "9" * 400, 3_600),
        (429, formatdate(time.time() - 60, usegmt=True), 1),
        (429, formatdate(time.time() + 90_000, usegmt=True), 3_600),
        (429, "Thu, 99 Nov 2026 99:00:00 GMT", 1),
        (500, "17", 1),
    ):
        wanted = {529: 503, 500: 502}.get(status, status)
        assert told(platform, place, status, said) == (wanted, seconds), said
    in_a_minute = formatdate(time.time() + 60, usegmt=True)
    began = time.time()
    status, seconds = told(platform, place, 503, in_a_minute, stream=True)
    assert status == 503 and 60 - (time.time() - began) - 1 <= seconds <= 60


def test_the_clients_libraries_read_it(platform: Platform, place: Place) -> None:
    place.script = Script(BODY, 429, "application/json", headers={"retry-after": "23"})
    base = platform.url
    with openai.OpenAI(base_url=base, api_key=platform.key, max_retries=0) as chats:
        with pytest.raises(openai.RateLimitError) as full:
            chats.chat.completions.create(model="m", messages=[{"role": "user", "content": "hi"}], stream=True)
        assert full.value.response.headers["retry-after"] == "23"
    with anthropic.Anthropic(
        base_url=base.removesuffix("/v1"), auth_token=platform.key, api_key=None, max_retries=0
    ) as messages:
        with pytest.raises(anthropic.RateLimitError) as busy:
            messages.messages.create(model="m", max_tokens=5, messages=[{"role": "user", "content": "hi"}])
        assert busy.value.response.headers["retry-after"] == "23"
