"""Follow the configuration file of a running gateway, and report the revision in force and the engines still in use.

The supervisor writes a configuration with a higher revision; each worker polls the file, changes its pools
(`pool_registry`) and reports to the master, which writes the combined report beside the file under its process id.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from archwright.contract.record import Record, replace
from archwright.errors import ArchwrightError, boundary
from archwright.home import Home
from archwright.journal import Journal
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.settings.config import GatewayConfig, read_config, split_among_workers


class ServedRevision(Record):
    """The revision served by the process `pid`; `leaving`: addresses of engines of earlier ones that still work."""

    pid: int
    revision: int
    leaving: tuple[str, ...] = ()


def read_served_revision(home: Home, process: str = "gateway") -> ServedRevision | None:
    """The newest report; None if there is none or it cannot be read."""
    try:
        return msgspec.json.decode(served_revision_file(home, process).read_bytes(), type=ServedRevision)
    except (OSError, msgspec.MsgspecError):
        return None


def served_revision_file(home: Home, process: str = "gateway") -> Path:
    return home.config(f"{process}.note")


def merge_served_revisions(pid: int, notes: Iterable[ServedRevision]) -> ServedRevision | None:
    """The combined report of the workers: the oldest revision, every address that one of them still needs."""
    found = tuple(notes)
    if not found:
        return None
    leaving = sorted({address for note in found for address in note.leaving})
    return ServedRevision(pid=pid, revision=min(note.revision for note in found), leaving=tuple(leaving))


async def repeat_logged(
    act: Callable[[], Awaitable[None]], every_s: float, journal: Journal, kind: str, failure: str
) -> None:
    """Run `act` for ever, every `every_s` seconds; a repeated error is logged once as `failure`."""
    said = ""
    while True:
        try:
            with boundary(kind):
                await act()
            said = ""
        except ArchwrightError as error:
            if error.message != said:
                journal.error(failure, **error.as_dict())
            said = error.message
        await asyncio.sleep(every_s)


class ConfigWatcher:
    """Follows the configuration file; `tell` gets each change of what is served."""

    def __init__(self, gateway: GatewayContext, file: Path, tell: Callable[[ServedRevision], None]) -> None:
        self._gateway = gateway
        self._file = file
        self._tell = tell
        self._revision = gateway.config.revision
        self._stamp: tuple[int, int] | None = None
        self._noted: ServedRevision | None = None

    async def start(self) -> None:
        """Apply the newest file before the first request: the successor of a dead worker has an older configuration."""
        with suppress(ArchwrightError), boundary("change of endpoints"):
            await self._apply_change()

    async def check_once(self) -> None:
        """Apply a new configuration, then report what is served. Raises what prevents it; the next call tries again."""
        await self._apply_change()
        leaving = await self._gateway.fleet.close_drained()
        note = ServedRevision(pid=os.getpid(), revision=self._revision, leaving=leaving)
        if note != self._noted:
            self._tell(note)
            self._noted = note

    async def _apply_change(self) -> None:
        found = self._file.stat()
        stamp = found.st_ino, found.st_mtime_ns
        if stamp != self._stamp:
            config = await asyncio.to_thread(self._read_config)
            if config.revision == self._revision or await self._gateway.apply_config(config):
                serves = {pool.name: pool.serves for pool in config.pools}
                versions = {f"{spec.kind} {spec.workload}": serves[spec.pool] for spec in config.endpoints}
                self._gateway.journal.info("serving", revision=config.revision, **versions)
                self._revision, self._stamp = config.revision, stamp

    def _read_config(self) -> GatewayConfig:
        """This worker's part of the configuration. The number of workers is that of the last start or reload."""
        return split_among_workers(replace(read_config(self._file), workers=self._gateway.config.workers))
