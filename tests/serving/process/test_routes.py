"""Default deny, walked over the live table: nothing but two probes answers a stranger, whatever the verb."""

from __future__ import annotations

import gzip
import itertools
import json
from contextlib import closing
from secrets import token_urlsafe
from typing import TYPE_CHECKING

import pytest
from tests.serving.official_clients import HELLO

from archwright.access.permissions import PERMISSIONS
from archwright.access.tables import compute_checksum, is_well_formed
from archwright.serving.process.routes import ROUTES, find_route

from ..conftest import Reply, free_port

if TYPE_CHECKING:
    from ..conftest import Platform, Start

pytestmark = pytest.mark.enable_socket

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "PURGE", "LINK")
UNKNOWN = ("/", "/v1", "/v1/", "/admin", "/documents", "/v1/models/", "//")
PATHS = (*(route.path.replace("{}", "x") + "x" * route.tail for route in ROUTES), *UNKNOWN)
OPEN = {(verb, path) for verb in ("GET", "HEAD") for path in ("/health", "/healthz", "/readyz")}
OPEN |= {("GET", "/openapi.json"), ("GET", "/docs")}  # the same for every installation


def test_only_the_probes_and_the_documentation_are_open() -> None:
    assert {(route.method, route.path) for route in ROUTES if route.permission is None} == OPEN
    assert {route.permission for route in ROUTES if route.permission} <= set(PERMISSIONS)


@pytest.mark.parametrize("credentials", [{}, {"authorization": "Bearer aw_" + "x" * 49}], ids=["none", "wrong"])
def test_every_route_and_verb_needs_a_key(null: Platform, credentials: dict[str, str]) -> None:
    with closing(null.connection()) as connection:
        for path, verb in itertools.product(PATHS, VERBS):
            connection.request(verb, path, headers=credentials)
            reply = Reply.read(connection)
            assert (reply.status == 401) != ((verb, path) in OPEN), (verb, path, reply.status)


def test_with_a_key_the_unknown_is_404_and_the_wrong_verb_405(null: Platform) -> None:
    for route in ROUTES:
        path = route.path.replace("{}", "x") + "x" * route.tail
        methods = [other.method for other in ROUTES if other.path == route.path]
        for verb in set(VERBS) - set(methods):
            reply = null.ask(verb, path)
            assert (reply.status, reply.headers["allow"]) == (405, ", ".join(methods)), (verb, path)
    for path in (*UNKNOWN, "/nope", "/v1/chat/completions/", "/metrics/x"):
        reply = null.get(path)
        assert (reply.status, reply.error["code"]) == (404, "not_found"), path


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/responses", "Did you mean /v1/responses? The client's base URL must end in /v1."),
        ("/v1/responses/compact", "The gateway keeps no responses. Send the whole conversation to POST /v1/responses."),
        ("/chat/completions", "Did you mean /v1/chat/completions? The client's base URL must end in /v1."),
        ("/v1/v1/messages", "Did you mean /v1/messages? The client's base URL must end before /v1."),
        ("/v1//models/m/", "Did you mean /v1/models/m? The client's base URL must end in /v1."),
        ("/v1/audio/speech", "Send its requests to the provider directly."),
        ("/v1/threads/t1/messages", "Send all messages to /v1/chat/completions."),
        ("/v1/fine_tuning/jobs", "Train a model with `archwright train`"),
        ("/v1/messages/batches", "Send each request to /v1/messages, or a batch to /v1/batches."),
        ("/api/chat", "Use OpenAI's at /v1/chat/completions"),
        ("/v1beta/models/gemini:generateContent", "Use OpenAI's at /v1/chat/completions"),
        ("/openai/deployments/m/chat/completions", "Use OpenAI's at /v1/chat/completions"),
        ("/v1/imagesx", "The path /v1/imagesx does not exist."),
        ("/v1/files/..%2fa/content", "The path /v1/files/..%2fa/content does not exist."),
    ],
)
def test_what_is_not_there_says_where_to_go(null: Platform, path: str, told: str) -> None:
    reply = null.ask("POST", path)
    said = reply.error["message"]
    assert reply.status == 404 and said.startswith(f"The path {path} does not exist.") and told in said
    assert f"mean {path}?" not in said


