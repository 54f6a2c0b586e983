"""One supervised process: start, probe, stop, last error."""

import hashlib
import os
import re
import shutil
import signal
from pathlib import Path
from subprocess import Popen, TimeoutExpired
from typing import BinaryIO, NamedTuple

import msgspec

from archwright.contract.plan import ProcessSpec
from archwright.engines.engine_process import start_engine
from archwright.home import Home, write_json
from archwright.operate import readiness_probe
from archwright.operate.platform_state import LaunchedProcess
from archwright.operate.standby import PlatformHandles
from archwright.operate.surviving_processes import AdoptedProcess, read_start_time
from archwright.python_process import build_python_command
from archwright.serving.process.upgrade import LISTEN
from archwright.settings import child_environment

ERROR_TAIL_BYTES = 65_536
_ERROR_LINE = re.compile(r"(AW-[A-Z]+-\d+)\s+(.*)")


class LaunchContext(NamedTuple):
    """The shared context of all processes of a platform: the user of the engines, and what supervisors pass on.

    `survivors`: processes of an earlier supervisor that no child has adopted, by name.
    """

    engine_user: str
    handles: PlatformHandles
    survivors: dict[str, AdoptedProcess]


class ChildProcess:
    """A process with its log, started here or by an earlier supervisor.

    `restarts` counts starts after the first; `answered`: it answered a probe since its start; `launched`: for the next
    supervisor. Its stdin is the platform's life line: it ends with the last supervisor and standby.
    """

    def __init__(self, spec: ProcessSpec, home: Home, *, tls: bool, context: LaunchContext | None = None) -> None:
        self.spec = spec
        self.restarts = 0
        self.silent_probes = 0
        self.next_start_at = 0.0
        self.ready = self.answered = False
        self.started_at = 0.0
        self._home = home
        self._tls = tls and spec.ready_port is not None
        self._context = context
        self._process: Popen[bytes] | AdoptedProcess | None = None
        self.launched: LaunchedProcess | None = None
        self.adopted = False
        self._log_start = 0

    @property
    def log(self) -> Path:
        return self._home.log(self.spec.name)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self, now: float) -> None:
        """Adopt the process of an earlier supervisor that was launched alike, else start one."""
        assert self._context is not None, "a service manager starts this process"
        launch = _digest_launch(self.spec, self._context.engine_user)
        survivor = self._context.survivors.pop(self.spec.name, None)
        if survivor is not None and survivor.launched.launch != launch:
            survivor.end()
            survivor = None
        self._process = survivor or self._launch(self._context)
        pid = self._process.pid
        self.launched = LaunchedProcess(name=self.spec.name, pid=pid, start_time=read_start_time(pid), launch=launch)
        self.started_at, self.ready, self.answered, self.silent_probes = now, False, False, 0
        self.adopted = survivor is not None

    def _launch(self, context: LaunchContext) -> Popen[bytes]:
        config = self._home.config(self.spec.name)
        write_json(config, self.spec.config)
        # Opened anew: the kernel tells the end of a pipe to one process for each time that it was opened.
        life = os.open(f"/dev/fd/{context.handles.life}", os.O_RDONLY)
        try:
            with self._home.open_log(self.spec.name) as log:
                self._log_start = log.tell()
                if self.spec.ready_socket is not None:
                    return start_engine(self.spec, self._home, log, context.engine_user, life)
                return self._launch_gateway(config, context.handles.ports, life, log)
        finally:
            os.close(life)

    def _launch_gateway(self, config: Path, ports: tuple[int, ...], life: int, log: BinaryIO) -> Popen[bytes]:
        """It needs the keys in its environment, and listens on the ports that supervisor and standby keep open."""
        names = {"{home}": str(self._home.root), "{config}": str(config)}
        words = (names.get(part, part) for part in self.spec.argv)
        argv = build_python_command(*words, LISTEN, *map(str, ports))
        env = child_environment({"PYTHONUNBUFFERED": "1", **self.spec.environment})
        return Popen(argv, stdin=life, stdout=log, stderr=log, env=env, start_new_session=True, pass_fds=ports)

    def exit_status(self) -> int | None:
        return self._process.poll() if self._process else None

    def probe(self, timeout_s: float = readiness_probe.TIMEOUT_S) -> bool:
        """Probe once. Any answer means alive, status 200 ready."""
        status = readiness_probe.request_ready_status(self.spec, self._home, tls=self._tls, timeout_s=timeout_s)
        self.silent_probes = self.silent_probes + 1 if status is None else 0
        self.answered = self.answered or status is not None
        self.ready = status == 200
        return self.ready

    def terminate(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, grace_s: float) -> None:
        """Send SIGTERM, wait `grace_s`, then SIGKILL. Reaps the process."""
        if self._process is None:
            return
        self.terminate()
        try:
            self._process.wait(grace_s)
        except TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self._home.engine_root(self.spec.name), ignore_errors=True)
        self.ready = False

    def remove_files(self) -> None:
        """Remove configuration and socket of a process that will not start again; its log stays."""
        self._home.config(self.spec.name).unlink(missing_ok=True)
        if self.spec.ready_socket is not None:
            self._home.remove_socket(self.spec.ready_socket)

    def read_last_error(self) -> tuple[str, str, str]:
        """Return (code, message, hint) of the last error logged since the start, else of the last line."""
        try:
            with open(self.log, "rb") as log:
                size = log.seek(0, os.SEEK_END)
                start = self._log_start if size >= self._log_start else 0  # a smaller log was rotated
                log.seek(max(start, size - ERROR_TAIL_BYTES))
                text = log.read().decode(errors="replace")
        except FileNotFoundError:
            text = ""
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        last = lines[-1] if lines else "it wrote nothing to its log"
        for line in reversed(lines):
            if found := _ERROR_LINE.match(line):
                return found.group(1), found.group(2), "" if line == last else last
        return "AW-OPS-21", last, f"read {self.log}"


def _digest_launch(spec: ProcessSpec, engine_user: str) -> str:
    """Return the digest of all that decides what is started. The gateway follows its configuration by itself."""
    config = spec.config if spec.ready_socket is not None else None
    stated = msgspec.json.encode((spec.argv, spec.environment, config, engine_user))
    return hashlib.sha256(stated).hexdigest()
