"""A Debian of its own whose process 1 is systemd, booted by systemd-nspawn.

It shares kernel and network with this machine, and no files. cgroup controllers may be missing, so limits of memory
and processors may have no effect.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.deploy.tools import ROOT, require_program
from tests.tools.checks import WAIT_S, until

# `python` is the version of the release's own interpreter.
RELEASE, PYTHON = "trixie", "3.13"
PACKAGES = ("curl", "dbus", "libgomp1", "polkitd", "procps", "python3-venv", "sudo", "systemd")
CACHE = ROOT / ".cache" / "machines"
ENVIRONMENT = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "LANG": "C.UTF-8"}
UP = ("running", "degraded")


class BootedMachine:
    """A running machine below `root`; `log` has what it wrote to its console."""

    def __init__(self, root: Path, log: Path) -> None:
        self.root = root
        self._log = log
        self._process = self._boot()

    def reboot(self) -> None:
        """Power off and boot again."""
        self.shut_down()
        self._process = self._boot()
        self.wait_until_up()

    def wait_until_up(self) -> None:
        until(lambda: self._process.poll() is not None or self._read_state() in UP)
        assert self._process.poll() is None, self._log.read_text(errors="replace")[-3000:]

    def run(self, script: str, *, folder: str = "/") -> subprocess.CompletedProcess[str]:
        """Run a shell script in the machine, as root."""
        command = ["nsenter", f"--target={self._find_leader()}", "--all", f"--wdns={folder}", "sh", "-ec", script]
        return subprocess.run(
            command, env=ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace"
        )

    def read(self, script: str, *, folder: str = "/") -> str:
        """Return what a script writes. Fails if its status is not 0."""
        done = self.run(script, folder=folder)
        assert done.returncode == 0, f"{script}\nstatus {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
        return done.stdout.strip()

    def show(self, unit: str, name: str) -> str:
        """Return a property of a unit."""
        return self.read(f"systemctl show --value --property={name} {unit}")

    def shut_down(self) -> None:
        self._process.terminate()  # systemd-nspawn asks process 1 to power off
        try:
            self._process.wait(WAIT_S)
        finally:
            self._process.kill()
            self._process.wait()

    def _boot(self) -> subprocess.Popen[bytes]:
        # Without CAP_NET_ADMIN, systemd ignores PrivateNetwork=yes.
        options = ["--quiet", "--boot", "--register=no", "--capability=CAP_NET_ADMIN", f"--directory={self.root}"]
        if not Path("/run/systemd/system").exists():  # nobody here makes a scope for the machine
            options.append("--keep-unit")
        command = [str(require_program("systemd-nspawn")), *options]
        environment = {**ENVIRONMENT, "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}
        with self._log.open("ab") as console:
            return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=console, stderr=console)

    def _find_leader(self) -> int:
        """Return process 1 of the machine as this machine numbers it, 0 before it runs."""
        number = self._process.pid
        children = Path(f"/proc/{number}/task/{number}/children")
        return int(children.read_text().split()[0]) if children.exists() and children.read_text() else 0

    def _read_state(self) -> str:
        return self.run("systemctl is-system-running || true").stdout.strip() if self._find_leader() else ""


@contextmanager
def booted_machine() -> Iterator[BootedMachine]:
    """Boot a new machine; it and its files are gone at the end."""
    folder = Path(tempfile.mkdtemp(prefix="aw-machine-", dir="/tmp"))
    machine = None
    try:
        root = folder / "root"
        root.mkdir()
        subprocess.run(
            ["tar", "--extract", "--numeric-owner", f"--file={find_archive()}", f"--directory={root}"], check=True
        )
        machine = BootedMachine(root, folder / "console")
        machine.wait_until_up()
        yield machine
    finally:
        if machine is not None:
            machine.shut_down()
        shutil.rmtree(folder)


def find_archive() -> Path:
    """Return the files of a new machine. The first call fetches them from Debian; later runs find them in `.cache`."""
    wanted = hashlib.sha256(" ".join((RELEASE, *PACKAGES)).encode()).hexdigest()
    archive = CACHE / f"{RELEASE}-{wanted[:12]}.tar"
    if not archive.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        made = archive.with_suffix(f".{os.getpid()}.tar")
        program = str(require_program("mmdebstrap"))
        subprocess.run(
            [program, "--variant=minbase", f"--include={','.join(PACKAGES)}", RELEASE, str(made)],
            check=True,
            capture_output=True,
        )
        made.replace(archive)
    return archive