BEARER, API_KEY = "authorization", "x-api-key"
NO_KEY: list[dict[str, str]] = [
    *({BEARER: value} for value in ("", "Bearer", "Bearer ", "Basic {key}", "{key}", "Bearer {key} {key}")),
    *({BEARER: value} for value in ("Bearer\t{key}x", "Token {key}", "Bearer aw_é")),
    *({name: "{key}"} for name in ("api-key", "cookie", "x-forwarded-user", "kubeflow-userid")),
    {"cookie": "key={key}"},
    {"proxy-authorization": "Bearer {key}"},
    # Two secrets are none, also when both are good: whose request would it be?
    {BEARER: "Bearer {key}", API_KEY: "{owner}"},
    {BEARER: "Bearer {owner}", API_KEY: "{key}"},
    {BEARER: "Basic eDp5", API_KEY: "{key}"},
    {BEARER: "Bearer {key}", API_KEY: ""},
    {API_KEY: "{key} {key}"},
    {API_KEY: "Bearer {key}"},
]


@pytest.mark.parametrize("headers", NO_KEY, ids=str)
def test_whatever_else_is_sent_is_no_key(null: Platform, headers: dict[str, str]) -> None:
    sent = {name: value.format(key=null.key, owner=null.owner) for name, value in headers.items()}
    assert null.ask("GET", f"/v1/models?key={null.key}", key=None, headers=sent).status == 401


def carriers(secret: str) -> list[dict[str, str]]:
    return [
        {"authorization": f"Bearer {secret}"},
        {"x-api-key": secret},
        {"authorization": f"bearer {secret}", "x-api-key": secret},
        {"authorization": f"BEARER {secret}"},
    ]


@pytest.mark.parametrize("role", ["member", "owner", "monitor", "expired", "unknown"])
def test_every_carrier_gives_the_same_identity_and_the_same_restrictions(null: Platform, role: str) -> None:
    known = role if role in ("member", "owner", "monitor") else "member"
    secret = null.made_key("acme", known, lives_s=1e-6 if role == "expired" else None)
    if role == "unknown":
        body = "B" * 43
        secret = "aw_" + body + compute_checksum(body)
        assert is_well_formed(secret)
    wanted = {"member": (200, 403), "owner": (200, 200), "monitor": (403, 200)}.get(role, (401, 401))
    for headers in carriers(secret):
        found = [null.ask("GET", path, key=None, headers=headers) for path in ("/v1/models", "/metrics")]
        assert tuple(reply.status for reply in found) == wanted, headers.keys()
        assert all(reply.error["type"] == "permission_error" for reply in found if reply.status == 403)


def test_a_key_made_right_after_an_unknown_one_is_known(null: Platform) -> None:
    for _ in range(5):
        unknown = "aw_" + (body := token_urlsafe(32)) + compute_checksum(body)
        assert null.ask("GET", "/v1/models", key=unknown).status == 401
        assert null.ask("GET", "/v1/models", key=null.made_key("acme")).status == 200


@pytest.mark.parametrize(
    "names", ["authorization authorization", "x-api-key x-api-key", "x-api-key " + "authorization " * 2]
)
def test_a_header_sent_twice_is_none(null: Platform, names: str) -> None:
    """Also where both say the same."""
    with closing(null.connection()) as connection:
        connection.putrequest("GET", "/v1/models")
        for name in names.split():
            connection.putheader(name, null.key if name == API_KEY else f"Bearer {null.key}")
        connection.endheaders()
        reply = Reply.read(connection)
    assert reply.status == 401 and "several credentials" in reply.error["message"]


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ({BEARER: "Bearer {key}", API_KEY: "{owner}"}, "several credentials"),
        ({BEARER: "Basic eDp5", API_KEY: "{key}"}, "several credentials"),
        ({BEARER: "Basic eDp5"}, "has no API key"),
        ({}, "has no API key"),
    ],
)
def test_a_refusal_says_how_many_keys_it_saw(null: Platform, headers: dict[str, str], said: str) -> None:
    sent = {name: value.format(key=null.key, owner=null.owner) for name, value in headers.items()}
    reply = null.ask("GET", "/v1/models", key=None, headers=sent)
    assert reply.status == 401 and said in reply.error["message"]
    assert null.key not in reply.error["message"]
    reasons = {entry.reason for entry in null.audited(reply.headers["x-request-id"])}
    assert reasons <= {"several keys" if said == "several credentials" else "no key"}


