"""Circuit breaker of an engine, and retry budget of a gateway process.

An engine that mostly fails gets no requests while another engine can serve them. It is probed with one request at a
time. Retries are limited to a share of requests, so they never worsen an outage. The caller passes the clock.
"""

import math
from typing import Literal

# Result of an attempt. `neutral`: the client caused it (bad request, disconnect), so it does not rate the engine.
AttemptOutcome = Literal["ok", "failed", "timeout", "neutral"]
BreakerState = Literal["closed", "open", "half-open"]

WINDOW_S = 10.0
LEAST_FAILURES = 5
FAILED_SHARE = 0.5
# Consecutive timeouts that open the breaker. The number is low because each timeout uses a client's whole wait.
TIMEOUTS_IN_A_ROW = 3
FIRST_OPEN_S = 2.0
LONGEST_OPEN_S = 60.0
PROBES_TO_CLOSE = 2
# A probe without a recorded end (its process died) expires after this time.
PROBE_TIMEOUT_S = 120.0

RETRY_SHARE = 0.2
RETRY_RESERVE = 10.0


class CircuitBreaker:
    """Circuit breaker of one engine.

    `closed`: requests pass; results are counted over the current and the previous window. `open`: no requests for a
    time that doubles with each failed probe. `half-open`: one request at a time; PROBES_TO_CLOSE successes close it."""

    def reset(self) -> None:
        self.state: BreakerState = "closed"
        self._open_s = FIRST_OPEN_S
        self._total = self._failed = self._timeouts = self._probes = 0
        self._before = (0, 0)
        self._until = self._probe_until = -1.0  # end of the window or pause; end of the probe
        self._half_since = -math.inf

    def __init__(self) -> None:
        self.reset()

    def allows(self, now: float) -> bool:
        """True if a request may be sent. The caller records a sent request with `record_start`."""
        if self.state == "closed":
            return True
        if self.state == "open" and now >= self._until:
            self.state, self._probes, self._probe_until, self._half_since = "half-open", 0, -1.0, now
        return self.state == "half-open" and now >= self._probe_until

    def trip(self, now: float) -> None:
        """Open the breaker from any state."""
        self.state, self._until = "open", now + self._open_s

    def record_start(self, now: float) -> None:
        if self.state == "half-open":
            self._probe_until = now + PROBE_TIMEOUT_S

    def record_end(self, outcome: AttemptOutcome, now: float, since: float = math.inf) -> None:
        """Record the end of an attempt, exactly once.

        An attempt that started (`since`) before the breaker opened is not a probe. It changes nothing."""
        if self.state == "closed":
            self._record_attempt(outcome, now)
        elif self.state == "half-open" and since >= self._half_since:
            self._probe_until = now
            if outcome == "ok":
                self._probes += 1
                if self._probes >= PROBES_TO_CLOSE:
                    self.reset()
            elif outcome != "neutral":
                self._open_s = min(LONGEST_OPEN_S, 2 * self._open_s)
                self.trip(now)

    def _record_attempt(self, outcome: AttemptOutcome, now: float) -> None:
        if now >= self._until:
            adjacent = now < self._until + WINDOW_S
            self._before = (self._total, self._failed) if adjacent else (0, 0)
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
        mostly_failed = failed >= LEAST_FAILURES and failed >= FAILED_SHARE * total
        if mostly_failed or self._timeouts >= TIMEOUTS_IN_A_ROW:
            self.trip(now)


class RetryBudget:
    """Allows RETRY_RESERVE retries, and RETRY_SHARE more per request, so an outage adds a share of load."""

    def __init__(self) -> None:
        self._left = RETRY_RESERVE

    def record_request(self) -> None:
        self._left = min(RETRY_RESERVE, self._left + RETRY_SHARE)

    def try_spend(self) -> bool:
        """Take one retry from the budget. Return False if the budget is used up."""
        if self._left < 1:
            return False
        self._left -= 1
        return True
