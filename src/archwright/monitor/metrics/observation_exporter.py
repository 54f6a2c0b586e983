"""Observations of other processes on the gateway's exposition.

The supervisor measures memory, start-up and disk but has no port. The gateway exposes its readings too, so one scrape
covers the whole platform. Each worker has a separate exposition for them, which is not summed over the processes.
"""

import threading
from collections.abc import Iterable

from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.observations import OBSERVATIONS
from archwright.store import ColumnRange, Store


class ObservationExporter:
    """Copies the observations of `quantities` after `since` to an exposition, each once."""

    def __init__(self, store: Store, exposition: Exposition, quantities: Iterable[str], since: float) -> None:
        self._store = store
        self.exposition = exposition
        self._since = dict.fromkeys(quantities, since)
        self._seen: dict[str, int] = dict.fromkeys(self._since, 0)
        self._lock = threading.Lock()

    def catch_up(self) -> None:
        """Copy the new observations. Blocks on the store, so do not call it in an event loop. Raises StoreError."""
        with self._lock:
            for quantity, since in self._since.items():
                rows = self._store.rows(OBSERVATIONS, {"quantity": quantity}, ColumnRange("at", since))
                # The rows with the time of the last copied row are read again.
                for row in rows[self._seen[quantity] :]:
                    self.exposition.record(quantity, row.labels, row.value)
                if rows:
                    newest = self._since[quantity] = rows[-1].at
                    self._seen[quantity] = sum(row.at >= newest for row in rows)
