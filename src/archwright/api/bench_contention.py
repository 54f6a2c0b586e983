"""The processes that `bench` measures, if the endpoint runs on this machine: all others are contention."""

import os
from collections.abc import Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from archwright.catalog.probe.local_servers import LocalServers
from archwright.contract.contention import Contention
from archwright.home import Home
from archwright.operate import gateway_record, platform_state

DEFAULT_PORTS = {"http": 80, "https": 443}


def measures_this_machine(home: Home, url: str) -> bool:
    """True if the endpoint is a platform or gateway of this home, or has a loopback address."""
    return _is_loopback(urlsplit(url).hostname or "") or bool(_list_own_processes(home, url))


def find_measured_processes(home: Home, url: str) -> frozenset[int] | None:
    """Return this process and those that answer at the endpoint; None if those of a local endpoint are unknown."""
    own_pid = os.getpid()
    if not measures_this_machine(home, url):
        return frozenset((own_pid,))
    address = urlsplit(url)
    port = address.port or DEFAULT_PORTS.get(address.scheme, 0)
    servers = LocalServers(own_pid).find(port, _list_own_processes(home, url))
    return None if servers is None else servers | {own_pid}


def describe_scope(home: Home, url: str, contention: Contention) -> Iterator[str]:
    """Yield why the contention, or its share of other programs, says nothing about the speed of the endpoint."""
    if not measures_this_machine(home, url):
        known = "" if contention.other_share is None else f": other programs used {contention.other_share:.0%} of it"
        yield f"the contention is known of this client's machine only{known}; speeds are judged without it"
    elif contention.other_share is None:
        yield "other programs cannot be told from the processes of the endpoint; speeds are judged without their share"


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def _list_own_processes(home: Home, url: str) -> set[int]:
    """Return the processes of this home's platform or gateway at the endpoint, without their children."""
    address = urlsplit(url).netloc
    found = {one.pid for one in gateway_record.list_gateways(home) if urlsplit(one.url).netloc == address}
    state = platform_state.read_running_state(home)
    if state is not None and urlsplit(state.url).netloc == address:
        found |= {state.supervisor_pid, state.standby_pid, *(process.pid for process in state.processes)}
    return found
