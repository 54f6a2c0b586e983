"""What other processes recorded, shown on this process's exposition.

The supervisor measures memory, start-up and disk but has no port: the gateway shows its readings too, so one scrape of
one address sees the whole platform. Every worker shows all of them on an exposition of its own, which is not summed.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable

from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.observations import OBSERVATIONS
from archwright.store import ColumnRange, Store


class ObservationExporter:
    """`catch_up` shows the observations of `quantities` that arrived after `since` and were not shown yet."""

    def __init__(self, store: Store, exposition: Exposition, quantities: Iterable[str], since: float) -> None:
        self._store = store
        self.exposition = exposition
        self._since = dict.fromkeys(quantities, since)
        self._seen: dict[str, int] = dict.fromkeys(self._since, 0)
        self._lock = threading.Lock()

    def catch_up(self) -> None:
        """Reads the store: not for an event loop. Raises StoreError when the store refuses."""
        with self._lock:
            for quantity, since in self._since.items():
                rows = self._store.rows(OBSERVATIONS, {"quantity": quantity}, ColumnRange("at", since))
                # Rows of the very moment shown last are among them again.
                for row in rows[self._seen[quantity] :]:
                    self.exposition.record(quantity, row.labels, row.value)
                if rows:
                    newest = self._since[quantity] = rows[-1].at
                    self._seen[quantity] = sum(row.at >= newest for row in rows)
