"""Budgets and rates across workers: exactly what fits is admitted, also if a worker is killed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.access.conftest import Clock

from archwright.access import worker_registry
from archwright.access.account_codec import decode_row
from archwright.access.accounts import Accounts, open_accounts_table
from archwright.access.api_keys import KeyStore, Principal
from archwright.access.reservations import LimitDenial, Reservation
from archwright.access.tables import LimitScope
from archwright.access.worker_registry import read_process_start
from archwright.errors import StoreError
from archwright.home import Home
from archwright.monitor.shared_table import SharedTable, Transaction
from archwright.policy.usage_limits import UsageLimits
from archwright.store import Store

NOON = datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp()


class Spends:
    """Recorded spends by scope, and the lookups of them."""

    def __init__(self) -> None:
        self.usd: dict[str, float] = {}
        self.asked: list[tuple[str, float]] = []

    def spent(self, scope: LimitScope, since: float) -> float:
        self.asked.append((scope.name, since))
        return self.usd.get(scope.name, 0.0)


class World:
    def __init__(self, home: Home) -> None:
        self.clock = Clock(NOON)
        self.spends = Spends()
        self.store = Store(home.store_url)
        self.table = open_accounts_table(home)
        self.keys = KeyStore(self.store, b"p" * 32, clock=self.clock, monotonic=self.clock, table=self.table)
        self.accounts = self.worker()

    def worker(self) -> Accounts:
        """Accounts of another worker, with its own number, in this process."""
        return Accounts(self.table, self.keys, self.spends.spent, clock=self.clock, monotonic_us=self.clock.us)

    def key(self, tenant: str = "clinic", user: str = "", **limits: object) -> Principal:
        secret, _ = self.keys.create(tenant, user=user, limits=UsageLimits(**limits))  # type: ignore[arg-type]
        return self.known(secret)

    def known(self, secret: str) -> Principal:
        principal = self.keys.identify(secret)
        assert principal is not None
        return principal

    def lose_table(self) -> None:
        """The file is replaced by an empty one."""
        self.table._env.close()
        self.table._remove_files()
        self.table._open()

    def opened_again(self) -> None:
        """Open the same table again after a failure."""
        self.table._open()
        self.table.generation -= 1

    def again(self, principal: Principal) -> Principal:
        """Identify the key again, one poll later."""
        self.clock.now += 1
        self.keys.refresh_version()
        return next(known for known in self.keys._live.values() if known.key_id == principal.key_id)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(Home(tmp_path / "home"))
    yield made
    made.table.close()
    made.store.close()


def taken(found: Reservation | LimitDenial) -> Reservation:
    assert isinstance(found, Reservation), found
    return found


def test_a_key_without_limits_costs_nothing(world: World) -> None:
    principal = world.key()
    assert not principal.limited
    reservation = taken(world.accounts.reserve(principal, (10**9, None)))
    assert not reservation.limited
    world.accounts.settle(reservation, 10**9, 1e6)
    assert world.table.read(lambda transaction: transaction.stat()["entries"]) == 1, "only the count of changes"
    assert world.spends.asked == []


def test_requests_a_minute(world: World) -> None:
    principal = world.key(rpm=6)
    found = [world.accounts.reserve(principal, (1, None)) for _ in range(8)]
    assert [isinstance(one, Reservation) for one in found] == [True] * 6 + [False] * 2
    assert found[6] == LimitDenial("requests", "key", 10)
    world.clock.now += 9.999
    assert world.accounts.reserve(principal, (1, None)) == LimitDenial("requests", "key", 1)
    world.clock.now += 0.001
    taken(world.accounts.reserve(principal, (1, None)))
    assert isinstance(world.accounts.reserve(principal, (1, None)), LimitDenial)


def test_a_request_that_was_counted_before_its_body_is_not_counted_again(world: World) -> None:
    principal = world.key(rpm=2, tpm=1_000)
    for _ in range(2):
        taken(world.accounts.reserve(principal, (0, 0.0)))
    assert isinstance(world.accounts.reserve(principal, (0, 0.0)), LimitDenial)
    first, other = world.accounts.reserve_all([(principal, (400, None)), (principal, (1, None))], counted=[0])
    assert isinstance(first, Reservation) and other == LimitDenial("requests", "key", 30)
    taken(world.accounts.reserve(principal, (600, None), counted=True))
    assert world.accounts.reserve(principal, (1, None), counted=True) == LimitDenial("tokens", "key", 1)
    with_one_left = 30
    world.clock.now += with_one_left
    taken(world.accounts.reserve(principal, (0, None)))
    assert isinstance(world.accounts.reserve(principal, (0, None)), LimitDenial), "the level leaked once"


def test_a_rate_lowered_below_what_is_counted_refuses_no_counted_request(world: World) -> None:
    principal = world.key(rpm=5)
    for _ in range(3):
        taken(world.accounts.reserve(principal, (0, 0.0)))
    world.keys.set_limits("key", "", principal.key_id, limits=UsageLimits(rpm=1))
    principal = world.again(principal)
    assert isinstance(world.accounts.reserve(principal, (0, 0.0)), LimitDenial)
    taken(world.accounts.reserve(principal, (1, None), counted=True))


def test_tokens_are_reserved_at_worst_and_the_difference_comes_back(world: World) -> None:
    principal = world.key(tpm=1000)
    first = taken(world.accounts.reserve(principal, (900, None)))
    assert world.accounts.reserve(principal, (900, None)) == LimitDenial("tokens", "key", 48)
    world.accounts.settle(first, 100, 0.0)
    second = taken(world.accounts.reserve(principal, (900, None)))
    assert world.accounts.reserve(principal, (1, None)) == LimitDenial("tokens", "key", 1)
    world.accounts.settle(second, 900, 0.0)
    world.clock.now += 60
    assert world.accounts.reserve(principal, (1001, None)) == LimitDenial("tokens", "key", None)
    taken(world.accounts.reserve(principal, (1000, None)))


def test_money_is_reserved_at_worst_and_settled_once(world: World) -> None:
    principal = world.key(budget_usd=0.3)
    assert world.accounts.reserve(principal, (10, None)) == LimitDenial("unpriced", "key", None)
    first = taken(world.accounts.reserve(principal, (10, 0.1)))
    assert first.usd == pytest.approx(0.1) and first.limited
    second, third = (taken(world.accounts.reserve(principal, (10, 0.1))) for _ in range(2))
    assert world.accounts.reserve(principal, (10, 1e-9)) == LimitDenial("budget", "key", 1)
    world.accounts.settle(first, 5, 0.05)
    world.accounts.settle(first, 5, 0.05)
    taken(world.accounts.reserve(principal, (10, 0.05)))
    assert isinstance(world.accounts.reserve(principal, (10, 1e-9)), LimitDenial)
    world.accounts.settle(second, 10, 0.1)
    world.accounts.settle(third, 10, 0.15)
    assert world.accounts.reserve(principal, (10, 1e-9)) == LimitDenial("budget", "key", None)


def test_what_ended_is_given_back_with_the_next_request_and_at_the_latest_by_flush(world: World) -> None:
    principal, other = world.key(budget_usd=0.3), world.worker()
    first, second = (taken(world.accounts.reserve(principal, (10, 0.1))) for _ in range(2))
    world.accounts.settle(first, 10, 0.05)
    assert isinstance(other.reserve(principal, (10, 0.15)), LimitDenial), "to others it is still held"
    assert isinstance(world.accounts.reserve(principal, (10, 0.2)), LimitDenial), "a refusal gives back what ended, too"
    third = taken(other.reserve(principal, (10, 0.15)))
    world.accounts.settle(second, 10, 0.0)
    world.accounts.flush()
    world.accounts.flush()
    taken(other.reserve(principal, (10, 0.1)))
    assert isinstance(other.reserve(principal, (10, 1e-9)), LimitDenial)
    other.settle(third, 10, 0.0)
    taken(other.reserve(principal, (10, 0.15)))
    assert isinstance(world.accounts.reserve(principal, (10, 1e-9)), LimitDenial)


def test_a_table_that_refuses_keeps_what_ended_held_and_waits_for_the_flush(world: World) -> None:
    principal = world.key(budget_usd=0.3)
    first = taken(world.accounts.reserve(principal, (10, 0.3)))
    world.accounts.settle(first, 10, 0.1)
    world.table._env.close()
    with pytest.raises(StoreError, match="failed"):
        world.accounts.reserve(principal, (10, 0.1))
    world.opened_again()
    world.accounts.flush()
    second = taken(world.accounts.reserve(principal, (10, 0.2)))
    world.accounts.settle(second, 10, 0.0)
    world.table._env.close()
    with pytest.raises(StoreError, match="failed"):
        world.accounts.flush()
    world.opened_again()
    assert isinstance(world.accounts.reserve(principal, (10, 0.1)), LimitDenial), "never free"
    world.accounts.flush()


def test_key_user_and_tenant_count_together_and_a_refusal_takes_nothing(world: World) -> None:
    world.keys.create_tenant("clinic")
    world.keys.set_limits("tenant", "clinic", "", limits=UsageLimits(rpm=3))
    world.keys.set_limits("user", "clinic", "ann@x", limits=UsageLimits(rpm=2))
    world.clock.now += 1
    ann, bob = world.key(user="ann@x", rpm=1), world.key(user="bob")
    assert ann.limited and bob.limited
    taken(world.accounts.reserve(ann, (1, None)))
    assert world.accounts.reserve(ann, (1, None)) == LimitDenial("requests", "key", 60)
    second = world.key(user="ann@x")
    taken(world.accounts.reserve(second, (1, None)))
    assert world.accounts.reserve(second, (1, None)) == LimitDenial("requests", "user", 30)
    taken(world.accounts.reserve(bob, (1, None)))
    assert world.accounts.reserve(bob, (1, None)) == LimitDenial("requests", "tenant", 20)
    other = world.key(tenant="bank", user="ann@x")
    assert not other.limited, "a user of the same name elsewhere is another"


def test_a_budget_of_a_month_or_a_day_starts_anew(world: World) -> None:
    day, month = world.key(budget_usd=1.0, period="day"), world.key(budget_usd=1.0, period="month")
    for principal in (day, month):
        world.accounts.settle(taken(world.accounts.reserve(principal, (1, 1.0))), 1, 1.0)
    assert world.accounts.reserve(day, (1, 0.1)) == LimitDenial("budget", "key", 12 * 3600)
    assert world.accounts.reserve(month, (1, 0.1)) == LimitDenial("budget", "key", (5 * 24 + 12) * 3600)
    world.clock.now += 12 * 3600
    over_midnight = taken(world.accounts.reserve(day, (1, 0.4)))
    assert isinstance(world.accounts.reserve(month, (1, 0.1)), LimitDenial)
    world.clock.now += 5 * 24 * 3600
    taken(world.accounts.reserve(month, (1, 1.0)))
    world.accounts.settle(over_midnight, 1, 0.4)
    taken(world.accounts.reserve(day, (1, 0.6)))
    assert isinstance(world.accounts.reserve(day, (1, 0.1)), LimitDenial), "charged on the day it ended"


def test_midnight_is_seen_by_one_worker_before_the_other(world: World) -> None:
    principal = world.key(budget_usd=1.0, period="day")
    late = world.worker()
    yesterday = taken(world.accounts.reserve(principal, (1, 1.0)))
    assert isinstance(late.reserve(principal, (1, 0.1)), LimitDenial)
    world.clock.now += 12 * 3600
    world.accounts.settle(yesterday, 1, 1.0)
    assert isinstance(world.accounts.reserve(principal, (1, 0.1)), LimitDenial), "it ended today"
    late._periods._day_end = world.clock.now + 1  # as if its clock stood a second behind
    assert isinstance(late.reserve(principal, (1, 0.1)), LimitDenial)
    world.clock.now += 24 * 3600
    over = taken(world.accounts.reserve(principal, (1, 1.0)))
    world.clock.now += 24 * 3600
    world.accounts.settle(over, 1, 0.25)
    world.accounts.flush()
    taken(late.reserve(principal, (1, 0.75)))
    assert isinstance(late.reserve(principal, (1, 0.01)), LimitDenial)


@pytest.mark.parametrize("period", ["month", "day"])
@pytest.mark.parametrize("away_s", [5 * 365 * 86_400, -50 * 365 * 86_400])
@pytest.mark.parametrize("in_flight", [False, True])
def test_a_clock_that_was_set_and_set_back_leaves_budgets_as_they_were(
    world: World, period: str, away_s: float, in_flight: bool
) -> None:
    """Regression: accounts stayed in a period years ahead without a new month, or a revisited period began at 0."""
    principal = world.key(budget_usd=1.0, period=period)
    other = world.worker()
    spent = f"key:{principal.key_id}"
    world.accounts.settle(taken(world.accounts.reserve(principal, (1, 0.75))), 1, 0.75)
    world.accounts.flush()
    world.spends.usd[spent] = 0.75
    under_way = taken(other.reserve(principal, (1, 0.125)))
    world.clock.set(NOON + away_s)
    if in_flight:
        other.settle(under_way, 1, 0.125)
        other.flush()
        world.spends.usd[spent] = 0.875
    else:
        world.spends.usd[spent] = 0.0 if away_s > 0 else 0.75
        world.accounts.settle(taken(world.accounts.reserve(principal, (1, 0.0625))), 1, 0.0)
        world.accounts.flush()
        world.spends.usd[spent] = 0.75
    world.clock.set(NOON + 1)
    if not in_flight:
        other.settle(under_way, 1, 0.125)
        other.flush()
        world.spends.usd[spent] = 0.875
    for worker in (other, world.accounts):
        assert isinstance(worker.reserve(principal, (1, 0.25)), LimitDenial), "of this period 0.875 is spent"
        worker.settle(taken(worker.reserve(principal, (1, 0.125))), 1, 0.0)
        worker.flush()
    world.clock.now += 32 * 86_400
    world.spends.usd[spent] = 0.0
    for worker in (other, world.accounts):
        worker.settle(taken(worker.reserve(principal, (1, 1.0))), 1, 0.0)
        worker.flush()


@pytest.mark.parametrize("recreated", [False, True])
def test_a_new_table_is_filled_from_the_usage_records(world: World, recreated: bool) -> None:
    """After a boot, and if the table is lost while a request runs."""
    principal = world.key(budget_usd=1.0, period="month")
    if recreated:
        before = taken(world.accounts.reserve(principal, (1, 0.5)))
        world.lose_table()
        world.accounts.settle(before, 1, 0.5)
        world.spends.asked.clear()
    world.spends.usd[f"key:{principal.key_id}"] = 0.75
    taken(world.accounts.reserve(principal, (1, 0.25)))
    assert isinstance(world.accounts.reserve(principal, (1, 0.01)), LimitDenial)
    begin = datetime(2026, 11, 1, tzinfo=UTC).timestamp()
    assert world.spends.asked == [(f"key:{principal.key_id}", begin)], "asked once"


def test_a_budget_set_later_counts_what_was_spent_before_it(world: World) -> None:
    principal = world.key(rpm=100)
    world.accounts.settle(taken(world.accounts.reserve(principal, (1, 0.5))), 1, 0.5)
    world.spends.usd[f"key:{principal.key_id}"] = 0.5
    world.keys.set_limits("key", "", principal.key_id, limits=UsageLimits(budget_usd=0.6))
    principal = world.again(principal)
    assert isinstance(world.accounts.reserve(principal, (1, 0.2)), LimitDenial)
    taken(world.accounts.reserve(principal, (1, 0.1)))
    world.keys.set_limits("key", "", principal.key_id, limits=UsageLimits(budget_usd=0.6, period="day"))
    world.spends.usd[f"key:{principal.key_id}"] = 0.1
    principal = world.again(principal)
    taken(world.accounts.reserve(principal, (1, 0.4)))
    assert [since for _name, since in world.spends.asked] == [0, NOON - 12 * 3600]


def test_a_lowered_budget_and_a_revoked_key_reach_running_streams(world: World) -> None:
    cheap, dear = world.key(budget_usd=1.0), world.key(budget_usd=1.0)
    free = world.key()
    streams = [taken(world.accounts.reserve(one, (1, 0.5))) for one in (cheap, dear, free)]
    assert all(world.accounts.may_continue(stream) for stream in streams)
    world.keys.set_limits("key", "", dear.key_id, limits=UsageLimits(budget_usd=0.4))
    world.keys.revoke(free.key_id)
    world.clock.now += 0.5
    assert [world.accounts.may_continue(stream) for stream in streams] == [True, False, False]
    world.clock.now += 0.5
    assert world.accounts.may_continue(streams[0])


def test_a_budget_lowered_to_what_runs_lets_it_run_and_one_of_nothing_does_not(world: World) -> None:
    principal = world.key(budget_usd=1.0)
    stream = taken(world.accounts.reserve(principal, (1, 0.5)))
    world.accounts.settle(taken(world.accounts.reserve(principal, (1, 0.3))), 0, 0.0)
    for budget_usd, goes_on in ((0.5, True), (0.0, False)):
        world.keys.set_limits("key", "", principal.key_id, limits=UsageLimits(budget_usd=budget_usd))
        world.clock.now += 0.5
        assert world.accounts.may_continue(stream) == goes_on


def test_a_key_that_ends_stops_its_streams(world: World) -> None:
    secret, record = world.keys.create("clinic", limits=UsageLimits(rpm=5), lives_s=100)
    stream = taken(world.accounts.reserve(world.known(secret), (1, None)))
    world.clock.now += 99
    assert world.accounts.may_continue(stream)
    world.keys.rotate(record.id, 0)
    world.clock.now += 0.5
    assert world.accounts.may_continue(stream), "another secret of the key goes on"
    world.clock.now += 1
    assert not world.accounts.may_continue(stream)


@pytest.mark.parametrize(
    "then", [UsageLimits(budget_usd=2.0, period="day"), UsageLimits(rpm=5), UsageLimits(budget_usd=2.0, tpm=9)]
)
def test_limits_changed_under_a_request_lose_neither_its_cost_nor_its_reservation(
    world: World, then: UsageLimits
) -> None:
    principal = world.key(budget_usd=1.0)
    running = taken(world.accounts.reserve(principal, (1, 0.75)))
    world.keys.set_limits("key", "", principal.key_id, limits=then)
    principal = world.again(principal)
    other = taken(world.accounts.reserve(principal, (1, 0.1)))
    world.accounts.settle(running, 1, 0.5)
    world.accounts.settle(other, 1, 0.0)
    world.spends.usd[f"key:{principal.key_id}"] = 0.5
    world.keys.set_limits("key", "", principal.key_id, limits=UsageLimits(budget_usd=2.0, period=then.period))
    principal = world.again(principal)
    taken(world.accounts.reserve(principal, (1, 1.5)))
    assert isinstance(world.accounts.reserve(principal, (1, 0.001)), LimitDenial)


def test_a_table_lost_during_a_request_gives_no_tokens_away(world: World) -> None:
    principal = world.key(tpm=100)
    running = taken(world.accounts.reserve(principal, (80, None)))
    world.lose_table()
    taken(world.accounts.reserve(principal, (50, None)))
    world.accounts.settle(running, 20, 0.0)
    world.accounts.flush()
    assert isinstance(world.worker().reserve(principal, (50, None)), LimitDenial)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 300),
    st.lists(st.tuples(st.integers(0, 2), st.sampled_from(["ask", "extend", "settle"]), st.integers(1, 99))),
)
def test_a_running_request_gets_exactly_the_room_that_is_left(
    world: World, budget: int, steps: list[tuple[int, str, int]]
) -> None:
    """A token costs a thousandth. Other workers see a settlement when its worker reserves or extends again."""
    principal = world.key(budget_usd=budget / 1000)
    workers = [world.worker() for _ in range(3)]
    spent, open_, ended = 0, [[] for _ in workers], [0, 0, 0]  # type: tuple[int, list[list[Reservation]], list[int]]
    for number, act, count in steps:
        if act == "settle" and open_[number]:
            reservation = open_[number].pop()
            workers[number].settle(reservation, 1, reservation.usd)
            ended[number] += round(reservation.usd * 1000)
            continue
        spent, ended[number] = spent + ended[number], 0
        held = sum(round(one.usd * 1000) for row in open_ for one in row) + sum(ended)
        if act == "extend" and open_[number]:
            granted = workers[number].extend(open_[number][-1], count, 0.001)
            assert granted == min(count, budget - spent - held)
            continue
        found = workers[number].reserve(principal, (count, count / 1000))
        assert isinstance(found, Reservation) is (spent + held + count <= budget)
        if isinstance(found, Reservation):
            open_[number].append(found)


def test_more_tokens_of_a_running_request_count_for_its_rate(world: World) -> None:
    principal = world.key(tpm=100, budget_usd=1.0)
    running = taken(world.accounts.reserve(principal, (80, 0.08)))
    assert world.accounts.extend(running, 50, 0.001) == 50 and running.tokens == 130
    assert running.usd == pytest.approx(0.13)
    world.clock.now += 30
    assert isinstance(world.accounts.reserve(principal, (30, 0.03)), LimitDenial), "the tokens are a debt"
    world.accounts.settle(running, 10, 0.01)
    taken(world.accounts.reserve(principal, (60, 0.99)))


def test_a_lost_table_extends_nothing(world: World) -> None:
    principal = world.key(budget_usd=1.0)
    running = taken(world.accounts.reserve(principal, (80, 0.08)))
    world.lose_table()
    assert world.accounts.extend(running, 50, 0.001) == 0 and running.tokens == 80


def refuses(_scope: LimitScope, _since: float) -> float:
    raise StoreError("AW-STO-01", "the store refuses")


Step = tuple[int, int, int, str]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(0, 300),
    st.lists(
        st.tuples(
            st.integers(0, 2), st.integers(0, 99), st.integers(0, 99), st.sampled_from(["ask", "settle", "flush"])
        )
    ),
)
def test_any_order_of_three_workers_admits_exactly_what_fits(world: World, budget: int, steps: list[Step]) -> None:
    """Against the plain sum: spent + reserved never exceeds the budget, and a request that fits is admitted.

    Other workers see a settlement when its worker flushes or reserves again."""
    principal = world.key(budget_usd=budget / 1000)
    workers = [world.worker() for _ in range(3)]
    spent, open_ = 0, [[] for _ in workers]  # type: tuple[int, list[list[tuple[Reservation, int]]]]
    ended: list[list[tuple[int, int]]] = [[] for _ in workers]  # reserved, took
    for number, ask, cost, act in steps:
        if act == "settle" and open_[number]:
            reservation, held = open_[number].pop()
            ended[number].append((held, min(cost, held)))
            workers[number].settle(reservation, 1, min(cost, held) / 1000)
            continue
        spent += sum(took for _, took in ended[number])
        ended[number].clear()
        if act == "flush":
            workers[number].flush()
            continue
        held = sum(one for row in open_ for _, one in row) + sum(one for row in ended for one, _ in row)
        found = workers[number].reserve(principal, (1, ask / 1000))
        assert isinstance(found, Reservation) is (spent + held + ask <= budget)
        if isinstance(found, Reservation):
            open_[number].append((found, ask))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    budget=st.integers(0, 60),
    tpm=st.integers(0, 60),
    asked=st.lists(
        st.tuples(st.integers(0, 2), st.integers(0, 25), st.one_of(st.none(), st.integers(0, 25))), max_size=25
    ),
)
def test_together_is_as_one_after_the_other(
    world: World, budget: int, tpm: int, asked: list[tuple[int, int, int | None]]
) -> None:
    """One transaction for all requests of three keys admits the same and leaves the same as one for each request."""
    answers, left = [], []
    for together in (False, True):
        world.clock.now += 1
        world.keys.create_tenant(tenant := f"t{world.clock.now:.0f}")
        keys = [world.key(tenant, budget_usd=budget / 1000), world.key(tenant, tpm=tpm), world.key(tenant)]
        world.keys.set_limits("tenant", tenant, tenant, limits=UsageLimits(rpm=12, tpm=3 * tpm + 20))
        keys = [world.again(key) for key in keys]
        worker = world.worker()
        wants = [(keys[key], (tokens, None if price is None else price / 1000)) for key, tokens, price in asked]
        found = worker.reserve_all(wants) if together else [worker.reserve(*one) for one in wants]
        answers.append([one if isinstance(one, LimitDenial) else None for one in found])
        for one in found:
            if isinstance(one, Reservation):
                worker.settle(one, 0, 0.0)
        worker.flush()
        left.append([isinstance(worker.reserve(key, (tpm, budget / 1000)), LimitDenial) for key in keys])
    assert answers[0] == answers[1] and left[0] == left[1]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    budget=st.integers(0, 60),
    tpm=st.integers(0, 60),
    asked=st.lists(st.tuples(st.integers(0, 25), st.one_of(st.none(), st.integers(0, 25)), st.booleans()), max_size=25),
)
def test_a_cached_response_is_as_a_reservation_that_is_settled_at_once(
    world: World, budget: int, tpm: int, asked: list[tuple[int, int | None, bool]]
) -> None:
    answers, rows = [], []
    for together in (False, True):
        world.clock.now += 1
        principal = world.key(rpm=20, tpm=tpm, budget_usd=budget / 1000)
        worker = world.worker()
        wants = [(principal, (tokens, None if price is None else price / 1000)) for tokens, price, _ in asked]
        found: list[object] = []
        if together:
            found += worker.reserve_all(wants, cached={at for at, (*_, cached) in enumerate(asked) if cached})
            for one in found:
                if isinstance(one, Reservation) and one.settled:
                    worker.settle(one, 5, 1.0)  # without effect
            assert not worker.ended
        else:
            for want, (*_, cached) in zip(wants, asked, strict=True):
                one = worker.reserve(*want)
                found.append(one)
                if cached and isinstance(one, Reservation):
                    worker.settle(one, 0, 0.0)
                    worker.flush()
        answers.append([one if isinstance(one, LimitDenial) else None for one in found])
        (account,) = worker._get_accounts(principal)
        raw = world.table.get(account.key)
        row = () if raw is None else decode_row(raw)
        rows.append([*row[1:5], *row[6:]])  # without the time and the number of the worker
    assert answers[0] == answers[1] and rows[0] == rows[1]


def test_of_those_who_come_together_exactly_those_that_fit_are_taken(world: World) -> None:
    principal = world.key(budget_usd=0.02)
    found = world.accounts.reserve_all([(principal, (10, 0.001))] * 50)
    assert [isinstance(one, Reservation) for one in found] == [True] * 20 + [False] * 30
    assert isinstance(world.worker().reserve(principal, (10, 1e-9)), LimitDenial)
    assert len(world.spends.asked) == 1, "the usage records are read once for all requests"


def test_usage_records_that_fail_for_one_request_leave_the_others_reserved_once(world: World) -> None:
    spends = world.spends
    known, new, free = world.key(budget_usd=0.02), world.key(budget_usd=0.02), world.key()
    world.accounts.settle(taken(world.accounts.reserve(known, (1, 0.01))), 0, 0.0)
    world.accounts._spent = refuses
    found = world.accounts.reserve_all([(known, (1, 0.02)), (free, (1, None)), (new, (1, 0.01)), (known, (1, 0.0))])
    assert [type(one) for one in found] == [Reservation, Reservation, StoreError, StoreError]
    world.accounts._spent = spends.spent
    world.accounts.settle(found[0], 1, 0.0)  # type: ignore[arg-type]
    taken(world.accounts.reserve(known, (1, 0.02)))
    taken(world.accounts.reserve(new, (1, 0.02)))


# A worker: for each line of input it reserves for a batch of requests and prints how many were admitted.
PROGRAM = """
import asyncio, json, sys, time
from archwright.access.accounts import Accounts, open_accounts_table
from archwright.access.reservations import LimitDenial
from archwright.access.api_keys import KeyStore
from archwright.home import Home
from archwright.store import Store
home = Home(sys.argv[1])
keys = KeyStore(Store(home.store_url), b"p" * 32, table=(table := open_accounts_table(home)))
now_us = 0
accounts = Accounts(table, keys, lambda scope, since: 0.0, monotonic_us=lambda: now_us)
async def ask(principal, tokens, usd, ends):
    found = accounts.reserve(principal, (tokens, usd))
    if isinstance(found, LimitDenial):
        return 0
    await asyncio.sleep(0)
    if ends == "settle":
        accounts.settle(found, tokens, usd)
    return 1
