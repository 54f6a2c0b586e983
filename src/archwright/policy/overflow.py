"""When work goes to rented capacity: only when our own would be late, or is gone. Used by gateway and simulation."""

from __future__ import annotations


def estimate_wait_s(ahead: int, slots: int, service_s: float) -> float:
    """Wait of a request with `ahead` requests before it: 0 while a slot is free, then a slot is free every
    service_s / slots; infinite without slots."""
    if slots <= 0:
        return float("inf")
    return max(0, ahead - slots + 1) * service_s / slots


def should_overflow(own_wait_s: float, limit_s: float, *, other_wait_s: float = 0.0) -> bool:
    """Whether a request goes elsewhere: its wait would exceed the limit, and elsewhere is the shorter one."""
    return own_wait_s > limit_s and other_wait_s < own_wait_s
