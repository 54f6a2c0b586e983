"""Transcriptions over a gateway: what the engine states is charged, and no more than was reserved is delivered."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.conftest import Platform, starting
from tests.serving.fake_provider import Place, Script, standing_in, whole
from tests.serving.requests.test_wav_format import DATA, HONEST, HUGE, form, wav
from tests.tools.checks import WAIT_S

from archwright.serving.http.multipart import FormPart, encode_multipart
from archwright.serving.requests.transcription import INPUT_TOKENS_PER_SECOND

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.serving.conftest import Reply, Start

pytestmark = pytest.mark.enable_socket
IN_USD, OUT_USD = 1e-6, 4e-6
SECOND = wav(form(*HONEST), DATA)


@pytest.fixture(scope="module")
def sound(processes: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Platform, Place]]:
    spec = {"price_in_usd": IN_USD, "price_out_usd": OUT_USD, "transcriptions": True, "health_path": ""}
    vectors = {**spec, "transcriptions": False, "embeddings": True, "model": "e", "workload": "e", "pool": "e"}
    with standing_in() as place, starting(tmp_path_factory.mktemp("sound")) as start:
        at = {"addresses": (place.url,)}
        yield start([{**spec, **at}, {**vectors, **at}], []), place


def transcribe(platform: Platform, key: str, file: bytes = SECOND, name: str = "a.wav") -> Reply:
    parts = [FormPart("model", "", "", b"m"), FormPart("file", name, "audio/wav", file)]
    body, content_type = encode_multipart(parts)
    return platform.ask("POST", "/v1/audio/transcriptions", body, key=key, headers={"content-type": content_type})


def test_a_file_with_two_formats_reaches_no_engine(sound: tuple[Platform, Place]) -> None:
    platform, place = sound
    reply = transcribe(platform, platform.key, wav(form(*HONEST), DATA, form(*HUGE)))
    assert (reply.status, reply.error["param"], reply.error["code"]) == (400, "file", "invalid_value")
    assert not place.asked


@pytest.mark.parametrize("usage", [{"usage": {"type": "duration", "seconds": 600}}, {"duration": 600}])
def test_seconds_above_the_measured_ones_are_believed(sound: tuple[Platform, Place], usage: dict[str, object]) -> None:
    """Who has no limit pays them. Who has one gets no reply above the reservation, and pays the reservation."""
    platform, place = sound
    place.script = whole({"text": "word", **usage})
    reply = transcribe(platform, platform.key)
    assert (reply.status, reply.json["usage"]["input_tokens"]) == (200, 600 * INPUT_TOKENS_PER_SECOND)
    assert float(reply.headers["x-archwright-cost-usd"]) == pytest.approx(30_000 * IN_USD + 1 * OUT_USD)
    limited = transcribe(platform, platform.made_key(f"limited-{len(place.asked)}", budget_usd=1.0))
    assert (limited.status, limited.error["code"]) == (429, "insufficient_quota") and "word" not in limited.error
    (record,) = platform.served(limited.headers["x-request-id"])
    assert record.cost_usd == record.reserved_usd and record.cost_usd is not None and record.cost_usd > 50 * IN_USD


def test_seconds_that_are_none_count_for_nothing(sound: tuple[Platform, Place]) -> None:
    platform, place = sound
    for seconds in (True, -1, 1e300, "9"):
        place.script = whole({"text": "word", "usage": {"seconds": seconds}})
        reply = transcribe(platform, platform.key)
        assert (reply.status, reply.json["usage"]["input_tokens"]) == (200, INPUT_TOKENS_PER_SECOND + 1)


def test_vectors_beyond_the_reservation_are_not_delivered(sound: tuple[Platform, Place]) -> None:
    platform, place = sound
    vectors = [{"index": 0, "embedding": [1.0]}]
    place.script = whole({"data": vectors, "usage": {"prompt_tokens": 100_000}})
    key = platform.made_key("vectors", budget_usd=1.0)
    reply = platform.ask("POST", "/v1/embeddings", {"model": "e", "input": "x"}, key=key)
    assert (reply.status, reply.error["code"]) == (429, "insufficient_quota")
    (record,) = platform.served(reply.headers["x-request-id"])
    assert record.cost_usd == record.reserved_usd


def test_tenants_take_turns_for_sound(start: Start) -> None:
    """An engine with one slot hears the file of another tenant after the file that it hears when this one arrives."""
    may_answer, heard = threading.Event(), list[str]()

    def answer(body: Any) -> Script:
        heard.append("loud" if b"loud.wav" in body["form"] else "quiet")
        may_answer.wait(WAIT_S)
        return whole({"text": "word"})

    with standing_in() as place, ThreadPoolExecutor(5) as clients:
        place.choose = answer
        platform = start([{"transcriptions": True, "health_path": "", "slots": 1, "addresses": (place.url,)}], [])
        files = [(platform.made_key(tenant), f"{tenant}.wav") for tenant in ("loud", "quiet")]
        replies = []
        for key, name in [*[files[0]] * 4, files[1]]:
            replies.append(clients.submit(transcribe, platform, key, name=name))
            platform.until(lambda: platform.in_flight() == len(replies))
        may_answer.set()
        assert {reply.result().status for reply in replies} == {200}
    assert heard == ["loud", "quiet", "loud", "loud", "loud"]


def test_an_engine_that_is_silent_about_a_file_is_left_at_the_time_limit(start: Start) -> None:
    with standing_in() as place:
        place.script = Script(hangs=True)
        limits = {"first_token_s": 0.2, "slots": 1, "health_path": ""}
        platform = start([{"transcriptions": True, "addresses": (place.url,), **limits}], [])
        reply = transcribe(platform, platform.key)
        assert (reply.status, reply.error["code"]) == (504, "timeout")
        platform.until(lambda: platform.in_flight() == 0)
