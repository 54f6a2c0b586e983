"""Measures the steps of the embedded engine: prompts, answers, and answers together, for a bounded time.

The engine is the one that serving starts, alone on a socket of its own. Each question gives the engine's own timing.
The processor time of its busiest thread says which part of the time it waited for other programs.
"""

import asyncio
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from archwright.contract.engine_measurement import EngineMeasurement, EngineReport, StepTime
from archwright.engines.engine_config import EngineConfig
from archwright.errors import EngineError, ErrorLocation
from archwright.home import Home
from archwright.http_client.client import EngineClient
from archwright.lifecycle import evaluation_engine

SLOTS = 4
CONTEXT_TOKENS = 512
# A prompt of up to so many tokens is one step.
BATCH_TOKENS = 256
# Eight steps between nine tokens.
ANSWER_TOKENS = 9
# The prompt of a question whose answer is measured.
SHORT_PROMPT = 4
# Ids of a tokenizer below this are often control tokens.
FIRST_TOKEN, LAST_TOKEN = 1000, 4000
# Below this share of waiting, a time is taken as it is: an undisturbed engine waits a little for its own threads.
UNDISTURBED_SHARE = 0.9
# A question is asked if it takes at most this share of the time that is left.
SAFE_SHARE = 0.8
# The least questions may take longer than the time by so much.
GRACE_S = 5.0
NANOSECONDS = 1e9
MILLISECONDS = 1e3


class StepRequests(NamedTuple):
    """Requests at once: `together` prompts of `prompt_tokens`, with an answer of `answer_tokens` each."""

    prompt_tokens: int
    together: int
    answer_tokens: int

    @property
    def tokens(self) -> int:
        """The tokens of all requests, whose number bounds the time of the question."""
        return self.together * (self.prompt_tokens + self.answer_tokens)


WARM_UP = StepRequests(SHORT_PROMPT, 1, 2)
# At least the first two are asked: one block of a prompt, and eight steps of an answer. Then what says most.
QUESTIONS = (
    StepRequests(64, 1, 1),
    StepRequests(SHORT_PROMPT, 1, ANSWER_TOKENS),
    StepRequests(SHORT_PROMPT, 4, ANSWER_TOKENS),
    StepRequests(16, 1, 1),
    StepRequests(SHORT_PROMPT, 2, ANSWER_TOKENS),
)
LEAST_QUESTIONS = 2
# Asked once, after the first round: an answer at a depth costs a long prompt.
DEEP_QUESTION = StepRequests(BATCH_TOKENS, 1, ANSWER_TOKENS)
# More rounds than this say little more; the speed of a shared machine changes within seconds, so one says too little.
MOST_ROUNDS = 8


class MeasuredFile(NamedTuple):
    """The file to measure, stored in the home under `sha256`; `is_own`: it is the model's file, not random weights."""

    model: str
    parameters: int
    quantisation: str
    sha256: str
    layers: int
    vocabulary: int
    is_own: bool = True


class TokenIds(NamedTuple):
    """The ids that prompts are drawn from, both ends included."""

    first: int
    last: int


class _Reply(NamedTuple):
    """The timings of a question in seconds, and the share of its wall time in which the engine computed."""

    prompt_s: float
    token_s: float
    computing_share: float
    wall_s: float

    @property
    def undisturbed_share(self) -> float:
        return 1.0 if self.computing_share >= UNDISTURBED_SHARE else self.computing_share


