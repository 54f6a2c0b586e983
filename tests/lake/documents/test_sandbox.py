"""Tests of the rights that a sandboxed process has lost, each beside the same act before."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
from tests.tools.checks import WAIT_S

PROBE = """
import ctypes, fcntl, os, resource, signal, socket, sys
from archwright.lake.documents import sandbox
parent = os.getppid()
libc, pair = ctypes.CDLL(None, use_errno=True), socket.socketpair()
receiver, sender = (socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) for _ in range(2))
receiver.bind("")
address, scheduler = receiver.getsockname(), os.sched_getscheduler(parent)
processors, nice = os.sched_getaffinity(parent), os.getpriority(os.PRIO_PROCESS, parent)
TGKILL = {"x86_64": 234, "aarch64": 131}[os.uname().machine]
def call(function, *arguments):
    if function(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "refused")
acts = {
    "open": lambda: os.open("/etc/hostname", os.O_RDONLY),
    "socket": lambda: socket.socket(),
    "exec": lambda: os.execv("/bin/true", ["true"]) if sys.argv[1] == "after" else None,
    "fork": lambda: os.fork() or os._exit(0),
    "signal": lambda: os.kill(parent, 0),
    "limit": lambda: resource.prlimit(parent, resource.RLIMIT_NPROC),
    "owner by fcntl": lambda: fcntl.fcntl(pair[0], fcntl.F_SETOWN, parent),
    "owner by ioctl": lambda: fcntl.ioctl(pair[0], 0x8901, parent.to_bytes(4, sys.byteorder)),
    "signal of a thread": lambda: call(libc.syscall, TGKILL, parent, parent, 0),
    "handle of a process": lambda: os.pidfd_open(parent),
    "datagram": lambda: sender.sendto(b"x", address),
    "message with an address": lambda: sender.sendmsg([b"x"], [], 0, address),
    "priority": lambda: os.setpriority(os.PRIO_PROCESS, parent, nice),
    "processors": lambda: os.sched_setaffinity(parent, processors),
    "scheduler": lambda: os.sched_setscheduler(parent, scheduler, os.sched_param(0)),
    "process control": lambda: call(libc.prctl, 3, 0, 0, 0, 0),
    "timer": lambda: call(libc.timer_create, 0, None, ctypes.byref(ctypes.c_void_p())),
}
if sys.argv[1] == "namespace":
    sandbox.has_call_filters = lambda: False
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
        os.write(1, f"{name}={error.errno}\\n".encode())
    else:
        os.write(1, f"{name}=done\\n".encode())
"""


@pytest.mark.process
def test_the_kernel_refuses_files_sockets_programs_and_signals() -> None:
    def probe(when: str) -> dict[str, str]:
        done = subprocess.run([sys.executable, "-c", PROBE, when], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return dict(line.split("=") for line in done.stdout.splitlines())

    assert set(probe("before").values()) == {"done"}
    assert set(probe("after").values()) == {"1"}  # EPERM


@pytest.mark.process
def test_the_network_is_empty_where_the_kernel_permits_a_namespace() -> None:
    refused = subprocess.run(["unshare", "--user", "--net", "true"], capture_output=True, check=False).returncode
    command = [sys.executable, "-c", PROBE, "namespace", str(refused)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


ASYNC_SIGNAL = """
import fcntl, os, signal, socket, sys
from archwright.lake.documents import sandbox
mine, other = socket.socketpair()
sandbox.sys.addaudithook = lambda hook: None
if sys.argv[2] == "after":
    assert "seccomp" in sandbox.enter_sandbox()
try:
    fcntl.fcntl(mine, fcntl.F_SETOWN, int(sys.argv[1]))
    fcntl.fcntl(mine, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(mine, fcntl.F_SETFL, os.O_ASYNC)
    other.send(b"x")
except OSError as error:
    os.write(1, str(error.errno).encode())
"""


@pytest.mark.process
@pytest.mark.parametrize(("when", "refusal", "ended"), [("before", "", -signal.SIGKILL), ("after", "1", None)])
def test_a_signal_of_a_descriptor_kills_no_other_process(when: str, refusal: str, ended: int | None) -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as victim:
        attack = [sys.executable, "-c", ASYNC_SIGNAL, str(victim.pid), when]
        done = subprocess.run(attack, capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout) == (0, refusal), done.stderr
        if ended is not None:
            victim.wait(WAIT_S)
        assert victim.poll() == ended
        victim.kill()
