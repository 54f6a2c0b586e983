"""The gateways that `serve` started in a home.

Design: a gateway holds a lock on its record. The kernel frees the lock with the gateway's processes, also after
kill -9, so a record without a lock is outdated.
"""

import fcntl
import os
import signal
import time
from contextlib import suppress
from typing import BinaryIO

import msgspec

from archwright.contract.record import Record, replace
from archwright.home import Home, open_private
from archwright.serving.process.config_reload import read_served_revision, served_revision_file
from archwright.serving.settings.config import EnginePoolSpec, GatewayConfig

STOP_TIMEOUT_S, POLL_S = 30.0, 0.02
PLATFORM_GATEWAY = "gateway"  # name of the configuration that `up` writes


class ServedGateway(Record):
    """`name`: of its configuration in the home. `models`: their names for clients; not in the record."""

    name: str
    pid: int
    url: str
    models: tuple[str, ...] = ()


def record_gateway(home: Home, gateway: ServedGateway) -> BinaryIO:
    """Write the record. It is valid as long as this process, or a fork of it, has the returned file open."""
    served_revision_file(home, gateway.name).unlink(missing_ok=True)
    file = open_private(home.folder("run") / f"{gateway.name}.lock", "wb")
    fcntl.flock(file, fcntl.LOCK_EX)
    file.write(msgspec.json.encode(gateway))
    file.flush()
    return file


def list_gateways(home: Home) -> tuple[ServedGateway, ...]:
    found = []
    for path in sorted(home.folder("run").glob("serve-*.lock")):
        with path.open("rb") as file, suppress(msgspec.DecodeError, OSError):
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                gateway = msgspec.json.decode(file.read(), type=ServedGateway)
                served = msgspec.json.decode(home.config(gateway.name).read_bytes(), type=GatewayConfig).endpoints
                names = [name for one in served for name in (one.model, *one.aliases)]
                found.append(replace(gateway, models=tuple(dict.fromkeys(names))))
    return tuple(found)


def list_pools(home: Home) -> tuple[EnginePoolSpec, ...]:
    """Return the pools of the platform's gateway, as it was started last, and of every gateway of `serve` that runs."""
    pools: list[EnginePoolSpec] = []
    for name in (PLATFORM_GATEWAY, *(gateway.name for gateway in list_gateways(home))):
        with suppress(OSError, msgspec.MsgspecError):  # never started, or just removed
            pools += msgspec.json.decode(home.config(name).read_bytes(), type=GatewayConfig).pools
    return tuple(pools)


def list_upstream_problems(home: Home, *names: str) -> tuple[str, ...]:
    """Return what the named gateways report of their upstreams."""
    return tuple(one for name in names if (note := read_served_revision(home, name)) for one in note.problems)


def stop_gateways(home: Home) -> tuple[ServedGateway, ...]:
    """Stop every gateway in order; kill those that take longer than STOP_TIMEOUT_S. Return those that ran."""
    found, deadline = list_gateways(home), time.monotonic() + STOP_TIMEOUT_S
    for gateway in found:
        _send_signal(gateway, signal.SIGTERM)
    while left := list_gateways(home):
        for gateway in left if time.monotonic() > deadline else ():
            _send_signal(gateway, signal.SIGKILL)
        time.sleep(POLL_S)
    return found


def _send_signal(gateway: ServedGateway, number: signal.Signals) -> None:
    with suppress(ProcessLookupError):
        os.kill(gateway.pid, number)