async def all_of(requests, *asked):
    taken = sum(await asyncio.gather(*[ask(*asked) for _ in range(requests)]))
    accounts.flush()
    return taken
print("ready", flush=True)
for line in sys.stdin:
    secret, requests, tokens, usd, ends, now_us = json.loads(line)
    print(asyncio.run(all_of(requests, keys.identify(secret), tokens, usd, ends)), flush=True)
"""


class RequestBatch(NamedTuple):
    """RequestBatch that every worker process makes."""

    secret: str
    requests: int
    tokens: int
    usd: float
    ends: str = "settle"
    now_us: int = 0


class WorkerProcesses:
    """Three workers in separate processes."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self.workers = [self._start() for _ in range(3)]

    def _start(self) -> subprocess.Popen[str]:
        words, pipe = [sys.executable, "-c", PROGRAM, str(self._home.root)], subprocess.PIPE
        worker = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True)
        assert worker.stdout is not None and worker.stdout.readline() == "ready\n"
        return worker

    def tell(self, batch: RequestBatch) -> None:
        for worker in self.workers:
            assert worker.stdin is not None
            worker.stdin.write(json.dumps(batch) + "\n")
            worker.stdin.flush()

    def admitted(self, batch: RequestBatch) -> list[int]:
        """All workers start at once; return the admitted requests of each."""
        self.tell(batch)
        return [int(worker.stdout.readline()) for worker in self.workers if worker.stdout is not None]

    def kill(self, number: int) -> None:
        """Kill a worker with -9 and start another."""
        self.workers[number].kill()
        self.workers[number].communicate()
        self.workers[number] = self._start()

    def end(self) -> None:
        for worker in self.workers:
            worker.kill()
            worker.communicate()


