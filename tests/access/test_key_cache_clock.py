"""A clock that goes back never revives a key: not in the process that saw it expire, not in another, not later."""

from __future__ import annotations

import time

from tests.access.conftest import Clock
from tests.tools.checks import until

from archwright.access.api_keys import KeyStore
from archwright.access.key_cache import WRITE_ENDS_S
from archwright.access.tables import SECRET_EXPIRIES
from archwright.store import Store

LIVES_S = 60.0


def open_gateway(store: Store, clock: Clock) -> KeyStore:
    """Open the keys like a worker that starts now. The monotonic clock does not go back with the wall clock."""
    now = lambda: clock.us() / 1e6  # noqa: E731
    return KeyStore(Store(store.url), b"p" * 32, clock=clock, monotonic=now, background=True)


def poll(clock: Clock, *gateways: KeyStore) -> None:
    """Let the gateways read the store once more. A thread would do so, at a time that the test does not know."""
    clock.now += WRITE_ENDS_S
    for gateway in gateways:
        gateway._refresh()


def test_an_expired_key_stays_expired_when_the_clock_goes_back(keys: KeyStore, store: Store, clock: Clock) -> None:
    gateway, began = open_gateway(store, clock), clock.now
    secret, record = keys.create("clinic", lives_s=LIVES_S)
    other, _ = keys.create("clinic", lives_s=10 * LIVES_S)
    assert gateway.identify(secret) is not None
    clock.set(began + LIVES_S)  # before the next reading of the store
    assert gateway.identify(secret) is None
    clock.set(began)
    assert gateway.identify(secret) is None and not gateway.is_live(record.id)
    assert gateway.identify(other) is not None


def test_it_stays_expired_after_a_restart_and_in_other_processes(keys: KeyStore, store: Store, clock: Clock) -> None:
    gateway, other, began = open_gateway(store, clock), open_gateway(store, clock), clock.now
    secret, record = keys.create("clinic", lives_s=LIVES_S)
    never_sent, unsent = keys.create("clinic", lives_s=LIVES_S - 1)
    assert gateway.identify(secret) is not None and other.identify(secret) is not None
    clock.now += LIVES_S
    poll(clock, gateway)  # without a request: the gateway does so every second
    until(lambda: len(store.rows(SECRET_EXPIRIES)) == 2)
    clock.set(began)
    poll(clock, gateway, other)
    for process in (gateway, other, open_gateway(store, clock)):
        assert process.identify(secret) is None and process.identify(never_sent) is None
        assert not process.is_live(record.id) and not process.is_live(unsent.id)


def test_an_expiry_is_recorded_once_and_a_new_secret_works(keys: KeyStore, store: Store, clock: Clock) -> None:
    """Also when the clock was wrong: what was seen as expired is refused, and other keys work as before."""
    secret, record = keys.create("clinic", lives_s=LIVES_S)
    gateway, began = open_gateway(store, clock), clock.now
    gateway._refresh()
    clock.now += LIVES_S
    gateway._refresh()
    for _ in range(3):
        assert gateway.identify(secret) is None
        poll(clock, gateway)
    until(lambda: store.rows(SECRET_EXPIRIES))
    clock.set(began)
    renewed, _ = keys.rotate(record.id, 0)
    short, _ = keys.create("clinic", lives_s=LIVES_S / 2)
    poll(clock, gateway)
    assert gateway.identify(secret) is None
    assert gateway.identify(renewed) is not None and gateway.identify(short) is not None
    assert len(store.rows(SECRET_EXPIRIES)) == 2  # the expiry, and the row of the rotation


def test_an_expiry_that_cannot_be_written_is_written_later(keys: KeyStore, store: Store, clock: Clock) -> None:
    secret, _ = keys.create("clinic", lives_s=LIVES_S)
    gateway = open_gateway(store, clock)
    assert gateway.identify(secret) is not None
    good, gateway._store = gateway._store, Store(f"{store.url}.none/none")
    clock.now += LIVES_S
    gateway._end_expired()
    gateway.write_ends()
    assert store.rows(SECRET_EXPIRIES) == []
    gateway._store = good
    gateway.write_ends()
    assert len(store.rows(SECRET_EXPIRIES)) == 1


def test_a_command_line_with_a_wrong_clock_ends_no_key(keys: KeyStore, store: Store, clock: Clock) -> None:
    secret, _ = keys.create("clinic", lives_s=LIVES_S)
    wrong = KeyStore(Store(store.url), b"p" * 32, clock=lambda: clock.now + 1e6, monotonic=clock)
    assert wrong.identify(secret) is None
    clock.now += 2.0
    wrong.refresh_version()
    time.sleep(0.05)
    assert open_gateway(store, clock).identify(secret) is not None
