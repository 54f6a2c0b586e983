"""Runs the services of a bundle as systemd would: command line, user, environment, restarts, watchdog, notification.

systemd is not process 1 where tests run. What the kernel enforces for systemd (namespaces, filters of system calls) is
not imitated, with two exceptions that a process can ask for itself: no new privileges, and no memory that is writable
and executable. A command `systemctl` in the units' PATH passes start and stop of unit instances to the runner.
"""

from __future__ import annotations

import ctypes
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from tests.deploy.tools import require_program
from tests.tools.checks import WAIT_S, until

import archwright

CODE = Path(archwright.__file__).parents[1]
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 38, 65
FOLDERS = (
    *("/var/lib/archwright", "/var/backups/archwright", "/etc/archwright", "/opt/archwright"),
    "/var/cache/archwright-engine",
)
TICK_S = 0.01
SECONDS = {"ms": 1e-3, "s": 1.0, "": 1.0, "min": 60.0}


class Unit(NamedTuple):
    """The settings of a unit: section -> key -> values in their order."""

    sections: dict[str, dict[str, list[str]]]

    def all(self, key: str, section: str = "Service") -> list[str]:
        return self.sections.get(section, {}).get(key, [])

    def get(self, key: str, default: str = "") -> str:
        return self.all(key)[-1] if self.all(key) else default

    def seconds(self, key: str, default: float = 0.0) -> float:
        found = re.fullmatch(r"([\d.]+)(ms|s|min|)", self.get(key) or f"{default}")
        assert found is not None, f"{key}={self.get(key)}"
        return float(found.group(1)) * SECONDS[found.group(2)]


def parse_unit(text: str) -> Unit:
    sections: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in text.replace("\\\n", " ").splitlines():
        if not line.strip() or line.startswith(("#", ";")):
            continue
        if line.startswith("["):
            section = line.strip("[]")
            continue
        key, _, value = line.partition("=")
        sections.setdefault(section, {}).setdefault(key, []).append(value.strip())
    return Unit(sections)


@dataclass
class Service:
    """A service and its process. `ready` follows READY=1; `starts` counts its starts."""

    name: str
    unit: Unit
    socket: socket.socket
    process: subprocess.Popen[bytes] | None = None
    ready: threading.Event = field(default_factory=threading.Event)
    starts: int = 0
    wanted: bool = True
    alive_at: float = 0.0
    watchdog_s: float = 0.0
    restart_at: float = 0.0

    def take(self, message: bytes) -> None:
        """Take a message of sd_notify."""
        self.alive_at = time.monotonic()
        if b"READY=1" in message:
            self.ready.set()
        if period := re.search(rb"WATCHDOG_USEC=(\d+)", message):
            self.watchdog_s = int(period[1]) / 1e6

    @property
    def pid(self) -> int:
        return 0 if self.process is None else self.process.pid