@pytest.fixture
def worker_processes(processes: None, world: World, tmp_path: Path) -> Iterator[WorkerProcesses]:
    made = WorkerProcesses(Home(tmp_path / "home"))
    yield made
    made.end()


REAL = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@REAL
@given(st.integers(0, 400), st.integers(1, 150), st.integers(1, 7), st.sampled_from(["settle", "hold"]))
def test_processes_at_the_edge_of_a_budget_admit_exactly_what_fits(
    world: World, worker_processes: WorkerProcesses, fits: int, requests: int, price: int, ends: str
) -> None:
    """A budget for `fits` requests and a fraction of one; three processes reserve at once."""
    secret, _ = world.keys.create("clinic", limits=UsageLimits(budget_usd=(fits * price + 0.9 * (price - 1)) / 1e9))
    counts = worker_processes.admitted(RequestBatch(secret, requests, 10, price / 1e9, ends))
    assert sum(counts) == min(fits, 3 * requests)


@REAL
@given(st.integers(1, 400), st.integers(1, 200), st.integers(0, 200))
def test_processes_at_the_edge_of_a_rate_admit_exactly_the_burst_and_the_refill(
    world: World, worker_processes: WorkerProcesses, rpm: int, requests: int, later_s: int
) -> None:
    secret, _ = world.keys.create("clinic", limits=UsageLimits(rpm=rpm))
    first = sum(worker_processes.admitted(RequestBatch(secret, requests, 1, 0.0)))
    assert first == min(rpm, 3 * requests)
    room = min(rpm, rpm - first + rpm * later_s / 60)
    then = sum(worker_processes.admitted(RequestBatch(secret, requests, 1, 0.0, now_us=later_s * 1_000_000)))
    assert then == min(int(room), 3 * requests)


