"""What official clients may send to engines behind a URL: lists of prompts, documents, tools, thinking, sound."""

from __future__ import annotations

import base64
import io
import wave
from collections.abc import Iterator
from typing import Any

import anthropic
import openai
import pytest
from tests.lake.documents.sample_documents import make_pdf
from tests.serving.conftest import Platform, endpoint, free_port, running, table
from tests.serving.fake_provider import Place, Script, chat_events, standing_in, whole

from archwright.home import Home
from archwright.serving.http.multipart import FormPart, encode_multipart, read_parts

from .official_clients import HELLO, anthropic_client, openai_client

pytestmark = pytest.mark.enable_socket

USED = {"prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12}


@pytest.fixture(scope="module")
def server(processes: None) -> Iterator[Place]:
    with standing_in() as made:
        yield made


@pytest.fixture(scope="module")
def surface(server: Place, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Platform]:
    """Models that are named like the software of their engine, all at one address; none of them is ours."""
    shared: dict[str, Any] = {"addresses": (server.url,), "health_path": "/models", "price_in_usd": 1e-6}
    sound = {"embeddings": True, "generates": False, "transcriptions": True}
    shared |= {"own": False, "place": "US", "price_out_usd": 2e-6, "detect": True}
    names = ("openai", "vllm", "llama-server", "ollama")
    entries = [endpoint(model=name, workload=f"w-{name}", pool=name, engine=name, **shared) for name in names]
    entries.append(
        endpoint(model="plain", workload="w-plain", pool="plain", **{**shared, "detect": False}, transcriptions=True)
    )
    entries.append(endpoint(model="sound", workload="w-sound", pool="sound", engine_model="v/w", **shared, **sound))
    with running(Home(tmp_path_factory.mktemp("surface")), table(*entries, port=free_port())) as platform:
        yield platform


@pytest.fixture
def messages(surface: Platform) -> Iterator[anthropic.Anthropic]:
    with anthropic_client(surface) as made:
        yield made


@pytest.fixture
def client(surface: Platform) -> Iterator[openai.OpenAI]:
    with openai_client(surface) as made:
        yield made


def complete(*choices: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": list(choices), **more}


def test_each_prompt_has_its_choices_with_offsets_of_its_own(client: openai.OpenAI, server: Place) -> None:
    def choice(index: int) -> dict[str, Any]:
        logprobs = {"tokens": ["x"], "token_logprobs": [-1.0], "top_logprobs": [{"x": -1.0}], "text_offset": [99]}
        return {"index": index, "text": f"t{index}", "finish_reason": "stop", "logprobs": logprobs}

    server.script = whole(complete(*map(choice, (3, 1, 0, 2)), usage=USED))
    asked: dict[str, Any] = {"model": "vllm", "prompt": ["ab", "abcd"], "n": 2, "max_tokens": 3, "logprobs": 0}
    reply = client.completions.create(**asked)
    assert (server.last.body["prompt"], server.last.body["n"]) == (["ab", "abcd"], 2)
    assert [choice.text for choice in reply.choices] == ["t0", "t1", "t2", "t3"]
    offsets = [choice.logprobs.text_offset for choice in reply.choices if choice.logprobs]
    assert offsets == [[2], [2], [4], [4]]
    chunks = [complete(choice(index)) for index in (2, 0, 3, 1)]
    server.script = Script(chat_events(*chunks, complete(usage=USED)))
    streamed = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True) if chunk.choices]
    assert [(one.index, one.text, one.logprobs.text_offset) for one in streamed if one.logprobs] == [
        (2, "t2", [4]),
        (0, "t0", [2]),
        (3, "t3", [4]),
        (1, "t1", [2]),
    ]


def test_token_ids_pass_and_are_reserved_exactly(surface: Platform, server: Place) -> None:
    texts = [{"index": index, "text": "a", "finish_reason": "length"} for index in range(2)]
    server.script = whole(complete(*texts))
    asked = {"model": "plain", "prompt": [[1, 2, 3], [4]], "max_tokens": 18}
    enough, few = surface.made_key("acme", tpm=40), surface.made_key("acme", tpm=39)
    assert surface.ask("POST", "/v1/completions", asked, key=few).status == 429
    reply = surface.ask("POST", "/v1/completions", asked, key=enough)
    assert (reply.status, server.last.body["prompt"]) == (200, asked["prompt"])
    (record,) = surface.served(reply.headers["x-request-id"])
    assert (record.input_tokens, record.output_tokens) == (4, 2)


