"""The administration interface: every route, role, tenant, carrier and verb; foreign objects look like missing ones."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest
from tests.serving.conftest import Platform, Reply, endpoint, free_port, null_engine, running, table
from tests.tools.checks import WAIT_S
from tests.tools.dataset_versions import VERSION

from archwright.access.audit_log import read_entries
from archwright.access.permissions import ROLES
from archwright.contract.record import replace
from archwright.home import Home
from archwright.lake.governance.policy import DatasetPolicy, append_policy
from archwright.lake.tables.version_index import VERSIONS
from archwright.serving.process.routes import ADMIN_ROUTES, ROUTES, find_admin_route

if TYPE_CHECKING:
    from tests.serving.conftest import Start

pytestmark = pytest.mark.enable_socket
VERBS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")
BODIES: dict[str, Any] = {
    "POST /admin/tenants/{}/keys": {"role": "monitor"},
    "PUT /admin/tenants/{}/content": {"traced": False},
}
TENANT, OTHER = "acme", "bolt"


class Door:
    """The administration listener of a platform, and a key of each role of two tenants."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform
        pairs = itertools.product((TENANT, OTHER), ROLES)
        self.keys = {(tenant, role): platform.made_key(tenant, role) for tenant, role in pairs}

    def ask(self, method: str, path: str, headers: dict[str, str], body: object = None) -> Reply:
        return self.platform.ask(method, path, body, key=None, headers=headers, admin=True)

    def by(self, role: str, method: str, path: str, body: object = None, tenant: str = TENANT) -> Reply:
        return self.platform.ask(method, path, body, key=self.keys[tenant, role], admin=True)

    def effects(self, reply: Reply) -> list[str]:
        """The recorded decisions of a request."""
        return [entry.effect for entry in self.platform.audited(reply.headers["x-request-id"])]

    def key_of(self, tenant: str, role: str = "member") -> str:
        """The id of a fresh key."""
        made: str = self.by("owner", "POST", f"/admin/tenants/{tenant}/keys", {"role": role}).json["id"]
        return made

    def path(self, route: str, tenant: str) -> str:
        """The route about an object of `tenant`."""
        if "/keys/{}" in route:
            return route.format(self.key_of(tenant))
        return route.format(tenant, "someone")


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    config = table(endpoint(), port=free_port(), admin_port=free_port())
    with running(Home(tmp_path_factory.mktemp("admin")), config, null_engine()) as platform:
        yield Door(platform)


def carriers(secret: str) -> dict[str, dict[str, str]]:
    return {
        "bearer": {"authorization": f"Bearer {secret}"},
        "x-api-key": {"x-api-key": secret},
        "both": {"authorization": f"Bearer {secret}", "x-api-key": secret},
    }


NONE = {
    "nothing": {},
    "wrong": {"authorization": "Bearer aw_nobody"},
    "basic": {"authorization": "Basic b3duZXI6b3duZXI="},
    "cookie": {"cookie": "key=aw_x"},
    "claim": {"x-user": "owner", "x-forwarded-user": "owner"},
}


def test_matrix_of_routes_roles_tenants_and_carriers(door: Door) -> None:
    """A missing permission gives 403; a foreign object gives the same 404 as an object that does not exist."""
    asked = 0
    for route in ADMIN_ROUTES:
        assert route.permission is not None, "nothing here is open"
        for (tenant, role), target in itertools.product(door.keys, (TENANT, OTHER)):
            everywhere = "tenants.manage" in ROLES[role]
            permitted = route.permission in ROLES[role]
            for name, headers in carriers(door.keys[tenant, role]).items():
                body = {"name": f"new-{asked}"} if route.path == "/admin/tenants" else {}
                body = BODIES.get(f"{route.method} {route.path}", body)
                reply = door.ask(route.method, door.path(route.path, target), headers, body)
                wanted = 403 if not permitted else 200 if everywhere or tenant == target else 404
                assert reply.status == wanted, (route, tenant, role, target, name, reply.body)
                if wanted == 404:
                    absent = route.path.format("key-0000" if "/keys/{}" in route.path else "nobody", "someone")
                    assert reply.body == door.ask(route.method, absent, headers, body).body
                asked += 1
        for name, headers in NONE.items():
            assert door.ask(route.method, door.path(route.path, TENANT), headers).status == 401, (route, name)
    assert asked == len(ADMIN_ROUTES) * 2 * len(ROLES) * 2 * 3


def test_matrix_of_verbs(door: Door) -> None:
    """A verb that is not in the table gets 405, and 401 without a key; llhttp refuses a verb of no standard."""
    assert door.ask("FOO", "/admin/tenants", {}).status == 400
    owner = carriers(door.keys[TENANT, "owner"])["bearer"]
    for path in dict.fromkeys(route.path for route in ADMIN_ROUTES):
        known = {route.method for route in ADMIN_ROUTES if route.path == path}
        for verb in VERBS:
            if verb in known:
                continue
            full = path.format("nobody", "someone")
            assert door.ask(verb, full, {}).status == 401, (verb, path)
            reply = door.ask(verb, full, owner)
            assert (reply.status, set(reply.headers["allow"].split(", "))) == (405, known), (verb, path)


