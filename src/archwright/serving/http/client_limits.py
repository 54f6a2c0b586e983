"""Limits of one client of a gateway process.

Design: each limit has bounds, so that no setting blocks all clients and no wait or size is unlimited.
"""

from collections import Counter

from archwright.contract.record import Record
from archwright.serving.http.errors import limit_reached, service_unavailable


class ClientLimits(Record):
    """`image_body_bytes`: of a body with image data, without which it has at most `body_bytes`; `upload_bytes`: of a
    form with a file; `chunks`: of a body.

    `tenant_bytes`, `total_bytes`: memory for large bodies of running requests, of a tenant and of all.
    `connections`: of a worker, fewer if the system's limit of open files is low. `connections_per_address`: not for
    trusted proxies. `handshake_s`: of TLS. `stranger_idle_s`: how long a connection may be idle after a response before
    a key was accepted on it. `token_s`: the longest average time per token of a response that is not streamed.
    """

    body_bytes: int = 4 * 1024 * 1024
    image_body_bytes: int = 32 * 1024 * 1024
    upload_bytes: int = 32 * 1024 * 1024
    tenant_bytes: int = 256 * 1024 * 1024
    total_bytes: int = 512 * 1024 * 1024
    header_bytes: int = 32 * 1024
    headers: int = 100
    chunks: int = 16_384
    connections: int = 2048
    connections_per_address: int = 1024
    handshake_s: float = 5.0
    stranger_idle_s: float = 5.0
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

    def largest_body(self, *, images: bool, upload: bool) -> int:
        """Return the most bytes of a body that may have image data, or that is a form with a file."""
        return self.upload_bytes if upload else self.image_body_bytes if images else self.body_bytes

    def complete_reply_timeout_s(self, tokens: int) -> float:
        """Return how long an engine may be silent before it sends a complete reply of at most `tokens`."""
        return min(self.request_s, self.first_token_s + tokens * self.token_s)


_DAY_S = 86_400
_RETRY = "Retry when some of them finish."
_WAIT_S = (0.01, _DAY_S)
# Minimum and maximum. The minimum suffices for a request; memory and open files of a machine allow the maximum.
LIMIT_BOUNDS: dict[str, tuple[float, float]] = {
    "body_bytes": (1_024, 1 << 30),
    "image_body_bytes": (1_024, 1 << 30),
    "upload_bytes": (1_024, 1 << 30),
    "tenant_bytes": (1_024, 1 << 40),
    "total_bytes": (1_024, 1 << 40),
    "header_bytes": (1_024, 1 << 20),
    "headers": (16, 10_000),
    "chunks": (16, 1 << 24),
    "connections": (1, 1 << 20),
    "connections_per_address": (1, 1 << 20),
    **dict.fromkeys(("handshake_s", "stranger_idle_s"), _WAIT_S),
    **dict.fromkeys(("headers_s", "body_s", "first_token_s", "stall_s", "client_stall_s", "request_s"), _WAIT_S),
    "token_s": (0, _DAY_S),
    "drain_s": (0, _DAY_S),
    "sweep_s": (0.01, 10),
    "health_s": (0.01, 3_600),
}


def find_invalid_limit(limits: ClientLimits) -> tuple[str, str]:
    """Return the first field out of bounds and its problem; two empty strings if all limits are within bounds."""
    for name, (minimum, maximum) in LIMIT_BOUNDS.items():
        value = getattr(limits, name)
        if not minimum <= value <= maximum:
            return name, f"is {value:,}; it must be from {minimum:,} to {maximum:,}"
    return "", ""


class BodyTotals:
    """Bytes of memory for the large bodies of a process: of all tenants, and by tenant."""

    __slots__ = ("all", "tenants")

    def __init__(self) -> None:
        self.all = 0
        self.tenants: Counter[str] = Counter()

    def add(self, tenant: str, size: int) -> None:
        self.all += size
        self.tenants[tenant] += size
        if not self.tenants[tenant]:
            del self.tenants[tenant]


class BodyQuota:
    """One connection's part of the totals, so that neither a tenant nor all tenants together fill the memory."""

    __slots__ = ("_tenant", "_totals", "size")

    def __init__(self, totals: BodyTotals) -> None:
        self._totals = totals
        self.size, self._tenant = 0, ""

    def set_size(self, tenant: str, size: int, limits: ClientLimits) -> None:
        """Set the tenant and the bytes of this connection's body. Raises ApiError 429 or 503 above a limit."""
        totals = self._totals
        self.release()
        totals.add(tenant, size)
        self.size, self._tenant = size, tenant
        # A single body never exceeds a limit: its client would retry for ever.
        if totals.tenants[tenant] > max(size, limits.tenant_bytes):
            message = f"This tenant has too many large requests in flight (limit: {limits.tenant_bytes} bytes)."
            raise limit_reached(f"{message} {_RETRY}", "rate_limit_exceeded", 1)
        if totals.all > max(size, limits.total_bytes):
            message = f"The gateway has too many large requests in flight (limit: {limits.total_bytes} bytes)."
            raise service_unavailable(f"{message} {_RETRY}", "overloaded", 1)

    def release(self) -> None:
        if self.size:
            self._totals.add(self._tenant, -self.size)
            self.size = 0
