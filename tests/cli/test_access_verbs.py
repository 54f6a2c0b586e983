"""Tenants, users and keys from the command line: limits, users, rotation."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from archwright.access.accounts import open_accounts_table
from archwright.access.api_keys import KeyStore, load_pepper
from archwright.cli import main
from archwright.home import Home
from archwright.store import Store


def run_json(capsys: pytest.CaptureFixture[str], *words: str) -> Any:
    assert main([*words, "--json"]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def test_a_key_with_everything(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    words = "key create --tenant acme --user ann@acme.org --role admin --name laptop --expires-in-days 30"
    made = run_json(capsys, *words.split(), "--budget-usd", "5.5", "--rpm", "60", "--tpm", "9000", "--period", "month")
    assert made["key"].startswith("aw_") and made["id"].startswith("key-")
    (row,) = run_json(capsys, "key", "list", "--tenant", "acme")
    assert row["expires_at"] - row["created_at"] == 30 * 86_400
    shown = {name: row[name] for name in ("user", "role", "name", "rpm", "tpm", "budget_usd", "period", "revoked")}
    assert shown == {
        "user": "ann@acme.org",
        "role": "admin",
        "name": "laptop",
        "rpm": 60,
        "tpm": 9000,
        "budget_usd": 5.5,
        "period": "month",
        "revoked": False,
    }
    assert row["last_used_at"] is None
    limited = run_json(capsys, "key", "limit", made["id"], "--rpm", "5")
    assert (limited["rpm"], limited["tpm"], limited["budget_usd"], limited["period"]) == (5, None, None, "total")
    again = run_json(capsys, "key", "rotate", made["id"], "--overlap-hours", "0")
    assert again["id"] == made["id"] and again["key"] != made["key"]
    (row,) = run_json(capsys, "key", "list")
    assert row["prefix"] == again["key"][:10] and row["rpm"] == 5
    store = Store(home.store_url)
    keys = KeyStore(store, load_pepper(home))
    assert keys.identify(made["key"]) is None and keys.identify(again["key"]) is not None
    store.close()
    assert run_json(capsys, "key", "revoke", made["id"])["revoked"]


@pytest.fixture
def no_room() -> Iterator[None]:
    """A nearly full disk: rows of the store fit, a segment of the write-ahead log does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4 << 20, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("act", ["key create --tenant new", "key limit ID --rpm 1", "key rotate ID", "tenant create t"])
def test_what_cannot_be_written_down_is_not_done(home: Home, capsys: pytest.CaptureFixture[str], act: str) -> None:
    """Without space for the audit record no key is created, rotated or changed."""
    store = Store(home.store_url)
    keys = KeyStore(store, load_pepper(home))
    secret, record = keys.create("acme")
    assert main([*act.replace("ID", record.id).split(), "--json"]) == 8
    error = json.loads(capsys.readouterr().err)
    assert error["code"] == "AW-STO-06" and "File too large" in error["message"], error
    assert [tenant.name for tenant in keys.list_tenants()] == ["acme"]
    (kept,) = keys.list()
    assert kept == record and keys.identify(secret) is not None and not keys.read_limits()[f"key:{record.id}"].rpm
    store.close()


def test_tenants_and_users_have_limits(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    for user in ("ann", "ann", "bob"):
        run_json(capsys, "key", "create", "--tenant", "acme", "--user", user)
    gone = run_json(capsys, "key", "create", "--tenant", "acme", "--user", "carl")["id"]
    run_json(capsys, "key", "revoke", gone)
    run_json(capsys, "key", "create", "--tenant", "bank", "--user", "dora")
    assert run_json(capsys, "tenant", "limit", "acme", "--tpm", "10")["tpm"] == 10
    assert run_json(capsys, "user", "limit", "acme", "ann", "--budget-usd", "1")["keys"] == 2
    assert run_json(capsys, "user", "limit", "acme", "eve", "--rpm", "3")["keys"] == 0
    tenants = run_json(capsys, "tenant", "list")
    assert [(row["name"], row["tpm"]) for row in tenants] == [("acme", 10), ("bank", None)]
    users = run_json(capsys, "user", "list", "--tenant", "acme")
    assert [(row["user"], row["keys"], row["budget_usd"], row["rpm"]) for row in users] == [
        ("ann", 2, 1.0, None),
        ("bob", 1, None, None),
        ("carl", 0, None, None),
        ("eve", 0, None, 3),
    ]
    assert len(run_json(capsys, "user", "list")) == 5
    acts = [row["action"] for row in run_json(capsys, "audit", "list")]
    assert acts[:3] == ["user.limit", "user.limit", "tenant.limit"]
    assert main(["user", "list"]) == 0
    assert "ann" in capsys.readouterr().out


def test_a_tenant_has_its_content_traced_or_not(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    for tenant in ("acme", "bank"):
        run_json(capsys, "key", "create", "--tenant", tenant)
    assert run_json(capsys, "tenant", "content", "acme", "--traced")["content_traced"] is True
    assert [row["content_traced"] for row in run_json(capsys, "tenant", "list")] == [True, False]
    assert run_json(capsys, "tenant", "limit", "acme", "--rpm", "3")["content_traced"] is True, "limits change limits"
    assert run_json(capsys, "tenant", "content", "acme")["content_traced"] is False
    acts = [(row["action"], row["tenant"]) for row in run_json(capsys, "audit", "list")]
    assert acts[0] == ("content.keep", "acme") and ("content.trace", "acme") in acts


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("key create --rpm -1", "AW-USE-36"),
        ("key create --period week", "AW-USE-36"),
        ("key create --expires-in-days 0", "AW-USE-36"),
        ("key create --user a/b", "AW-USE-30"),
        ("key rotate key-0", "AW-USE-34"),
        ("key limit key-0 --rpm 1", "AW-USE-34"),
        ("tenant limit nobody --rpm 1", "AW-USE-34"),
        ("tenant content nobody --traced", "AW-USE-34"),
        ("user limit nobody ann --rpm 1", "AW-USE-34"),
    ],
)
def test_what_makes_no_sense_is_said(home: Home, capsys: pytest.CaptureFixture[str], words: str, code: str) -> None:
    assert main([*words.split(), "--json"]) == 2
    assert json.loads(capsys.readouterr().err)["code"] == code


@pytest.mark.process
def test_workers_of_this_machine_hear_of_a_key_at_once(home: Home) -> None:
    slate, store = open_accounts_table(home), Store(home.store_url)
    gateway = KeyStore(store, load_pepper(home), monotonic=lambda: 1.0, table=slate)  # time stands: no poll
    gateway.refresh_version()
    words = [sys.executable, "-m", "archwright", "key", "create", "--json"]
    made = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert gateway.identify(made["key"]) is not None
    slate.close()
    store.close()
