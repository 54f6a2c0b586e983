"""A model of continuous batching: how an engine processes requests, iteration by iteration.

As in the engines, waiting requests take free slots in order of arrival. An iteration gives one token to every decoding
request and fills the rest of `batch_tokens` with prompts, oldest first. A request whose prompt is complete gets its
first token at the iteration's end. With drafts an iteration gives several tokens, of which the mean counts. Iterations
that only decode are simulated many at once, up to the next event: their times grow linearly with the contexts, so their
sum is the number of steps times the middle one.

Design: every decoding request gets a token in every iteration, so a count of iterations and a heap by last iteration
give the next request to finish. The cost of an event does not depend on the number of running requests.
"""

from __future__ import annotations

import heapq
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from archwright.sizing.hardware.roofline import EngineStep, count_token_pairs
from archwright.sizing.step_time.engine_step_times import StepTokens


class StepTimer(Protocol):
    def step_s(self, step: EngineStep) -> float:
        """Return the seconds of one iteration."""


class SimulatedRequest(NamedTuple):
    """One request: `new_tokens` of the prompt are read after `cached_tokens`, which need no reading."""

    arrival_s: float
    new_tokens: int
    cached_tokens: int
    output_tokens: int


PLAIN_TOKENS = StepTokens()
Refill = Callable[[float], SimulatedRequest]


class SimulatedOutcome(NamedTuple):
    """The end of a request: time of the first and the last token, tokens delivered, wait for a slot."""

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
        """(last - first token) / (tokens - 1) of a finished request with at least two tokens."""
        if self.first_s is None or not self.finished or self.tokens < 2:
            return None
        return (self.last_s - self.first_s) / (self.tokens - 1)


@dataclass(slots=True)
class _PrefillingRequest:
    """A request in a slot whose prompt is being read; `number`: order of admission."""

    request: SimulatedRequest
    number: int
    waited_s: float
    read: int = 0

    @property
    def unread(self) -> int:
        return self.request.new_tokens - self.read

    @property
    def context(self) -> int:
        return self.request.cached_tokens + self.read


class _DecodingRequest(NamedTuple):
    """A request in a slot whose answer is being written; it is complete at iteration `end`."""

    end: int
    number: int
    request: SimulatedRequest
    first_s: float
    waited_s: float
    steps: int

    def tokens(self, iteration: int, each: float) -> int:
        """Return the tokens delivered by `iteration`, with `each` token per iteration on average."""
        return max(self.request.output_tokens - round((self.end - iteration) * each), 1)


class ContinuousBatching:
    """One replica of an engine with `slots` slots that computes at most `batch_tokens` tokens at once.

    `tokens`: those of a request in a decode step; with drafts, the steps of each answer are drawn."""

    def __init__(self, clock: StepTimer, slots: int, batch_tokens: int, tokens: StepTokens = PLAIN_TOKENS) -> None:
        self._clock = clock
        self._slots = slots
        self._batch_tokens = batch_tokens
        self._tokens = tokens

    def run(
        self, requests: Iterable[SimulatedRequest], *, refill: Refill | None = None, until: float = math.inf
    ) -> list[SimulatedOutcome]:
        """Return the outcomes before `until` in order of end; requests still running or waiting come last.

        `refill`: each finished request adds the request that this returns. Such a closed loop ends only at `until`.
        """
        state = _BatchState(requests, refill, self._tokens)
        while state.active or state.waiting:
            state.admit(self._slots)
            if not state.active:
                state.now = state.waiting[0].arrival_s
                if state.now >= until:
                    break
                continue
            run_steps = self._run_prefill_step if state.prefilling else self._run_decode_steps
            if not run_steps(state, until):
                break
        return state.outcomes()

    def _run_prefill_step(self, state: _BatchState, until: float) -> bool:
        """Run one iteration that reads prompts and decodes; return False if it would end after `until`."""
        decoding = len(state.decoding)
        free_tokens = max(0, self._batch_tokens - round(decoding * self._tokens.verified))
        batch: list[tuple[_PrefillingRequest, int]] = []
        pairs, complete, tokens = 0.0, 0, 0
        for request in state.prefilling:
            count = min(request.unread, free_tokens)
            if count == 0:
                break
            free_tokens -= count
            tokens += count
            pairs += count_token_pairs(request.context, count)
            complete += count == request.unread
            batch.append((request, count))
        step = EngineStep(tokens, pairs, complete, decoding, float(state.context))
        end = state.now + self._clock.step_s(step)
        if end > until:
            return False
        state.advance(1, end)
        for request, count in batch:
            request.read += count
        state.start_decoding(complete)
        state.release_finished()
        return True

    def _run_decode_steps(self, state: _BatchState, until: float) -> bool:
        """Run iterations that only decode, up to the next finished request, admission or `until`."""
        decoding, context = len(state.decoding), float(state.context)
        steps = state.decoding[0].end - state.iteration
        if state.waiting and decoding < self._slots:
            gap = state.waiting[0].arrival_s - state.now
            steps = min(steps, max(1, math.ceil(self._decode_steps_within(gap, decoding, context))))
        if until < math.inf:
            steps = min(steps, int(self._decode_steps_within(until - state.now, decoding, context)))
        if steps < 1:
            return False
        middle = context + decoding * self._tokens.output * (steps - 1) / 2
        duration = steps * self._clock.step_s(EngineStep(answering=decoding, context_tokens=middle))
        state.advance(steps, state.now + duration)
        state.release_finished()
        return True

    def _decode_steps_within(self, seconds: float, decoding: int, context: float) -> float:
        """Return how many decode steps fit; their growth counts once, so the result is too small if anything."""
        shortest_s = self._clock.step_s(EngineStep(answering=decoding, context_tokens=context))
        middle = context + decoding * self._tokens.output * seconds / shortest_s / 2
        return seconds / self._clock.step_s(EngineStep(answering=decoding, context_tokens=middle))


