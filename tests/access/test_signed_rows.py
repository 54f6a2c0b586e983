"""Attacks of an administrator of the database on the rows that decide who may do what."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from archwright.access import tables
from archwright.access.api_keys import KeyStore, load_pepper, read_pepper, renew_signatures, replace_pepper
from archwright.access.signed_rows import check_rows, read_signer
from archwright.api import audit, key
from archwright.api.context import open_keys
from archwright.contract.record import replace
from archwright.errors import AccessError, StoreError, UsageError
from archwright.home import Home, write_json
from archwright.policy.usage_limits import UsageLimits
from archwright.store import Store

TABLE_NAMES = tuple(table.name for table in tables.SIGNED_TABLES)


class Database:
    """A home with two keys, one of them revoked, and a limit; `execute` is the administrator of its database."""

    def __init__(self, home: Home, url: str = "") -> None:
        self.home, self.url = home, url or home.store_url
        self.opened: list[Store] = []
        with closing(Store(self.url)) as store:
            keys = KeyStore(store, load_pepper(home, store))
            self.member, self.record = keys.create("acme", limits=UsageLimits(budget_usd=5))
            self.revoked, revoked = keys.create("acme", "admin")
            self.owner, _owner = keys.create("acme", "owner")
            keys.set_limits("tenant", "acme", "", limits=UsageLimits(rpm=3))
            keys.set_limits("tenant", "acme", "", limits=UsageLimits(rpm=7))
            keys.set_limits("key", "", self.record.id, limits=UsageLimits(tpm=9))
            keys.revoke(revoked.id)

    def execute(self, statement: str) -> None:
        with closing(sqlite3.connect(self.home.root / "archwright.db")) as connection:
            connection.executescript(statement)
            connection.commit()

    def open(self) -> KeyStore:
        """Open the keys as a gateway that starts."""
        store = Store(self.url)
        self.opened.append(store)
        return KeyStore(store, load_pepper(self.home, store), background=True)

    def close(self) -> None:
        for store in self.opened:
            store.close()

    def role_of(self, secret: str) -> str:
        """The role of a key in a gateway that starts; "" if it is refused."""
        try:
            found = self.open().identify(secret)
        except StoreError as error:
            return error.code
        return found.role if found else ""

    def verify_code(self) -> str:
        try:
            audit.verify()
        except StoreError as error:
            return error.code
        return ""


@pytest.fixture
def database(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[Database]:
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_SECOND_PLACE", "none")
    made = Database(home)
    key.create(tenant="other")  # a process that ends with a checkpoint
    assert made.verify_code() == ""
    yield made
    made.close()


COLUMNS = "tenant, role, name, prefix, created_at, user, rpm, tpm, budget_usd, period, expires_at, prev, mac"
KEY_ATTACKS = {
    "raise the role": "update keys set role = 'owner' where role = 'member'",
    "copy a row of the owner": (
        "update keys set (role, tenant, prev, mac) = (select role, tenant, prev, mac from keys where role = 'owner')"
        " where role = 'member'"
    ),
    "the secret of another key": (
        "update keys set id = (select id from keys where role = 'owner'), role = 'owner' where role = 'member'"
    ),
    "another tenant": "update keys set tenant = 'bank'",
    "another user": "update keys set user = 'user-1'",
    "no end": "update keys set expires_at = null, budget_usd = null",
    "without signature": "update keys set mac = '', prev = '', role = 'owner' where role = 'member'",
}


@pytest.mark.parametrize("attack", KEY_ATTACKS)
def test_an_altered_key_is_refused_and_found(database: Database, attack: str) -> None:
    assert database.role_of(database.member) == "member"
    database.execute(KEY_ATTACKS[attack])
    # With another signature in the newest row, the checkpoint refuses every key.
    assert database.role_of(database.member) in ("", "AW-STO-21")
    assert database.verify_code() in ("AW-STO-20", "AW-STO-21")


def test_an_inserted_key_is_refused_and_others_work(database: Database) -> None:
    """The attacker makes a secret in a home of his own, or knows one that was given out."""
    signed = f"insert into keys (id, digest, {COLUMNS}) select 'key-f', '00', {COLUMNS} from keys where role = 'owner'"
    database.execute(signed)
    keys = database.open()
    assert keys.identify(database.member) is not None
    assert not keys.is_live("key-f") and keys.find_record("key-f") is None
    assert "key-f" not in [record.id for record in keys.list()]
    with pytest.raises(UsageError, check=lambda error: error.code == "AW-USE-34"):
        keys.rotate("key-f", 0.0)
    assert database.verify_code() == "AW-STO-20"


LIMIT_COLUMNS = "scope, rpm, tpm, budget_usd, period, at, prev, mac"
WHOLE_ATTACKS = {
    "delete a revocation": "delete from key_revocations",
    "another revoked key": "update key_revocations set key_id = 'key-0'",
    "raise a limit": "update limits set rpm = 1000",
    "delete the newest limit": "delete from limits where seq = (select max(seq) from limits)",
    "delete an older limit": "delete from limits where seq = 1",
    "repeat an older limit": f"insert into limits ({LIMIT_COLUMNS}) select {LIMIT_COLUMNS} from limits where seq = 1",
    "another order": "update limits set seq = 9 where seq = 1",
    "delete a limit and continue": "delete from limits where seq = 3; update sqlite_sequence set seq = 2",
    "delete all limits": "delete from limits; update sqlite_sequence set seq = 0",
    "another generation": 'insert into pepper_checks (generation, "check") select 2, "check" from pepper_checks;'
    "delete from key_revocations",
}


@pytest.mark.parametrize("attack", WHOLE_ATTACKS)
def test_no_key_is_accepted_while_revocations_or_limits_are_incomplete(database: Database, attack: str) -> None:
    database.execute(WHOLE_ATTACKS[attack])
    assert database.role_of(database.revoked) in ("AW-STO-20", "AW-STO-21")
    assert database.role_of(database.member) in ("AW-STO-20", "AW-STO-21")
    assert database.verify_code() in ("AW-STO-20", "AW-STO-21")


def test_a_running_process_notices_removed_and_forged_rows(database: Database) -> None:
    keys = database.open()
    assert keys.identify(database.member) is not None
    database.execute("delete from limits where seq = 3")
    keys._read_at = float("-inf")
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-20"):
        keys.identify(database.member)
    database.execute(f"insert into limits (seq, {LIMIT_COLUMNS}) select 4, {LIMIT_COLUMNS} from limits where seq = 1")
    with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-20"):
        keys.identify(database.member)


def test_rows_that_are_written_after_a_checkpoint_contradict_nothing(database: Database) -> None:
    """Several processes write rows and checkpoints; a gateway that starts meanwhile refuses nothing."""
    for number in range(3):
        with open_keys() as (keys, _home, _store):
            keys.create("acme", name=f"key-{number}")
            keys.set_limits("tenant", "acme", "", limits=UsageLimits(rpm=number + 1))
        assert database.role_of(database.member) == "member"
        key.create(tenant="acme")
    assert database.verify_code() == ""


def unsign(database: Database) -> None:
    """Make the home and the rows those of an older version."""
    database.execute(";".join(f"update {name} set prev = '', mac = ''" for name in TABLE_NAMES))
    database.home.audit_checkpoints.unlink(missing_ok=True)
    database.home.audit_signing_key.unlink(missing_ok=True)
    write_json(database.home.root / "schema.json", {"version": 2, "written_by": "0.2.0"})


def test_rows_of_an_older_home_are_signed_once(database: Database) -> None:
    unsign(database)
    assert database.role_of(database.member) == "AW-STO-20", "without the migration"
    database.home.migrate()
    assert database.role_of(database.member) == "member" and database.role_of(database.revoked) == ""
    assert not database.home.unsigned_rows.exists()
    database.execute("update keys set mac = '', role = 'owner' where role = 'member'")
    write_json(database.home.root / "schema.json", {"version": 2, "written_by": "0.2.0"})
    database.home.migrate()
    assert database.role_of(database.member) == "", "a second home with the database signs no forged row"


def test_a_lost_pepper_still_gives_up_all_keys_and_so_do_altered_rows(database: Database) -> None:
    with pytest.raises(UsageError, check=lambda error: error.code == "AW-USE-37"):
        key.reset()
    database.home.pepper.unlink()
    with pytest.raises(AccessError, check=lambda error: error.code == "AW-ACC-02"):
        database.open()
    made = key.reset()
    assert database.role_of(made.key) == "owner" and database.role_of(database.member) == ""
    assert database.verify_code() == ""
    database.execute("delete from key_revocations where seq = 2")
    assert database.role_of(made.key) == "AW-STO-20"
    again = key.reset()
    assert (database.role_of(made.key), database.role_of(again.key)) == ("", "owner")
    assert database.verify_code() == ""


def test_an_erasure_signs_anew_and_a_running_process_reads_all_again(database: Database) -> None:
    keys = database.open()
    assert keys.identify(database.member) is not None
    with closing(Store(database.url)) as store:
        renew_signatures(database.home, store, lambda row: replace(row))
        other = KeyStore(store, read_pepper(database.home))
        secret, _record = other.create("acme")
        check_rows(store, read_signer(store, read_pepper(database.home)))
    keys._read_at = float("-inf")
    assert keys.identify(secret) is not None and keys.identify(database.revoked) is None
    assert keys.read_limits()["tenant:acme"].rpm == 7
    key.create(tenant="acme")
    assert database.verify_code() == ""


def test_an_altered_row_is_not_signed_by_an_erasure(database: Database) -> None:
    database.execute("update keys set role = 'owner' where role = 'member'")
    with closing(Store(database.url)) as store:
        with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-20"):
            renew_signatures(database.home, store, lambda row: replace(row))
        with pytest.raises(StoreError, check=lambda error: error.code == "AW-STO-20"):
            check_rows(store, read_signer(store, read_pepper(database.home)))


def test_reset_needs_altered_rows(home: Home) -> None:
    with closing(Store(home.store_url)) as store:
        load_pepper(home, store)
        with pytest.raises(UsageError, check=lambda error: error.code == "AW-USE-37"):
            replace_pepper(home, store)


@pytest.mark.nightly
def test_hosts_with_one_pepper_share_postgres(
    home: Home, tmp_path: Path, postgres_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two homes write rows at once; each accepts what the other signed, and a raised role is refused by both."""
    monkeypatch.setenv("ARCHWRIGHT_DATABASE_URL", postgres_database)
    monkeypatch.setenv("ARCHWRIGHT_AUDIT_SECOND_PLACE", "none")
    database = Database(home, postgres_database)
    other = Home(tmp_path / "other")
    other.folder("secrets")
    other.pepper.write_bytes(home.pepper.read_bytes())
    make_keys_at_once(postgres_database, home, other)
    for root in (home.root, other.root):
        monkeypatch.setenv("ARCHWRIGHT_HOME", str(root))
        key.create(tenant="acme")
        assert database.verify_code() == ""
    assert database.role_of(database.member) == "member"
    with closing(Store(postgres_database)) as store:
        store.revise(tables.KEYS, lambda row: replace(row, role="owner"))
    assert database.role_of(database.member) == ""
    assert database.verify_code() == "AW-STO-20"
    database.close()


def make_keys_at_once(url: str, *homes: Home) -> None:
    """Four threads of two homes create keys and set limits."""

    def make(number: int) -> None:
        with closing(Store(url)) as store:
            keys = KeyStore(store, read_pepper(homes[number % 2]))
            for _ in range(10):
                keys.create("acme")
                keys.set_limits("tenant", "acme", "", limits=UsageLimits(rpm=number + 1))

    with ThreadPoolExecutor(4) as pool:
        for done in pool.map(make, range(4)):
            assert done is None


def test_processes_that_write_at_once_make_one_chain(database: Database) -> None:
    make_keys_at_once(database.url, database.home, database.home)
    with closing(Store(database.url)) as store:
        check_rows(store, read_signer(store, read_pepper(database.home)))
        assert len(store.rows(tables.LIMITS)) == 3 + 40
