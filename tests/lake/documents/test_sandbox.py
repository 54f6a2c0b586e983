"""Tests of the rights that a sandboxed process has lost, each beside the same act before."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROBE = """
import os, resource, signal, socket, sys
from archwright.lake.documents import sandbox
acts = {
    "open": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "socket": lambda: socket.socket(),
    "exec": lambda: os.execv("/bin/true", ["true"]) if sys.argv[1] == "after" else None,
    "fork": lambda: os.fork() or os._exit(0),
    "signal": lambda: os.kill(os.getppid(), 0),
    "limit": lambda: resource.prlimit(os.getppid(), resource.RLIMIT_NPROC),
}
if sys.argv[1] == "namespace":
    sandbox._install_filter = lambda *_: False
    assert ("network namespace" in sandbox.enter_sandbox()) is (sys.argv[2] == "0")
    names = socket.if_nameindex()
    assert (len(names) == 1) or sys.argv[2] != "0", names
    sys.exit()
if sys.argv[1] == "after":
    # Without the hook of Python, which would refuse the acts before the kernel does.
    sandbox.sys.addaudithook = lambda hook: None
    names = sandbox.enter_sandbox()
    assert "seccomp" in names, names
for name, act in acts.items():
    try:
        act()
    except OSError as error:
        os.write(1, f"{name} {error.errno}\\n".encode())
    else:
        os.write(1, f"{name} done\\n".encode())
"""


@pytest.mark.process
def test_the_kernel_refuses_files_sockets_programs_and_signals() -> None:
    def probe(when: str) -> dict[str, str]:
        done = subprocess.run([sys.executable, "-c", PROBE, when], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return dict(line.split() for line in done.stdout.splitlines())

    assert set(probe("before").values()) == {"done"}
    assert set(probe("after").values()) == {"1"}  # EPERM


@pytest.mark.process
def test_the_network_is_empty_where_the_kernel_permits_a_namespace() -> None:
    refused = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False).returncode
    command = [sys.executable, "-c", PROBE, "namespace", str(refused)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
