"""Starts the services of a rendered compose file as processes; docs/deploy/compose.md says what this leaves out.

Each service has a mount namespace with a read-only root, volumes, secrets and temporary file systems. It also has its
user, its environment, no capabilities, and a process namespace. All share one network namespace and its loopback.
"""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from tests.tools.checks import WAIT_S, until

VARIABLE = re.compile(r"\$(?:\$|\{(\w+)(?::([-?])([^}]*))?\})")
STOP_S = 20
SERVICE_PATH = "/opt/archwright/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"


class Image(NamedTuple):
    """What stands for an image: files of this machine by their place in it, and its own command."""

    files: Mapping[str, Path]
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    environment: Mapping[str, str] = {}


class ComposeRunner:
    """The services of `compose`; `folder` has the bundle, `images` what runs for the image of each service."""

    def __init__(self, compose: dict[str, Any], folder: Path, images: Mapping[str, Image]) -> None:
        self._compose, self.folder, self._images = compose, folder, images
        lines = (folder / ".env").read_text().splitlines()
        self._variables = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        holder = ["unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec sleep infinity"]
        self._network = subprocess.Popen(holder, stdout=subprocess.PIPE)
        assert self._network.stdout is not None and self._network.stdout.readline() == b"up\n"
        self._hosts = folder / "run-hosts"
        self._hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *compose["services"])))

    def start_all(self) -> None:
        """Start the services without a profile; each waits for those that it depends on."""
        waiting = {name: one for name, one in self._compose["services"].items() if "profiles" not in one}
        while waiting:
            name = next(name for name in waiting if not waiting.keys() & waiting[name].get("depends_on", {}).keys())
            for other, wanted in waiting.pop(name).get("depends_on", {}).items():
                self._await(other, wanted["condition"])
            self.start(name)

    def start(self, name: str, *, command: Sequence[str] = ()) -> None:
        """Start a service, with another command if one is given."""
        service, image = self._compose["services"][name], self._images[name]
        if not command:
            command = [*(service.get("entrypoint") or image.entrypoint), *service.get("command", image.command)]
        isolated = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec"]
        with self.log_file(name).open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [*self._enter_network(), *isolated, self._write_script(name, command)],
                env=self._environment(name),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def exec(self, name: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command beside the process of a service, as `docker compose exec` does."""
        target = self.find_pid(name)
        inside = ["nsenter", f"--target={target}", "--mount", "--net", "--pid", f"--root=/proc/{target}/root"]
        return subprocess.run(
            [*inside, "env", "--chdir=/", *self._limit(name), *map(self._fill, command)],
            env=self._environment(name),
            capture_output=True,
            text=True,
        )

    def follow(self, line: str) -> None:
        """Do what a command line of `docker compose` does, of the verbs that READMEs have."""
        verb, *words = shlex.split(line)[2:]
        names = [word for word in words if word in self._compose["services"]]
        if verb == "stop":
            for name in names:
                self.stop(name)
        elif verb == "up":
            for name in names or self.processes:
                if self.processes[name].poll() is not None and self._compose["services"][name]["restart"] != "no":
                    self.start(name)
                    until(partial(self.is_healthy, name))
        elif verb == "exec":
            name, *command = words
            done = self.exec(name, *command)
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        else:
            assert verb == "run" and "--entrypoint" in words, line
            name, *arguments = words[words.index("--entrypoint") + 2 :]
            self.start(name, command=[words[words.index("--entrypoint") + 1], *arguments])
            assert self.processes[name].wait(WAIT_S) == 0, self.log_file(name).read_text()

    def stop(self, name: str) -> None:
        os.kill(self.find_pid(name), signal.SIGTERM)
        try:
            self.processes[name].wait(STOP_S)
        except subprocess.TimeoutExpired:  # process 1 ignores a signal that it does not handle
            os.kill(self.find_pid(name), signal.SIGKILL)
            self.processes[name].wait(WAIT_S)

    def is_healthy(self, name: str) -> bool:
        kind, *command = self._compose["services"][name]["healthcheck"]["test"]
        assert kind == "CMD"
        return self.processes[name].poll() is None and self.exec(name, *command).returncode == 0

    def restart_killed(self, name: str) -> None:
        """Kill a service with SIGKILL, and start it again if the file says so."""
        os.kill(self.find_pid(name), signal.SIGKILL)
        self.processes[name].wait(WAIT_S)
        assert self._compose["services"][name]["restart"] == "unless-stopped"
        self.start(name)

    def find_pid(self, name: str) -> int:
        """Return process 1 of a service as this machine numbers it."""
        parent = self.processes[name].pid
        until(lambda: Path(f"/proc/{parent}/task/{parent}/children").read_text())
        return int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])

    def log_file(self, name: str) -> Path:
        return self.folder / f"run-{name}.log"

    def close(self) -> None:
        for name, process in self.processes.items():
            if process.poll() is None:
                os.kill(self.find_pid(name), signal.SIGKILL)  # the other processes of its namespace end with it
            process.wait(WAIT_S)
        self._network.kill()
        self._network.communicate()

    def _await(self, name: str, condition: str) -> None:
        if condition == "service_completed_successfully":
            assert self.processes[name].wait(WAIT_S) == 0, self.log_file(name).read_text()
        elif condition == "service_healthy":
            until(lambda: self.processes[name].poll() is not None or self.is_healthy(name))
            assert self.processes[name].poll() is None, self.log_file(name).read_text()

    def _enter_network(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{self._network.pid}/ns/net"]

    def _environment(self, name: str) -> dict[str, str]:
        named = self._compose["services"][name].get("environment", {})
        values = {key: self._fill(str(value)) for key, value in named.items() if value is not None}
        return {"PATH": SERVICE_PATH, "LC_ALL": "C.UTF-8", **self._images[name].environment, **values}

    def _limit(self, name: str) -> list[str]:
        user, group = self._compose["services"][name]["user"].split(":")
        bounded = ("--clear-groups", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
        return ["setpriv", f"--reuid={user}", f"--regid={group}", *bounded]

    def _fill(self, text: str) -> str:
        """Fill in variables as Compose does; without a value a variable needs a default."""

        def replace(found: re.Match[str]) -> str:
            if found[1] is None:
                return "$"
            value = self._variables.get(found[1], "") or (found[3] if found[2] == "-" else "")
            assert value, f"{found[1]}: {found[3]}"
            return value

        return VARIABLE.sub(replace, text)

    def _list_mounts(self, name: str) -> list[tuple[Path, str, bool]]:
        """Return source, target and whether the mount is read-only."""
        service = self._compose["services"][name]
        mounts = [(source, target, True) for target, source in self._images[name].files.items()]
        mounts.append((self._hosts, "/etc/hosts", True))
        for volume in service.get("volumes", ()):
            source, target, *options = self._fill(volume).split(":")
            if source in self._compose["volumes"]:
                path = self.folder / "run-volumes" / source
                path.mkdir(parents=True, exist_ok=True)
                os.chown(path, *map(int, service["user"].split(":")))
            else:
                path = self.folder / source
            mounts.append((path, target, "ro" in options))
        for secret in service.get("secrets", ()):
            source, target = (secret, f"/run/secrets/{secret}") if isinstance(secret, str) else secret.values()
            mounts.append((self.folder / self._compose["secrets"][source]["file"], target, True))
        return mounts

    def _write_script(self, name: str, command: Sequence[str]) -> str:
        """Return the script that makes the root of a service and becomes its process."""
        service, base = self._compose["services"][name], self.folder / "run-root"
        base.mkdir(exist_ok=True)
        root, quoted = f"{base}/root", shlex.quote(str(base))
        lines = ["mount --make-rprivate /", f"mount -t tmpfs tmpfs {quoted}"]
        lines.append(f"cd {quoted} && mkdir upper work root")
        lines.append("mount -t overlay overlay -o lowerdir=/,upperdir=upper,workdir=work root")
        lines += [
            "mount --rbind /dev root/dev",
            "mount -t proc proc root/proc",
            "rm -rf root/run/* root/etc/archwright",
        ]
        for source, target, _ in (mounts := self._list_mounts(name)):
            place, path = shlex.quote(f"{root}{target}"), shlex.quote(str(source))
            lines.append(f"mkdir -p {place}" if source.is_dir() else f"mkdir -p $(dirname {place}); touch {place}")
            lines.append(f"mount --bind {path} {place}")
        lines += [f"mount -o remount,bind,ro {shlex.quote(f'{root}{target}')}" for _, target, ro in mounts if ro]
        for mount in service.get("tmpfs", ()):
            target, _, options = mount.partition(":")
            lines.append(f"mkdir -p root{target}; mount -t tmpfs -o {options.replace(',exec', '')} tmpfs root{target}")
        lines.append("mount -o remount,bind,ro root" if service["read_only"] else "true")
        words = [*self._limit(name), *map(self._fill, command)]
        return "\n".join([*lines, f"exec chroot root {shlex.join(words)}"])