@pytest.mark.parametrize("prompt", [[1, 2], [[1, 2], [3]], ["a text", "write to bob@example.org"]])
def test_a_list_is_searched_and_token_ids_cannot_be(surface: Platform, prompt: Any) -> None:
    reply = surface.ask("POST", "/v1/completions", {"model": "vllm", "prompt": prompt})
    assert (reply.status, reply.error["code"]) == (403, "data_class_not_served")


@pytest.mark.parametrize(("prompt", "message"), [(["a", "b"], "one text per request"), ([1], "takes text only")])
def test_an_engine_with_one_prompt_says_so(client: openai.OpenAI, prompt: Any, message: str) -> None:
    with pytest.raises(openai.BadRequestError, match=message) as caught:
        client.completions.create(model="ollama", prompt=prompt)
    assert (caught.value.param, caught.value.code) == ("prompt", "unsupported_parameter")


def test_every_choice_of_llama_cpp_is_counted(surface: Platform, server: Place) -> None:
    """A complete reply of llama.cpp counts its first choice only, so it streams; its stream counts each choice."""

    def end(index: int) -> dict[str, Any]:
        return complete({"index": index, "text": "a", "finish_reason": "stop"}, usage=USED)

    server.script = Script(chat_events(*map(end, (1, 0, 3, 2))))
    asked = {"model": "llama-server", "prompt": ["a", "b"], "n": 2, "max_tokens": 8}
    reply = surface.ask("POST", "/v1/completions", asked)
    assert server.last.body["stream"] is True
    assert reply.json["usage"] == {"prompt_tokens": 14, "completion_tokens": 20, "total_tokens": 34}
    (record,) = surface.served(reply.headers["x-request-id"])
    assert (record.input_tokens, record.output_tokens) == (14, 20)


def test_the_reservation_covers_every_choice_of_every_prompt(surface: Platform, server: Place) -> None:
    server.script = whole(complete({"index": 0, "text": "a", "finish_reason": "stop"}, usage=USED))
    key = surface.made_key("acme", tpm=600)
    asked = {"model": "openai", "prompt": "a", "max_tokens": 20}
    assert surface.ask("POST", "/v1/completions", asked, key=key).status == 200
    count = len(server.asked)
    refused = surface.ask("POST", "/v1/completions", {**asked, "prompt": ["a"] * 8}, key=key)
    assert (refused.status, len(server.asked)) == (429, count)


def pdf(*pages: bytes) -> Any:
    data = base64.b64encode(make_pdf(*pages)).decode()
    return {
        "type": "document",
        "title": "A",
        "source": {"type": "base64", "media_type": "application/pdf", "data": data},
    }


def page(text: str) -> bytes:
    return f"BT /F 12 Tf 20 200 Td ({text}) Tj ET".encode()


ANSWER = whole({"choices": [{"message": {"content": "yes"}, "finish_reason": "stop"}], "usage": USED})


def test_a_pdf_is_read_as_text(messages: anthropic.Anthropic, server: Place, surface: Platform) -> None:
    server.script = ANSWER
    blocks = [pdf(page("The sea is deep."), page("Ships sail.")), {"type": "text", "text": "What?"}]
    asked: Any = {"model": "plain", "max_tokens": 8, "messages": [{"role": "user", "content": blocks}]}
    assert messages.messages.create(**asked).usage.output_tokens == 5
    (sent,) = server.last.body["messages"]
    assert sent["content"] == "<document>\nA\n\nThe sea is deep.\n\nShips sail.\n</document>\nWhat?"
    found = messages.messages.create(**{**asked, "model": "plain", "stream": True})
    assert [event.type for event in found][-1] == "message_stop"
    server.script = whole({}, 404)
    del asked["max_tokens"]
    assert messages.messages.count_tokens(**asked).input_tokens > 20
    # Its text is searched for personal data as any other.
    asked |= {"max_tokens": 8, "messages": [{"role": "user", "content": [pdf(page("mail bob@example.org now"))]}]}
    with pytest.raises(anthropic.PermissionDeniedError):
        messages.messages.create(**{**asked, "model": "vllm"})


