"""A model of continuous batching: what an engine does with requests, iteration by iteration.

As in the engines, waiting requests take free slots in order of arrival. An iteration gives a token to every running
answer and fills the rest of `batch_tokens` with prompts still being read, oldest first; a request whose prompt is
complete gets its first token at the iteration's end. Iterations that only write answers are taken many at once, up to
the next event: their times grow linearly with the contexts, so the sum is the number of steps times the middle one.

Design: every running answer gets a token in every iteration, so one count of iterations and a heap by the iteration
that ends an answer tell who leaves next. An event costs the same however many run.
"""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple, Protocol

from archwright.sizing.hardware.roofline import EngineStep, count_token_pairs


class StepTimer(Protocol):
    """How long an engine's iterations take."""

    def step_s(self, step: EngineStep) -> float:
        """Seconds of one iteration."""


class SimulatedRequest(NamedTuple):
    """One request: when it comes, prompt tokens to read behind `cached_tokens` that need no reading, answer tokens."""

    arrival_s: float
    new_tokens: int
    cached_tokens: int
    output_tokens: int


Refill = Callable[[float], SimulatedRequest]


class SimulatedOutcome(NamedTuple):
    """The end of a request: `first_s` is None if no token came, `tokens` were delivered, `waited_s` for a slot."""

    request: SimulatedRequest
    first_s: float | None
    last_s: float
    tokens: int
    waited_s: float = 0.0

    @property
    def finished(self) -> bool:
        return self.tokens >= self.request.output_tokens

    @property
    def ttft_s(self) -> float | None:
        return None if self.first_s is None else self.first_s - self.request.arrival_s

    @property
    def tpot_s(self) -> float | None:
        """(last - first token) / (tokens - 1) of a finished request of two tokens or more."""
        if self.first_s is None or not self.finished or self.tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.tokens - 1)


class _PrefillingRequest:
    """A request in a slot whose prompt is being read."""

    __slots__ = ("number", "read", "request", "waited_s")

    def __init__(self, request: SimulatedRequest, number: int, waited_s: float) -> None:
        self.request = request
        self.number = number
        self.read = 0
        self.waited_s = waited_s

    @property
    def unread(self) -> int:
        return self.request.new_tokens - self.read

    @property
    def context(self) -> int:
        return self.request.cached_tokens + self.read


class _DecodingRequest(NamedTuple):
    """A request in a slot whose answer is being written: complete at iteration `end`, in order of admission."""

    end: int
    number: int
    request: SimulatedRequest
    first_s: float
    waited_s: float

    def tokens(self, iteration: int) -> int:
        return self.request.output_tokens - (self.end - iteration)


class ContinuousBatching:
    """One replica of an engine with `slots` slots that computes at most `batch_tokens` tokens at once."""

    def __init__(self, clock: StepTimer, slots: int, batch_tokens: int) -> None:
        self._clock = clock
        self._slots = slots
        self._batch_tokens = batch_tokens

    def run(
        self, requests: Iterable[SimulatedRequest], *, refill: Refill | None = None, until: float = math.inf
    ) -> list[SimulatedOutcome]:
        """Everything that happens before `until`, in the order it ended; what runs or waits then comes last.

        `refill`: each finished request adds the request that this returns: a closed loop, which ends only at
        `until`."""
        state = _BatchState(requests, refill)
        while state.active or state.coming:
            state.admit(self._slots)
            if not state.active:
                state.now = state.coming[0].arrival_s
                if state.now >= until:
                    break
                continue
            going_on = self._run_prefill_step(state, until) if state.reading else self._run_decode_steps(state, until)
            if not going_on:
                break
        return state.outcomes()

    def _run_prefill_step(self, state: _BatchState, until: float) -> bool:
        """One iteration that reads prompts beside the running answers; False when it would end after `until`."""
        answering = len(state.answering)
        room = max(0, self._batch_tokens - answering)
        taken: list[tuple[_PrefillingRequest, int]] = []
        seen, done, tokens = 0.0, 0, 0
        for one in state.reading:
            count = min(one.unread, room)
            if count == 0:
                break
            room -= count
            tokens += count
            seen += count_token_pairs(one.context, count)
            done += count == one.unread
            taken.append((one, count))
        step = EngineStep(tokens, seen, done, answering, float(state.context))
        end = state.now + self._clock.step_s(step)
        if end > until:
            return False
        state.advance(1, end)
        for one, count in taken:
            one.read += count
        state.start_decoding(done)
        state.release_finished()
        return True

    def _run_decode_steps(self, state: _BatchState, until: float) -> bool:
        """Iterations that only write, up to the next answer's end, arrival for a free slot, or `until`."""
        answering, context = len(state.answering), float(state.context)
        steps = state.answering[0].end - state.iteration
        if state.coming and answering < self._slots:
            gap = state.coming[0].arrival_s - state.now
            steps = min(steps, max(1, math.ceil(self._decode_steps_within(gap, answering, context))))
        if until < math.inf:
            steps = min(steps, int(self._decode_steps_within(until - state.now, answering, context)))
        if steps < 1:
            return False
        middle = context + answering * (steps - 1) / 2
        lasts = steps * self._clock.step_s(EngineStep(answering=answering, context_tokens=middle))
        state.advance(steps, state.now + lasts)
        state.release_finished()
        return True

    def _decode_steps_within(self, seconds: float, answering: int, context: float) -> float:
        """How many writing steps fit; their growth is taken into account once, so rather too few than too many."""
        shortest_s = self._clock.step_s(EngineStep(answering=answering, context_tokens=context))
        middle = context + answering * seconds / shortest_s / 2
        return seconds / self._clock.step_s(EngineStep(answering=answering, context_tokens=middle))


