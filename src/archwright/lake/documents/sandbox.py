"""Restricts the process of the document parser before it reads the first document.

Linux: rlimits bound the address space and forbid writing files. An empty network namespace replaces the network. A
seccomp filter (x86-64, ARM64) permits only system calls on memory and on open descriptors, so the process opens no
file, socket or program and sends no signal. If the kernel refuses the namespace, as in many containers, the filter
still holds. Other systems: only the rlimits and an audit hook of Python hold; a hook does not stop native code.
`enter_sandbox` returns the names of what holds.
"""

import ctypes
import platform
import resource
import struct
import sys

NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, FILTER_MODE = 38, 22, 2
ALLOW, FAIL = 0x7FFF0000, 0x00050000 | 1  # the call returns EPERM
LOAD, EQUAL, RETURN = 0x20, 0x15, 0x06
# Machine -> number of its architecture in a filter, and the permitted calls in the order of this comment: read, write,
# readv, writev, pread64, lseek, fstat, newfstatat, close, mmap, munmap, mprotect, mremap, brk, madvise, futex,
# rt_sigaction, rt_sigprocmask, rt_sigreturn, sigaltstack, sendmsg, sendto, recvmsg, recvfrom, poll or ppoll, exit,
# exit_group, clock_gettime, clock_nanosleep, gettimeofday, getrandom, sched_yield, sched_getaffinity, getrusage,
# sysinfo, getpid, gettid, restart_syscall, fcntl. Source: the tables of Linux 6.12.
CALLS: dict[str, tuple[int, tuple[int, ...]]] = {
    "x86_64": (
        0xC000003E,
        (
            *(0, 1, 19, 20, 17, 8, 5, 262, 3, 9, 11, 10, 25, 12, 28, 202, 13, 14, 15, 131, 46, 44, 47, 45, 7, 60),
            *(231, 228, 230, 96, 318, 24, 204, 98, 99, 39, 186, 219, 72),
        ),
    ),
    "aarch64": (
        0xC00000B7,
        (
            *(63, 64, 65, 66, 67, 62, 80, 79, 57, 222, 215, 226, 216, 214, 233, 98, 134, 135, 139, 132, 211, 206, 212),
            *(207, 73, 93, 94, 113, 115, 169, 278, 124, 123, 165, 179, 172, 178, 128, 25),
        ),
    ),
}
# Events of Python's audit hook that the parser never needs.
REFUSED_EVENTS = ("socket.", "subprocess.", "os.", "open")


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def limit_resources(memory_bytes: int) -> None:
    for kind, value in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (value, value))


def enter_sandbox() -> list[str]:
    """Leave the network, permit only calls on memory and open descriptors; return the names of what holds."""
    sys.addaudithook(_refuse_event)
    if not sys.platform.startswith("linux"):
        return ["audit hook"]
    libc = ctypes.CDLL(None, use_errno=True)
    isolated = libc.unshare(NEW_USER | NEW_NETWORK) == 0
    filtered = platform.machine() in CALLS and _install_filter(libc, *CALLS[platform.machine()])
    names = {"audit hook": True, "network namespace": isolated, "seccomp": filtered}
    return [name for name, holds in names.items() if holds]


def _install_filter(libc: ctypes.CDLL, architecture: int, permitted: tuple[int, ...]) -> bool:
    """Install a filter in classic BPF: check the architecture, then compare the call's number with each permitted."""
    steps = [(LOAD, 0, 0, 4), (EQUAL, 1, 0, architecture), (RETURN, 0, 0, FAIL), (LOAD, 0, 0, 0)]
    steps += [(EQUAL, len(permitted) - place, 0, number) for place, number in enumerate(permitted)]
    steps += [(RETURN, 0, 0, FAIL), (RETURN, 0, 0, ALLOW)]
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = _FilterProgram(len(steps), ctypes.addressof(held))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        return False
    return int(libc.prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0)) == 0


def _refuse_event(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith(REFUSED_EVENTS) and not (event == "open" and isinstance(arguments[0], int)):
        raise PermissionError(f"the document parser may not use {event}")
