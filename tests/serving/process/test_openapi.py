"""The OpenAPI document says what the routes do: replies have the form that it states. The page loads nothing."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from archwright.serving.process.openapi import build_document
from archwright.serving.process.routes import ROUTES

if TYPE_CHECKING:
    from ..conftest import Platform, Reply

DOCUMENT = build_document(ROUTES)
HI = [{"role": "user", "content": "hi"}]
EXAMPLES: list[tuple[str, str, dict[str, Any] | None]] = [
    ("POST", "/v1/chat/completions", {"model": "m", "messages": HI}),
    ("POST", "/v1/completions", {"model": "m", "prompt": "hi"}),
    ("POST", "/v1/messages", {"model": "m", "messages": HI, "max_tokens": 4}),
    ("POST", "/v1/embeddings", {"model": "e", "input": ["a", "b"]}),
    ("POST", "/v1/rerank", {"model": "e", "query": "a", "documents": ["a", "b"]}),
    ("GET", "/v1/models", None),
    ("GET", "/v1/models/{id}", None),
    ("GET", "/metrics", None),
    ("POST", "/v1/batches", {"input_file_id": "file-x", "endpoint": "/v1/embeddings", "completion_window": "24h"}),
    ("GET", "/v1/files", None),
    ("GET", "/v1/files/{id}", None),
    ("GET", "/v1/batches", None),
    ("GET", "/v1/batches/{id}", None),
    ("GET", "/healthz", None),
    ("GET", "/readyz", None),
]


def find_problems(reply: Reply, method: str, path: str) -> list[str]:
    """Return what a reply has that the document does not state: its status, its content type, its form."""
    stated = DOCUMENT["paths"][path][method.lower()]["responses"].get(str(reply.status))
    if stated is None:
        return [f"status {reply.status}"]
    kind = reply.headers["content-type"]
    if kind not in stated["content"]:
        return [f"content type {kind}"]
    if kind != "application/json":
        return []
    schema = {**stated["content"][kind]["schema"], "components": DOCUMENT["components"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(reply.json)]


@pytest.mark.parametrize(
    ("method", "path", "body"), EXAMPLES, ids=lambda value: value if isinstance(value, str) else ""
)
@pytest.mark.enable_socket
def test_replies_have_the_stated_form(null: Platform, method: str, path: str, body: dict[str, Any] | None) -> None:
    sent = path.replace("{id}", "m")
    good = null.ask(method, sent, body, key=null.owner)
    assert (good.status in (200, 404), find_problems(good, method, path)) == (True, [])
    refused = [null.ask(method, sent, body, key="aw_wrong"), null.ask(method, sent, {"model": 1}, key=null.owner)]
    assert [find_problems(reply, method, path) for reply in refused] == [[], []]


@pytest.mark.enable_socket
def test_a_stream_has_the_stated_content_type(null: Platform) -> None:
    assert find_problems(null.chat(stream=True), "POST", "/v1/chat/completions") == []


@pytest.mark.enable_socket
def test_a_reply_without_a_stated_field_is_found(null: Platform) -> None:
    reply = null.chat()
    fields = reply.json
    del fields["choices"]
    reply.body = json.dumps(fields).encode()
    assert find_problems(reply, "POST", "/v1/chat/completions") == ["'choices' is a required property"]


def test_each_schema_is_valid_and_each_reference_leads_somewhere() -> None:
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
        for pattern in re.findall(r'"pattern": "(.*?[^\\])"', json.dumps(schema)):
            assert "Z" not in pattern[-2:], "ECMAScript has no \\Z"
    for reference in re.findall(r'"#/([^"]+)"', json.dumps(DOCUMENT)):
        found: Any = DOCUMENT
        for step in reference.split("/"):
            found = found[step]


def test_every_route_but_those_of_the_document_is_in_it() -> None:
    stated = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    routes = {(one.method, one.path.replace("{}", "{id}") + "{id}" * one.tail) for one in ROUTES}
    left_out = {("GET", "/openapi.json"), ("GET", "/docs")}
    assert {route for route in routes if route[0] != "HEAD"} - stated == left_out and not stated - routes
    names = [operation["operationId"] for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    assert len(set(names)) == len(names)


@pytest.mark.enable_socket
def test_the_document_and_the_page_are_open_and_tell_nothing_of_this_gateway(null: Platform) -> None:
    document, page = null.get("/openapi.json", key=None), null.get("/docs", key=None)
    assert document.json == DOCUMENT
    for reply in (document, page):
        assert reply.status == 200 and not re.search(rb"127\.0\.0\.1|acme|desk|0123456789ab", reply.body)


class Page(HTMLParser):
    """The tags of a page, its style and the targets of its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.targets: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        for name, value in attrs:
            assert name in ("lang", "charset", "name", "content", "href", "id"), (tag, name)
            if name == "href":
                self.targets.append(value or "")
            if name == "id":
                self.ids.add(value or "")


@pytest.mark.enable_socket
def test_the_page_loads_nothing_and_shows_every_operation(null: Platform) -> None:
    reply = null.get("/docs", key=None)
    text = reply.body.decode()
    page = Page(text)
    assert page.tags.isdisjoint(("script", "link", "img", "iframe", "object", "embed", "form", "base", "svg"))
    assert {target for target in page.targets if target[0] != "#"} == {"/openapi.json"}
    assert {target[1:] for target in page.targets if target[0] == "#"} <= page.ids
    assert "url(" not in text and "@import" not in text
    for path, methods in DOCUMENT["paths"].items():
        for method in methods:
            assert f"<b>{method.upper()}</b><code>{path}</code>" in text
    policy = reply.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
