"""How a running gateway learns that its endpoints changed, and says which engines it has let go.

The supervisor writes the gateway's configuration anew, with a higher revision; the gateway looks at the file every
moment, changes over (`pool_registry`), and tells its master: the revision in force, and the addresses that still
finish requests of an earlier one. What all workers say together the master notes beside the file, under its own
process id: a gateway that was killed has let go of nothing by itself, and its successor starts from the newest
configuration and writes a note of its own.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

import msgspec

from archwright.contract.record import Record, replace
from archwright.errors import ArchwrightError, boundary
from archwright.home import Home
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.settings.config import GatewayConfig, read_config, split_among_workers


class ServedRevision(Record):
    """What the gateway with this process id serves: a revision, and `leaving`, the addresses of engines that the
    revision does not name and that still work for it."""

    pid: int
    revision: int
    leaving: tuple[str, ...] = ()


def read_served_revision(home: Home, process: str = "gateway") -> ServedRevision | None:
    """The newest note; None when there is none, or none that can be read."""
    try:
        return msgspec.json.decode(served_revision_file(home, process).read_bytes(), type=ServedRevision)
    except (OSError, msgspec.MsgspecError):
        return None


def served_revision_file(home: Home, process: str = "gateway") -> Path:
    return home.config(f"{process}.note")


def merge_served_revisions(pid: int, notes: Iterable[ServedRevision]) -> ServedRevision | None:
    """What processes serve that share the work: the oldest revision, every address that one of them still needs."""
    found = tuple(notes)
    if not found:
        return None
    leaving = sorted({address for note in found for address in note.leaving})
    return ServedRevision(pid=pid, revision=min(note.revision for note in found), leaving=tuple(leaving))


class ConfigWatcher:
    """Follows the file `config` was read from; `tell` learns each change of what is served."""

    def __init__(self, gateway: GatewayContext, file: Path, tell: Callable[[ServedRevision], None]) -> None:
        self._gateway = gateway
        self._file = file
        self._tell = tell
        self._revision = gateway.config.revision
        self._stamp: tuple[int, int] | None = None
        self._noted: ServedRevision | None = None

    async def start(self) -> None:
        """Before the first request: who takes a dead worker's place was told what held at the last start or reload.
        What keeps it from more `follow` says."""
        with suppress(ArchwrightError), boundary("change of endpoints"):
            await self._apply_change()

    async def check_once(self) -> None:
        """Change over if there is something new, then note what is served. Raises what keeps it from either: the
        next look tries again."""
        await self._apply_change()
        note = ServedRevision(
            pid=os.getpid(), revision=self._revision, leaving=await self._gateway.fleet.close_drained()
        )
        if note != self._noted:
            self._tell(note)
            self._noted = note

    async def _apply_change(self) -> None:
        stamp = self._read_stamp()
        if stamp != self._stamp:
            config = await asyncio.to_thread(self._read_config)
            if config.revision == self._revision or await self._gateway.apply_config(config):
                serves = {pool.name: pool.serves for pool in config.pools}
                versions = {f"{spec.kind} {spec.workload}": serves[spec.pool] for spec in config.endpoints}
                self._gateway.journal.info("serving", revision=config.revision, **versions)
                self._revision, self._stamp = config.revision, stamp

    async def watch_file(self, every_s: float) -> None:
        """Look every moment, for ever. What goes wrong is said once, not every moment."""
        said = ""
        while True:
            try:
                with boundary("change of endpoints"):
                    await self.check_once()
                said = ""
            except ArchwrightError as error:
                if error.message != said:
                    self._gateway.journal.error("change failed", **error.as_dict())
                said = error.message
            await asyncio.sleep(every_s)

    def _read_config(self) -> GatewayConfig:
        """This worker's part of it. How many share the work now was said at the last start or reload."""
        return split_among_workers(replace(read_config(self._file), workers=self._gateway.config.workers))

    def _read_stamp(self) -> tuple[int, int]:
        found = self._file.stat()
        return found.st_ino, found.st_mtime_ns