def measure_steps(
    home: Home, report: EngineReport, file: MeasuredFile, threads: int, *, budget_s: float, rounds: int = MOST_ROUNDS
) -> EngineMeasurement:
    """Start the engine with `threads` threads and measure its steps for `budget_s` seconds, start included.

    Up to `rounds` rounds are asked. Raises ModelError AW-MOD-30 if the engine is not ready in time,
    EngineError AW-ENG-03 for a reply without timings, -07 and -01 if it stops.
    """
    config = EngineConfig(
        engine=report.engine,
        socket=evaluation_engine.socket_name(),
        alias=file.model,
        slots=SLOTS,
        context_tokens=CONTEXT_TOKENS,
        default_max_tokens=ANSWER_TOKENS,
        model_sha256=file.sha256,
        settings={"threads": threads, "batch_tokens": BATCH_TOKENS},
    )
    ends_at = time.monotonic() + budget_s
    with evaluation_engine.run_engine(home, config, budget_s) as engine:
        last_token = min(LAST_TOKEN, file.vocabulary - 1)
        token_ids = TokenIds(min(FIRST_TOKEN, last_token), last_token)
        benchmark = _StepBenchmark(EngineClient(engine.address), engine.pid, token_ids, ends_at)
        asyncio.run(_run_in_time(benchmark, file, rounds, ends_at))
        startup_s = engine.startup_s
    return EngineMeasurement(
        report=report,
        model=file.model,
        parameters=file.parameters,
        quantisation=file.quantisation,
        model_sha256=file.sha256 if file.is_own else "",
        layers=file.layers,
        vocabulary=file.vocabulary,
        threads=threads,
        steps=benchmark.list_steps(),
        slowdown=benchmark.estimate_slowdown(),
        spread=benchmark.measure_spread(),
        rounds=benchmark.rounds,
        runs=1,
        startup_s=startup_s,
        measured_at=time.time(),
    )


async def _run_in_time(benchmark: "_StepBenchmark", file: MeasuredFile, rounds: int, ends_at: float) -> None:
    """Run the rounds. Raises EngineError AW-ENG-03 if the engine does not answer in time."""
    deadline_s = _find_deadline_s(ends_at)
    try:
        async with asyncio.timeout(deadline_s):
            await benchmark.run_rounds(rounds)
    except TimeoutError as error:
        message = f"the engine did not answer the first questions within {deadline_s:.0f} s"
        hint = "raise the setting engine_measurement_s, or set it to 0"
        raise EngineError("AW-ENG-03", message, where=ErrorLocation(file.model), hint=hint) from error


def _find_deadline_s(ends_at: float) -> float:
    return max(ends_at - time.monotonic(), 0.0) + GRACE_S


