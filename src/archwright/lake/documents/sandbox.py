"""Restricts the process of the document parser before it reads the first document.

Linux: rlimits bound the address space and forbid writing files. An empty network namespace replaces the network. A
seccomp filter (x86-64, ARM64) permits only system calls on memory and on open descriptors, so the process opens no
file, socket or program, sends no signal, and writes only to the other end of its socket. If the kernel refuses the
namespace, as in many containers, the filter still holds. Other systems: only the rlimits and an audit hook of Python
hold; a hook does not stop native code.
`enter_sandbox` returns the names of what holds.
"""

import ctypes
import resource
import sys

from archwright.engines.process_restrictions import gain_no_privileges
from archwright.engines.system_call_filter import CallRule, has_call_filters, install_call_filter

NEW_NETWORK, NEW_USER = 0x40000000, 0x10000000
# Not fcntl, with which a descriptor sends signals to any process of the user.
PERMITTED_CALLS = (
    *("read", "write", "readv", "writev", "pread64", "lseek", "fstat", "newfstatat", "close"),
    *("mmap", "munmap", "mprotect", "mremap", "brk", "madvise", "futex"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "exit", "exit_group", "restart_syscall"),
    *("sendto", "recvmsg", "recvfrom", "poll", "ppoll"),
    *("clock_gettime", "clock_nanosleep", "gettimeofday", "getrandom"),
    *("sched_yield", "sched_getaffinity", "getrusage", "sysinfo", "getpid", "gettid"),
)
# The length of an address: a message goes to the other end of its socket only.
ADDRESS_LENGTH_AT = 5
# Events of Python's audit hook that the parser never needs.
REFUSED_EVENTS = ("socket.", "subprocess.", "os.", "open")


def limit_resources(memory_bytes: int) -> None:
    for kind, value in ((resource.RLIMIT_AS, memory_bytes), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(kind, (value, value))


def enter_sandbox() -> list[str]:
    """Leave the network, permit only calls on memory and open descriptors; return the names of what holds.

    Raises OSError if the kernel has filters and refuses this one.
    """
    isolated = sys.platform == "linux" and ctypes.CDLL(None).unshare(NEW_USER | NEW_NETWORK) == 0
    filtered = has_call_filters()
    if filtered:
        gain_no_privileges()
        rules = [CallRule(name, False) for name in PERMITTED_CALLS]
        rules.append(CallRule("sendto", False, ADDRESS_LENGTH_AT, (0,)))
        install_call_filter(rules, others_refused=True)
    sys.addaudithook(_refuse_event)  # not before: the filter is built from a file
    names = {"audit hook": True, "network namespace": isolated, "seccomp": filtered}
    return [name for name, holds in names.items() if holds]


def _refuse_event(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith(REFUSED_EVENTS) and not (event == "open" and isinstance(arguments[0], int)):
        raise PermissionError(f"the document parser may not use {event}")
