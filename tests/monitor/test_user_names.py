"""Records name users by ids; only one table has the names, and without its row an id names nobody."""

from __future__ import annotations

from archwright.access import tables
from archwright.access.api_keys import KeyStore
from archwright.access.signed_rows import sign_anew
from archwright.contract.record import replace
from archwright.monitor.user_names import USER_NAMES, ensure_user_id, find_user_ids, read_user_names
from archwright.policy.usage_limits import UsageLimits
from archwright.store import Store


def make_keys(store: Store) -> KeyStore:
    return KeyStore(store, b"pepper")


def test_an_id_per_tenant_and_name(store: Store) -> None:
    first = ensure_user_id(store, "clinic", "ann@x.org")
    assert ensure_user_id(store, "clinic", "ann@x.org") == first != ensure_user_id(store, "bank", "ann@x.org")
    assert "ann" not in first and ensure_user_id(store, "clinic", "") == ""
    assert read_user_names(store)[first] == "ann@x.org"
    assert find_user_ids(store, "ann@x.org", "clinic") == (first, "ann@x.org")
    assert len(find_user_ids(store, "ann@x.org")) == 3


def test_keys_and_limits_show_names_and_store_ids(store: Store) -> None:
    keys = make_keys(store)
    _secret, record = keys.create("clinic", user="ann@x.org")
    keys.set_limits("user", "clinic", "ann@x.org", limits=UsageLimits(rpm=3))
    assert record.user == "ann@x.org" == keys.list()[0].user
    assert keys.read_limits()["user:clinic/ann@x.org"] == UsageLimits(rpm=3)
    stored = [*store.rows(tables.KEYS), *store.rows(tables.LIMITS)]
    assert "ann" not in str(stored)
    store.remove(USER_NAMES, {"name": "ann@x.org"})
    assert keys.list()[0].user.startswith("user-")


def test_a_user_of_an_older_version_stays_one_user(store: Store) -> None:
    keys = make_keys(store)
    _secret, record = keys.create("clinic")
    check = tables.PepperCheck(generation=2, check="")
    sign_anew(store, b"pepper", check, change=lambda row: replace(row, user="bob"))
    keys.create("clinic", user="bob")
    assert {row.user for row in store.rows(tables.KEYS)} == {"bob"}
    assert [key.user for key in keys.list()] == ["bob", "bob"] and record.id