@settings(REAL, max_examples=6)
@given(st.integers(1, 500), st.integers(1, 200), st.integers(0, 2), st.booleans())
def test_what_a_killed_worker_held_fits_again_at_once(
    world: World, worker_processes: WorkerProcesses, fits: int, requests: int, victim: int, money: bool
) -> None:
    """By budget and by tokens: the reservations of the other workers stay."""
    limits = UsageLimits(budget_usd=fits / 1000) if money else UsageLimits(tpm=fits * 10)
    secret, _ = world.keys.create("clinic", limits=limits)
    batch = RequestBatch(secret, requests, 10, 0.001, "hold")
    counts = worker_processes.admitted(batch)
    assert sum(counts) == min(fits, 3 * requests)
    worker_processes.kill(victim)
    again = worker_processes.admitted(batch)
    free = fits - (sum(counts) - counts[victim])
    assert sum(again) == min(free, 3 * requests)


def test_what_a_killed_worker_held_ends_no_stream_of_others(world: World, worker_processes: WorkerProcesses) -> None:
    """After its budget is lowered, a stream continues: the reservation of a dead worker does not count."""
    secret, record = world.keys.create("clinic", limits=UsageLimits(budget_usd=1.0))
    stream = taken(world.accounts.reserve(world.known(secret), (10, 0.1)))
    assert sum(worker_processes.admitted(RequestBatch(secret, 1, 10, 0.1, "hold"))) == 3
    world.keys.set_limits("key", "", record.id, limits=UsageLimits(budget_usd=0.3))
    world.clock.now += 0.5
    worker_processes.kill(0)
    assert world.accounts.may_continue(stream)
    world.keys.set_limits("key", "", record.id, limits=UsageLimits(budget_usd=0.2))
    world.clock.now += 0.5
    assert not world.accounts.may_continue(stream), "what the living hold counts"


