"""A model of continuous batching: what an engine does with requests, iteration by iteration.

Decides, as the engines do: waiting requests take free slots in order of arrival. An iteration gives a token to every
running answer and fills the rest of `batch_tokens` with prompts still being read, oldest first; whoever's prompt
is complete gets its first token at the iteration's end. The iteration lasts as long as the roofline says.
Iterations that only write answers are taken many at once, up to the next event: their times grow linearly
with the contexts, so the sum is the number of steps times the middle one.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterable
from typing import NamedTuple

from archwright.sizing.roofline import Roofline, Step, pairs


class Request(NamedTuple):
    """One request: when it comes, prompt tokens to read behind `cached_tokens` that need no reading, answer tokens."""

    arrival_s: float
    new_tokens: int
    cached_tokens: int
    output_tokens: int


class Outcome(NamedTuple):
    """What became of a request; `first_s` is None when it ended before any token, `tokens` are those delivered."""

    request: Request
    first_s: float | None
    last_s: float
    tokens: int

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


class _Running:
    """A request in a slot."""

    __slots__ = ("first_s", "read", "request", "tokens")

    def __init__(self, request: Request) -> None:
        self.request = request
        self.read = 0
        self.tokens = 0
        self.first_s = 0.0

    @property
    def unread(self) -> int:
        return self.request.new_tokens - self.read

    @property
    def context(self) -> int:
        return self.request.cached_tokens + self.read + self.tokens


class Batching:
    """One replica of an engine with `slots` slots that computes at most `batch_tokens` tokens at once."""

    def __init__(self, roofline: Roofline, slots: int, batch_tokens: int) -> None:
        self._roofline = roofline
        self._slots = slots
        self._batch_tokens = batch_tokens

    def run(
        self,
        requests: Iterable[Request],
        *,
        refill: Callable[[float], Request] | None = None,
        until: float = math.inf,
    ) -> list[Outcome]:
        """Everything that happens before `until`, in the order it ended; what runs or waits then comes last.

        With `refill`, each finished request calls it with the moment and the request it returns joins: a closed loop
        (which ends only at `until`).
        """
        state = _State(requests, refill)
        while state.active or state.coming:
            state.admit(self._slots)
            if not state.active:
                state.now = state.coming[0].arrival_s
                if state.now >= until:
                    break
                continue
            reading = [one for one in state.active if one.unread]
            going_on = self._read(state, reading, until) if reading else self._write(state, until)
            if not going_on:
                break
        return state.outcomes()

    def _read(self, state: _State, reading: list[_Running], until: float) -> bool:
        """One iteration that reads prompts beside the running answers; False when it would end after `until`."""
        answering = [one for one in state.active if not one.unread]
        room = max(0, self._batch_tokens - len(answering))
        taken: list[tuple[_Running, int]] = []
        seen, done = 0.0, 0
        for one in reading:
            count = min(one.unread, room)
            if count == 0:
                break
            room -= count
            seen += pairs(one.context, count)
            done += count == one.unread
            taken.append((one, count))
        step = Step(
            prompt_tokens=sum(count for _, count in taken),
            prompt_pairs=seen,
            prompts_done=done,
            answering=len(answering),
            context_tokens=float(sum(one.context for one in answering)),
        )
        end = state.now + self._roofline.step_s(step)
        if end > until:
            return False
        state.now = end
        for one, count in taken:
            one.read += count
            if not one.unread:
                one.first_s, one.tokens = end, 1
        for one in answering:
            one.tokens += 1
        state.retire()
        return True

    def _write(self, state: _State, until: float) -> bool:
        """Iterations that only write, up to the next answer's end, arrival for a free slot, or `until`."""
        active = state.active
        answering, context = len(active), float(sum(one.context for one in active))
        steps = min(one.request.output_tokens - one.tokens for one in active)
        if state.coming and answering < self._slots:
            gap = state.coming[0].arrival_s - state.now
            steps = min(steps, max(1, math.ceil(self._steps_in(gap, answering, context))))
        if until < math.inf:
            steps = min(steps, int(self._steps_in(until - state.now, answering, context)))
        if steps < 1:
            return False
        middle = context + answering * (steps - 1) / 2
        state.now += steps * self._roofline.step_s(Step(answering=answering, context_tokens=middle))
        for one in active:
            one.tokens += steps
        state.retire()
        return True

    def _steps_in(self, seconds: float, answering: int, context: float) -> float:
        """How many writing steps fit; their growth is taken into account once, so rather too few than too many."""
        shortest_s = self._roofline.step_s(Step(answering=answering, context_tokens=context))
        middle = context + answering * seconds / shortest_s / 2
        return seconds / self._roofline.step_s(Step(answering=answering, context_tokens=middle))


class _State:
    """Who waits, who runs, who is done."""

    def __init__(self, requests: Iterable[Request], refill: Callable[[float], Request] | None) -> None:
        self.now = 0.0
        self.coming = list(requests)
        heapq.heapify(self.coming)
        self.active: list[_Running] = []
        self._refill = refill
        self._done: list[Outcome] = []

    def admit(self, slots: int) -> None:
        while self.coming and self.coming[0].arrival_s <= self.now and len(self.active) < slots:
            self.active.append(_Running(heapq.heappop(self.coming)))

    def retire(self) -> None:
        """Free the slots of complete answers."""
        still: list[_Running] = []
        for one in self.active:
            if one.tokens < one.request.output_tokens:
                still.append(one)
                continue
            self._done.append(Outcome(one.request, one.first_s, self.now, one.tokens))
            if self._refill is not None:
                heapq.heappush(self.coming, self._refill(self.now))
        self.active = still

    def outcomes(self) -> list[Outcome]:
        cut = [Outcome(one.request, one.first_s if one.tokens else None, self.now, one.tokens) for one in self.active]
        waiting = [Outcome(request, None, self.now, 0) for request in sorted(self.coming)]
        return [*self._done, *cut, *waiting]
