"""Default deny, walked over the live table: nothing but two probes answers a stranger, whatever the verb."""

from __future__ import annotations

import http.client
from secrets import token_urlsafe
from typing import TYPE_CHECKING

import pytest

from archwright.access.permissions import PERMISSIONS
from archwright.access.tables import compute_checksum, is_well_formed
from archwright.serving.process.routes import ROUTES, find_route

if TYPE_CHECKING:
    from tests.serving.conftest import Platform

pytestmark = pytest.mark.enable_socket

VERBS = ("GET", "POST", "PUT", "PATCH", "DELETE", "HEAD", "OPTIONS", "TRACE", "PROPFIND", "PURGE", "LINK")
PATHS = (
    *(route.path + "x" * route.tail for route in ROUTES),
    "/",
    "/v1",
    "/v1/",
    "/admin",
    "/docs",
    "/v1/models/",
    "//",
)
OPEN = {(verb, path) for verb in ("GET", "HEAD") for path in ("/healthz", "/readyz")}


def test_only_the_probes_are_open() -> None:
    assert {(route.method, route.path) for route in ROUTES if route.permission is None} == OPEN
    assert {route.permission for route in ROUTES if route.permission} <= set(PERMISSIONS)


@pytest.mark.parametrize("credentials", [{}, {"authorization": "Bearer aw_" + "x" * 49}], ids=["none", "wrong"])
def test_every_route_and_verb_needs_a_key(null: Platform, credentials: dict[str, str]) -> None:
    connection = null.connection()
    seen = 0
    for path in PATHS:
        for verb in VERBS:
            connection.request(verb, path, headers=credentials)
            reply = connection.getresponse()
            reply.read()
            assert (reply.status == 401) != ((verb, path) in OPEN), (verb, path, reply.status)
            seen += 1
    connection.close()
    assert seen == len(PATHS) * len(VERBS)


def test_with_a_key_the_unknown_is_404_and_the_wrong_verb_405(null: Platform) -> None:
    for route in ROUTES:
        path = route.path + "x" * route.tail
        methods = [other.method for other in ROUTES if other.path == route.path]
        for verb in set(VERBS) - set(methods):
            reply = null.ask(verb, path)
            assert reply.status == 405, (verb, path)
            assert reply.headers["allow"] == ", ".join(methods)
    for path in ("/", "/v1", "/nope", "/v1/models/", "/v1/chat/completions/", "/metrics/x"):
        reply = null.get(path)
        assert (reply.status, reply.error["code"]) == (404, "not_found"), path


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("/v1/responses", "Set the client to chat completions, which are at /v1/chat/completions"),
        ("/responses/resp_1", "The Responses interface is not served"),
        ("/chat/completions", "Did you mean /v1/chat/completions? The client's base URL must end in /v1."),
        ("/v1/v1/messages", "Did you mean /v1/messages? The client's base URL must end before /v1."),
        ("/v1//models/m/", "Did you mean /v1/models/m? The client's base URL must end in /v1."),
        ("/v1/audio/speech", "Nothing is served at /v1/audio/speech."),
    ],
)
def test_what_is_not_there_says_where_to_go(null: Platform, path: str, told: str) -> None:
    reply = null.ask("POST", path)
    assert reply.status == 404
    assert reply.error["message"].startswith(f"Nothing is served at {path}.")
    assert told in reply.error["message"]


def test_roles(null: Platform) -> None:
    reply = null.get("/metrics")
    assert (reply.status, reply.error["type"]) == (403, "permission_error")
    assert null.get("/metrics", key=null.owner).status == 200


@pytest.mark.parametrize(
    "value",
    [
        "",
        "Bearer",
        "Bearer ",
        "Basic {key}",
        "{key}",
        "Bearer {key} {key}",
        "Bearer\t{key}x",
        "Token {key}",
        "Bearer aw_é",
    ],
)
def test_other_carriers_and_schemes_are_no_key(null: Platform, value: str) -> None:
    header = value.format(key=null.key).encode("latin-1").decode("latin-1")
    assert null.ask("GET", "/v1/models", key=None, headers={"authorization": header}).status == 401


def test_the_scheme_is_case_insensitive(null: Platform) -> None:
    for scheme in ("bearer", "BEARER", "Bearer"):
        reply = null.ask("GET", "/v1/models", key=None, headers={"authorization": f"{scheme} {null.key}"})
        assert reply.status == 200


def test_a_key_anywhere_else_is_not_read(null: Platform) -> None:
    for headers in [
        {"api-key": null.key},
        {"cookie": f"key={null.key}"},
        {"x-forwarded-user": "owner"},
        {"kubeflow-userid": "owner"},
        {"proxy-authorization": f"Bearer {null.key}"},
    ]:
        assert null.ask("GET", f"/v1/models?key={null.key}", key=None, headers=headers).status == 401


def carriers(secret: str) -> list[dict[str, str]]:
    return [
        {"authorization": f"Bearer {secret}"},
        {"x-api-key": secret},
        {"authorization": f"bearer {secret}", "x-api-key": secret},
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


def test_a_key_made_right_after_an_unknown_one_is_known(null: Platform) -> None:
    for _ in range(5):
        unknown = "aw_" + (body := token_urlsafe(32)) + compute_checksum(body)
        assert null.ask("GET", "/v1/models", key=unknown).status == 401
        assert null.ask("GET", "/v1/models", key=null.made_key("acme")).status == 200


def test_two_secrets_are_none(null: Platform) -> None:
    """Also when both are good: whose request would it be?"""
    for headers in [
        {"authorization": f"Bearer {null.key}", "x-api-key": null.owner},
        {"authorization": f"Bearer {null.owner}", "x-api-key": null.key},
        {"authorization": "Basic eDp5", "x-api-key": null.key},
        {"authorization": f"Bearer {null.key}", "x-api-key": ""},
        {"x-api-key": f"{null.key} {null.key}"},
        {"x-api-key": f"Bearer {null.key}"},
    ]:
        assert null.ask("GET", "/v1/models", key=None, headers=headers).status == 401, headers


@pytest.mark.parametrize(
    "names", ["authorization authorization", "x-api-key x-api-key", "x-api-key " + "authorization " * 2]
)
def test_a_header_sent_twice_is_none(null: Platform, names: str) -> None:
    """Also where both say the same."""
    connection = http.client.HTTPConnection("127.0.0.1", null.config.port, timeout=10)
    connection.putrequest("GET", "/v1/models")
    for name in names.split():
        connection.putheader(name, null.key if name == "x-api-key" else f"Bearer {null.key}")
    connection.endheaders()
    assert connection.getresponse().status == 401
    connection.close()


def test_names_at_the_end_of_a_path() -> None:
    assert find_route("GET", "/v1/models/org/name").name == "org/name"
    assert find_route("GET", "/v1/models/").route is None
    assert find_route("GET", "/v1/models").name == ""


def test_request_ids_are_our_own(null: Platform) -> None:
    ids = {
        null.ask(verb, path, key=key, headers={"x-request-id": "mine"}).headers["x-request-id"]
        for verb, path, key in [
            ("GET", "/healthz", None),
            ("GET", "/v1/models", ""),
            ("GET", "/nope", ""),
            ("GET", "/v1/models", None),
        ]
    }
    assert len(ids) == 4
    assert all(one.startswith("aw-") for one in ids)
