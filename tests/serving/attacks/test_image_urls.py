"""Addresses in a request: no engine gets one, because it would fetch it from the operator's network."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.policy.test_image_hosts import ODD_URLS
from tests.serving.conftest import Platform, Reply, endpoint, free_port, running, table
from tests.serving.fake_provider import Place, Script, chat_events, standing_in
from tests.serving.gateway_near_images import CERTIFICATE
from tests.serving.image_host import NAME, PNG, ImageHost, serving_images, whole

from archwright.home import Home

pytestmark = pytest.mark.enable_socket
INSIDE = (
    *("http://169.254.169.254/latest/meta-data/", "https://169.254.169.254/", "https://localhost/", "https://[::1]/"),
    *("https://kubernetes.default.svc/api", "file:///etc/passwd", "//169.254.169.254/x.png", "https://2852039166/"),
    *("https://images.example.org/x.png", "HTTPS://IMAGES.EXAMPLE.ORG/x.png", " https://localhost/", "ftp://h/x"),
    *("data:image/png;base64,https://localhost/", "data:text/html;base64,aGk=", "data:,https://localhost/"),
)
METADATA = "https://169.254.169.254/latest/meta-data/"
TEXT = {"type": "text", "text": "what?"}


@pytest.fixture(scope="module")
def place(processes: None) -> Iterator[Place]:
    with standing_in() as made:
        made.script = Script(chat_events({"choices": [{"delta": {"content": "seen"}, "finish_reason": "stop"}]}))
        yield made


def two_models(place: Place, **fields: Any) -> tuple[Any, Any]:
    spec = {"addresses": (place.url,), "health_path": "/models", "vision": True, **fields}
    speaks = {"model": "speaks", "workload": "speaks", "pool": "s", "protocol": "anthropic"}
    return endpoint(**spec), endpoint(**spec, **speaks)


@pytest.fixture(scope="module")
def platform(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A gateway as it is by default: `m` behind the OpenAI interface, `speaks` behind the Messages interface."""
    config = table(*two_models(place), port=free_port())
    with running(Home(tmp_path_factory.mktemp("images")), config) as platform:
        yield platform


def chat(*parts: Any, **message: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": [TEXT, *parts], **message}]}


def message(*blocks: Any, model: str = "speaks", **fields: Any) -> dict[str, Any]:
    return {"model": model, "max_tokens": 5, "messages": [{"role": "user", "content": list(blocks)}], **fields}


def image(url: str) -> dict[str, Any]:
    return {"type": "image", "source": {"type": "url", "url": url}}


def picture(url: str) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url}}


