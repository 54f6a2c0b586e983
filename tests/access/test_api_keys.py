"""API keys: shown once, stored as a keyed hash, visible at once, refused within a second of their revocation."""

from __future__ import annotations

import hmac
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.access.conftest import Clock, open_keys
from tests.tools.checks import WAIT_S

from archwright.access.api_keys import (
    POLL_S,
    SECRET_LENGTH,
    UNKNOWN_POLL_S,
    KeyRecord,
    KeyStore,
    Principal,
    is_well_formed,
    load_pepper,
    read_pepper,
    replace_pepper,
)
from archwright.access.tables import KEYS, SECRET_EXPIRIES
from archwright.errors import StoreError, UsageError
from archwright.home import Home
from archwright.store import RecordTable, Store

from ..command_line import error_of


def test_a_key_identifies_its_tenant_and_role_under_its_pepper(keys: KeyStore, store: Store) -> None:
    secret, record = keys.create("clinic", "admin", "ward-7")
    assert keys.identify(secret) == Principal(key_id=record.id, tenant="clinic", role="admin")
    assert secret.startswith("aw_") and len(secret) == SECRET_LENGTH == 52
    assert (record.name, record.prefix, record.created_at) == ("ward-7", secret[:10], 1_000.0)
    assert record.digest == hmac.digest(b"p" * 32, secret.encode(), "sha256").hex()
    assert KeyStore(store, b"q" * 32).identify(secret) is None


def test_neither_record_nor_database_holds_the_secret(keys: KeyStore, store: Store, tmp_path: Path) -> None:
    secret, record = keys.create("clinic")
    assert secret[10:] not in repr(record)
    store.close()
    kept = b"".join(path.read_bytes() for path in (tmp_path / "home").iterdir() if path.is_file())
    assert secret.encode() not in kept
    assert secret[10:].encode() not in kept
    assert record.digest.encode() in kept


@pytest.mark.parametrize("change", ["cut", "longer", "letter", "prefix", "not-ascii", "empty", "checksum"])
def test_a_mistyped_secret_is_refused_without_the_store(keys: KeyStore, store: Store, change: str) -> None:
    secret, _ = keys.create("clinic")
    wrong = {
        "cut": secret[:-1],
        "longer": secret + "x",
        "letter": secret[:20] + ("A" if secret[20] != "A" else "B") + secret[21:],
        "prefix": "ax_" + secret[3:],
        "not-ascii": secret[:20] + "é" + secret[21:],
        "empty": "",
        "checksum": secret[:-6] + ("AAAAAA" if not secret.endswith("AAAAAA") else "AAAAAB"),
    }[change]
    assert not is_well_formed(wrong)
    assert KeyStore(Store("sqlite:////nowhere/at/all.db"), b"p" * 32).identify(wrong) is None


@given(st.text(max_size=60))
def test_no_text_breaks_the_check(text: str) -> None:
    assert not is_well_formed(text)


def test_unknown_keys_do_not_flood_the_store(keys: KeyStore, store: Store, clock: Clock) -> None:
    gateway = open_keys(store, clock)
    known, _ = keys.create("clinic")
    assert gateway.identify(known) is not None
    later, _ = keys.create("clinic")
    clock.now += UNKNOWN_POLL_S - 0.01
    assert gateway.identify(later) is None, "read the store too often"
    clock.now += 0.02
    assert gateway.identify(later) is not None


def test_a_revoked_key_is_refused_here_at_once_and_elsewhere_within_the_poll(
    keys: KeyStore, store: Store, clock: Clock
) -> None:
    gateway = open_keys(store, clock)
    secret, record = keys.create("clinic")
    assert gateway.identify(secret) is not None and keys.identify(secret) is not None
    assert not keys.is_revoked(record.id)
    for _ in range(2):  # revoking a key twice is no error
        assert keys.revoke(record.id) == record
        assert keys.identify(secret) is None and keys.is_revoked(record.id)
    clock.now += POLL_S
    assert gateway.identify(secret) is None
    assert POLL_S <= 1.0


