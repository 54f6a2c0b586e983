"""A request that a provider charges at another price than its list price is refused if the model has a price."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import anthropic
import openai
import pytest
from tests.serving.fake_provider import Place, Script, chat_events, message_end, message_events, message_start, words

if TYPE_CHECKING:
    from tests.serving.conftest import Platform, Start

pytestmark = pytest.mark.enable_socket
PRICED = {"price_in_usd": 1e-6, "price_out_usd": 1e-5}
SAID = Script(chat_events({"choices": [{"delta": {"content": "a"}, "finish_reason": "stop"}]}))
MESSAGE = Script(
    message_events(message_start(input_tokens=9, output_tokens=1), *words(0, "a"), *message_end("end_turn", 1))
)


@pytest.fixture
def platform(start: Start, place: Place) -> Platform:
    spec = {"addresses": (place.url,), "health_path": "/models"}
    own = {**spec, **PRICED, "model": "own", "workload": "own", "pool": "own", "protocol": "anthropic"}
    free = {**spec, "model": "free", "workload": "free", "pool": "free"}
    return start([{**spec, **PRICED}, own, free], [])


def test_a_tier_at_another_price(platform: Platform, place: Place) -> None:
    with openai.OpenAI(base_url=platform.url, api_key=platform.key, max_retries=0) as client:

        def ask(model: str, tier: Any) -> int:
            messages: Any = [{"role": "user", "content": "hi"}]
            found = client.chat.completions.with_raw_response.create(model=model, messages=messages, service_tier=tier)
            return found.status_code

        place.script = SAID
        for tier in ("auto", "default"):
            assert ask("m", tier) == 200
            assert place.last.body["service_tier"] == tier
        asked = len(place.asked)
        others: list[Any] = ["priority", "flex", "fast", "scale", ["auto"]]
        for other in others:
            with pytest.raises(openai.BadRequestError) as refused:
                ask("m", other)
            assert (refused.value.param, refused.value.code) == ("service_tier", "unsupported_value")
        assert len(place.asked) == asked, "nothing was asked of the provider"
        assert ask("free", "priority") == 200, "nothing is billed where there is no price"
        assert place.last.body["service_tier"] == "priority"


def test_in_the_words_of_messages(platform: Platform, place: Place) -> None:
    base = platform.url.removesuffix("/v1")
    with anthropic.Anthropic(base_url=base, auth_token=platform.key, api_key=None, max_retries=0) as client:

        def ask(model: str, **more: Any) -> int:
            messages: Any = [{"role": "user", "content": "hi"}]
            client.messages.create(model=model, max_tokens=5, messages=messages, extra_body=more)
            return len(place.asked)

        place.script = MESSAGE
        assert ask("own", service_tier="standard_only", speed="standard") == 1
        assert ask("own", service_tier="auto", speed=None) == 2
        place.script = SAID
        assert ask("m", service_tier="standard_only") == 3
        assert place.last.body["service_tier"] == "default"
        for model, more in (
            ("own", {"speed": "fast"}),
            ("own", {"inference_geo": "us"}),
            ("own", {"service_tier": "priority"}),
            ("m", {"service_tier": "priority"}),
        ):
            with pytest.raises(anthropic.BadRequestError, match="costs another price"):
                ask(model, **more)
        assert len(place.asked) == 3
