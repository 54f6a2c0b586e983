"""The result of a bench run: the windows of its phases and one timing per request; no prompts, keys or responses."""

from collections.abc import Callable
from typing import Literal

from archwright.contract.record import Record

RequestOutcome = Literal["finished", "failed", "cut"]

# A request sent this much after its planned time counts as late: the client was slow, not the server.
LATE_THRESHOLD_S = 0.05


class TimeWindow(Record):
    """An interval of wall time, in seconds since the epoch; `name` is the phase of a query, "" for all phases."""

    name: str
    started_at: float
    ended_at: float

    @property
    def window_s(self) -> float:
        return self.ended_at - self.started_at


class BenchRequestTiming(Record):
    """One request, timed by the client's clock; `*_s` count from the start of its phase.

    `due_s`: the planned time, `sent_s`: the actual time. `output_tokens`: the server's usage, else the content chunks.
    The outcome `cut`: the client cancelled it at the end of the closed loop or of the drain.
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
        """Seconds from sending to the first content."""
        return None if self.first_s is None else self.first_s - self.sent_s

    @property
    def tpot_s(self) -> float | None:
        """(last - first content) / (tokens - 1); None for unfinished requests and for single tokens."""
        if self.outcome != "finished" or self.first_s is None or self.last_s is None or self.output_tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.output_tokens - 1)

    @property
    def latency_s(self) -> float | None:
        """Seconds from sending to the end of the response; None for unfinished requests."""
        return self.ended_s - self.sent_s if self.outcome == "finished" else None


class BenchPhase(TimeWindow):
    """One phase and its requests. `load_s`: the duration of the load; the peak's window also includes its drain."""

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
        """Output tokens received in the phase; for cancelled streams: chunks x mean tokens per chunk."""
        finished = [request for request in self.requests if request.outcome == "finished"]
        chunks = sum(request.chunks for request in finished)
        tokens = sum(request.output_tokens for request in finished)
        per_chunk = tokens / chunks if chunks else 1.0
        return tokens + per_chunk * sum(request.chunks for request in self.requests if request.outcome == "cut")


class BenchResult(Record):
    """A complete run. `notes`: sentences about everything that limits the figures."""

    url: str
    model: str
    workload: str
    tokens_per_word: float
    template_tokens: float
    phases: tuple[BenchPhase, ...]
    notes: tuple[str, ...]
