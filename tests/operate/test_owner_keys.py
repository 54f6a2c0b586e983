"""Keys of owners end: `up` renews them, an older home's key gets its end at the first start, `key list` shows it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any, cast

import pytest
from tests.access.conftest import Clock, open_keys

from archwright.access.api_keys import KeyStore
from archwright.access.key_views import KeyView, build_key_view
from archwright.api.platform_lifecycle import PlatformHandle, UpResult
from archwright.cli.show_platform import as_json, print_platform
from archwright.home import Home
from archwright.operate.owner_keys import RENEWAL_S, create_owner_key, get_local_key
from archwright.store import Store

DAY_S = 86_400
LIFE_S = 90 * DAY_S


@pytest.fixture
def clock() -> Clock:
    return Clock(1.7e9)


@pytest.fixture
def keys(home: Home, clock: Clock) -> Iterator[KeyStore]:
    with closing(Store(home.store_url)) as store:
        yield open_keys(store, clock)


def view(keys: KeyStore) -> list[KeyView]:
    known = keys.read_limits()
    return [build_key_view(keys, record, limits=known, last_used={}) for record in keys.list()]


def test_an_owner_key_ends_and_a_start_near_its_end_makes_the_next(keys: KeyStore, clock: Clock) -> None:
    started = clock.now
    first = create_owner_key(keys, clock)
    assert first is not None and create_owner_key(keys, clock) is None
    assert [one.expires_at for one in view(keys)] == [started + LIFE_S]
    clock.now = started + LIFE_S - RENEWAL_S - 1
    assert create_owner_key(keys, clock) is None
    clock.now += 2
    second = create_owner_key(keys, clock)
    assert second not in (None, first) and create_owner_key(keys, clock) is None
    assert keys.identify(first) is not None, "the first ends by its date, not by the second"
    clock.now = started + LIFE_S
    assert keys.identify(first) is None and keys.identify(str(second)) is not None


def test_a_key_that_ended_while_nothing_ran_has_a_successor(keys: KeyStore, clock: Clock) -> None:
    create_owner_key(keys, clock)
    clock.now += 2 * LIFE_S
    assert create_owner_key(keys, clock) is not None


def test_a_revoked_owner_key_has_no_successor(keys: KeyStore, clock: Clock) -> None:
    create_owner_key(keys, clock)
    keys.revoke(keys.list()[0].id)
    assert create_owner_key(keys, clock) is None


def test_the_key_of_an_older_home_works_until_the_date_that_key_list_shows(
    keys: KeyStore, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHWRIGHT_OWNER_KEY_DAYS", "0")
    old = create_owner_key(keys, clock)
    assert old is not None and [one.expires_at for one in view(keys)] == [None]
    assert create_owner_key(keys, clock) is None
    monkeypatch.delenv("ARCHWRIGHT_OWNER_KEY_DAYS")
    clock.now += 500 * DAY_S
    upgraded = clock.now
    new = create_owner_key(keys, clock)
    assert new is not None and create_owner_key(keys, clock) is None
    assert [one.expires_at for one in view(keys)] == [upgraded + LIFE_S] * 2
    clock.now = upgraded + LIFE_S - 1
    assert keys.identify(old) is not None
    clock.now = upgraded + LIFE_S
    assert keys.identify(old) is None


def test_only_owners_end_by_themselves_and_a_rotated_owner_lives_anew(keys: KeyStore, clock: Clock) -> None:
    for role in ("member", "admin", "monitor"):
        assert keys.create("default", role)[1].expires_at is None
    _, stated = keys.create("default", "owner", lives_s=60)
    assert stated.expires_at == clock.now + 60
    _, record = keys.create("default", "owner")
    assert record.expires_at == clock.now + LIFE_S
    clock.now += 80 * DAY_S
    assert keys.rotate(record.id, 0)[1].expires_at == clock.now + LIFE_S


def test_the_key_of_local_commands_is_renewed(keys: KeyStore, clock: Clock, home: Home) -> None:
    first = get_local_key(keys, home, clock)
    assert get_local_key(keys, home, clock) == first
    clock.now += LIFE_S - RENEWAL_S + 1
    second = get_local_key(keys, home, clock)
    assert second != first and keys.identify(first) is not None
    assert (home.root / "secrets" / "local-key").read_text() == second


def test_an_old_key_of_local_commands_ends_after_a_day(
    keys: KeyStore, clock: Clock, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ARCHWRIGHT_OWNER_KEY_DAYS", "0")
    old = get_local_key(keys, home, clock)
    monkeypatch.delenv("ARCHWRIGHT_OWNER_KEY_DAYS")
    assert get_local_key(keys, home, clock) != old and keys.identify(old) is not None
    clock.now += DAY_S
    assert keys.identify(old) is None


def test_a_start_prints_its_key_once(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    result = UpResult(url="http://127.0.0.1:1", key="aw_secret", console=None)
    handle = PlatformHandle(result, home, cast(Any, None))
    assert print_platform(handle) == 0
    assert capsys.readouterr().out.count("aw_secret") == 1
    assert as_json(handle) == 0
    assert capsys.readouterr().out.count("aw_secret") == 1
