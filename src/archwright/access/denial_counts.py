"""Denials of callers without a valid key: counted in memory, written to the audit log as totals.

Design: strangers must not fill the disk. The first denial of a source and reason in a window of 1 s
is written at once, the others as one total at the window's end. At most SOURCES_LIMIT sources have
their own records, and all others share one per reason, so a process writes at most 64 records per
second. After QUOTA_BYTES in an hour it writes one total per minute and reason. A response does not
wait for its count: kill -9 loses the counts of the current window. On a full disk the counts stay
in memory until there is space.
"""

import math
from typing import NamedTuple

from archwright.access.audit_log import AuditEvent, AuditLog
from archwright.contract.record import replace
from archwright.errors import StoreError

SOURCES_LIMIT = 31
OTHER_SOURCES = "other"
WINDOW_S = 1.0
QUOTA_WINDOW_S = 60.0
QUOTA_BYTES = 1 << 20
HOUR_S = 3_600.0


class _Unwritten(NamedTuple):
    """Denials that are not written yet: the first one, if any, and how many there are."""

    first: AuditEvent | None = None
    events: int = 0


class DenialCounts:
    """The denials of one process in the current window, by source and reason."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit
        self._unwritten: dict[tuple[str, str], _Unwritten] = {}
        self._opened_at = -math.inf
        self._hour_at = -math.inf
        self._hour_bytes = 0

    def count(self, event: AuditEvent) -> None:
        if not self._unwritten:
            self._opened_at = event.at
        key = (event.source, event.reason)
        if key not in self._unwritten and self._takes_source(event.at):
            is_written = self._write(event)
            self._unwritten[key] = _Unwritten() if is_written else _Unwritten(event, 1)
            return

        if key not in self._unwritten:
            key = (OTHER_SOURCES, event.reason)
        first, count = self._unwritten.get(key, _Unwritten())
        self._unwritten[key] = _Unwritten(first or event, count + 1)

    def write_totals(self, now: float, *, closing: bool = False) -> bool:
        """Write the totals if the window is over; return True if there were any.

        Flush them afterwards. Totals that find no space stay for the next call.
        """
        window_s = QUOTA_WINDOW_S if self._is_quota_used(now) else WINDOW_S
        if not closing and 0 <= now - self._opened_at < window_s:
            return False

        self._opened_at = now
        has_totals = False
        for (source, reason), (first, count) in list(self._unwritten.items()):
            is_written = True
            if first is not None:
                has_totals = True
                is_written = self._write(replace(first, source=source, count=count))
            if is_written:
                del self._unwritten[source, reason]
        return has_totals

    def _takes_source(self, now: float) -> bool:
        """True if another source gets records of its own."""
        return len(self._unwritten) < SOURCES_LIMIT and not self._is_quota_used(now)

    def _is_quota_used(self, now: float) -> bool:
        if not 0 <= now - self._hour_at < HOUR_S:
            self._hour_at = now
            self._hour_bytes = 0
        return self._hour_bytes >= QUOTA_BYTES

    def _write(self, event: AuditEvent) -> bool:
        try:
            self._hour_bytes += self._audit.record(event)
        except StoreError:
            return False
        return True
