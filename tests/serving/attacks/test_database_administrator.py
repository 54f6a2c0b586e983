"""The administrator of the database changes rows of keys, limits and revocations; the gateway starts again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from tests.serving.conftest import Platform, free_port

from archwright.api import audit
from archwright.errors import StoreError

if TYPE_CHECKING:
    from tests.serving.conftest import Start

pytestmark = pytest.mark.enable_socket


def execute(platform: Platform, statement: str) -> None:
    with closing(sqlite3.connect(platform.home.root / "archwright.db")) as connection:
        connection.executescript(statement)


def restart(platform: Platform, *, ready: bool = True) -> None:
    platform.master.terminate()
    platform.master.wait()
    if platform.master.stdin is not None:
        platform.master.stdin.close()
    platform.start_gateway(ready=ready)


def verify_code(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("ARCHWRIGHT_HOME", str(platform.home.root))
    try:
        audit.verify()
    except StoreError as error:
        return error.code
    return ""


def test_a_member_cannot_be_made_an_owner(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The member had 200 on /admin/tenants after a restart, and `audit verify` said `whole yes`."""
    platform = start([{}], [{}], admin_port=free_port())
    assert platform.ask("GET", "/admin/tenants", admin=True).status == 403
    execute(platform, "update keys set role = 'owner' where role = 'member'")
    restart(platform)
    assert platform.ask("GET", "/admin/tenants", admin=True).status == 401 and platform.chat().status == 401
    assert platform.ask("GET", "/admin/tenants", key=platform.owner, admin=True).status == 200, "other keys work"
    assert verify_code(platform, monkeypatch) == "AW-STO-20"


def test_a_deleted_revocation_revives_no_key(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    """The revoked key had 200 after a restart. The gateway answers nobody, for no row says whose key was revoked."""
    platform = start([{}], [{}], admin_port=free_port())
    secret = platform.made_key("acme")
    assert platform.chat(key=secret).status == 200
    with platform.keys() as keys:
        (key_id,) = (record.id for record in keys.list() if secret.startswith(record.prefix))
    assert platform.ask("DELETE", f"/admin/keys/{key_id}", key=platform.owner, admin=True).status == 200
    platform.until(lambda: platform.chat(key=secret).status == 401)
    restart(platform)  # which writes a checkpoint
    assert platform.chat(key=secret).status == 401 and platform.chat().status == 200
    execute(platform, "delete from key_revocations")
    restart(platform, ready=False)
    for key in (secret, platform.key, platform.owner):
        reply = platform.chat(key=key)
        assert reply.status == 503, reply.body
    assert "AW-STO-21" in platform.home.log("gateway").read_text(), "the operator reads why"
    assert verify_code(platform, monkeypatch) == "AW-STO-21"
