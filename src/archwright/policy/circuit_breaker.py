"""When an engine is left alone for a while, and how often a request may be tried again.

An engine that mostly fails gets no requests if another can take them, and is probed by one request at a time. Retries
are a share of requests, so that they never make an outage worse. The clock is passed in; nothing here waits.
"""

from __future__ import annotations

import math
from typing import Literal

# How a try ended. `neutral`: the client's doing (refused, gone), which says nothing about the pool.
AttemptOutcome = Literal["ok", "failed", "timeout", "neutral"]
BreakerState = Literal["closed", "open", "half-open"]

WINDOW_S = 10.0
LEAST_FAILURES = 5
FAILED_SHARE = 0.5
# A try that ran into its deadline costs as long as a client waits: this many in a row are enough.
TIMEOUTS_IN_A_ROW = 3
FIRST_OPEN_S = 2.0
LONGEST_OPEN_S = 60.0
PROBES_TO_CLOSE = 2
# A probe nobody ended (its process lost it) is given up after this long.
PROBE_TIMEOUT_S = 120.0

RETRY_SHARE = 0.2
RETRY_RESERVE = 10.0


class CircuitBreaker:
    """`closed`: asked as usual, counted over the present window and the one before. `open`: not asked until a time
    that doubles with each failed probe. `half-open`: one request at a time, PROBES_TO_CLOSE that succeed close it."""

    __slots__ = (
        "_before",
        "_failed",
        "_half_since",
        "_open_s",
        "_probe_until",
        "_probes",
        "_timeouts",
        "_total",
        "_until",
        "state",
    )

    def reset(self) -> None:
        self.state: BreakerState = "closed"
        self._open_s = FIRST_OPEN_S
        self._total = self._failed = self._timeouts = self._probes = 0
        self._before = (0, 0)
        self._until = self._probe_until = -1.0  # the end of a window or of the pause; of a probe
        self._half_since = -math.inf

    def __init__(self) -> None:
        self.reset()

    def allows(self, now: float) -> bool:
        """Whether a request may be sent; `began` says that it was."""
        if self.state == "closed":
            return True
        if self.state == "open" and now >= self._until:
            self.state, self._probes, self._probe_until, self._half_since = "half-open", 0, -1.0, now
        return self.state == "half-open" and now >= self._probe_until

    def trip(self, now: float) -> None:
        """Open it, whatever its state was."""
        self.state, self._until = "open", now + self._open_s

    def record_start(self, now: float) -> None:
        if self.state == "half-open":
            self._probe_until = now + PROBE_TIMEOUT_S

    def record_end(self, outcome: AttemptOutcome, now: float, since: float = math.inf) -> None:
        """Every try that began is ended once. One that began (`since`) before the breaker opened says nothing new: it
        is no probe, and makes no room for another."""
        if self.state == "closed":
            self._record_attempt(outcome, now)
        elif self.state == "half-open" and since >= self._half_since:
            self._record_probe(outcome, now)

    def _record_attempt(self, outcome: AttemptOutcome, now: float) -> None:
        if now >= self._until:
            fresh = now < self._until + WINDOW_S
            self._before = (self._total, self._failed) if fresh else (0, 0)
            self._total, self._failed, self._until = 0, 0, now + WINDOW_S
        if outcome == "neutral":
            return
        self._total += 1
        if outcome == "ok":
            self._timeouts = 0
            return
        self._failed += 1
        self._timeouts = self._timeouts + 1 if outcome == "timeout" else 0
        total, failed = self._total + self._before[0], self._failed + self._before[1]
        mostly = failed >= LEAST_FAILURES and failed >= FAILED_SHARE * total
        if mostly or self._timeouts >= TIMEOUTS_IN_A_ROW:
            self.trip(now)

    def _record_probe(self, outcome: AttemptOutcome, now: float) -> None:
        self._probe_until = now
        if outcome == "ok":
            self._probes += 1
            if self._probes >= PROBES_TO_CLOSE:
                self.reset()
        elif outcome != "neutral":
            self._open_s = min(LONGEST_OPEN_S, 2 * self._open_s)
            self.trip(now)


class RetryBudget:
    """At most RETRY_RESERVE retries, and RETRY_SHARE more for each request: an outage adds a share of load, not
    a factor."""

    __slots__ = ("_left",)

    def __init__(self) -> None:
        self._left = RETRY_RESERVE

    def record_request(self) -> None:
        self._left = min(RETRY_RESERVE, self._left + RETRY_SHARE)

    def try_spend(self) -> bool:
        """Whether one may be tried again, which it then is."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