def test_a_revocation_that_arrives_before_its_key_counts(store: Store, clock: Clock) -> None:
    """The two tables are read one after the other; a key and its revocation may both come in between."""
    maker, gateway = KeyStore(store, b"p" * 32), open_keys(store, clock)
    secret, record = maker.create("clinic")
    maker.revoke(record.id)
    # It read the keys just before this one was written.
    gateway._seen["keys"] = store.newest_seq(KEYS)[0], store.rows(KEYS)[-1].mac
    assert gateway.identify(secret) is None
    gateway._seen["keys"] = 0, ""
    clock.now += 1
    assert gateway.identify(secret) is None


def test_tenants_see_only_their_own_keys(keys: KeyStore) -> None:
    _, one = keys.create("clinic", name="a")
    _, two = keys.create("bank", name="b")
    assert keys.list("clinic") == (one,)
    assert keys.list("bank") == (two,)
    assert keys.list("nobody") == ()
    assert keys.list() == (one, two)


def test_tenants_are_unique_and_made_with_their_first_key(keys: KeyStore) -> None:
    assert keys.create_tenant("clinic").created_at == 1_000.0
    keys.create("clinic")
    keys.create("bank")
    keys.create("bank")
    assert [tenant.name for tenant in keys.list_tenants()] == ["clinic", "bank"]
    with pytest.raises(UsageError, match="exists", check=lambda error: error.code == "AW-USE-31"):
        keys.create_tenant("bank")


@pytest.mark.parametrize("name", ["", "Clinic", "a b", "a" * 41, "../x", "a\n", "ü", "';--"])
def test_names_are_checked(keys: KeyStore, name: str) -> None:
    with pytest.raises(UsageError, match="name", check=lambda error: error.code == "AW-USE-30"):
        keys.create_tenant(name)
    with pytest.raises(UsageError):
        keys.create(name)
    if name:
        with pytest.raises(UsageError):
            keys.create("clinic", name=name)
    assert keys.list() == () and keys.list_tenants() == ()


def test_when_revocations_cannot_be_read_identify_says_so(tmp_path: Path, clock: Clock) -> None:
    """The caller denies: a revoked key must not be accepted when a disk fails."""
    file = tmp_path / "archwright.db"
    keys = KeyStore(Store(f"sqlite:///{file}"), b"p" * 32, clock=clock, monotonic=clock)
    secret, _ = keys.create("clinic")
    assert keys.identify(secret) is not None
    keys._store.close()
    for path in tmp_path.iterdir():
        path.unlink()
    file.mkdir()
    clock.now += POLL_S
    with pytest.raises(StoreError, match="refused"):
        keys.identify(secret)