@pytest.mark.parametrize(
    ("document", "problem"),
    [(pdf(b""), "has no text"), (pdf(*[page("x")] * 101), "more than 100 pages"), (None, "damaged")],
)
def test_a_pdf_without_text_is_refused(messages: anthropic.Anthropic, document: Any, problem: str) -> None:
    block = document or {**pdf(b""), "source": {**pdf(b"")["source"], "data": "aGVsbG8="}}
    turns: Any = [{"role": "user", "content": [block]}]
    with pytest.raises(anthropic.BadRequestError, match=f"messages.0.content.0: .*{problem}"):
        messages.messages.create(model="plain", max_tokens=8, messages=turns)


def test_thinking_reaches_a_template_and_comes_back(messages: anthropic.Anthropic, server: Place) -> None:
    said = {"content": "yes", "reasoning_content": "hm"}
    server.script = whole({"choices": [{"message": said, "finish_reason": "stop"}], "usage": USED})
    asked: Any = {"model": "vllm", "max_tokens": 4000, "messages": HELLO}
    reply = messages.messages.create(**asked, thinking={"type": "enabled", "budget_tokens": 2000})
    assert server.last.body["chat_template_kwargs"] == {"enable_thinking": True, "thinking_budget": 2000}
    assert [block.type for block in reply.content] == ["thinking", "text"]


def test_tokens_are_counted_by_the_engine_or_estimated(messages: anthropic.Anthropic, server: Place) -> None:
    asked: Any = {"messages": HELLO, "system": "s" * 3_000}
    server.script, before = whole({"count": 7, "tokens": [1] * 7}), len(server.asked)
    assert messages.messages.count_tokens(model="llama-server", **asked).input_tokens == 7
    assert [one.path for one in server.asked[before:]] == ["/apply-template", "/tokenize"]
    server.script, before = whole({"detail": "Not Found"}, 404), len(server.asked)
    assert 1_000 < messages.messages.count_tokens(model="openai", **asked).input_tokens < 1_050
    assert 1_000 < messages.messages.count_tokens(model="openai", **asked).input_tokens < 1_050
    assert [one.path for one in server.asked[before:]] == ["/apply-template", "/tokenize"]  # asked once only


