"""The table of slots against a list that is searched: limits, order of eviction, and nothing left behind."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial

from hypothesis import given
from hypothesis import strategies as st

from archwright.serving.http.client_address import TrustedProxies
from archwright.serving.http.connection_slots import (
    STAGE_HANDSHAKE,
    STAGE_KNOWN,
    STAGE_STRANGER,
    ConnectionSlot,
    ConnectionSlots,
)

PROXY = "10.0.0.9"
ADDRESSES = ("10.0.0.1", "10.0.0.2", "2001:db8::1", PROXY)
STEPS = st.lists(st.tuples(st.sampled_from(["admit", "admit", "stranger", "known", "leave"]), st.integers(0, 99)))


@dataclass
class Table:
    """The table and a list of its slots, the newest last in its stage."""

    slots: ConnectionSlots
    limit: int
    limit_per_address: int
    present: list[ConnectionSlot] = field(default_factory=list)
    closed: list[ConnectionSlot] = field(default_factory=list)

    def admit(self, address: str) -> None:
        groups = [list(self.present)]
        if address != PROXY:
            groups.append([slot for slot in self.present if slot.address == address])
        slot = self.slots.admit(address)
        if slot is None:
            limits = (self.limit, self.limit_per_address)
            known = [sum(one.stage == STAGE_KNOWN for one in group) for group in groups]
            assert any(count >= limit for count, limit in zip(known, limits, strict=False))
            return
        self.slots.attach(slot, partial(self.close, slot))
        self.present.append(slot)
        for gone in (one for one in groups[0] if one not in self.present):
            oldest = [next((one for one in group if one.stage == gone.stage), None) for group in groups]
            assert gone in oldest, "another connection of its stage is older"

    def close(self, slot: ConnectionSlot) -> None:
        assert slot.stage != STAGE_KNOWN, "a connection with an accepted key stays"
        self.present.remove(slot)
        self.closed.append(slot)

    def enter(self, slot: ConnectionSlot, stage: int) -> None:
        if stage >= slot.stage:
            self.slots.enter_stage(slot, stage)
            self.present.remove(slot)
            self.present.append(slot)

    def check_limits(self) -> None:
        alone = {slot.address for slot in self.present if slot.address != PROXY}
        groups = [(self.present, self.limit)]
        groups += [([slot for slot in self.present if slot.address == name], self.limit_per_address) for name in alone]
        for group, limit in groups:
            handshakes = sum(slot.stage == STAGE_HANDSHAKE for slot in group)
            strangers = sum(slot.stage == STAGE_STRANGER for slot in group)
            assert len(group) <= limit
            assert handshakes <= max(1, limit // 2)
            assert handshakes + strangers <= max(1, limit * 3 // 4)


@given(st.integers(1, 12), st.integers(1, 12), STEPS)
def test_the_table_agrees_with_a_list(limit: int, limit_per_address: int, steps: list[tuple[str, int]]) -> None:
    table = Table(ConnectionSlots(limit, limit_per_address, TrustedProxies([PROXY])), limit, limit_per_address)
    for step, number in steps:
        if step == "admit":
            table.admit(ADDRESSES[number % len(ADDRESSES)])
        elif table.present:
            slot = table.present[number % len(table.present)]
            if step == "leave":
                table.present.remove(slot)
                table.slots.release(slot)
            else:
                table.enter(slot, STAGE_KNOWN if step == "known" else STAGE_STRANGER)
        table.check_limits()
    for slot in [*table.present, *table.closed]:
        table.slots.release(slot)
    assert not table.slots._addresses and not any(table.slots._all.stages)


def test_neighbours_in_a_network_of_version_6_are_one_client() -> None:
    slots = ConnectionSlots(100, 8, TrustedProxies([]))
    for number in range(50):
        slot = slots.admit(f"2001:db8:1:1::{number:x}%eth0")
        assert slot is not None
        slots.enter_stage(slot, STAGE_STRANGER)
    assert sum(map(len, slots._all.stages)) == 6, "three quarters of 8"
    assert slots.admit("2001:db8:1:2::1") is not None and len(slots._addresses) == 2
