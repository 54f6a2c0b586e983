"""Which slot a request gets, and when its prompt may be used again."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.async_tests import run_async

from archwright.engines.tenant_slots import Slot, TenantSlots, count_common_bytes

ONE, OTHER = b"You help clerks. One question", b"Another beginning of a prompt"


async def use(slots: TenantSlots, tenant: str, prompt: bytes, *, begins: bool = True) -> Slot:
    slot = await slots.acquire(tenant, prompt)
    if begins:
        slot.confirm()
    slots.release(slot)
    return slot


@run_async
async def test_a_tenant_gets_its_own_slot_with_the_most_similar_prompt() -> None:
    slots = TenantSlots(3)
    first, second = await use(slots, "a", ONE), await use(slots, "a", OTHER)
    assert first is not second
    assert await use(slots, "a", ONE + b", and more") is first and first.keeps
    assert await use(slots, "a", OTHER) is second and second.keeps


@run_async
async def test_a_slot_that_changes_its_tenant_keeps_nothing() -> None:
    slots = TenantSlots(1)
    assert not (await use(slots, "a", ONE)).keeps
    assert (await use(slots, "a", ONE)).keeps
    assert not (await use(slots, "b", ONE)).keeps
    assert (await use(slots, "b", ONE)).keeps
    assert not (await use(slots, "a", ONE)).keeps


@run_async
async def test_a_request_that_never_began_leaves_the_slot_to_nobody() -> None:
    slots = TenantSlots(1)
    await use(slots, "a", ONE)
    await use(slots, "b", ONE, begins=False)
    assert not (await use(slots, "b", ONE)).keeps, "the prompt of a is still in the slot"


@run_async
async def test_requests_of_one_tenant_run_in_all_slots() -> None:
    slots = TenantSlots(3)
    taken = [await slots.acquire("a", ONE) for _ in range(3)]
    assert {slot.number for slot in taken} == {0, 1, 2} and slots.waiting == 0


@run_async
async def test_requests_wait_in_order_and_may_leave() -> None:
    slots = TenantSlots(1)
    slot = await slots.acquire("a", ONE)
    waiting = [asyncio.ensure_future(slots.acquire(name, ONE)) for name in "bcd"]
    await asyncio.sleep(0)
    assert slots.waiting == 3
    waiting[0].cancel()
    with suppress(asyncio.CancelledError):
        await waiting[0]
    slots.release(slot)
    assert await waiting[1] is slot and slots.waiting == 1
    slots.release(slot)
    waiting[2].cancel()  # it has the slot by now, and does not know it yet
    with pytest.raises(asyncio.CancelledError):
        await waiting[2]
    assert await slots.acquire("e", ONE) is slot


@given(st.binary(max_size=9), st.binary(max_size=9), st.binary(max_size=9))
def test_the_common_beginning_is_counted(common: bytes, one: bytes, other: bytes) -> None:
    found = count_common_bytes(common + one, common + other)
    left, right = common + one, common + other
    assert left[:found] == right[:found] and found >= len(common)
    assert left[found : found + 1] != right[found : found + 1] or found == len(left) == len(right)
