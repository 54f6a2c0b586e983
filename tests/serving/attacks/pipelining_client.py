"""A client without a key: pipelines requests on four connections, without end, and reconnects when one is closed.

    python pipelining_client.py PORT

A process of its own, so that the measuring client does not share an interpreter with the attack.
"""

from __future__ import annotations

import socket
import sys
import threading

CONNECTIONS = 4
BLOCK = b"GET /v1/models HTTP/1.1\r\nHost: g\r\n\r\n" * 8_000


def pipeline_forever(port: int) -> None:
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=5) as wire:
                threading.Thread(target=discard_responses, args=(wire,), daemon=True).start()
                while True:
                    wire.sendall(BLOCK)
        except OSError:
            pass


def discard_responses(wire: socket.socket) -> None:
    try:
        while wire.recv(1 << 18):
            pass
    except OSError:
        pass


if __name__ == "__main__":
    for _ in range(CONNECTIONS):
        threading.Thread(target=pipeline_forever, args=(int(sys.argv[1]),), daemon=True).start()
    sys.stdin.read()  # until the test closes our standard input