class _BatchState:
    """Who waits, who runs, who is done. `context` sums the contexts of the answers being written."""

    def __init__(self, requests: Iterable[SimulatedRequest], refill: Refill | None) -> None:
        self.now = 0.0
        self.iteration = 0
        self.coming = list(requests)
        heapq.heapify(self.coming)
        self.reading: deque[_PrefillingRequest] = deque()
        self.answering: list[_DecodingRequest] = []
        self.context = 0
        self._refill = refill
        self._admitted = 0
        self._free_at = 0.0  # since when a slot has been free
        self._done: list[SimulatedOutcome] = []

    @property
    def active(self) -> int:
        return len(self.reading) + len(self.answering)

    def admit(self, slots: int) -> None:
        while self.coming and self.coming[0].arrival_s <= self.now and self.active < slots:
            request = heapq.heappop(self.coming)
            waited_s = max(0.0, self._free_at - request.arrival_s)
            self.reading.append(_PrefillingRequest(request, self._admitted, waited_s))
            self._admitted += 1
        if self.active == slots:
            self._free_at = math.inf

    def advance(self, count: int, now: float) -> None:
        """Each answer being written gets `count` tokens."""
        self.now = now
        self.iteration += count
        self.context += count * len(self.answering)

    def start_decoding(self, count: int) -> None:
        """The first token of the `count` oldest prompts, which are read."""
        for _ in range(count):
            one = self.reading.popleft()
            end = self.iteration + one.request.output_tokens - 1
            heapq.heappush(self.answering, _DecodingRequest(end, one.number, one.request, self.now, one.waited_s))
            self.context += one.context + 1

    def release_finished(self) -> None:
        """Free the slots of complete answers."""
        if self._free_at == math.inf and self.answering and self.answering[0].end <= self.iteration:
            self._free_at = self.now
        while self.answering and self.answering[0].end <= self.iteration:
            one = heapq.heappop(self.answering)
            tokens = one.tokens(self.iteration)
            self.context -= one.request.cached_tokens + one.request.new_tokens + tokens
            self._done.append(SimulatedOutcome(one.request, one.first_s, self.now, tokens, one.waited_s))
            if self._refill is not None:
                heapq.heappush(self.coming, self._refill(self.now))

    def outcomes(self) -> list[SimulatedOutcome]:
        cut = {one.number: SimulatedOutcome(one.request, None, self.now, 0, one.waited_s) for one in self.reading}
        for one in self.answering:
            tokens = one.tokens(self.iteration)
            cut[one.number] = SimulatedOutcome(one.request, one.first_s, self.now, tokens, one.waited_s)
        waiting = [SimulatedOutcome(request, None, self.now, 0) for request in sorted(self.coming)]
        return [*self._done, *(cut[number] for number in sorted(cut)), *waiting]