def test_each_listener_has_its_own_routes(door: Door) -> None:
    owner = door.keys[TENANT, "owner"]
    for route in ADMIN_ROUTES:
        assert door.platform.ask(route.method, route.path.format("acme", "x"), {}, key=owner).status == 404
    for other in ROUTES:
        path = other.path.replace("{}", "x") + ("x" if other.tail else "")
        assert door.by("owner", other.method, path).status == 404
        assert door.ask(other.method, path, {}).status == 401


@pytest.mark.parametrize("path", ["/admin/tenants/a%2Fb/keys", "/admin/tenants//keys", "/admin/./tenants/a/keys"])
def test_a_name_is_one_name(path: str) -> None:
    assert find_admin_route("GET", path).route is None


def test_nobody_makes_or_takes_a_key_that_may_more_than_his_own(door: Door) -> None:
    for role in ROLES:
        made = door.by("admin", "POST", f"/admin/tenants/{TENANT}/keys", {"role": role})
        assert made.status == (403 if role == "owner" else 200), role
    above = door.key_of(TENANT, "owner")
    for method, tail in (("POST", "/rotate"), ("PUT", "/limits"), ("DELETE", "")):
        refused = door.by("admin", method, f"/admin/keys/{above}{tail}", {})
        assert refused.status == 403 and "deny" in door.effects(refused)
    foreign = door.by("admin", "GET", f"/admin/tenants/{OTHER}/keys")
    assert foreign.status == 404 and "deny" in door.effects(foreign)
    assert not door.by("owner", "GET", f"/admin/keys/{above}").json["revoked"]


def test_an_administrator_raises_no_limit_of_an_administrator(door: Door) -> None:
    """Neither its own, nor by a second key of its own, nor that of its user; an owner does."""
    wanted = {"role": "admin", "user": "boss", "rpm": 100}
    made = door.by("owner", "POST", f"/admin/tenants/{TENANT}/keys", wanted).json
    second = door.by("admin", "POST", f"/admin/tenants/{TENANT}/keys", {"role": "admin"}).json
    paths = (f"/admin/keys/{made['id']}/limits", f"/admin/tenants/{TENANT}/users/boss/limits")
    for secret in (made["key"], second["key"]):
        for path in paths:
            refused = door.ask("PUT", path, carriers(secret)["bearer"], {"rpm": 9999})
            assert refused.status == 403 and "deny" in door.effects(refused), path
    assert door.by("owner", "GET", f"/admin/keys/{made['id']}").json["rpm"] == 100
    for path in paths:
        assert door.by("owner", "PUT", path, {"rpm": 9999}).status == 200
    member = door.by("admin", "POST", f"/admin/tenants/{TENANT}/keys", {"user": "ann"}).json
    assert door.by("admin", "PUT", f"/admin/keys/{member['id']}/limits", {"rpm": 7}).status == 200
    assert door.by("admin", "PUT", f"/admin/tenants/{TENANT}/users/ann/limits", {"rpm": 7}).status == 200


def test_a_key_is_made_limited_rotated_used_and_revoked(door: Door) -> None:
    wanted = {"user": "ann", "name": "laptop", "rpm": 100, "budget_usd": 0.5, "period": "month"}
    made = door.by("admin", "POST", f"/admin/tenants/{TENANT}/keys", wanted).json
    shown = door.by("admin", "GET", f"/admin/keys/{made['id']}").json
    assert {name: shown[name] for name in wanted} == wanted and "digest" not in shown and made["key"] not in str(shown)
    assert door.by("admin", "PUT", f"/admin/keys/{made['id']}/limits").status == 400
    assert door.by("admin", "GET", f"/admin/keys/{made['id']}").json["rpm"] == 100
    door.by("admin", "PUT", f"/admin/keys/{made['id']}/limits", {})
    rotated = door.by("admin", "POST", f"/admin/keys/{made['id']}/rotate", {"overlap_hours": 0}).json
    assert rotated["id"] == made["id"] and rotated["key"] != made["key"]
    assert door.platform.chat(rotated["key"], max_tokens=1).status == 200
    assert door.platform.chat(made["key"], max_tokens=1).status == 401
    users = door.by("admin", "GET", f"/admin/tenants/{TENANT}/users").json["data"]
    assert "ann" in [one["user"] for one in users]
    usage = door.by("member", "GET", f"/admin/tenants/{TENANT}/usage").json["data"]
    assert [(line["user"], line["requests"]) for line in usage if line["key"] == made["id"]] == [("ann", 1)]
    assert door.by("admin", "DELETE", f"/admin/keys/{made['id']}").json["revoked"]
    assert door.platform.chat(rotated["key"], max_tokens=1).status == 401
    kept = read_entries(door.platform.store, door.platform.home, {"resource": made["id"]}, tenant=TENANT)
    assert [one.action for one in reversed(kept)] == ["key.create", "key.limit", "key.rotate", "key.revoke"]
    told = door.by("admin", "GET", f"/admin/tenants/{TENANT}/audit").json["data"]
    assert {one["tenant"] for one in told} == {TENANT} and "key.revoke" in [one["action"] for one in told]


