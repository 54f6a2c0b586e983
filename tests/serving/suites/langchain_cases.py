"""The standard chat-model tests of langchain-tests, with its clients of both interfaces before a running gateway.

Runs in .venv-langchain, started by test_langchain.py. Addresses of images and documents, which the tests load from
other hosts, are answered here, since a test reaches no other host.
"""

import os
import struct
import zlib
from typing import Any

import httpx
import pytest
from langchain_anthropic import ChatAnthropic
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

URL, KEY = os.environ["GATEWAY_URL"], os.environ["GATEWAY_KEY"]
PDF = b"""%PDF-1.4
1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj
2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj
3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 100]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>>>endobj
4 0 obj<</Length 44>>stream
BT /F1 24 Tf 20 40 Td (Dummy PDF file) Tj ET
endstream endobj
5 0 obj<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>endobj
trailer<</Root 1 0 R/Size 6>>
"""


def write_png() -> bytes:
    """Return an image of 8 by 8 grey pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = b"".join(b"\0" + b"\x80" * 8 for _ in range(8))
    head = struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.fixture(autouse=True)
def files_of_other_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    def get(url: str, **_more: object) -> httpx.Response:
        kind = url.rpartition(".")[2]
        return httpx.Response(200, content={"pdf": PDF, "png": write_png(), "wav": b"RIFF" + bytes(40)}[kind])

    monkeypatch.setattr(httpx, "get", get)


class TestChatOpenAI(ChatModelIntegrationTests):
    chat_model_class = ChatOpenAI
    chat_model_params = {
        "model": "scripted",
        "base_url": URL,
        "api_key": KEY,
        "max_retries": 0,
        "stream_usage": True,
        "use_responses_api": False,
    }
    supports_image_inputs = True
    supports_image_tool_message = True
    supports_pdf_inputs = True
    supports_audio_inputs = True
    supports_json_mode = True
    supports_model_override = True
    model_override_value = "scripted-large"


class TestChatOpenAIResponses(TestChatOpenAI):
    chat_model_params = TestChatOpenAI.chat_model_params | {"use_responses_api": True, "stream_usage": False}
    supports_audio_inputs = False


class TestChatAnthropic(ChatModelIntegrationTests):
    chat_model_class = ChatAnthropic
    chat_model_params: dict[str, Any] = {
        "model_name": "scripted",
        "base_url": URL.removesuffix("/v1"),
        "api_key": KEY,
        "max_retries": 0,
    }
    supports_image_inputs = True
    supports_image_tool_message = True
    supports_pdf_inputs = True
    supports_pdf_tool_message = True
    supports_anthropic_inputs = True
    supports_model_override = True
    model_override_value = "scripted-large"