PDF = {"type": "document", "source": {"type": "url", "url": METADATA}}
RESULT = {"type": "tool_result", "tool_use_id": "t"}
CHATS = {
    "image as a plain text": chat({"type": "image_url", "image_url": METADATA}),
    "image of a system message": chat(picture(METADATA), role="system"),
    "image of a tool's result": chat(picture(METADATA), role="tool", tool_call_id="c"),
    "video": chat({"type": "video_url", "video_url": {"url": METADATA}}),
    "audio": chat({"type": "audio_url", "audio_url": {"url": METADATA}}),
    "audio data": chat({"type": "input_audio", "input_audio": {"data": METADATA, "format": "wav"}}),
    "file data": chat({"type": "file", "file": {"file_data": METADATA}}),
    "file id": chat({"type": "file", "file": {"file_id": METADATA}}),
    "file url": chat({"type": "file", "file": {"file_url": METADATA}}),
    "input of the Responses interface": chat({"type": "input_image", "image_url": METADATA}),
    "document": chat({"type": "document_url", "document_url": METADATA}),
    "image beside another kind": chat({"type": "refusal", "refusal": "x", "image_url": {"url": METADATA}}),
}
MESSAGES = {
    "document": message(PDF),
    "tool result": message({**RESULT, "content": [TEXT, image(METADATA)]}),
    "document in a tool result": message({**RESULT, "content": [PDF]}),
    "tool result in a tool result": message({**RESULT, "content": [{**RESULT, "content": [image(METADATA)]}]}),
    "one object as content": message({**RESULT, "content": image(METADATA)}),
    "image in a document": message(
        {"type": "document", "source": {"type": "content", "content": [image("https://images.example.org/x.png")]}}
    ),
    "system": message(TEXT, system=[image(METADATA)]),
    "data": message({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": METADATA}}),
    "media type": message({"type": "image", "source": {"type": "base64", "media_type": METADATA, "data": "aGk="}}),
    "file id": message({"type": "image", "source": {"type": "file", "file_id": METADATA}}),
    "unknown source": message({"type": "image", "source": {"type": "remote", "url": METADATA}}),
    "OpenAI's image": message(picture(METADATA)),
    "unknown block": message({"type": "video", "video": METADATA}),
    "plain text among blocks": message(METADATA),
    "list among blocks": message([image(METADATA)]),
    "content that is no list": {**message(), "messages": [{"role": "user", "content": image(METADATA)}]},
}


def assert_refused(platform: Platform, place: Place, path: str, body: dict[str, Any]) -> Reply:
    seen = len(place.asked)
    reply = platform.ask("POST", path, body)
    reached = [json.dumps(asked.body) for asked in place.asked[seen:]]
    assert reached == [], "the engine got the address"
    assert reply.status == 400
    return reply


@pytest.mark.parametrize("url", INSIDE)
def test_no_address_of_an_image_reaches_an_engine(platform: Platform, place: Place, url: str) -> None:
    reply = assert_refused(platform, place, "/v1/chat/completions", chat(picture(url)))
    assert reply.error["param"] == "messages[0].content[1].image_url.url"
    assert reply.error["code"] == "image_url_not_allowed"
    assert "base64" in reply.error["message"] and "image_hosts" in reply.error["message"]
    for model in ("m", "speaks"):
        for path in ("/v1/messages", "/v1/messages/count_tokens"):
            reply = assert_refused(platform, place, path, message(image(url), model=model))
            assert "image_hosts" in reply.error["message"]


@pytest.mark.parametrize("body", CHATS.values(), ids=CHATS)
def test_no_address_in_another_part_of_a_chat_reaches_an_engine(
    platform: Platform, place: Place, body: dict[str, Any]
) -> None:
    reply = assert_refused(platform, place, "/v1/chat/completions", body)
    assert reply.error["param"].startswith("messages[0].content[1]")


@pytest.mark.parametrize("body", MESSAGES.values(), ids=MESSAGES)
def test_no_address_in_another_block_of_a_message_reaches_an_engine(
    platform: Platform, place: Place, body: dict[str, Any]
) -> None:
    assert_refused(platform, place, "/v1/messages", body)


@pytest.fixture(scope="module")
def host(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ImageHost]:
    with serving_images(tmp_path_factory.mktemp("host")) as made:
        yield made


@pytest.fixture(scope="module")
def allowing(host: ImageHost, place: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """A gateway whose operator allows the host of images; `m` also caches."""
    allowed = (f"*.example.org:{host.port}",)
    config = table(*two_models(place, cache="all"), port=free_port(), image_hosts=allowed)
    platform = Platform(Home(tmp_path_factory.mktemp("allowing")), config, module="tests.serving.gateway_near_images")
    (platform.home.root / CERTIFICATE).write_bytes(Path(host.certificate).read_bytes())
    try:
        platform.start_gateway()
        yield platform
    finally:
        platform.close()


AS_DATA = base64.b64encode(PNG).decode()


def test_an_engine_gets_an_allowed_image_as_data(allowing: Platform, place: Place, host: ImageHost) -> None:
    url = f"{host.url}/x.png"
    reply = allowing.ask("POST", "/v1/chat/completions", chat(picture(url)))
    assert reply.status == 200
    assert place.last.body["messages"][0]["content"] == [TEXT, picture(f"data:image/png;base64,{AS_DATA}")]
    source = {"type": "base64", "media_type": "image/png", "data": AS_DATA}
    as_data = {"type": "image", "source": source}
    result = {**RESULT, "content": [image(url)]}
    for path in ("/v1/messages", "/v1/messages/count_tokens"):
        allowing.ask("POST", path, message(image(url), result))
        assert place.last.body["messages"][0]["content"] == [as_data, {**RESULT, "content": [as_data]}]
    allowing.ask("POST", "/v1/messages", message(image(url), model="m"))
    assert place.last.body["messages"][0]["content"] == [picture(f"data:image/png;base64,{AS_DATA}")]
    assert not any(allowing.key in head or "authorization" in head.lower() for head in host.asked)


def test_a_cached_response_is_one_to_the_same_bytes(allowing: Platform, place: Place, host: ImageHost) -> None:
    body = {**chat(picture(f"{host.url}/changing.png")), "max_tokens": 7}
    host.replies["/changing.png"] = whole(PNG)
    outcomes = [allowing.ask("POST", "/v1/chat/completions", body).headers["x-archwright-cache"] for _ in range(2)]
    host.replies["/changing.png"] = whole(PNG + b"other")
    outcomes.append(allowing.ask("POST", "/v1/chat/completions", body).headers["x-archwright-cache"])
    assert outcomes == ["miss", "hit", "miss"]


def test_an_image_that_is_not_fetched_refuses_the_request(allowing: Platform, place: Place, host: ImageHost) -> None:
    for path, body in (
        ("/v1/chat/completions", chat(picture(f"{host.url}/x.png"), picture(f"{host.url}/moved"))),
        ("/v1/messages", message(image(f"{host.url}/moved"))),
        ("/v1/messages/count_tokens", message(image(f"{host.url}/moved"))),
    ):
        reply = assert_refused(allowing, place, path, body)
        assert "could not be fetched" in reply.error["message"] and "302" not in reply.error["message"]
    reply = allowing.ask("POST", "/v1/chat/completions", chat(picture(f"{host.url}/moved")))
    (served,) = allowing.served(reply.headers["x-request-id"])
    assert (served.status, served.cost_usd or 0.0, served.input_tokens) == ("refused", 0.0, 0)
    at = "messages[0].content[1].image_url.url"
    assert (reply.error["code"], reply.error["param"]) == ("image_not_fetched", at)


def test_a_request_over_its_limit_fetches_nothing(allowing: Platform, host: ImageHost) -> None:
    """The images are fetched after the reservation."""
    key = allowing.made_key("slow", rpm=1)
    body = chat(picture(f"{host.url}/x.png"))
    host.asked.clear()
    statuses = [allowing.ask("POST", "/v1/chat/completions", body, key=key).status for _ in range(3)]
    assert statuses == [200, 429, 429] and len(host.asked) == 1


def test_only_the_allowed_host_is_asked(allowing: Platform, place: Place, host: ImageHost) -> None:
    host.asked.clear()
    for url in (url for url in ODD_URLS if not url.startswith("data:")):
        at_port = url.replace(f"{NAME}/", f"{NAME}:{host.port}/")
        assert_refused(allowing, place, "/v1/chat/completions", chat(picture(at_port)))
    assert host.asked == []
