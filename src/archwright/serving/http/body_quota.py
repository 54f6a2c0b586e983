"""How much of the large bodies a process holds belongs to whom.

Decides that one tenant's may not fill the memory of all: a body is kept until it is answered, which may be long.
"""

from __future__ import annotations

from collections import Counter


class BodyQuota:
    """One connection's part of what is `held`, by tenant."""

    __slots__ = ("_held", "_size", "_tenant")

    def __init__(self, held: Counter[str]) -> None:
        self._held = held
        self._size, self._tenant = 0, ""

    def set_size(self, tenant: str, size: int) -> int:
        """It is this tenant's, and as large now; how much of that tenant's there is."""
        held = self._held
        held[tenant] += size - self._size
        self._size, self._tenant = size, tenant
        return held[tenant]

    def release(self) -> None:
        if self._size:
            self._held[self._tenant] -= self._size
            if not self._held[self._tenant]:
                del self._held[self._tenant]
            self._size = 0