class _StepBenchmark:
    """Sends the requests and collects the seconds of each kind of step."""

    def __init__(
        self,
        client: EngineClient,
        pid: int,
        token_ids: TokenIds,
        ends_at: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.rounds = 0
        self._client = client
        self._pid = pid
        self._token_ids = token_ids
        self._ends_at = ends_at
        self._clock = clock
        self._random = random.Random(1)
        self._seconds: dict[tuple[int, int, int], list[float]] = {}
        self._slowdowns: list[float] = []
        self._token_s = 0.0

    async def run_rounds(self, rounds: int) -> None:
        """Ask rounds while there is time; a round that was begun counts."""
        try:
            await self._ask(WARM_UP)
            has_time = True
            while has_time and self.rounds < rounds:
                has_time = await self._run_round()
                # A later round that was cut short counts by its steps, not as a round.
                self.rounds += has_time or self.rounds == 0
                if self.rounds == 1 and self._has_time_for(DEEP_QUESTION):
                    self._record(DEEP_QUESTION, await self._ask(DEEP_QUESTION))
        finally:
            await self._client.close()

    async def _run_round(self) -> bool:
        """Ask the questions that the time allows; return True if all were asked."""
        for number, question in enumerate(QUESTIONS):
            is_needed = self.rounds == 0 and number < LEAST_QUESTIONS
            if not is_needed and not self._has_time_for(question):
                return False
            self._record(question, await self._ask(question))
        return True

    def _has_time_for(self, question: StepRequests) -> bool:
        left_s = self._ends_at - self._clock()
        return question.tokens * self._token_s <= SAFE_SHARE * left_s

    def _record(self, question: StepRequests, reply: _Reply) -> None:
        self._slowdowns.append(1 / reply.computing_share)
        # The slowest token of all questions bounds the next question.
        self._token_s = max(self._token_s, reply.wall_s / question.tokens)
        if question.together == 1 and question.prompt_tokens > SHORT_PROMPT:
            self._add_step((question.prompt_tokens, 0, 0), reply.prompt_s * reply.undisturbed_share)
        if question.answer_tokens > 1:
            # The mean context of the answer's tokens.
            context_tokens = question.prompt_tokens + question.answer_tokens // 2
            self._add_step((0, question.together, context_tokens), reply.token_s * reply.undisturbed_share)

    def _add_step(self, kind: tuple[int, int, int], seconds: float) -> None:
        self._seconds.setdefault(kind, []).append(seconds)

    async def _ask(self, question: StepRequests) -> _Reply:
        computed_before = read_thread_seconds(self._pid)
        began_at = self._clock()
        requests = [self._send_request(question) for _ in range(question.together)]
        replies = await asyncio.gather(*requests)
        wall_s = self._clock() - began_at
        computed_s = find_busiest_s(computed_before, read_thread_seconds(self._pid))
        token_times_s = [0.0]
        if question.answer_tokens > 1:
            token_times_s = [self._read_s(reply, "predicted_per_token_ms") for reply in replies]
        return _Reply(
            prompt_s=self._read_s(replies[0], "prompt_ms"),
            # The first request computes its prompt alone, and its first token waits for the prompts of the others.
            token_s=statistics.median_low(token_times_s),
            # Without a count of processor time, all of the time counts as computing.
            computing_share=min(computed_s / wall_s, 1.0) or 1.0,
            wall_s=wall_s,
        )

    async def _send_request(self, question: StepRequests) -> dict[str, Any]:
        prompt = [self._random.randint(*self._token_ids) for _ in range(question.prompt_tokens)]
        body = {"prompt": prompt, "n_predict": question.answer_tokens, "cache_prompt": False, "ignore_eos": True}
        return await self._client.post("/completion", body)

    def _read_s(self, reply: dict[str, Any], field: str) -> float:
        """Return a timing of the engine in seconds. Raises EngineError AW-ENG-03 for a reply without it."""
        timings = reply.get("timings")
        value = timings.get(field) if isinstance(timings, dict) else None
        if not isinstance(value, int | float) or value <= 0:
            hint = "install the supported engine: pip install --upgrade 'archwright[local]'"
            message = f"the engine's reply has no timing {field}"
            raise EngineError("AW-ENG-03", message, where=ErrorLocation(self._client.address), hint=hint)
        return float(value) / MILLISECONDS

    def list_steps(self) -> tuple[StepTime, ...]:
        """Return the mean of each kind of step: slow moments of a shared machine count as long as they last."""
        return tuple(
            StepTime(
                prompt_tokens=prompt_tokens,
                answering=answering,
                context_tokens=context_tokens,
                step_s=statistics.fmean(seconds),
            )
            for (prompt_tokens, answering, context_tokens), seconds in sorted(self._seconds.items())
        )

    def estimate_slowdown(self) -> float:
        """Return the median factor of wall time over processor time, 1 if the engine hardly waited."""
        slowdown = statistics.median(self._slowdowns)
        return slowdown if slowdown > 1 / UNDISTURBED_SHARE else 1.0

    def measure_spread(self) -> float:
        """Return the largest factor between the mean and a round of the same step."""
        factors = [1.0]
        for seconds in self._seconds.values():
            mean_s = statistics.fmean(seconds)
            factors += [max(seconds) / mean_s, mean_s / min(seconds)]
        return max(factors)


def read_thread_seconds(pid: int) -> dict[str, float]:
    """Return the processor seconds of each thread of a process; empty on a system that does not count them."""
    seconds: dict[str, float] = {}
    for file in Path(f"/proc/{pid}/task").glob("*/schedstat"):
        try:
            text = file.read_text(encoding="ascii")
        except OSError:
            continue
        seconds[file.parent.name] = int(text.split()[0]) / NANOSECONDS
    return seconds


def find_busiest_s(before: dict[str, float], after: dict[str, float]) -> float:
    """Return the most seconds that one thread computed between two readings."""
    return max((seconds - before.get(thread, 0.0) for thread, seconds in after.items()), default=0.0)
