"""Every case of the corpus against the real process."""

from __future__ import annotations

import json
import socket
import time
from typing import TYPE_CHECKING

import pytest
from tests.tools.checks import WAIT_S

from .cases import CASES, HALF, Case, Drops, Piece
from .replies import Reply, parsed

if TYPE_CHECKING:
    from ..conftest import Platform

pytestmark = pytest.mark.enable_socket

CODES = {413: "request_too_large", 431: "headers_too_large"}
PROBE = b"GET /healthz HTTP/1.1\r\nHost: g\r\nConnection: close\r\n\r\n"


def exchanged(platform: Platform, case: Case) -> list[Reply]:
    """Return the responses up to the end of the connection; a connection that should stay gets another request."""
    said = b""
    with socket.create_connection(("127.0.0.1", platform.config.port), timeout=WAIT_S) as wire:
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            probe: list[Piece] = [0.02, PROBE] if case.kept else []
            for piece in [*case.sent, *probe]:
                if isinstance(piece, float):
                    time.sleep(piece)
                elif piece is None:
                    wire.shutdown(socket.SHUT_WR)
                else:
                    data = piece.replace(b"KEY", platform.key.encode())
                    for part in [bytes([byte]) for byte in data] if isinstance(piece, Drops) else [data]:
                        wire.sendall(part)
        except (BrokenPipeError, ConnectionResetError):
            assert not case.kept
        while piece := wire.recv(65536):
            said += piece
    heads = tuple(i for i, name in enumerate(case.sent) if isinstance(name, bytes) and name.startswith(b"HEAD "))
    return parsed(said, heads)


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_case(narrow: Platform, case: Case) -> None:
    before = narrow.engine_metrics()["null:tokens_predicted_total"]
    replies = exchanged(narrow, case)
    expected = [*case.statuses, 200] if case.kept else [*case.statuses]
    assert [reply.status for reply in replies] == expected
    codes = [(reply.status, json.loads(reply.body)["error"]["code"]) for reply in replies if reply.status in CODES]
    assert codes == [(status, CODES[status]) for status in case.statuses if status in CODES]
    if case.statuses and not case.kept and HALF not in case.sent:
        assert replies[-1].headers.get(b"connection") == b"close"
    assert narrow.engine_metrics()["null:tokens_predicted_total"] - before == case.ran