@pytest.mark.parametrize("coding", ["gzip", "br", "GZIP, identity", "é"])
def test_a_compressed_body_is_named(null: Platform, coding: str) -> None:
    body = gzip.compress(json.dumps({"model": "m", "messages": HELLO}).encode())
    for path in ("/v1/chat/completions", "/v1/messages", "/v1/files"):
        reply = null.ask("POST", path, body, headers={"content-encoding": coding})
        assert reply.status == 415, reply.body
        error = reply.error
        assert "content-encoding" in error["message"]
    assert null.chat(headers={"content-encoding": "identity"}).status == 200
    assert null.ask("POST", "/v1/messages", body, key=None, headers={"content-encoding": coding[:3]}).status == 401


def test_names_at_the_end_of_a_path() -> None:
    assert find_route("GET", "/v1/models/org/name").name == "org/name"
    assert find_route("GET", "/v1/models/").route is None
    assert find_route("GET", "/v1/models").name == ""


def test_request_ids_are_our_own(null: Platform) -> None:
    asked = [("/healthz", None), ("/v1/models", ""), ("/nope", ""), ("/v1/models", None)]
    replies = [null.ask("GET", path, key=key, headers={"x-request-id": "mine"}) for path, key in asked]
    ids = {reply.headers["x-request-id"] for reply in replies}
    assert len(ids) == 4 and all(one.startswith("aw-") for one in ids)


def test_a_web_page_of_a_configured_origin_may_call_and_no_other(start: Start) -> None:
    """A preflight has no key. A page of another origin gets what strangers get; the admin port shares nothing."""
    platform = start([{}], [{}], cors_origins=("https://chat.example",), admin_port=free_port())
    asked = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}

    def preflight(origin: str, *, admin: bool = False, more: dict[str, str] = asked) -> Reply:
        path = "/admin/tenants" if admin else "/v1/chat/completions"
        return platform.ask("OPTIONS", path, key=None, headers={"origin": origin, **more}, admin=admin)

    shared = preflight("https://chat.example")
    assert (shared.status, shared.body) == (200, b"")
    assert shared.headers["access-control-allow-origin"] == "https://chat.example"
    assert shared.headers["access-control-allow-headers"] == "authorization,content-type"
    assert "POST" in shared.headers["access-control-allow-methods"] and shared.headers["vary"] == "origin"
    for reply in (
        preflight("https://chat.example.evil"),
        preflight("null"),
        preflight("https://chat.example", admin=True),
    ):
        assert reply.status == 401 and not [name for name in reply.headers if name.lower().startswith("access-")]
    assert preflight("https://chat.example", more={}).status == 401, "OPTIONS that is no preflight"
    for key, status in (("", 200), ("aw_none", 401)):
        reply = platform.chat(key, headers={"origin": "https://chat.example"}, max_tokens=1)
        assert (reply.status, reply.headers["access-control-allow-origin"]) == (status, "https://chat.example")
        assert reply.headers["access-control-expose-headers"] == "*"
        assert "access-control-allow-credentials" not in reply.headers
    streamed = platform.chat(headers={"origin": "https://chat.example"}, max_tokens=1, stream=True)
    assert streamed.headers["access-control-allow-origin"] == "https://chat.example"


def test_without_the_setting_no_origin_is_shared(null: Platform) -> None:
    asked = {"origin": "https://chat.example", "access-control-request-method": "POST"}
    assert null.ask("OPTIONS", "/v1/chat/completions", key=None, headers=asked).status == 401
    assert "access-control-allow-origin" not in null.chat(headers=asked, max_tokens=1).headers