@pytest.mark.parametrize("end", ["revoke", "rotate"])
def test_what_was_begun_with_a_key_since_taken_away_is_not_done(door: Door, end: str) -> None:
    """The key was valid when the headers arrived and is revoked when the body arrives."""
    made = door.by("owner", "POST", f"/admin/tenants/{TENANT}/keys", {"role": "owner"}).json
    before = len(door.by("owner", "GET", f"/admin/tenants/{TENANT}/keys").json["data"])
    body = b'{"role": "owner", "name": "left-behind"}'
    port = door.platform.config.admin_port
    with socket.create_connection(("127.0.0.1", port), timeout=WAIT_S) as slow:
        head = f"POST /admin/tenants/{TENANT}/keys HTTP/1.1\r\nhost: g\r\nauthorization: Bearer {made['key']}\r\n"
        slow.sendall(head.encode() + b"content-length: %d\r\n\r\n" % len(body) + body[:5])
        if end == "revoke":
            assert door.by("owner", "DELETE", f"/admin/keys/{made['id']}").status == 200
        else:
            overlap = {"overlap_hours": 0}
            assert door.by("owner", "POST", f"/admin/keys/{made['id']}/rotate", overlap).status == 200
        door.platform.until(lambda: door.platform.chat(made["key"], max_tokens=1).status == 401)
        slow.sendall(body[5:])
        said = slow.recv(65536)
    assert said.startswith(b"HTTP/1.1 401 "), said
    assert len(door.by("owner", "GET", f"/admin/tenants/{TENANT}/keys").json["data"]) == before


def test_what_is_refused_is_written_down_too(door: Door) -> None:
    foreign = door.key_of(OTHER)
    reply = door.by("admin", "DELETE", f"/admin/keys/{foreign}")
    (kept,) = read_entries(door.platform.store, door.platform.home, {"resource": foreign}, tenant=TENANT)
    assert (kept.effect, kept.request_id) == ("deny", reply.headers["x-request-id"])
    assert (kept.outcome, kept.source) == ("refused", "127.0.0.1")


def test_what_failed_is_written_down_without_the_texts_of_the_caller(door: Door) -> None:
    reply = door.by("owner", "POST", "/admin/tenants", {"name": "Not A Name"})
    failed, admitted = door.platform.audited(reply.headers["x-request-id"])
    assert (failed.action, failed.outcome, failed.reason) == ("tenant.create", "failed", "AW-USE-30")
    assert admitted.outcome == "admitted" and "Not A Name" not in str(failed)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/admin/tenants", {"name": "Not A Name"}, 400),
        ("/admin/tenants", {"name": TENANT}, 409),
        ("/admin/tenants", {}, 400),
        ("/admin/tenants", [], 400),
        (f"/admin/tenants/{TENANT}/keys", {"rpm": -1}, 400),
        (f"/admin/tenants/{TENANT}/keys", {"role": "king"}, 403),
        (f"/admin/tenants/{TENANT}/keys", {"is_owner": True}, 400),
    ],
)
def test_bodies_that_are_not_as_they_should_be(door: Door, path: str, body: object, status: int) -> None:
    assert door.by("owner", "POST", path, body).status == status


def test_without_a_port_there_is_no_such_listener(start: Start) -> None:
    platform = start([{}], [{}])
    assert platform.get("/admin/tenants", key=platform.owner).status == 404


def test_a_key_sees_the_data_sets_that_its_tenant_may_read(door: Door) -> None:
    """A data set appears for its own tenant and for the tenants in the readers of its policy, and for nobody else."""
    store = door.platform.store
    for name, tenant, readers in (("shared", OTHER, (TENANT,)), ("own", TENANT, ()), ("foreign", OTHER, ())):
        store.append(VERSIONS, [replace(VERSION, id=f"{name}@v1", dataset=name)])
        append_policy(store, DatasetPolicy(dataset=name, tenant=tenant, readers=readers, owner="ann", by="root"))
    seen = door.by("member", "GET", f"/admin/tenants/{TENANT}/datasets").json["data"]
    assert [(one["dataset"], one["owner"], one["by"]) for one in seen] == [("own", "ann", ""), ("shared", "ann", "")]
    assert door.by("monitor", "GET", f"/admin/tenants/{TENANT}/datasets").status == 403
