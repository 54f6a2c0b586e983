"""The processes behind a port of this machine, on a machine that a folder simulates."""

from __future__ import annotations

from pathlib import Path

import pytest

from archwright.catalog.probe.local_servers import LocalServers

OWN, GATEWAY, WORKER, ENGINE, PROXY, OTHER = 10, 20, 21, 30, 40, 50
GATEWAY_PORT, ENGINE_PORT, PROXY_PORT, HIDDEN_PORT = 8000, 9000, 7000, 6000
LOOPBACK, ANY, ELSEWHERE = "0100007F", "00000000", "020011AC"
LOOPBACK_V6, MAPPED = "00000000000000000000000001000000", "0000000000000000FFFF00000100007F"


class FakeMachine:
    """Processes and sockets as files of /proc."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lines: dict[str, list[str]] = {"tcp": [], "tcp6": []}

    def add_process(self, pid: int, parent: int = 1) -> None:
        folder = self.root / "proc" / str(pid)
        (folder / "fd").mkdir(parents=True)
        (folder / "stat").write_text(f"{pid} (x) S {parent} {'0 ' * 17}5 0\n")

    def add_socket(self, pid: int, port: int, remote: tuple[str, int] | None = None) -> None:
        """Without `remote` the process listens; without a process (0) the owner of the socket is hidden."""
        address, remote_port = remote or (ANY, 0)
        table = self._lines["tcp" if len(address) == len(ANY) else "tcp6"]
        inode = 100 + sum(map(len, self._lines.values()))
        state = "01" if remote else "0A"
        row = f"{len(table)}: {address}:{port:04X} {address}:{remote_port:04X} {state} 0:0 00:0 0 1000 0 {inode} 1"
        table.append(row)
        if pid:
            (self.root / "proc" / str(pid) / "fd" / str(inode)).symlink_to(f"socket:[{inode}]")
        folder = self.root / "proc" / "net"
        folder.mkdir(exist_ok=True)
        for name, lines in self._lines.items():
            (folder / name).write_text("\n".join(["header", *lines]) + "\n")

    def find(self, port: int, *known: int) -> set[int] | None:
        servers = LocalServers(OWN, self.root).find(port, known)
        return None if servers is None else set(servers)


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    made = FakeMachine(tmp_path)
    for pid, parent in ((OWN, 1), (GATEWAY, 1), (WORKER, GATEWAY), (ENGINE, 1), (PROXY, 1), (OTHER, OWN)):
        made.add_process(pid, parent)
    for pid, port in ((GATEWAY, GATEWAY_PORT), (ENGINE, ENGINE_PORT), (PROXY, PROXY_PORT), (0, HIDDEN_PORT)):
        made.add_socket(pid, port)
    # A client of the gateway, seen from both ends, and another machine that calls the engine.
    made.add_socket(OWN, 40000, (LOOPBACK, GATEWAY_PORT))
    made.add_socket(WORKER, GATEWAY_PORT, (LOOPBACK, 40000))
    made.add_socket(ENGINE, ENGINE_PORT, (ELSEWHERE, 40001))
    return made


def test_the_listener_and_its_descendants_serve_a_port(machine: FakeMachine) -> None:
    assert machine.find(GATEWAY_PORT) == {GATEWAY, WORKER}


@pytest.mark.parametrize("address", [LOOPBACK, LOOPBACK_V6, MAPPED])
def test_servers_that_a_server_calls_belong_to_it(machine: FakeMachine, address: str) -> None:
    machine.add_socket(WORKER, 41000, (address, ENGINE_PORT))
    assert machine.find(GATEWAY_PORT) == {GATEWAY, WORKER, ENGINE}
    assert machine.find(1234, GATEWAY) == {GATEWAY, WORKER, ENGINE}, "the port of known processes need not be seen"


def test_a_server_of_another_user_is_unknown(machine: FakeMachine) -> None:
    assert machine.find(HIDDEN_PORT) is None is machine.find(1234)
    machine.add_socket(WORKER, 41000, (LOOPBACK, HIDDEN_PORT))
    assert machine.find(GATEWAY_PORT) is None


def test_a_proxy_of_a_container_leads_to_an_unknown_server(machine: FakeMachine) -> None:
    machine.add_socket(PROXY, 41000, (ELSEWHERE, 80))
    assert machine.find(PROXY_PORT) is None


def test_known_processes_may_call_other_machines(machine: FakeMachine) -> None:
    machine.add_socket(WORKER, 41000, (ELSEWHERE, 443))
    assert machine.find(GATEWAY_PORT, GATEWAY) == {GATEWAY, WORKER}


def test_the_children_of_the_measuring_process_serve_nothing(machine: FakeMachine) -> None:
    machine.add_socket(OWN, 5000)
    assert machine.find(5000) == {OWN}