@pytest.mark.nightly
def test_workers_killed_in_the_middle_leave_nothing_behind(world: World, worker_processes: WorkerProcesses) -> None:
    """Workers are killed at any point, several times; afterwards spent + free equals the budget."""
    secret, record = world.keys.create("clinic", limits=UsageLimits(budget_usd=1e6, rpm=10**9))
    principal = world.known(secret)
    here = Accounts(world.table, world.keys, world.spends.spent)
    for round_ in range(3):
        worker_processes.tell(RequestBatch(secret, 50_000, 10, 0.001))
        for _ in range(2000 * (round_ + 1)):
            here.settle(taken(here.reserve(principal, (10, 0.001))), 10, 0.001)
        here.flush()
        for number in range(3):
            worker_processes.kill(number)
    raw = world.table.get(here._get_accounts(principal)[0].key)
    assert raw is not None
    spent_nusd = int.from_bytes(raw[24:32], "little")
    assert spent_nusd % 1_000_000 == 0 and spent_nusd >= 12_000 * 1_000_000
    world.keys.set_limits("key", "", record.id, limits=UsageLimits(budget_usd=spent_nusd / 1e9 + 0.005))
    principal = world.again(principal)
    for _ in range(5):
        taken(here.reserve(principal, (10, 0.001)))
    assert isinstance(here.reserve(principal, (10, 0.001)), LimitDenial)


