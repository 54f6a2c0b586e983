"""Shares of a pool's slots: what a tenant leaves free for the tenants of the last minutes."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from archwright.policy.slot_share import MEMORY_S, SlotShares


def shares(seen: Iterable[tuple[str, int]], now: float = 0.0) -> SlotShares:
    made = SlotShares()
    for tenant, demand in seen:
        made.record_demand(tenant, demand, now)
    return made


def take_all(made: SlotShares, tenant: str, active: dict[str, int], slots: int) -> int:
    """Let the tenant take slots as long as it may; return how many it holds."""
    while sum(active.values()) < slots and made.may_take(tenant, active, slots):
        active[tenant] = active.get(tenant, 0) + 1
    return active.get(tenant, 0)


def test_a_tenant_alone_takes_all_and_leaves_what_another_used() -> None:
    assert take_all(shares([("loud", 9)]), "loud", {}, 4) == 4
    assert take_all(shares([("loud", 9), ("quiet", 1)]), "loud", {}, 4) == 3
    assert take_all(shares([("loud", 9), ("quiet", 2)]), "loud", {}, 4) == 2
    assert take_all(shares([("loud", 9), ("quiet", 9)]), "loud", {}, 4) == 2, "no more than an equal share is kept"
    assert take_all(shares([("loud", 9), ("quiet", 1)]), "loud", {"quiet": 1}, 4) == 3, "it holds what was kept"


def test_a_pool_with_one_slot_keeps_none() -> None:
    assert take_all(shares([("loud", 9), ("quiet", 1)]), "loud", {}, 1) == 1


def test_many_tenants_that_send_little_keep_at_most_half_of_the_slots() -> None:
    made = shares([("loud", 99), *((f"t{number}", 1) for number in range(200))])
    assert take_all(made, "loud", {}, 64) == 32


def test_a_tenant_is_forgotten_after_the_last_minutes() -> None:
    made = shares([("quiet", 2)])
    for minutes, held in ((1, 2), (MEMORY_S / 60 + 1, 2), (2 * MEMORY_S / 60 + 2, 4)):
        made.record_demand("loud", 9, 60 * minutes)
        assert take_all(made, "loud", {}, 4) == held


def test_what_another_process_saw_counts_and_is_not_told_again() -> None:
    first, second = shares([("quiet", 1)]), shares([("loud", 3)])
    second.add_demands(first.take_demands(), 1.0)
    assert take_all(second, "loud", {}, 4) == 3
    assert second.take_demands() == {"loud": 3} and second.take_demands() == {} == first.take_demands()


tenants = st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 20), min_size=2)


@given(tenants, st.integers(2, 40), st.data())
def test_each_tenant_of_the_last_minutes_gets_a_slot_at_once_if_half_the_slots_are_enough(
    demands: dict[str, int], slots: int, data: st.DataObject
) -> None:
    """However the others take slots before, at most half as many tenants as slots find a slot free."""
    made, active = shares(demands.items()), dict[str, int]()
    order = data.draw(st.permutations(sorted(demands)))
    for tenant in order[: slots // 2]:
        assert sum(active.values()) < slots, "another tenant holds the slot that was kept"
        assert made.may_take(tenant, active, slots)
        active[tenant] = active.get(tenant, 0) + 1
        take_all(made, tenant, active, slots)
