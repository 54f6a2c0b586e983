"""Any body gets a response of the interface: no internal error, no path and no stack trace."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from archwright.serving.messages_api.schema import MessagesRequest
from archwright.serving.requests.typed_requests import ChatRequest, CompletionRequest, EmbeddingRequest, RerankRequest

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

pytestmark = pytest.mark.enable_socket

ENOUGH = settings(
    max_examples=120, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
)
LEAK = re.compile(rb"Traceback|File \"|site-packages|/tmp/|/home/|\.sock|\.gguf|sqlalchemy|sqlite:")


def bodies(fields: list[str], valid: dict[str, Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A valid body with some fields replaced by anything."""
    changes = st.dictionaries(st.sampled_from(fields) | st.text(max_size=10), VALUES, max_size=3)
    return changes.map(lambda changed: {**valid, **changed})


CHATS = bodies(
    [*ChatRequest.__struct_fields__], {"model": "m", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
)
MESSAGES = st.lists(
    st.dictionaries(st.sampled_from(["role", "content", "name", "tool_calls", "x"]), VALUES, max_size=3)
    | st.fixed_dictionaries({"role": st.sampled_from(["user", "system", "assistant"]), "content": st.text()}),
    max_size=3,
)


@pytest.fixture
def connection(null: Platform) -> Iterator[http.client.HTTPConnection]:
    made = null.connection()
    yield made
    made.close()


def send(connection: http.client.HTTPConnection, platform: Platform, path: str, body: bytes) -> None:
    connection.request("POST", path, body, {"authorization": f"Bearer {platform.key}"})
    reply = connection.getresponse()
    said = reply.read()
    assert reply.status in (200, 400, 404, 413), (reply.status, said, body)
    assert not LEAK.search(said), said
    if reply.status != 200:
        error = json.loads(said)["error"]
        assert set(error) == ({"message", "type"} if path == "/v1/messages" else {"message", "type", "code", "param"})


def encoded(body: Any) -> bytes:
    return json.dumps(body).encode("utf-8", "surrogatepass")


BLOCKS = st.fixed_dictionaries(
    {"type": st.sampled_from(["text", "image", "tool_use", "tool_result", "thinking", "document", 7])},
    optional={
        **{name: st.text(max_size=3) | VALUES for name in ("text", "id", "name", "tool_use_id", "content")},
        "input": st.dictionaries(st.text(max_size=3), VALUES, max_size=2) | VALUES,
        "source": st.fixed_dictionaries({"type": st.just("url"), "url": st.text(max_size=5)}) | VALUES,
    },
)
TURNS = st.lists(
    st.fixed_dictionaries(
        {
            "role": st.sampled_from(["user", "assistant", "system", "x"]),
            "content": st.text() | st.lists(BLOCKS, max_size=3) | VALUES,
        }
    ),
    max_size=3,
)
WHOLE_MESSAGE = {"model": "m", "max_tokens": 2, "messages": [{"role": "user", "content": "x"}]}


TOOLS = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.just("function"),
            "function": st.fixed_dictionaries(
                {"name": st.sampled_from(["f", "g", "a b"])}, optional={"parameters": VALUES, "strict": st.booleans()}
            ),
        }
    )
    | VALUES,
    max_size=3,
)
CHOSEN = st.sampled_from(["none", "auto", "required", {"type": "function", "function": {"name": "f"}}]) | VALUES


CHAT = "/v1/chat/completions"
ONE_TOKEN = {"model": "m", "max_tokens": 1}
REQUESTS: dict[str, tuple[str, st.SearchStrategy[bytes]]] = {
    "chat": (CHAT, CHATS.map(encoded)),
    "messages of a chat": (CHAT, MESSAGES.map(lambda messages: encoded({**ONE_TOKEN, "messages": messages}))),
    "message": ("/v1/messages", bodies([*MessagesRequest.__struct_fields__], WHOLE_MESSAGE).map(encoded)),
    "turns of a message": (
        "/v1/messages",
        st.tuples(bodies([*MessagesRequest.__struct_fields__], WHOLE_MESSAGE), TURNS).map(
            lambda made: encoded({**made[0], "messages": made[1]})
        ),
    ),
    "tools": (
        CHAT,
        st.fixed_dictionaries({"tools": TOOLS, "tool_choice": CHOSEN, "messages": MESSAGES}).map(
            lambda made: encoded({**WHOLE_MESSAGE, **made, "messages": made["messages"] or WHOLE_MESSAGE["messages"]})
        ),
    ),
    "completion": (
        "/v1/completions",
        bodies([*CompletionRequest.__struct_fields__], {"model": "m", "prompt": "x", "max_tokens": 2}).map(encoded),
    ),
    "embedding": (
        "/v1/embeddings",
        bodies([*EmbeddingRequest.__struct_fields__], {"model": "e", "input": "x"}).map(encoded),
    ),
    "rerank": (
        "/v1/rerank",
        bodies([*RerankRequest.__struct_fields__], {"model": "e", "query": "x", "documents": ["x"]}).map(encoded),
    ),
    "anything": (CHAT, st.binary(max_size=200) | VALUES.map(encoded)),
}


@pytest.mark.parametrize("kind", REQUESTS)
@ENOUGH
@given(data=st.data())
def test_any_body_gets_a_response_of_the_interface(
    null: Platform, connection: http.client.HTTPConnection, kind: str, data: st.DataObject
) -> None:
    path, body = REQUESTS[kind]
    send(connection, null, path, data.draw(body))


@pytest.mark.parametrize("escape", ["\\ud800", "\\ud800abc", "\\udc00", "\\udc00\\ud800", "\\ud83d", "a\\ud83d\\u0041"])
def test_half_surrogates(null: Platform, connection: http.client.HTTPConnection, escape: str) -> None:
    body = b'{"model":"m","max_tokens":1,"messages":[{"role":"user","content":"%b"}]}' % escape.encode()
    send(connection, null, "/v1/chat/completions", body)
