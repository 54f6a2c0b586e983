"""Overflow to other capacity if our own is late or down. Used by the gateway and the simulation."""


def estimate_wait_s(ahead: int, slots: int, service_s: float) -> float:
    """Estimate the wait in seconds of a request behind `ahead` requests; infinite without slots.

    The wait is 0 while a slot is free. After that, a slot becomes free every service_s / slots."""
    if slots <= 0:
        return float("inf")
    return max(0, ahead - slots + 1) * service_s / slots


def should_overflow(own_wait_s: float, limit_s: float, *, other_wait_s: float = 0.0) -> bool:
    """True if the wait exceeds the limit and the other capacity has a shorter wait."""
    return own_wait_s > limit_s and other_wait_s < own_wait_s
