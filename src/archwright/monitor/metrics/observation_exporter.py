"""Observations of other processes on the gateway's exposition.

The supervisor measures memory, start-up and disk but has no port. The gateway exposes its readings
too, so one scrape covers the whole platform. Each worker has a separate exposition for them, which
is not summed over the processes.
"""

import threading
from collections.abc import Iterable

from archwright.monitor.metrics.exposition import Exposition
from archwright.monitor.metrics.observations import OBSERVATIONS
from archwright.store import ColumnRange, Store


class ObservationExporter:
    """Copies the observations of `quantities` after `since` to an exposition, each once."""

    def __init__(
        self,
        store: Store,
        exposition: Exposition,
        quantities: Iterable[str],
        *,
        since: float,
    ) -> None:
        self._store = store
        self.exposition = exposition
        self._copied_until = dict.fromkeys(quantities, since)
        # Copied rows with exactly the time of the last copied row.
        self._copied_at_end = dict.fromkeys(self._copied_until, 0)
        self._lock = threading.Lock()

    def catch_up(self) -> None:
        """Copy the new observations. Raises StoreError.

        Blocks on the store, so do not call it in an event loop.
        """
        with self._lock:
            for quantity in self._copied_until:
                self._copy_new(quantity)

    def _copy_new(self, quantity: str) -> None:
        span = ColumnRange("at", self._copied_until[quantity])
        rows = self._store.rows(OBSERVATIONS, {"quantity": quantity}, span)
        if not rows:
            return

        # The rows with the time of the last copied row are read again.
        for row in rows[self._copied_at_end[quantity] :]:
            self.exposition.record(quantity, row.labels, row.value)

        times = [row.at for row in rows]
        newest = times[-1]
        self._copied_until[quantity] = newest
        self._copied_at_end[quantity] = sum(at >= newest for at in times)
