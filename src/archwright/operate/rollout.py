"""Waiting until the running platform serves what was promoted."""

from __future__ import annotations

from archwright.home import Home
from archwright.operate import state
from archwright.store import Store


def wait(home: Home, store: Store, promotion_id: str, timeout_s: float = 60.0) -> None:
    """Until the running platform serves what the promotion or rollback says; at once when none runs.

    Raises OperateError: AW-OPS-40 the new engine did not start and the supervisor went back, AW-OPS-41 not served in
    time, AW-OPS-42 another change took its place, AW-OPS-43 the running plan has no such endpoint.
    """
    if state.running(home) is None:
        return
