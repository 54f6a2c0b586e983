"""What one client may ask of a gateway process, and for how long.

Decides that each bound is itself within bounds: none that lets nobody in, or lets a client wait without end.
"""

from __future__ import annotations

from archwright.contract.record import Record


class ClientLimits(Record):
    """What one client may ask of the process, and for how long; none is ever without end. `tenant_bytes` are those of a
    tenant's large bodies that are not answered yet, `chunks` those of a chunked body; `connections_per_address` are of
    one client's address, which may be a proxy's; `token_s` is what a token takes at most, on average, of an answer that
    comes whole: slower than any engine people wait for."""

    body_bytes: int = 4 * 1024 * 1024
    tenant_bytes: int = 256 * 1024 * 1024
    header_bytes: int = 32 * 1024
    headers: int = 100
    chunks: int = 16_384
    connections: int = 1024
    connections_per_address: int = 512
    headers_s: float = 10.0
    body_s: float = 30.0
    first_token_s: float = 300.0
    token_s: float = 0.5
    stall_s: float = 120.0
    client_stall_s: float = 30.0
    request_s: float = 600.0
    drain_s: float = 10.0
    sweep_s: float = 0.25
    health_s: float = 1.0

    def complete_reply_timeout_s(self, tokens: int) -> float:
        """How long an engine may be silent that answers whole, with so many tokens at most."""
        return min(self.request_s, self.first_token_s + tokens * self.token_s)


_DAY_S = 86_400
_WAIT_S = (0.01, _DAY_S)
# The least and the most: what every request has, and what a machine has memory and open files for.
LIMIT_BOUNDS: dict[str, tuple[float, float]] = {
    "body_bytes": (1_024, 1 << 30),
    "tenant_bytes": (1_024, 1 << 40),
    "header_bytes": (1_024, 1 << 20),
    "headers": (16, 10_000),
    "chunks": (16, 1 << 24),
    "connections": (1, 1 << 20),
    "connections_per_address": (1, 1 << 20),
    **dict.fromkeys(("headers_s", "body_s", "first_token_s", "stall_s", "client_stall_s", "request_s"), _WAIT_S),
    "token_s": (0, _DAY_S),
    "drain_s": (0, _DAY_S),
    "sweep_s": (0.01, 10),
    "health_s": (0.01, 3_600),
}


def find_invalid_limit(limits: ClientLimits) -> tuple[str, str]:
    """The first field that is out of bounds and what is wrong with it; "" twice where nothing is."""
    for name, (least, most) in LIMIT_BOUNDS.items():
        value = getattr(limits, name)
        if not least <= value <= most:
            return name, f"is {value:,}; it has to be from {least:,} to {most:,}"
    return "", ""
