"""Times and token counts of one reply."""

from typing import Any


class RequestTiming:
    """Times in seconds on the exchange's clock. `used`: the engine's usage; `chunks`: pieces delivered.

    `stated_input`: the input tokens that the engine stated before its usage; 0: it stated none."""

    queued_s = 0.0
    first_at: float | None = None
    last_at: float | None = None
    chunks = stated_input = 0
    used: dict[str, Any] | None = None

    def __init__(self, received_at: float) -> None:
        self.received_at = self.asked_at = self.event_at = received_at

    def mark_sent(self, now: float, queued_s: float) -> None:
        """An engine is asked, after `queued_s` in queues."""
        self.asked_at = self.event_at = now
        self.queued_s = queued_s

    def mark_event(self, now: float) -> None:
        """The engine sent something."""
        self.event_at = now

    def count_pieces(self, pieces: int, now: float) -> None:
        """The engine sent pieces of content."""
        self.chunks += pieces
        self.event_at = self.last_at = now
        if self.first_at is None:
            self.first_at = now

    def mark_finish(self) -> None:
        """A choice ended. Its last token is often the invisible end mark, which usage counts: the end is its time."""
        if self.first_at is not None:
            self.last_at = self.event_at

    def set_usage(self, usage: dict[str, Any] | None) -> None:
        """Set the engine's counts; None: it reported none."""
        self.used = usage

    def state_input(self, tokens: int) -> None:
        """The engine states how many tokens it reads, before it has ended."""
        self.stated_input = tokens

    def set_pieces(self, pieces: int) -> None:
        """Set the number of pieces of a complete reply."""
        self.chunks = pieces

    @property
    def tokens(self) -> int:
        """Generated tokens: the engine's count, or the delivered pieces if the engine reported no usage."""
        return int(self.used["completion_tokens"]) if self.used else self.chunks

    @property
    def input_tokens(self) -> int:
        return int(self.used.get("prompt_tokens", self.stated_input)) if self.used else self.stated_input

    @property
    def cached_tokens(self) -> int:
        return int(self.used.get("prompt_tokens_details", {}).get("cached_tokens", 0)) if self.used else 0

    @property
    def tpot_s(self) -> float | None:
        if self.first_at is None or self.last_at is None or self.tokens < 2:
            return None
        return (self.last_at - self.first_at) / (self.tokens - 1)

    def gateway_time_s(self, now: float) -> float:
        """Return the gateway's own time: before the engine's request without queueing, after its last event."""
        return self.asked_at - self.received_at - self.queued_s + now - self.event_at

    def overhead_header(self, now: float) -> tuple[bytes, bytes]:
        return (b"x-archwright-overhead-us", b"%d" % round(self.gateway_time_s(now) * 1e6))
