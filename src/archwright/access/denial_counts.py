"""Denials of callers without a valid key: counted in memory, written to the audit log as totals.

Design: strangers must not fill the disk. The first denial of a source and reason in a window of 1 s
is written at once, the others as one total at the window's end. At most SOURCES_LIMIT sources have
their own records, and all others share one per reason, so a process writes at most 64 records per
second. After QUOTA_BYTES in an hour it writes one total per minute and reason. A response does not
wait for its count: kill -9 loses the counts of the current window. On a full disk the counts stay
in memory until there is space.
"""

import math

from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.contract.record import replace
from archwright.errors import StoreError

SOURCES_LIMIT = 31
OTHER_SOURCES = "other"
WINDOW_S, QUOTA_WINDOW_S = 1.0, 60.0
QUOTA_BYTES = 1 << 20
HOUR_S = 3_600.0


class DenialCounts:
    """The denials of one process in the current window, by source and reason."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        # The first denial that is not written yet, and how many such denials there are.
        self._unwritten: dict[tuple[str, str], tuple[AuditEvent | None, int]] = {}
        self._opened_at = self._hour_at = -math.inf
        self._hour_bytes = 0

    def count(self, event: AuditEvent) -> None:
        if not self._unwritten:
            self._opened_at = event.at
        key = event.source, event.reason
        found = self._unwritten.get(key)
        if found is None:
            if len(self._unwritten) < SOURCES_LIMIT and not self._is_quota_used(event.at):
                self._unwritten[key] = (None, 0) if self._write(event) else (event, 1)
                return
            key = OTHER_SOURCES, event.reason
            found = self._unwritten.get(key, (None, 0))
        self._unwritten[key] = (event if found[0] is None else found[0], found[1] + 1)

    def write_totals(self, now: float, *, closing: bool = False) -> bool:
        """Write the totals if the window is over, and return True if there were any; flush them
        afterwards.

        Totals that find no space stay for the next call.
        """
        window_s = QUOTA_WINDOW_S if self._is_quota_used(now) else WINDOW_S
        if not closing and 0 <= now - self._opened_at < window_s:
            return False
        self._opened_at = now
        wrote = any(first is not None for first, _count in self._unwritten.values())
        for (source, reason), (first, count) in list(self._unwritten.items()):
            if first is None or self._write(replace(first, source=source, count=count)):
                del self._unwritten[source, reason]
        return wrote

    def _is_quota_used(self, now: float) -> bool:
        if not 0 <= now - self._hour_at < HOUR_S:
            self._hour_at, self._hour_bytes = now, 0
        return self._hour_bytes >= QUOTA_BYTES

    def _write(self, event: AuditEvent) -> bool:
        try:
            self._hour_bytes += self._audit.record(event)
        except StoreError:
            return False
        return True
