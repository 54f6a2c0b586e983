"""Tenants, users and keys from the command line: limits, users, rotation."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

from archwright.access.accounts import open_accounts_table
from archwright.access.api_keys import KeyStore, load_pepper
from archwright.home import Home
from archwright.monitor.wal.disk_reserve import ACT_SEGMENT_BYTES
from archwright.settings import read_os_user
from archwright.store import Store

from ..command_line import CommandLine


def test_a_key_with_everything(home: Home, cli: CommandLine) -> None:
    words = "key create --tenant acme --user ann@acme.org --role admin --name laptop --expires-in-days 30"
    made = cli.json(f"{words} --budget-usd 5.5 --rpm 60 --tpm 9000 --period month")
    assert made["key"].startswith("aw_") and made["id"].startswith("key-")
    (row,) = cli.json("key list --tenant acme")
    assert row["expires_at"] - row["created_at"] == 30 * 86_400
    names = ("user", "role", "name", "rpm", "tpm", "budget_usd", "period", "revoked", "last_used_at")
    limits = (60, 9000, 5.5, "month", False, None)
    assert tuple(row[name] for name in names) == ("ann@acme.org", "admin", "laptop", *limits)
    limited = cli.json(f"key limit {made['id']} --rpm 5 --parallel 2")
    assert limited["parallel"] == 2
    assert (limited["rpm"], limited["tpm"], limited["budget_usd"], limited["period"]) == (5, None, None, "total")
    again = cli.json(f"key rotate {made['id']} --overlap-hours 0")
    assert again["id"] == made["id"] and again["key"] != made["key"]
    (row,) = cli.json("key list")
    assert row["prefix"] == again["key"][:10] and row["rpm"] == 5
    store = Store(home.store_url)
    keys = KeyStore(store, load_pepper(home, store))
    assert keys.identify(made["key"]) is None and keys.identify(again["key"]) is not None
    store.close()
    assert cli.json(f"key revoke {made['id']}")["revoked"]


@pytest.fixture
def no_room() -> Iterator[None]:
    """A nearly full disk: rows of the store fit, a segment of the write-ahead log does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (ACT_SEGMENT_BYTES - 1, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("no_room")
@pytest.mark.parametrize("act", ["key create --tenant new", "key limit ID --rpm 1", "key rotate ID", "tenant create t"])
def test_what_cannot_be_written_down_is_not_done(home: Home, cli: CommandLine, act: str) -> None:
    """Without space for the audit record no key is created, rotated or changed."""
    store = Store(home.store_url)
    keys = KeyStore(store, load_pepper(home, store))
    secret, record = keys.create("acme")
    error = cli.json_error(act.replace("ID", record.id), 8)
    assert error["code"] == "AW-STO-06" and "File too large" in error["message"], error
    assert [tenant.name for tenant in keys.list_tenants()] == ["acme"]
    (kept,) = keys.list()
    assert kept == record and keys.identify(secret) is not None and not keys.read_limits()[f"key:{record.id}"].rpm
    store.close()


def test_tenants_and_users_have_limits(cli: CommandLine) -> None:
    for user in ("ann", "ann", "bob"):
        cli.json(f"key create --tenant acme --user {user}")
    cli.json(f"key revoke {cli.json('key create --tenant acme --user carl')['id']}")
    cli.json("key create --tenant bank --user dora")
    assert cli.json("tenant limit acme --tpm 10")["tpm"] == 10
    assert cli.json("user limit acme ann --budget-usd 1")["keys"] == 2
    limited = cli.json("user limit acme eve --rpm 3 --parallel 4")
    assert (limited["keys"], limited["parallel"]) == (0, 4)
    assert [(row["name"], row["tpm"]) for row in cli.json("tenant list")] == [("acme", 10), ("bank", None)]
    users = cli.json("user list --tenant acme")
    assert [(row["user"], row["keys"], row["budget_usd"], row["rpm"]) for row in users] == [
        ("ann", 2, 1.0, None),
        ("bob", 1, None, None),
        ("carl", 0, None, None),
        ("eve", 0, None, 3),
    ]
    assert len(cli.json("user list")) == 5
    acts = [row["action"] for row in cli.json("audit list") if not row["action"].endswith(".list")]
    assert acts[:3] == ["user.limit", "user.limit", "tenant.limit"]
    assert "ann" in cli.text("user list")


def test_a_tenant_has_its_content_traced_or_not(cli: CommandLine) -> None:
    for tenant in ("acme", "bank"):
        cli.json(f"key create --tenant {tenant}")
    assert cli.json("tenant content acme --traced")["content_traced"] is True
    assert [row["content_traced"] for row in cli.json("tenant list")] == [True, False]
    changed = cli.json("tenant limit acme --rpm 3 --parallel 5")
    assert changed["content_traced"] is True and changed["parallel"] == 5, "limits change limits"
    assert cli.json("tenant content acme")["content_traced"] is False
    assert {(row["os_user"], row["outcome"]) for row in cli.json("audit list")} == {(read_os_user(), "done")}
    rows = [row for row in cli.json("audit list") if not row["action"].endswith(".list")]
    acts = [(row["action"], row["tenant"]) for row in rows]
    assert acts[0] == ("content.keep", "acme") and ("content.trace", "acme") in acts


@pytest.mark.parametrize(
    ("line", "code"),
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
def test_what_makes_no_sense_is_reported(cli: CommandLine, line: str, code: str) -> None:
    assert cli.json_error(line, 2)["code"] == code


@pytest.mark.process
def test_workers_of_this_machine_hear_of_a_key_at_once(home: Home) -> None:
    slate, store = open_accounts_table(home), Store(home.store_url)
    gateway = KeyStore(store, load_pepper(home, store), monotonic=lambda: 1.0, table=slate)  # time stands: no poll
    gateway.refresh_version()
    words = [sys.executable, "-P", "-m", "archwright", "key", "create", "--json"]
    made = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    assert gateway.identify(made["key"]) is not None
    slate.close()
    store.close()


def test_a_lost_pepper_is_replaced_on_request_only(cli: CommandLine, home: Home) -> None:
    cli.json("key create")
    assert "AW-USE-37" in cli.run("key reset", 2)[1], "the keys are valid"
    home.pepper.unlink()
    assert "AW-ACC-02" in cli.run("key create", 6)[1]
    assert cli.json("key reset")["role"] == "owner"
    assert [key["revoked"] for key in cli.json("key list")] == [True, False]