class UnitRunner:
    """The services below `root`, a folder with the bundle is installed."""

    def __init__(self, root: Path, python: str, *, switches_user: bool) -> None:
        self.root = root
        self.python = python
        self.switches_user = switches_user
        self.services: dict[str, Service] = {}
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._requests = root / "run" / "requests"
        (root / "run").mkdir()
        self._requests.touch()
        self._requests.chmod(0o666)
        tool = root / "bin" / "systemctl"
        tool.parent.mkdir()
        tool.write_text(f'#!/bin/sh\nshift 2\necho "$1 $2" >> {self._requests}\n')
        tool.chmod(0o755)
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()

    def start(self, name: str) -> Service:
        """Start a service and return at once."""
        template, _, instance = name.removesuffix(".service").partition("@")
        file = self.root / "etc/systemd/system" / (f"{template}@.service" if instance else f"{name}.service")
        credentials = self.root / "run" / f"{name}.credentials"
        text = self.relocate(file.read_text()).replace("%i", instance).replace("%d", str(credentials))
        unit = parse_unit(text)
        channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        path = self.root / "run" / f"{name}.notify"
        path.unlink(missing_ok=True)
        channel.bind(str(path))
        path.chmod(0o777)
        channel.setblocking(False)
        service = Service(name, unit, channel)
        self._load_credentials(service, credentials)
        with self._lock:
            self.services[name] = service
            self._spawn(service)
        return service

    def run(self, name: str) -> tuple[int, str]:
        """Run a service that its timer starts; return its status and its log."""
        process = self.start(name).process
        assert process is not None
        return process.wait(WAIT_S), self.log(name)

    def start_all(self) -> None:
        """Start what the target wants; a unit waits until the units before it are ready."""
        target = parse_unit((self.root / "etc/systemd/system/archwright.target").read_text())
        names = target.all("Wants", "Unit")[-1].split()
        wanted = [name.removesuffix(".service") for name in names if name.endswith(".service")]
        while left := [name for name in wanted if name not in self.services]:
            for name in left:
                unit = parse_unit((self.root / "etc/systemd/system" / f"{name}.service").read_text())
                before = {one.removesuffix(".service") for one in " ".join(unit.all("After", "Unit")).split()}
                if not before & {*left}:
                    for one in before & {*wanted}:
                        wait_until_ready(self, one)
                    self.start(name)

    def relocate(self, text: str) -> str:
        """Return a text with the machine's folders below the root."""
        for folder in FOLDERS:
            text = text.replace(folder, f"{self.root}{folder}")
        return text

    def reload(self, name: str) -> None:
        service = self.services[name]
        command = service.unit.get("ExecReload").replace("$MAINPID", str(service.pid))
        subprocess.run(shlex.split(command), check=True)

    def kill(self, name: str) -> int:
        """Kill the main process, and return its number."""
        pid = self.services[name].pid
        os.kill(pid, signal.SIGKILL)
        return pid

    def log(self, name: str) -> str:
        return (self.root / "run" / f"{name}.log").read_text(errors="replace")

    def ids(self, service: Service) -> dict[str, Any]:
        """Return the user and groups of a service for Popen, from the root's own list of users."""
        if not self.switches_user:
            return {}
        users = {line.split(":")[0]: line.split(":") for line in (self.root / "etc/passwd").read_text().splitlines()}
        groups = {line.split(":")[0]: line.split(":") for line in (self.root / "etc/group").read_text().splitlines()}
        more = service.unit.get("SupplementaryGroups").split()
        return {
            "user": int(users[service.unit.get("User")][2]),
            "group": int(users[service.unit.get("User")][3]),
            "extra_groups": [int(groups[name][2]) for name in more if name in groups],
        }

    def close(self) -> None:
        self._stop.set()
        self._thread.join()
        for service in self.services.values():
            if service.process is not None and service.process.poll() is None:
                service.process.terminate()
        for service in self.services.values():
            if service.process is not None:
                with suppress(subprocess.TimeoutExpired):
                    service.process.wait(WAIT_S)
                self._kill_group(service)
                service.process.wait()
            service.socket.close()

    def _load_credentials(self, service: Service, folder: Path) -> None:
        """Copy the files of LoadCredential into a folder that only the user of the service may read."""
        ids = self.ids(service)
        owner = ids.get("user", os.getuid()), ids.get("group", os.getgid())
        for line in service.unit.all("LoadCredential"):
            name, _, source = line.partition(":")
            folder.mkdir(0o700, exist_ok=True)
            copy = folder / name
            copy.unlink(missing_ok=True)
            shutil.copyfile(source, copy)
            copy.chmod(0o400)
            for path in (folder, copy):
                os.chown(path, *owner)

    def _environment(self, service: Service) -> dict[str, str]:
        found = {"PATH": f"{self.root}/bin:/usr/bin:/bin", "HOME": "/", "LANG": "C.UTF-8"}
        for line in service.unit.all("Environment"):
            words = shlex.split(line.replace("%%", "%"))
            found.update({word.partition("=")[0]: word.partition("=")[2] for word in words})
        for name in service.unit.all("EnvironmentFile"):
            path = Path(name.removeprefix("-"))
            lines = path.read_text().splitlines() if path.exists() else []
            found.update({line.partition("=")[0]: line.partition("=")[2] for line in lines if "=" in line})
        found["NOTIFY_SOCKET"] = str(self.root / "run" / f"{service.name}.notify")
        if service.unit.get("WatchdogSec"):
            found["WATCHDOG_USEC"] = str(int(service.unit.seconds("WatchdogSec") * 1e6))
        return found

    def _spawn(self, service: Service) -> None:
        unit = service.unit
        strict = unit.get("MemoryDenyWriteExecute") == "yes"

        def prepare() -> None:
            control = ctypes.CDLL(None).prctl
            if unit.get("NoNewPrivileges") == "yes":
                control(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
            if strict:
                control(PR_SET_MDWE, 1, 0, 0, 0)

        with (self.root / "run" / f"{service.name}.log").open("ab") as log:
            service.process = subprocess.Popen(
                shlex.split(unit.get("ExecStart").replace("%%", "%").replace("$$", "$")),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self._environment(service),
                cwd="/",
                umask=int(unit.get("UMask", "0022"), 8),
                start_new_session=True,
                preexec_fn=prepare,
                **self.ids(service),
            )
        service.starts += 1
        service.alive_at = time.monotonic()
        service.watchdog_s = unit.seconds("WatchdogSec")
        if unit.get("Type") != "notify":
            service.ready.set()

    def _watch(self) -> None:
        seen = 0
        while not self._stop.wait(TICK_S):
            text = self._requests.read_text()
            lines, seen = text[seen:].splitlines(), len(text)
            for verb, name in (line.split() for line in lines):
                self._control(verb, name.removesuffix(".service"))
            with self._lock:
                for service in self.services.values():
                    self._step(service)

    def _control(self, verb: str, name: str) -> None:
        known = self.services.get(name)
        running = known is not None and known.wanted
        if verb == "start" and not running:
            self.start(name)
        elif verb == "stop" and known is not None and known.process is not None:
            known.wanted = False
            known.process.terminate()

    def _step(self, service: Service) -> None:
        """Read notifications, enforce the watchdog, and restart a process that ended."""
        with suppress(BlockingIOError):
            while message := service.socket.recv(4096):
                service.take(message)
        process, watchdog_s = service.process, service.watchdog_s
        if process is None:
            return
        now = time.monotonic()
        if process.poll() is None:
            if watchdog_s and service.ready.is_set() and now > service.alive_at + watchdog_s:
                process.send_signal(signal.SIGABRT)
                process.send_signal(signal.SIGCONT)  # as systemd does
            return
        if not service.wanted or service.unit.get("Restart") != "always":
            return
        if not service.restart_at:
            service.ready.clear()
            service.restart_at = now + service.unit.seconds("RestartSec", 0.1)
            if service.unit.get("KillMode") != "process":
                self._kill_group(service)
        elif now >= service.restart_at:
            service.restart_at = 0.0
            self._spawn(service)

    def _kill_group(self, service: Service) -> None:
        with suppress(ProcessLookupError):
            os.killpg(service.pid, signal.SIGKILL)


@contextmanager
def running_units(bundle: Path, plan: Path, prepare: Callable[[Path], None]) -> Iterator[UnitRunner]:
    """Install a bundle below a folder that every user may read, and run it. `prepare` gets the root before the start.

    The bundle's Python takes the code from `lib` of its folder, which is a link, then what this process imports.
    """
    root = Path(tempfile.mkdtemp(prefix="aw-", dir="/tmp"))
    root.chmod(0o755)
    runner = None
    try:
        install(bundle, plan, root)
        python = root / "opt/archwright/current/bin/python"
        python.parent.mkdir(parents=True)
        program, others = find_python()
        path = ":".join(map(str, list_libraries()))
        code = f'PYTHONPATH="${{0%/bin/python}}/lib:{path}" exec {program} "$@"'
        python.write_text(f"#!/bin/sh\n{code}\n")
        python.parent.with_name("lib").symlink_to(CODE)
        verbs = python.with_name("archwright")
        verbs.write_text(f'#!/bin/sh\nexec {python} -P -m archwright "$@"\n')
        for program_file in (python, verbs):
            program_file.chmod(0o755)
        prepare(root)
        runner = UnitRunner(root, str(python), switches_user=others and os.getuid() == 0)
        config = root / "etc/archwright/bundle.json"
        config.write_text(runner.relocate(config.read_text()))
        runner.start_all()
        yield runner
    finally:
        if runner is not None:
            runner.close()
        shutil.rmtree(root, ignore_errors=True)


def list_libraries() -> list[Path]:
    """Return the folders from which this process imports packages.

    The standard library is not among them: another interpreter of this version has its own, and its own binaries.
    """
    standard = Path(sysconfig.get_path("stdlib"))
    folders = [Path(entry).resolve() for entry in sys.path if entry and Path(entry).is_dir()]
    packages = [one for one in folders if standard not in (one, *one.parents) or "site-packages" in one.parts]
    return [one for one in packages if one != CODE]


def find_python() -> tuple[str, bool]:
    """Return an interpreter of this version, and true if other users can run it."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    for python in (sys.executable, f"/usr/bin/python{version}", f"/usr/local/bin/python{version}"):
        with suppress(OSError, subprocess.CalledProcessError):
            as_other = {"user": 65534, "group": 65534} if os.getuid() == 0 else {}
            subprocess.run([python, "-c", "0"], cwd="/", check=True, **as_other)  # type: ignore[call-overload]
            return python, True
    return sys.executable, False


def install(bundle: Path, plan: Path, root: Path) -> None:
    """Install the bundle as its README says. Without root, folders get the user who runs the tests."""
    shutil.copytree(bundle / "root", root, dirs_exist_ok=True)
    shutil.copyfile(plan, root / "etc/archwright/plan.json")
    if os.getuid() == 0:
        for command in ([require_program("systemd-sysusers")], [require_program("systemd-tmpfiles"), "--create"]):
            subprocess.run([*command, f"--root={root}"], check=True, capture_output=True)
        return
    for line in (root / "etc/tmpfiles.d/archwright.conf").read_text().splitlines():
        kind, _, rest = line.partition(" ")
        if kind in ("d", "f"):
            path, mode, *_ = rest.split()
            place = Path(f"{root}{path}")
            (place.mkdir if kind == "d" else place.touch)(exist_ok=True)
            place.chmod(int(mode, 8))


def wait_until_ready(runner: UnitRunner, name: str) -> None:
    until(lambda: name in runner.services and runner.services[name].ready.is_set())
