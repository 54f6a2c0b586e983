"""Processes that the service manager of the machine starts, restarts and ends: the supervisor probes them.

Design: engines run as another user, who cannot search the home. Their sockets lie in the engines' own home, whose
group may connect. A link in our home leads the gateway there. The engine of a promoted version is an instance of a
unit; the supervisor shares its files with the engines' group and may start and stop it.
"""

import os
import signal
import socket
import struct
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from subprocess import PIPE, run

from archwright.contract.plan import ProcessSpec
from archwright.engines.engine_config import find_model_files
from archwright.engines.engine_process import share_model
from archwright.errors import ErrorLocation, OperateError
from archwright.home import Home, write_json
from archwright.operate import readiness_probe
from archwright.operate.child_process import ChildProcess
from archwright.operate.surviving_processes import read_parent
from archwright.serving.process.config_reload import read_served_revision

_CREDENTIALS = struct.Struct("3i")


class ManagedProcess(ChildProcess):
    """Has the process number that its socket or the gateway's report shows; a new number is a restart."""

    def __init__(self, spec: ProcessSpec, home: Home, engine_home: Home, *, tls: bool) -> None:
        super().__init__(spec, home, tls=tls)
        self._engine_home = engine_home
        self._pid = 0

    @property
    def pid(self) -> int:
        return self._pid

    def start(self, now: float) -> None:
        """Link the engine's socket into the home."""
        self.started_at = now
        if self.spec.ready_socket is not None:
            link, target = self._home.socket(self.spec.ready_socket), self._engine_home.socket(self.spec.ready_socket)
            if not link.is_symlink() or link.readlink() != target:  # else a running gateway would miss it for a moment
                link.unlink(missing_ok=True)
                link.symlink_to(target)

    def remove_files(self) -> None:
        super().remove_files()
        if self.spec.ready_socket is not None:
            self._engine_home.remove_socket(self.spec.ready_socket)

    def probe(self, timeout_s: float = readiness_probe.TIMEOUT_S) -> bool:
        ready = super().probe(timeout_s)
        if self.spec.ready_socket is not None:
            self.silent_probes = 0  # an engine has a watchdog
        found = self._find_pid()
        if found and found != self._pid:
            self.restarts += bool(self._pid)
            self._pid = found
        return ready

    def _find_pid(self) -> int:
        """Return the number of the process behind the socket or the report; 0 if unknown."""
        if self.spec.ready_socket is None:
            note = read_served_revision(self._home, self.spec.name)
            return 0 if note is None else note.pid
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection, suppress(OSError):
            connection.settimeout(readiness_probe.TIMEOUT_S)
            connection.connect(str(self._home.socket(self.spec.ready_socket)))
            found = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            return find_engine(int(_CREDENTIALS.unpack(found)[0]))
        return 0

    def stop(self, grace_s: float) -> None:
        """Kill a silent gateway, which the service manager starts again."""
        self.silent_probes = 0
        if self.spec.ready_socket is None and self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)


class EngineUnit(ManagedProcess):
    """The engine of a promoted version or a loaded model."""

    def start(self, now: float) -> None:
        super().start(now)
        for source in filter(Path.is_file, find_model_files(self.spec.config, self._home)):
            link = self._engine_home.root / source.relative_to(self._home.root)
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                share_model(source.resolve(), link, self._engine_home.root.stat().st_gid)
        config = self._engine_home.unit_config(self.spec.name)
        write_json(config, self.spec.config)
        config.chmod(0o640)
        control_unit("start", self.spec.name)

    def terminate(self) -> None:
        control_unit("stop", self.spec.name)

    def stop(self, grace_s: float) -> None:
        self.terminate()
        self._engine_home.unit_config(self.spec.name).unlink(missing_ok=True)


def control_unit(verb: str, engine: str) -> None:
    """Start or stop the unit of an engine. Raises OperateError AW-OPS-36 if the service manager refuses it."""
    unit = f"archwright-engine@{engine}.service"
    done = run(["systemctl", "--no-ask-password", "--no-block", verb, unit], stderr=PIPE, text=True, check=False)
    if done.returncode:
        message = f"the service manager does not {verb} {unit}: {done.stderr.strip() or done.returncode}"
        hint = "install the bundle's rules of polkit, then read: journalctl --unit polkit"
        raise OperateError("AW-OPS-36", message, where=ErrorLocation(field=engine), hint=hint)


def end_leftovers(engine_home: Home, needed: Collection[str]) -> None:
    """Stop the engines that an earlier supervisor started, except `needed`."""
    for config in engine_home.folder("config").glob("*.json"):
        if config.stem not in needed:
            control_unit("stop", config.stem)
            config.unlink()


def find_engine(listener: int) -> int:
    """Return the engine for which `listener` listens: a proxy is a child of its engine with the same command line."""
    parent = read_parent(listener)
    return parent if parent and _read_command(parent) == _read_command(listener) else listener


def _read_command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
