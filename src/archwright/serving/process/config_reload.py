"""Follow the configuration file of a running gateway, and report the revision in force and the engines still in use.

The supervisor writes a configuration with a higher revision. Each worker polls the file, changes its pools
(`pool_registry`) and reports to the master. The master writes the combined report beside the file.
"""

import asyncio
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec

from archwright.contract.record import Record, replace
from archwright.errors import ArchwrightError, boundary
from archwright.home import Home
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.settings.config import GatewayConfig, read_config, split_among_workers


class ServedRevision(Record):
    """The revision that process `pid` serves; `leaving`: engines of earlier revisions that still work, by address.
    `problems`: upstreams with a wrong key, model name or address, as text for the operator."""

    pid: int
    revision: int
    leaving: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()


def read_served_revision(home: Home, process: str = "gateway") -> ServedRevision | None:
    """Return the newest report; None if no report can be read."""
    try:
        return msgspec.json.decode(served_revision_file(home, process).read_bytes(), type=ServedRevision)
    except (OSError, msgspec.MsgspecError):
        return None


def served_revision_file(home: Home, process: str = "gateway") -> Path:
    return home.config(f"{process}.note")


class ConfigWatcher:
    """Follows the configuration file; `report` is called when the served revision or its engines change."""

    def __init__(self, gateway: GatewayContext, file: Path, report: Callable[[ServedRevision], object]) -> None:
        self._gateway, self._file, self._report = gateway, file, report
        self._revision = gateway.config.revision
        self._stamp: tuple[int, int] | None = None
        self._reported: ServedRevision | None = None

    async def start(self) -> None:
        """Apply the newest file before the first request, since a restarted worker has the master's older one."""
        with suppress(ArchwrightError), boundary("change of endpoints"):
            await self._apply_change()

    async def check_once(self) -> None:
        """Apply a new configuration, then report it. Raises the error that prevents this; the next call tries again."""
        await self._apply_change()
        leaving = await self._gateway.fleet.close_drained()
        problems = self._gateway.fleet.list_problems()
        note = ServedRevision(pid=os.getpid(), revision=self._revision, leaving=leaving, problems=problems)
        if note != self._reported:
            self._report(note)
            self._reported = note

    async def _apply_change(self) -> None:
        status = self._file.stat()
        stamp = status.st_ino, status.st_mtime_ns
        if stamp != self._stamp:
            config = await asyncio.to_thread(self._read_config)
            if config.revision == self._revision or await self._gateway.apply_config(config):
                serves = {pool.name: pool.serves for pool in config.pools}
                versions = {f"{s.kind} {s.workload}": s.tuned_version or serves[s.pool] for s in config.endpoints}
                self._gateway.journal.info("serving", revision=config.revision, **versions)
                self._revision, self._stamp = config.revision, stamp

    def _read_config(self) -> GatewayConfig:
        """Read this worker's part of the configuration, for the number of workers of the last start or reload."""
        return split_among_workers(
            replace(read_config(self._file, opens_tls_files=False), workers=self._gateway.config.workers)
        )
