"""The limit `parallel` over workers: exactly so many requests run at once, also if a worker is killed."""

from __future__ import annotations

import pytest
from tests.access.test_accounts import RequestBatch, WorkerProcesses, World, taken, worker_processes, world

from archwright.access.reservations import LimitDenial
from archwright.access.signed_rows import check_rows, read_signer
from archwright.access.tables import KEYS, build_limits
from archwright.contract.record import replace
from archwright.errors import UsageError
from archwright.policy.usage_limits import UsageLimits

__all__ = ["worker_processes", "world"]
ASK = (10, 0.001)


def test_two_workers_run_exactly_so_many_requests_at_once(world: World) -> None:
    """Both count in one table; a settled request leaves room at once in every worker."""
    principal, first, second = world.key(parallel=3), world.accounts, world.worker()
    held = [taken(worker.reserve(principal, ASK)) for worker in (first, second, first)]
    assert second.reserve(principal, ASK) == LimitDenial("parallel", "key", 1)
    first.settle(held[0], 10, 0.001)
    first.settle(held[0], 10, 0.001)
    first.flush()
    taken(second.reserve(principal, ASK))
    assert first.reserve(principal, ASK) == LimitDenial("parallel", "key", 1)


def test_the_narrowest_of_key_user_and_tenant_decides_and_the_others_lose_nothing(world: World) -> None:
    """A refused request takes nothing: not from the rate, not from the count of the tenant."""
    eve, adam = world.key(user="eve", rpm=3, parallel=5), world.key(user="adam")
    world.keys.set_limits("user", "clinic", "eve", limits=UsageLimits(parallel=2))
    world.keys.set_limits("tenant", "clinic", "", limits=UsageLimits(parallel=3))
    eve, adam = world.again(eve), world.again(adam)
    for _ in range(2):
        taken(world.accounts.reserve(eve, ASK))
    for _ in range(5):
        assert world.accounts.reserve(eve, ASK) == LimitDenial("parallel", "user", 1)
    last = taken(world.accounts.reserve(adam, ASK))
    assert world.accounts.reserve(adam, ASK) == LimitDenial("parallel", "tenant", 1)
    world.accounts.settle(last, 10, 0.0)
    world.keys.set_limits("user", "clinic", "eve", limits=UsageLimits())
    taken(world.accounts.reserve(world.again(eve), ASK))


def test_a_limit_of_none_refuses_for_good_and_one_below_is_invalid(world: World) -> None:
    assert world.accounts.reserve(world.key(parallel=0), ASK) == LimitDenial("parallel", "key", None)
    with pytest.raises(UsageError, match="parallel must be from 0 to"):
        world.key(parallel=-1)


def test_uses_without_a_request_and_cached_responses_hold_nothing(world: World) -> None:
    principal = world.key(parallel=1)
    world.accounts.add_usage(principal, 10, 0.001)
    for _ in range(3):
        taken(world.accounts.reserve(principal, (0, 0.0)))
        (cached,) = world.accounts.reserve_all([(principal, ASK)], cached=(0,))
        taken(cached)  # type: ignore[arg-type]
    taken(world.accounts.reserve(principal, ASK))
    (cached,) = world.accounts.reserve_all([(principal, ASK)], cached=(0,))
    assert cached == LimitDenial("parallel", "key", 1), "it must fit too"


def test_a_limit_that_changes_meanwhile_counts_no_request_twice(world: World) -> None:
    principal = world.key(parallel=2)
    held = [taken(world.accounts.reserve(principal, ASK)) for _ in range(2)]
    world.keys.set_limits("key", "", principal.key_id, limits=UsageLimits())
    free = [taken(world.accounts.reserve(world.again(principal), ASK)) for _ in range(4)]
    world.keys.set_limits("key", "", principal.key_id, limits=UsageLimits(parallel=2))
    principal = world.again(principal)
    for reservation in (*free, *held):
        world.accounts.settle(reservation, 10, 0.0)
    taken(world.accounts.reserve(principal, ASK))
    taken(world.accounts.reserve(principal, ASK))
    assert isinstance(world.accounts.reserve(principal, ASK), LimitDenial)


def test_a_killed_worker_frees_what_it_ran(world: World, worker_processes: WorkerProcesses) -> None:
    """Three processes at once: exactly the limit runs, and after a kill exactly what the killed one ran fits again."""
    secret, _ = world.keys.create("clinic", limits=UsageLimits(parallel=7))
    batch = RequestBatch(secret, 5, 10, 0.001, "hold")
    counts = worker_processes.admitted(batch)
    assert sum(counts) == 7
    worker_processes.kill(0)
    assert sum(worker_processes.admitted(batch)) == counts[0]


def test_rows_of_keys_of_an_older_release_stay_authentic_and_the_limit_is_signed(world: World) -> None:
    """Rows without the limit are signed as before it existed; a limit that a database adds or removes is found."""
    _, without = world.keys.create("clinic")
    _, limited = world.keys.create("clinic", limits=UsageLimits(parallel=2))
    signer = read_signer(world.store, b"p" * 32)
    check_rows(world.store, signer)
    assert build_limits(limited).parallel == 2
    for row, forged in ((without, 9), (limited, None), (limited, 3)):
        assert signer.is_authentic(KEYS, row)
        assert not signer.is_authentic(KEYS, replace(row, parallel=forged))