def test_a_revocation_read_when_another_table_could_not_be_counts_all_the_same(
    keys: KeyStore, store: Store, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, record = keys.create("clinic")
    other = open_keys(store, clock)
    assert other.identify(secret) is not None
    keys.revoke(record.id)
    later, _ = keys.create("clinic")
    clock.now += 1
    with monkeypatch.context() as broken:
        read = other._store.numbered_rows
        broken.setattr(other._store, "numbered_rows", lambda table, *rest: read(_there(table), *rest))
        with pytest.raises(StoreError, match="gone"):
            other.identify(secret)
    clock.now += 1
    assert other.identify(secret) is None and other.identify(later) is not None


def _there(table: RecordTable[Any]) -> RecordTable[Any]:
    """A database whose connection ends between two reads."""
    if table is SECRET_EXPIRIES:
        raise StoreError("AW-STO-01", "the connection is gone")
    return table


def test_threads_agree_and_make_a_tenant_once(keys: KeyStore, store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = [secret for secret, _ in pool.map(lambda _: KeyStore(store, b"p" * 32).create("clinic"), range(20))]
        assert len(set(made)) == 20 and all(pool.map(keys.identify, made * 20))
    assert [tenant.name for tenant in keys.list_tenants()] == ["clinic"]
    assert len(keys.list("clinic")) == 20


def test_the_pepper_is_made_once_and_private(tmp_path: Path) -> None:
    home, other = Home(tmp_path / "home"), Home(tmp_path / "other")
    pepper = load_pepper(home, Store(home.store_url))
    assert len(pepper) == 32 and load_pepper(home, Store(home.store_url)) == pepper == read_pepper(home)
    assert stat.S_IMODE(os.stat(home.pepper).st_mode) == 0o600
    assert [path.name for path in home.pepper.parent.iterdir()] == ["pepper"]
    assert load_pepper(other, Store(other.store_url)) != pepper


@pytest.mark.process
def test_processes_that_make_the_pepper_at_once_end_with_one(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom archwright.access.api_keys import load_pepper\nfrom archwright.home import Home\n"
        "from archwright.store import Store\nhome = Home(sys.argv[1])\nprint('ready', flush=True)\n"
        "sys.stdin.readline()\nprint(load_pepper(home, Store(home.store_url)).hex())"
    )
    command, pipe = [sys.executable, "-c", program, str(tmp_path / "home")], subprocess.PIPE
    started = [subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) for _ in range(3)]
    for process in started:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    peppers = {process.communicate(timeout=WAIT_S)[0].strip() for process in started}
    assert len(peppers) == 1 and len(peppers.pop()) == 64


@pytest.mark.parametrize("content", [b"", b"short"])
def test_a_damaged_pepper_is_reported_in_three_lines(tmp_path: Path, content: bytes) -> None:
    home = Home(tmp_path / "home")
    home.pepper.write_bytes(content)
    error = error_of("AW-ACC-01", load_pepper, home, Store(home.store_url))
    assert f"damaged: {len(content)} bytes" in error.message and "archwright key reset" in error.hint
    assert len(error.lines().splitlines()) == 3


def test_a_missing_pepper_is_not_replaced_while_keys_exist(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    store = Store(home.store_url)
    keys = KeyStore(store, load_pepper(home, store))
    secret, _record = keys.create("clinic")
    backup = home.pepper.read_bytes()
    home.pepper.unlink()
    error = error_of("AW-ACC-02", load_pepper, home, store)
    assert "missing" in error.message and "backup" in error.hint and "archwright key reset" in error.hint
    error_of("AW-ACC-02", read_pepper, home)
    assert not home.pepper.exists()
    home.pepper.write_bytes(backup)
    assert KeyStore(store, load_pepper(home, store)).identify(secret) is not None


def test_keys_of_an_older_version_also_keep_their_pepper(tmp_path: Path) -> None:
    """Its store has keys, and no check value of the pepper."""
    home = Home(tmp_path / "home")
    store = Store(home.store_url)
    KeyStore(store, b"p" * 32).create("clinic")
    error_of("AW-ACC-02", load_pepper, home, store)
    home.pepper.write_bytes(b"p" * 32)
    assert load_pepper(home, store) == b"p" * 32
    home.pepper.write_bytes(b"q" * 32)
    error_of("AW-ACC-02", load_pepper, home, store)


def test_homes_with_one_database_need_one_pepper(tmp_path: Path) -> None:
    """A second home makes none of its own; a wrong pepper is detected, also before the first key."""
    one, two = Home(tmp_path / "one"), Home(tmp_path / "two")
    store = Store(one.store_url)
    pepper = load_pepper(one, store)
    assert error_of("AW-ACC-02", load_pepper, two, store).message == "the pepper file of this database is missing"
    two.pepper.write_bytes(b"q" * 32)
    assert "other keys" in error_of("AW-ACC-02", load_pepper, two, store).message
    two.pepper.write_bytes(pepper)
    assert load_pepper(two, store) == pepper


def test_a_lost_pepper_can_be_given_up(tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    store = Store(home.store_url)
    load_pepper(home, store)
    error_of("AW-USE-37", replace_pepper, home, store)
    home.pepper.unlink()
    replace_pepper(home, store)
    assert load_pepper(home, store) == read_pepper(home)


def test_a_lost_race_for_the_pepper_keeps_the_winners(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = Home(tmp_path / "home")

    def late(source: str, target: Path) -> None:
        target.write_bytes(b"w" * 32)
        raise FileExistsError(17, "File exists", str(target))

    monkeypatch.setattr(os, "link", late)
    assert load_pepper(home, Store(home.store_url)) == b"w" * 32
    assert [path.name for path in home.pepper.parent.iterdir()] == ["pepper"]


def test_records_carry_no_more_than_needed() -> None:
    fields = {"id", "tenant", "role", "name", "prefix", "digest", "created_at", "user", "expires_at"}
    assert set(KeyRecord.__struct_fields__) == fields | {
        "rpm",
        "tpm",
        "budget_usd",
        "period",
        "parallel",
        "prev",
        "mac",
    }
