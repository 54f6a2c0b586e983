"""The slots for connections: which connection gets a slot, and which connection loses its slot.

A connection is a stranger until a key was accepted on it. Strangers may hold three quarters of the slots, and TLS
handshakes half of the slots. If no slot is free for a new connection, the stranger that has been idle longest loses
its slot. The same rules apply to the slots of one address. A connection with an accepted key never loses its slot.

Design: a new client is a stranger too, so a full table must not refuse it. Strangers stand in the order of their last
complete request, so bytes of slow headers prolong nothing, and each step takes constant time.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable

from archwright.serving.http.client_address import TrustedProxies, find_client_network

STRANGER_SHARE = 0.75
HANDSHAKE_SHARE = 0.5  # a handshake needs 65 KB of memory; many clients may connect at once after a restart
# Stages of a connection: its TLS handshake runs, no key was accepted yet, a key was accepted.
STAGE_HANDSHAKE, STAGE_STRANGER, STAGE_KNOWN = range(3)


class SlotGroup:
    """The slots in use of a process, or of one address `name`; each stage in the order of eviction."""

    __slots__ = ("_limit", "_limit_handshakes", "_limit_strangers", "name", "stages")

    def __init__(self, name: str, limit: int) -> None:
        self.name = name
        self.stages: tuple[OrderedDict[ConnectionSlot, None], ...] = (OrderedDict(), OrderedDict(), OrderedDict())
        self._limit = limit
        self._limit_handshakes = max(1, int(limit * HANDSHAKE_SHARE))
        self._limit_strangers = max(1, int(limit * STRANGER_SHARE))

    def find_full_stage(self) -> int | None:
        """Return the stage that must give up a slot before a new connection gets one; None if a slot is free."""
        handshakes, strangers, known = map(len, self.stages)
        if handshakes >= self._limit_handshakes:
            return STAGE_HANDSHAKE
        if handshakes + strangers < min(self._limit_strangers, self._limit - known):
            return None
        return STAGE_STRANGER if strangers else STAGE_HANDSHAKE if handshakes else STAGE_KNOWN


class ConnectionSlot:
    """The slot of one accepted socket from `address`. `proxied`: the address is a trusted proxy. `close` ends the
    connection. Only ConnectionSlots sets attributes; a slot in no group is not counted."""

    __slots__ = ("address", "close", "groups", "proxied", "stage")

    def __init__(self, address: str = "", *, proxied: bool = False, groups: tuple[SlotGroup, ...] = ()) -> None:
        self.address, self.proxied = address, proxied
        self.groups = groups
        self.stage = STAGE_HANDSHAKE
        self.close: Callable[[], object] | None = None


class ConnectionSlots:
    """The slots of one listener of a process: `limit` in all, `limit_per_address` for each client network.

    Trusted proxies hold as many slots as they need, since their address stands for many clients.
    """

    def __init__(self, limit: int, limit_per_address: int, proxies: TrustedProxies) -> None:
        self._all = SlotGroup("", limit)
        self._limit_per_address = limit_per_address
        self._addresses: dict[str, SlotGroup] = {}
        self._proxies = proxies
        self._dropped: Counter[str] = Counter()

    def admit(self, address: str) -> ConnectionSlot | None:
        """Take a slot for an accepted socket, at need the slot of another connection, which is closed.

        Returns None if connections with an accepted key hold all slots of the address or of the process.
        """
        groups: tuple[SlotGroup, ...] = (self._all,)
        proxied = self._proxies.include(address)
        if not proxied:
            name = find_client_network(address)
            groups = (self._addresses.get(name) or SlotGroup(name, self._limit_per_address), self._all)
        for group in groups:
            full = group.find_full_stage()
            if full == STAGE_KNOWN:
                self._dropped["refused"] += 1
                return None
            if full is not None:
                self._evict(next(iter(group.stages[full])))
        slot = ConnectionSlot(address, proxied=proxied, groups=groups)
        for group in groups:
            group.stages[STAGE_HANDSHAKE][slot] = None
            if group is not self._all:
                self._addresses[group.name] = group
        return slot

    def attach(self, slot: ConnectionSlot, close: Callable[[], object]) -> None:
        """Set what ends the connection."""
        slot.close = close

    def enter_stage(self, slot: ConnectionSlot, stage: int) -> None:
        """Make the connection the newest of `stage`, its present or a later stage."""
        for group in slot.groups:
            del group.stages[slot.stage][slot]
            group.stages[stage][slot] = None
        slot.stage = stage

    def release(self, slot: ConnectionSlot) -> None:
        """Free the slot; without effect if it was freed before."""
        for group in slot.groups:
            del group.stages[slot.stage][slot]
            if group is not self._all and not any(group.stages):
                del self._addresses[group.name]
        slot.groups = ()

    def take_dropped(self) -> Counter[str]:
        """Return the connections since the last call that lost their slot ("evicted") or got none ("refused")."""
        taken, self._dropped = self._dropped, Counter()
        return taken

    def _evict(self, slot: ConnectionSlot) -> None:
        self.release(slot)
        if slot.close is not None:
            slot.close()
        self._dropped["evicted"] += 1
