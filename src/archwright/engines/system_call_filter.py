"""Filters of system calls (seccomp) that a thread installs for itself and for the threads that it starts.

A filter is a list of rules in classic BPF. It reads numbers and arguments of calls, never memory behind a pointer, so
no rule can be about a path. Numbers: `system_calls.csv`, from the tables of Linux 6.12.
"""

import csv
import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

PR_GET_SECCOMP, PR_SET_SECCOMP, FILTER_MODE = 21, 22, 2
PERMIT, REFUSE = 0x7FFF0000, 0x00050000 | errno.EPERM
LOAD, EQUAL, AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06
# Offsets in the kernel's `seccomp_data`: number, architecture, arguments of 8 bytes, low half first.
NUMBER_AT, ARCHITECTURE_AT, ARGUMENTS_AT, ARGUMENT_BYTES = 0, 4, 16, 8
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
# From this number on, calls of x86-64 are those of its ABI x32 under other numbers.
X32_NUMBERS = 0x40000000
Instruction = tuple[int, int, int, int]
"""Code, instructions to skip if true, to skip if false, operand."""


class CallRule(NamedTuple):
    """The decision on a system call: it is refused with EPERM, or permitted.

    With `values`, this holds if the low 32 bits of the argument at `position` are one of them; otherwise the opposite.
    A call with several rules is permitted if all permit it. Only the last of them may be a refusal.
    """

    name: str
    refused: bool
    position: int = 0
    values: tuple[int, ...] = ()


class _FilterProgram(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("instructions", ctypes.c_void_p)]


def has_call_filters() -> bool:
    """True if the kernel has seccomp, and this program knows the numbers of its calls."""
    if sys.platform != "linux" or platform.machine() not in ARCHITECTURES:
        return False
    return int(ctypes.CDLL(None).prctl(PR_GET_SECCOMP, 0, 0, 0, 0)) >= 0


def install_call_filter(rules: Iterable[CallRule], *, others_refused: bool) -> None:
    """Install a filter for this thread; call it after PR_SET_NO_NEW_PRIVS. Raises OSError.

    `others_refused`: whether calls without a rule are refused. A call of another ABI (32 bits, x32) always is.
    """
    steps = build_call_filter(rules, platform.machine(), others_refused=others_refused)
    code = b"".join(struct.pack("HBBI", *step) for step in steps)
    held = ctypes.create_string_buffer(code, len(code))
    program = _FilterProgram(len(steps), ctypes.addressof(held))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_SECCOMP, FILTER_MODE, ctypes.byref(program), 0, 0):
        raise OSError(ctypes.get_errno(), "the filter of system calls cannot be installed")


def build_call_filter(rules: Iterable[CallRule], machine: str, *, others_refused: bool) -> list[Instruction]:
    numbers = _read_numbers(machine)
    steps = [(LOAD, 0, 0, ARCHITECTURE_AT), (EQUAL, 1, 0, ARCHITECTURES[machine]), (RETURN, 0, 0, REFUSE)]
    steps += [(LOAD, 0, 0, NUMBER_AT), (AT_LEAST, 0, 1, X32_NUMBERS), (RETURN, 0, 0, REFUSE)]
    for name, rules_of_call in _group_by_name(rules).items():
        if name in numbers:  # a machine lacks some calls of others
            decision = _join_decisions(rules_of_call)
            steps += [(EQUAL, 0, len(decision), numbers[name]), *decision]
    return [*steps, (RETURN, 0, 0, REFUSE if others_refused else PERMIT)]


def _group_by_name(rules: Iterable[CallRule]) -> dict[str, list[CallRule]]:
    groups: dict[str, list[CallRule]] = {}
    for rule in rules:
        groups.setdefault(rule.name, []).append(rule)
    return groups


def _join_decisions(rules: list[CallRule]) -> list[Instruction]:
    """Return the instructions of the rules of one call, in their order: a permission goes on to the next rule."""
    steps: list[Instruction] = []
    for rule in rules:
        if steps:
            assert steps.pop() == (RETURN, 0, 0, PERMIT), "a refusal must be the last rule of its call"
        steps += _build_decision(rule)
    return steps


def _build_decision(rule: CallRule) -> Iterator[Instruction]:
    """Yield the instructions that end in the decision on a call of this rule."""
    stated, opposite = (REFUSE, PERMIT) if rule.refused else (PERMIT, REFUSE)
    if rule.values:
        yield (LOAD, 0, 0, ARGUMENTS_AT + ARGUMENT_BYTES * rule.position)
        for left, value in zip(range(len(rule.values), 0, -1), rule.values, strict=True):
            yield (EQUAL, left, 0, value)
        yield (RETURN, 0, 0, opposite)
    yield (RETURN, 0, 0, stated)


@cache
def _read_numbers(machine: str) -> dict[str, int]:
    with Path(__file__).with_name("system_calls.csv").open(encoding="ascii", newline="") as file:
        return {row["name"]: int(row[machine]) for row in csv.DictReader(file) if row[machine]}


def own_process_rules() -> tuple[CallRule, ...]:
    """Return rules that refuse signals, limits, scheduling and access to the memory of other processes.

    A descriptor can send a signal too: its owner (F_SETOWN) gets one when it is ready. Threads of this process cannot
    be told from others by their number, so only the calling thread may choose its processors.
    """
    own = os.getpid()
    refused = (
        *("ptrace", "process_vm_readv", "process_vm_writev", "process_madvise", "tkill"),
        *("pidfd_open", "pidfd_getfd", "pidfd_send_signal"),
        *("setpriority", "sched_setparam", "sched_setscheduler", "sched_setattr", "ioprio_set"),
        *("migrate_pages", "move_pages"),
    )
    return (
        *(CallRule(name, True) for name in refused),
        *(CallRule(name, False, 0, (own,)) for name in ("kill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo")),
        CallRule("prlimit64", False, 0, (0, own)),
        CallRule("sched_setaffinity", False, 0, (0, own)),
        CallRule("fcntl", True, 1, DESCRIPTOR_OWNER_COMMANDS),
        CallRule("ioctl", True, 1, DESCRIPTOR_OWNER_REQUESTS),
    )


# F_SETOWN, F_SETSIG, F_SETOWN_EX; FIOASYNC, FIOSETOWN, SIOCSPGRP, and TIOCSTI, which types into a terminal.
DESCRIPTOR_OWNER_COMMANDS = (8, 10, 15)
DESCRIPTOR_OWNER_REQUESTS = (0x5452, 0x8901, 0x8902, 0x5412)
