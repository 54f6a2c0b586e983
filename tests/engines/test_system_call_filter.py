"""Filters of system calls on both machines, read as the kernel reads them."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest

from archwright.engines.engine_sandbox import list_call_rules
from archwright.engines.system_call_filter import (
    ARCHITECTURES,
    EQUAL,
    LOAD,
    PERMIT,
    RETURN,
    CallRule,
    Instruction,
    build_call_filter,
)

OTHER_ARCHITECTURE = 0x40000003
SOCKET = {"x86_64": 41, "aarch64": 198}
SEND_TO = {"x86_64": 44, "aarch64": 206}
GETPID = {"x86_64": 39, "aarch64": 172}
X32 = 0x40000000


def decide(steps: Sequence[Instruction], number: int, architecture: int, *arguments: int) -> bool:
    """Return whether a call passes, as the kernel reads classic BPF."""
    words = {0: number, 4: architecture, **{16 + 8 * place: argument for place, argument in enumerate(arguments)}}
    place = loaded = 0
    while steps[place][0] != RETURN:
        code, if_true, if_false, operand = steps[place]
        place += 1
        if code == LOAD:
            loaded = words.get(operand, 0)
            continue
        holds = loaded == operand if code == EQUAL else loaded >= operand
        place += if_true if holds else if_false
    return steps[place][3] == PERMIT


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_the_engine_opens_unix_sockets_only(machine: str) -> None:
    steps = build_call_filter(list_call_rules(starts_programs=False, connects=False), machine, others_refused=False)
    own, call = ARCHITECTURES[machine], SOCKET[machine]
    for flags in (0, socket.SOCK_CLOEXEC, socket.SOCK_NONBLOCK, socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK):
        assert decide(steps, call, own, socket.AF_UNIX, socket.SOCK_STREAM | flags)
        for kind in (socket.SOCK_DGRAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET):
            assert not decide(steps, call, own, socket.AF_UNIX, kind | flags), kind
    for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, socket.AF_PACKET, socket.AF_ALG):
        assert not decide(steps, call, own, family, socket.SOCK_STREAM), family
    assert decide(steps, GETPID[machine], own)
    assert not decide(steps, GETPID[machine], OTHER_ARCHITECTURE), "calls of 32 bits have other numbers"
    assert not decide(steps, GETPID[machine] | X32, own)
    server = build_call_filter(list_call_rules(starts_programs=True, connects=False), machine, others_refused=False)
    assert decide(server, call, own, socket.AF_INET) and not decide(server, call, own, socket.AF_ALG)


@pytest.mark.parametrize("machine", ARCHITECTURES)
def test_several_rules_of_a_call_must_all_permit_it(machine: str) -> None:
    rules = [CallRule("sendto", False, 0, (3, 4)), CallRule("getpid", False), CallRule("sendto", False, 5, (0,))]
    steps = build_call_filter(rules, machine, others_refused=True)
    own, call = ARCHITECTURES[machine], SEND_TO[machine]
    assert decide(steps, call, own, 3) and decide(steps, call, own, 4, 1, 1, 1, 1, 0)
    assert not decide(steps, call, own, 5) and not decide(steps, call, own, 3, 0, 0, 0, 0, 16)
    assert decide(steps, GETPID[machine], own)
    with pytest.raises(AssertionError, match="must be the last rule"):
        build_call_filter([CallRule("sendto", True), CallRule("sendto", False)], machine, others_refused=False)