def wav(seconds: float) -> bytes:
    out = io.BytesIO()
    with wave.open(out, "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(8_000)
        sound.writeframes(bytes(int(16_000 * seconds) - 44))
    return out.getvalue()


def test_sound_is_passed_on_as_a_form(surface: Platform, client: openai.OpenAI, server: Place) -> None:
    server.script = whole({"text": "hello you", "language": "english", "usage": {"type": "duration", "seconds": 2}})
    data = wav(3) + b"\r\n--x\r\n"
    more: Any = {"language": "en", "temperature": 0.5, "timestamp_granularities": ["word", "segment"]}
    reply = client.audio.transcriptions.create(
        model="sound", file=("a.wav", data), prompt="Names: Ann", response_format="verbose_json", **more
    )
    assert (reply.text, reply.language) == ("hello you", "english")
    usage: Any = reply.usage
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (100, 2, 102)
    sent = read_parts(server.last.body["form"], server.last.headers["content-type"])
    assert server.last.path == "/v1/audio/transcriptions"
    texts = sorted((part.name, part.data) for part in sent if part.name != "file")
    assert texts == [
        *(("language", b"en"), ("model", b"v/w"), ("prompt", b"Names: Ann"), ("response_format", b"verbose_json")),
        *(("temperature", b"0.5"), ("timestamp_granularities[]", b"segment"), ("timestamp_granularities[]", b"word")),
    ]
    (file,) = (part for part in sent if part.name == "file")
    assert (file.data, file.filename) == (data, "a.wav")


@pytest.mark.parametrize(
    ("reply", "file", "counts"),
    [
        ({"text": "a" * 40, "usage": {"type": "tokens", "input_tokens": 14, "output_tokens": 3}}, wav(1), (14, 3)),
        ({"text": "a" * 40, "usage": {"type": "duration", "seconds": 0.5}}, wav(1), (25, 10)),
        ({"text": "a" * 40, "duration": 1.0}, wav(1), (50, 10)),
        ({"text": "a" * 40, "duration": 10_000}, wav(1), (500_000, 10)),  # the engine knows best
        ({"text": "a" * 40, "duration": -1}, wav(2), (100, 10)),
        ({"text": "a" * 40}, b"x" * 32_000, (100, 10)),  # 2 s at the usual bit rate
    ],
)
def test_a_transcription_is_charged_once_by_its_seconds(
    surface: Platform, server: Place, reply: dict[str, Any], file: bytes, counts: tuple[int, int]
) -> None:
    server.script = whole(reply)
    form, content_type = encode_multipart(
        [FormPart("model", "", "", b"plain"), FormPart("file", "a.mp3", "audio/mpeg", file)]
    )
    answer = surface.ask("POST", "/v1/audio/transcriptions", form, headers={"content-type": content_type})
    assert (answer.status, answer.json["text"]) == (200, reply["text"])
    (record,) = surface.served(answer.headers["x-request-id"])
    assert (record.input_tokens, record.output_tokens, record.operation) == (*counts, "transcription")
    assert record.cost_usd == pytest.approx(counts[0] * 1e-6 + counts[1] * 2e-6)


def test_a_transcription_reserves_the_most_that_its_file_can_last(surface: Platform, server: Place) -> None:
    server.script = whole({"text": "a"})
    for file, most in ((wav(10), 10 * 65), (b"x" * 7_500, 10 * 65)):  # exact, and at the lowest bit rate
        form, kind = encode_multipart([FormPart("model", "", "", b"plain"), FormPart("file", "a", "audio/x", file)])
        for tpm, status in ((most, 200), (most - 1, 429)):
            key = surface.made_key("acme", tpm=tpm)
            reply = surface.ask("POST", "/v1/audio/transcriptions", form, key=key, headers={"content-type": kind})
            assert reply.status == status


def test_what_cannot_be_transcribed_is_refused_by_name(surface: Platform, client: openai.OpenAI, server: Place) -> None:
    rows: list[tuple[dict[str, Any], str]] = [
        ({"file": b""}, "file"),
        ({"response_format": "srt"}, "response_format"),
        ({"stream": True}, "stream"),
        ({"temperature": 2}, "temperature"),
        ({"extra_body": {"hotwords": "x"}}, "hotwords"),
        ({"model": "vllm"}, "model"),
    ]
    for changes, param in rows:
        with pytest.raises(openai.BadRequestError) as caught:
            client.audio.transcriptions.create(**{"model": "plain", "file": b"sound", **changes})
        assert caught.value.param == param
    with pytest.raises(openai.BadRequestError, match="only transcribes sound"):
        client.chat.completions.create(model="sound", messages=HELLO)
    server.script = whole({"detail": "Not Found"}, 404)
    with pytest.raises(openai.BadRequestError, match="refused the request") as caught:
        client.audio.transcriptions.create(model="plain", file=b"sound")
    server.script = whole({"txt": "x"})
    with pytest.raises(openai.APIStatusError) as broken:
        client.audio.transcriptions.create(model="plain", file=b"sound")
    assert broken.value.status_code == 502
    assert surface.get("/readyz", key=None).json["ready"], "an engine without the route stays in service"


def test_a_large_upload_passes_and_a_larger_one_is_refused(client: openai.OpenAI, server: Place) -> None:
    server.script = whole({"text": "a"})
    assert client.audio.transcriptions.create(model="plain", file=b"[" * (8 << 20)).text == "a"
    with pytest.raises(openai.APIStatusError) as caught:
        client.audio.transcriptions.create(model="plain", file=b"[" * (33 << 20))
    assert caught.value.status_code == 413
