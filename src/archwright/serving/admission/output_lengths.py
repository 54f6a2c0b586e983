"""The usual output of a tenant's requests to a model: the 95 % quantile of the last settled requests.

Design: each worker learns by itself, since a reservation that is too small only grows while its stream runs. The
quantile is computed anew after each REFRESH requests, so that a request costs no sorting.
"""

from collections import deque

LEAST_SEEN = 20  # a 95 % quantile of fewer requests is their maximum
RECENT = 200
REFRESH = 10
MAX_LEARNED = 4_096


class _RecentLengths:
    __slots__ = ("added", "recent", "usual")

    def __init__(self) -> None:
        self.recent: deque[int] = deque(maxlen=RECENT)
        self.added = 0
        self.usual: int | None = None

    def refresh_usual(self) -> None:
        ascending = sorted(self.recent)
        position = -(-19 * len(ascending) // 20) - 1  # at least 95 % are not longer
        self.usual = ascending[position]


class OutputLengths:
    """Output tokens by tenant and model."""

    def __init__(self) -> None:
        self._learned: dict[tuple[str, str], _RecentLengths] = {}

    def add(self, tenant: str, model: str, tokens: int) -> None:
        """Add a reply that ended by itself or at the length that its client chose."""
        lengths = self._learned.get((tenant, model))
        if lengths is None:
            if len(self._learned) >= MAX_LEARNED:
                self._learned.clear()
            lengths = self._learned[tenant, model] = _RecentLengths()
        lengths.recent.append(tokens)
        lengths.added += 1
        if lengths.added % REFRESH == 0 and lengths.added >= LEAST_SEEN:
            lengths.refresh_usual()

    def find_usual(self, tenant: str, model: str) -> int | None:
        """Return the quantile, at least one token; None until enough requests were seen."""
        lengths = self._learned.get((tenant, model))
        if lengths is None or lengths.usual is None:
            return None
        return max(1, lengths.usual)
