"""What a bench run leaves behind: the windows of its phases and one Timing a request. No prompt, no key, no answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from archwright.contract.record import Record

RequestOutcome = Literal["finished", "failed", "cut"]

# A request sent this much after its planned moment is reported: the client was late, not the server.
LATE_THRESHOLD_S = 0.05


class TimeWindow(Record):
    """A stretch of wall time, in seconds since the epoch; `name` is a Query's phase, "" the whole."""

    name: str
    started_at: float
    ended_at: float

    @property
    def window_s(self) -> float:
        return self.ended_at - self.started_at


class BenchRequestTiming(Record):
    """One request by the client's own clock; `*_s` count from the beginning of its phase.

    `due_s` is when the plan's traffic wanted it sent, `sent_s` when it was. `output_tokens` is the server's usage, else
    the number of content chunks. `cut`: we ended it, at the end of the closed loop or of the peak's drain.
    """

    due_s: float
    sent_s: float
    first_s: float | None
    last_s: float | None
    ended_s: float
    asked_tokens: int
    input_tokens: int | None
    output_tokens: int
    chunks: int
    outcome: RequestOutcome
    code: str = ""
    reason: str = ""

    @property
    def late_s(self) -> float:
        return max(0.0, self.sent_s - self.due_s)

    @property
    def ttft_s(self) -> float | None:
        """Sent to first content."""
        return None if self.first_s is None else self.first_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """(last - first content) / (tokens - 1); None for unfinished requests and for single tokens."""
        if self.outcome != "finished" or self.first_s is None or self.last_s is None or self.output_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.output_tokens - 1)

    @property
    def latency_s(self) -> float | None:
        """Sent to the end of the answer, of finished requests."""
        return self.ended_s - self.sent_s if self.outcome == "finished" else None


class BenchPhase(TimeWindow):
    """One phase and its requests. `load_s` is how long load was offered; the peak's window also holds its drain."""

    load_s: float
    requests: tuple[BenchRequestTiming, ...]

    def collect_values(self, of: Callable[[BenchRequestTiming], float | None]) -> list[float]:
        return [value for value in map(of, self.requests) if value is not None]

    def count(self, outcome: RequestOutcome) -> int:
        return sum(1 for request in self.requests if request.outcome == outcome)

    @property
    def late_count(self) -> int:
        return sum(1 for request in self.requests if request.late_s > LATE_THRESHOLD_S)

    @property
    def tokens_delivered(self) -> float:
        """Output tokens received inside the phase; for cut streams their chunks times tokens per chunk."""
        finished = [request for request in self.requests if request.outcome == "finished"]
        chunks = sum(request.chunks for request in finished)
        tokens = sum(request.output_tokens for request in finished)
        per_chunk = tokens / chunks if chunks else 1.0
        return tokens + per_chunk * sum(request.chunks for request in self.requests if request.outcome == "cut")


class BenchResult(Record):
    """A whole run. `notes` are plain sentences about anything that makes the figures less than they seem."""

    url: str
    model: str
    workload: str
    tokens_per_word: float
    template_tokens: float
    phases: tuple[BenchPhase, ...]
    notes: tuple[str, ...]

    def phase(self, name: str) -> BenchPhase | None:
        return next((phase for phase in self.phases if phase.name == name), None)

    @property
    def windows(self) -> tuple[TimeWindow, ...]:
        return self.phases
