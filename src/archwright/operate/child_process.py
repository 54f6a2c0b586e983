"""One supervised process: start, probe, stop, last error."""

import os
import re
import shutil
import signal
from pathlib import Path
from subprocess import PIPE, Popen, TimeoutExpired

from archwright.contract.plan import ProcessSpec
from archwright.engines.engine_process import start_engine
from archwright.home import Home, write_json
from archwright.operate import readiness_probe
from archwright.python_process import build_python_command
from archwright.settings import child_environment

ERROR_TAIL_BYTES = 65_536
_ERROR_LINE = re.compile(r"(AW-[A-Z]+-\d+)\s+(.*)")


class ChildProcess:
    """A child with its log. `restarts` counts starts after the first; `answered`: it answered a probe since its start.

    Its stdin is a pipe, so it ends with us.
    """

    def __init__(self, spec: ProcessSpec, home: Home, *, tls: bool, engine_user: str = "") -> None:
        self.spec = spec
        self.restarts = 0
        self.silent_probes = 0
        self.next_start_at = 0.0
        self.ready = self.answered = False
        self.started_at = 0.0
        self._home = home
        self._tls = tls and spec.ready_port is not None
        self._engine_user = engine_user
        self._process: Popen[bytes] | None = None
        self._log_start = 0

    @property
    def log(self) -> Path:
        return self._home.log(self.spec.name)

    @property
    def pid(self) -> int:
        return self._process.pid if self._process else 0

    def start(self, now: float) -> None:
        config = self._home.config(self.spec.name)
        write_json(config, self.spec.config)
        names = {"{home}": str(self._home.root), "{config}": str(config)}
        argv = build_python_command(*(names.get(part, part) for part in self.spec.argv))
        env = child_environment({"PYTHONUNBUFFERED": "1", **self.spec.environment})
        with self._home.open_log(self.spec.name) as log:
            self._log_start = log.tell()
            if self.spec.ready_socket is not None:
                self._process = start_engine(self.spec, self._home, log, self._engine_user)
            else:  # the gateway, which needs the keys in its environment
                self._process = Popen(argv, stdin=PIPE, stdout=log, stderr=log, env=env, start_new_session=True)
        self.started_at, self.ready, self.answered, self.silent_probes = now, False, False, 0

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
        if self._process.stdin:
            self._process.stdin.close()
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