@pytest.mark.process
def test_a_process_is_known_by_its_start() -> None:
    assert read_process_start(os.getpid()) == read_process_start(os.getpid()) != 0
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    while read_process_start(child.pid) is not None:
        os.sched_yield()
    assert child.wait() == 0, "it was a zombie until now"
    assert read_process_start(child.pid) is None


def test_a_worker_of_another_namespace_counts_as_living(
    world: World, worker_processes: WorkerProcesses, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, _ = world.keys.create("clinic", limits=UsageLimits(budget_usd=0.3))
    principal = world.known(secret)
    assert sum(worker_processes.admitted(RequestBatch(secret, 100, 1, 0.001, "hold"))) == 300
    worker_processes.kill(0)
    with monkeypatch.context() as elsewhere:
        elsewhere.setattr(worker_registry, "_read_pid_namespace", lambda: 7)
        assert isinstance(world.accounts.reserve(principal, (1, 0.001)), LimitDenial)
    taken(world.accounts.reserve(principal, (1, 0.001)))


def test_numbers_of_workers_are_never_given_twice_and_the_dead_are_forgotten(
    world: World, worker_processes: WorkerProcesses
) -> None:
    secret, _ = world.keys.create("clinic", limits=UsageLimits(rpm=100))
    worker_processes.admitted(RequestBatch(secret, 1, 1, 0.0))
    first = world.table.write(worker_registry.register_worker)
    for number in range(3):
        worker_processes.kill(number)
    assert world.table.write(worker_registry.register_worker) == first + 1
    living = [number for number in range(first + 2) if world.table.read(worker_registry.is_worker_alive, number)]
    assert living == [first, first + 1] and world.table.read(_rows, b"w") == 2


def _rows(transaction: Transaction, prefix: bytes) -> int:
    with transaction.cursor() as cursor:
        return sum(key.startswith(prefix) for key in cursor.iternext(values=False))


@pytest.mark.process
def test_without_proc_a_process_is_known_by_its_id(tmp_path: Path) -> None:
    assert read_process_start(os.getpid(), tmp_path) == 0
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert read_process_start(child.pid, tmp_path) is None


def test_the_table_is_opened_where_the_home_says(tmp_path: Path) -> None:
    table: SharedTable = open_accounts_table(Home(tmp_path / "home"))
    table.close()
    assert [path.name.split("-")[0] for path in (tmp_path / "home" / "run" / "slates").iterdir()] == ["accounts"] * 2
