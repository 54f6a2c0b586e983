"""Limits, rotation, expiry and use of a key, and their visibility in other processes of the machine."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.access.conftest import Clock, open_keys
from tests.tools.checks import until

from archwright.access.accounts import has_accounts_table, open_accounts_table
from archwright.access.api_keys import POLL_S, KeyStore
from archwright.access.key_cache import DAY_S, USE_RETENTION_DAYS, WRITE_USES_S
from archwright.access.tables import KEY_USES, KEYS, KeyUse, LimitScope, compute_checksum
from archwright.errors import StoreError, UsageError
from archwright.home import Home
from archwright.monitor.shared_table import SharedTable
from archwright.policy.usage_limits import UsageLimits
from archwright.store import Store


@pytest.fixture
def table(tmp_path: Path) -> Iterator[SharedTable]:
    home = Home(tmp_path / "home")
    assert not has_accounts_table(home)
    opened = open_accounts_table(home)
    assert has_accounts_table(home)
    yield opened
    opened.close()


def unknown(number: int) -> str:
    body = f"{number:043d}"
    return "aw_" + body + compute_checksum(body)


def test_a_key_made_right_after_an_unknown_one_is_known(store: Store, clock: Clock, table: SharedTable) -> None:
    """No time passes, so only the shared table can show the new key."""
    here, gateway = open_keys(store, clock, table), open_keys(store, clock, table)
    for number in range(20):
        assert gateway.identify(unknown(number)) is None
        secret, record = here.create("clinic")
        found = gateway.identify(secret)
        assert found is not None and found.key_id == record.id


def test_a_key_that_a_thread_reads_during_its_look_up_is_known(
    store: Store, clock: Clock, table: SharedTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, gateway = open_keys(store, clock, table), open_keys(store, clock, table)
    assert gateway.identify(unknown(0)) is None
    secret, record = here.create("clinic")
    get = table.get

    def get_after_reading(key: bytes) -> bytes | None:
        monkeypatch.setattr(table, "get", get)
        gateway.read_limits()
        return get(key)

    monkeypatch.setattr(table, "get", get_after_reading)
    found = gateway.identify(secret)
    assert found is not None and found.key_id == record.id


def test_the_principal_of_a_key_is_found_by_its_id(store: Store, clock: Clock, table: SharedTable) -> None:
    """Also right after its creation or rotation in another process, and never after its revocation."""
    here, gateway = open_keys(store, clock, table), open_keys(store, clock, table)
    assert gateway.find_principal("key-0") is None
    _, record = here.create("clinic", lives_s=50)
    found = gateway.find_principal(record.id)
    assert found is not None and (found.key_id, found.tenant, found.role) == (record.id, "clinic", "member")
    here.rotate(record.id, 0)
    assert gateway.find_principal(record.id) is not None
    clock.now += 49
    here.rotate(record.id, 0)
    clock.now += 0.6
    assert gateway.find_principal(record.id) is not None
    clock.now += 0.5
    assert gateway.find_principal(record.id) is None, "it has expired"
    _, other = here.create("clinic")
    assert gateway.find_principal(other.id) is not None
    here.revoke(other.id)
    clock.now += 0.6
    assert gateway.find_principal(other.id) is None


def test_a_flood_of_unknown_keys_reads_the_store_once(store: Store, clock: Clock, table: SharedTable) -> None:
    class Counting(Store):
        reads = 0

        def numbered_rows(self, *args: object, **kwargs: object) -> list[object]:  # type: ignore[override]
            self.reads += 1
            return super().numbered_rows(*args, **kwargs)  # type: ignore[arg-type, return-value]

    counting = Counting(store.url)
    gateway = KeyStore(counting, b"p" * 32, clock=clock, monotonic=clock, table=table)
    for number in range(500):
        assert gateway.identify(unknown(number)) is None
    assert counting.reads == 5, "one reading of five tables"
    counting.close()


def test_the_order_of_row_and_word_loses_nothing(store: Store, clock: Clock, table: SharedTable) -> None:
    """A worker that reads between the row and its announcement reads again and misses nothing."""
    here, gateway = open_keys(store, clock), open_keys(store, clock, table)
    assert gateway.identify(unknown(1)) is None
    secret, _ = here.create("clinic")  # the row, without announcement
    assert gateway.identify(secret) is None
    here._table = table
    here._announce_change()
    assert gateway.identify(secret) is not None


def test_a_rotated_key_keeps_its_id_and_both_secrets_work_for_a_while(
    keys: KeyStore, store: Store, clock: Clock
) -> None:
    gateway = open_keys(store, clock)
    old, record = keys.create("clinic", "admin", user="ann", limits=UsageLimits(rpm=7))
    assert gateway.identify(old) is not None
    new, rotated = keys.rotate(record.id, 3600)
    assert (rotated.id, rotated.role, rotated.user, rotated.rpm) == (record.id, "admin", "ann", 7)
    assert rotated.prefix == new[:10] and new != old
    assert keys.list() == (rotated,)
    clock.now += 3599
    both = [gateway.identify(secret) for secret in (old, new)]
    assert [one.key_id for one in both if one] == [record.id] * 2
    clock.now += 1
    assert gateway.identify(old) is None and open_keys(store, clock).identify(old) is None
    assert gateway.identify(new) is not None
    keys.revoke(record.id)
    clock.now += POLL_S
    assert gateway.identify(new) is None
    with pytest.raises(UsageError, match="revoked", check=lambda error: error.code == "AW-USE-34"):
        keys.rotate(record.id, 0)


def test_rotated_at_once_the_old_secret_is_refused(keys: KeyStore, store: Store, clock: Clock) -> None:
    gateway = open_keys(store, clock)
    first, record = keys.create("clinic")
    assert gateway.identify(first) is not None
    second, _ = keys.rotate(record.id, 3600)
    third, _ = keys.rotate(record.id, 0)
    clock.now += POLL_S
    assert [gateway.identify(secret) is not None for secret in (first, second, third)] == [False, False, True]


def test_an_end_read_before_its_secret_counts(store: Store, clock: Clock) -> None:
    maker, gateway = open_keys(store, clock), open_keys(store, clock)
    old, record = maker.create("clinic")
    maker.rotate(record.id, 0)
    # It read the keys just before these were written.
    gateway._seen["keys"] = store.newest_seq(KEYS)[0], store.rows(KEYS)[-1].mac
    assert gateway.identify(old) is None
    gateway._seen["keys"] = 0, ""
    clock.now += 1
    assert gateway.identify(old) is None


def test_a_key_expires(keys: KeyStore, store: Store, clock: Clock) -> None:
    gateway = open_keys(store, clock)
    secret, record = keys.create("clinic", lives_s=60)
    assert record.expires_at == clock.now + 60
    clock.now += 59.9
    assert gateway.identify(secret) is not None and gateway.is_live(record.id)
    clock.now += 0.1
    assert gateway.identify(secret) is None and not gateway.is_live(record.id)


def test_the_newest_limits_hold_and_say_so_to_principals(keys: KeyStore, store: Store, clock: Clock) -> None:
    gateway = open_keys(store, clock)
    secret, record = keys.create("clinic", user="ann@x.org")
    first = gateway.identify(secret)
    assert first is not None and not first.limited and gateway.list_limited_scopes(first) == ()
    version = gateway.version
    keys.set_limits("tenant", "clinic", "", limits=UsageLimits(rpm=100))
    keys.set_limits("user", "clinic", "ann@x.org", limits=UsageLimits(tpm=5))
    keys.set_limits("user", "clinic", "ann@x.org", limits=UsageLimits(tpm=9))
    keys.set_limits("key", "", record.id, limits=UsageLimits(budget_usd=1.5, period="month"))
    clock.now += POLL_S
    then = gateway.identify(secret)
    assert then is not None and then.limited and gateway.version > version
    assert gateway.list_limited_scopes(then) == (
        LimitScope("key", f"key:{record.id}", UsageLimits(budget_usd=1.5, period="month")),
        LimitScope("user", f"user:clinic/{then.user}", UsageLimits(tpm=9)),
        LimitScope("tenant", "tenant:clinic", UsageLimits(rpm=100)),
    )
    for kind, tenant, name in (("key", "", record.id), ("user", "clinic", "ann@x.org"), ("tenant", "clinic", "")):
        keys.set_limits(kind, tenant, name, limits=UsageLimits())  # type: ignore[arg-type]
    clock.now += POLL_S
    last = gateway.identify(secret)
    assert last is not None and not last.limited


RPM = UsageLimits(rpm=1)


@pytest.mark.parametrize(
    ("code", "match", "call"),
    [
        ("AW-USE-34", "no key", lambda keys: keys.set_limits("key", "", "key-0", limits=RPM)),
        ("AW-USE-34", "no key", lambda keys: keys.revoke("key-0")),
        ("AW-USE-34", "no tenant", lambda keys: keys.set_limits("tenant", "bank", "", limits=RPM)),
        ("AW-USE-34", "no tenant", lambda keys: keys.set_limits("user", "bank", "ann", limits=RPM)),
        ("AW-USE-30", "user name", lambda keys: keys.set_limits("user", "clinic", "a b", limits=RPM)),
        ("AW-USE-30", "user name", lambda keys: keys.set_limits("user", "clinic", "", limits=RPM)),
        ("AW-USE-30", "user name", lambda keys: keys.create("clinic", user="ann/bob")),
        ("AW-USE-33", "no role 'root'", lambda keys: keys.create("clinic", "root")),
        ("AW-USE-36", "must be", lambda keys: keys.create("clinic", limits=UsageLimits(rpm=-1))),
        (
            "AW-USE-36",
            "must be",
            lambda keys: keys.set_limits("tenant", "clinic", "", limits=UsageLimits(budget_usd=-1.0)),
        ),
        ("AW-USE-36", "lifetime", lambda keys: keys.create("clinic", lives_s=0.0)),
        ("AW-USE-36", "overlap", lambda keys: keys.rotate("key-0", -1.0)),
    ],
)
def test_invalid_arguments_are_refused(
    keys: KeyStore, code: str, match: str, call: Callable[[KeyStore], object]
) -> None:
    keys.create_tenant("clinic")
    with pytest.raises(UsageError, match=match, check=lambda error: error.code == code):
        call(keys)
    assert keys.list() == ()


def test_the_last_use_is_known_by_the_day_and_written_seldom(keys: KeyStore, store: Store, clock: Clock) -> None:
    secret, record = keys.create("clinic")
    idle, _ = keys.create("clinic")
    for _ in range(100):
        assert keys.identify(secret) is not None
    assert keys.last_used() == {}
    clock.now += WRITE_USES_S
    assert keys.identify(secret) is not None
    until(lambda: len(store.rows(KEY_USES)) == 1)
    assert keys.last_used() == {record.id: clock.now // DAY_S * DAY_S}
    clock.now += USE_RETENTION_DAYS * DAY_S
    for _ in range(2):
        assert keys.identify(idle) is not None
        clock.now += WRITE_USES_S
    keys.refresh_version()
    until(lambda: all(use.key_id != record.id for use in store.rows(KEY_USES)))
    assert record.id not in keys.last_used(), "long ago is forgotten"


def test_uses_that_cannot_be_written_wait(keys: KeyStore, clock: Clock, store: Store) -> None:
    class Refusing(Store):
        def append(self, *_args: object) -> None:
            raise StoreError("AW-STO-01", "the store refuses")

    refusing = Refusing(store.url)
    gateway = KeyStore(refusing, b"p" * 32, clock=clock, monotonic=clock)
    gateway.write_uses([KeyUse(key_id="key-1", day=3)])
    assert gateway._unwritten == [KeyUse(key_id="key-1", day=3)]
    refusing.close()
