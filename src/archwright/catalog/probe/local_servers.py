"""The processes of this machine that answer at a port of the loopback address, and the processes that they call.

A gateway in front of an engine is two programs. The established connections of the gateway to other ports of the
loopback address lead to the engine.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NamedTuple

from archwright.catalog.probe.host_resources import ROOT
from archwright.catalog.probe.process_times import list_tree, read_process_times

ESTABLISHED, LISTENING = "01", "0A"
# Fields of a line of /proc/net/tcp.
LOCAL, REMOTE, STATE, INODE = 1, 2, 3, 9
IPV4_DIGITS = 8


class TcpSocket(NamedTuple):
    state: str
    local_port: int
    remote_address: IPv4Address | IPv6Address
    remote_port: int
    inode: str

    @property
    def reaches_this_machine(self) -> bool:
        address = self.remote_address
        mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
        return (mapped or address).is_loopback


class LocalServers:
    """One reading of the sockets and processes of this machine. `leaf`: a process whose children do not count."""

    def __init__(self, leaf: int, root: Path = ROOT) -> None:
        self._leaf = leaf
        self._times = read_process_times(root)
        self._owners = _read_socket_owners(root)
        self._sockets = list(_read_sockets(root))
        self._listening = {one.local_port for one in self._sockets if one.state == LISTENING}

    def find(self, port: int, known: Iterable[int] = ()) -> frozenset[int] | None:
        """Return the processes that serve `port`: `known` and their descendants, the listeners, and whom they call.

        None if a server is unknown: it belongs to another user, or a listener calls another machine or a container, as
        the proxy of a container does.
        """
        servers = list_tree(self._times, known, self._leaf)
        calls = self._list_calls(servers)
        pending = {call.remote_port for call in calls if call.reaches_this_machine}
        if not servers:
            pending.add(port)
        visited: set[int] = set()
        while pending:
            current = pending.pop()
            visited.add(current)
            listeners = self._find_listeners(current)
            calls = self._list_calls(listeners - servers)
            if not listeners or not all(call.reaches_this_machine for call in calls):
                return None
            servers |= listeners
            pending |= {call.remote_port for call in calls} - visited
        return frozenset(servers)

    def _find_listeners(self, port: int) -> set[int]:
        """Return the processes that listen at a port, with their descendants; empty if they are unknown."""
        pids: set[int] = set()
        for one in self._sockets:
            if one.state == LISTENING and one.local_port == port:
                pids |= self._owners.get(one.inode, set())
        return list_tree(self._times, pids, self._leaf)

    def _list_calls(self, tree: Iterable[int]) -> list[TcpSocket]:
        """Return the connections that these processes made; those of their own clients end at a listening port."""
        pids = set(tree) - {self._leaf}
        calls: list[TcpSocket] = []
        for one in self._sockets:
            is_call = one.state == ESTABLISHED and one.local_port not in self._listening
            if is_call and not pids.isdisjoint(self._owners.get(one.inode, ())):
                calls.append(one)
        return calls


def _read_sockets(root: Path) -> Iterator[TcpSocket]:
    for name in ("tcp", "tcp6"):
        try:
            lines = (root / "proc/net" / name).read_text(encoding="ascii").splitlines()
        except OSError:
            continue
        for line in lines[1:]:
            fields = line.split()
            remote_address, remote_port = fields[REMOTE].split(":")
            yield TcpSocket(
                state=fields[STATE],
                local_port=int(fields[LOCAL].rpartition(":")[2], 16),
                remote_address=_parse_address(remote_address),
                remote_port=int(remote_port, 16),
                inode=fields[INODE],
            )


def _parse_address(digits: str) -> IPv4Address | IPv6Address:
    """Parse an address that the kernel wrote as words of 32 bits in the order of this machine's bytes."""
    words = struct.unpack(f">{len(digits) // IPV4_DIGITS}I", bytes.fromhex(digits))
    packed = struct.pack(f"={len(words)}I", *words)
    return IPv4Address(packed) if len(digits) == IPV4_DIGITS else IPv6Address(packed)


def _read_socket_owners(root: Path) -> dict[str, set[int]]:
    """Return the processes that hold each socket, by its inode; those of other users are hidden."""
    owners: dict[str, set[int]] = {}
    for folder in (root / "proc").glob("[0-9]*/fd"):
        try:
            files = list(folder.iterdir())
        except OSError:
            continue  # of another user, or ended since the folder was listed
        for file in files:
            inode = _read_socket_inode(file)
            if inode:
                owners.setdefault(inode, set()).add(int(folder.parent.name))
    return owners


def _read_socket_inode(file: Path) -> str:
    try:
        target = os.readlink(file)
    except OSError:
        return ""
    kind, _, inode = target.partition(":")
    return inode.strip("[]") if kind == "socket" else ""