class _BatchState:
    """Waiting, running and finished requests. `context` sums the contexts of the decoding requests."""

    def __init__(self, requests: Iterable[SimulatedRequest], refill: Refill | None, tokens: StepTokens) -> None:
        self.now = 0.0
        self.iteration = 0
        self.waiting = list(requests)
        heapq.heapify(self.waiting)
        self.prefilling: deque[_PrefillingRequest] = deque()
        self.decoding: list[_DecodingRequest] = []
        self.context = 0.0
        self._tokens = tokens
        self._random = random.Random(0)
        self._refill = refill
        self._admitted = 0
        self._free_since = 0.0  # infinite while no slot is free
        self._finished: list[SimulatedOutcome] = []

    @property
    def active(self) -> int:
        return len(self.prefilling) + len(self.decoding)

    def admit(self, slots: int) -> None:
        while self.waiting and self.waiting[0].arrival_s <= self.now and self.active < slots:
            request = heapq.heappop(self.waiting)
            waited_s = max(0.0, self._free_since - request.arrival_s)
            self.prefilling.append(_PrefillingRequest(request, self._admitted, waited_s))
            self._admitted += 1
        if self.active == slots:
            self._free_since = math.inf

    def advance(self, count: int, now: float) -> None:
        """Give `count` tokens to each decoding request."""
        self.now = now
        self.iteration += count
        self.context += count * len(self.decoding) * self._tokens.output

    def start_decoding(self, count: int) -> None:
        """Give the first token to the `count` oldest requests with complete prompts."""
        for _ in range(count):
            one = self.prefilling.popleft()
            steps = self._draw_steps(one.request.output_tokens - 1)
            decoding = _DecodingRequest(self.iteration + steps, one.number, one.request, self.now, one.waited_s, steps)
            heapq.heappush(self.decoding, decoding)
            self.context += one.context + 1

    def _draw_steps(self, tokens: int) -> int:
        """Return the decode steps for `tokens` output tokens; with drafts from the normal limit of their sum."""
        each, spread = self._tokens.output, self._tokens.spread
        if not spread or not tokens:
            return tokens
        mean = tokens / each
        drawn = mean + self._random.gauss(0.0, 1.0) * spread * math.sqrt(mean)
        return max(round(drawn), math.ceil(tokens / self._tokens.verified))

    def release_finished(self) -> None:
        if self._free_since == math.inf and self.decoding and self.decoding[0].end <= self.iteration:
            self._free_since = self.now
        while self.decoding and self.decoding[0].end <= self.iteration:
            ended = heapq.heappop(self.decoding)
            outcome = self._end_decoding(ended)
            self.context -= outcome.request.cached_tokens + outcome.request.new_tokens + 1
            self.context -= ended.steps * self._tokens.output
            self._finished.append(outcome)
            if self._refill is not None:
                heapq.heappush(self.waiting, self._refill(self.now))

    def _end_decoding(self, one: _DecodingRequest) -> SimulatedOutcome:
        tokens = one.tokens(self.iteration, self._tokens.output)
        return SimulatedOutcome(one.request, one.first_s, self.now, tokens, one.waited_s)

    def outcomes(self) -> list[SimulatedOutcome]:
        running = {
            one.number: SimulatedOutcome(one.request, None, self.now, 0, one.waited_s) for one in self.prefilling
        }
        running |= {one.number: self._end_decoding(one) for one in self.decoding}
        waiting = [SimulatedOutcome(request, None, self.now, 0) for request in sorted(self.waiting)]
        return [*self._finished, *(running[number] for number in sorted(running)), *waiting]
