"""Replay a plan's traffic at an OpenAI-compatible endpoint, timed by the client's own clock.

Design: the peak is an open loop: each request is sent at its time from `policy.traffic`; the window lasts until the
last response or the end of the drain. Then a closed loop keeps `concurrency` requests in flight for `closed_s` seconds
and cancels the rest: the tokens received by then, over the time, are the tokens/s at that concurrency.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from typing import NamedTuple, TypeVar

from archwright.contract.plan import LoadSpec
from archwright.errors import ReconcileError
from archwright.policy.traffic import Arrival, closed_loop_arrivals, peak_arrivals
from archwright.reconcile.bench_client import (
    BenchClient,
    BenchTarget,
    BenchTimeouts,
    RequestDialect,
    RequestRefused,
    RequestTrace,
)
from archwright.reconcile.bench_result import BenchPhase, BenchRequestTiming, BenchResult
from archwright.reconcile.prompt_generator import PromptGenerator, PromptTokenModel, fit_token_model

__all__ = ["BenchResult", "BenchTimeouts", "BenchProgress", "BenchTarget", "drive_load", "run_bench"]

T = TypeVar("T")

DEFAULT_TIMEOUTS = BenchTimeouts()
PROBE_WORDS = (8, 72)
# From the full interface to the fields that the oldest and the strictest endpoints accept.
DIALECTS = (
    RequestDialect(),
    RequestDialect(ignore_eos=False),
    RequestDialect(ignore_eos=False, usage=False),
    RequestDialect(ignore_eos=False, limit_field="max_completion_tokens"),
    RequestDialect(ignore_eos=False, usage=False, limit_field="max_completion_tokens"),
)
# A worker of the closed loop waits after a failure, so that a refusing server is not flooded.
PAUSE_AFTER_FAILURE_S = 0.25
PROGRESS_INTERVAL_S = 0.5


class BenchProgress(NamedTuple):
    """The progress of a phase, passed to the `progress` callback twice a second and at the end of a phase."""

    phase: str
    elapsed_s: float
    total_s: float
    started: int
    finished: int
    failed: int


ProgressCallback = Callable[[BenchProgress], None]


def run_bench(
    target: BenchTarget,
    load: LoadSpec,
    progress: ProgressCallback | None = None,
    *,
    limits: BenchTimeouts = DEFAULT_TIMEOUTS,
    rng: random.Random | None = None,
) -> BenchResult:
    """Replay `load` at `target` (`drive_load` does the same inside an event loop).

    Raises ReconcileError (AW-REC-10 to 19, see bench_client) if the first probe fails, or if no request of a phase got
    a response. The result counts single failures.
    """
    return asyncio.run(drive_load(target, load, progress, limits=limits, rng=rng))


async def drive_load(
    target: BenchTarget,
    load: LoadSpec,
    progress: ProgressCallback | None = None,
    *,
    limits: BenchTimeouts = DEFAULT_TIMEOUTS,
    rng: random.Random | None = None,
) -> BenchResult:
    """Like `run_bench`. `rng` draws the words of prompts; by default no two runs share a prompt."""
    async with BenchClient(target, limits) as wire:
        prompter = PromptGenerator(rng or random.Random())
        dialect, tokens, reported = await _detect_dialect(wire, prompter)
        run = _BenchRun(wire, load, dialect, tokens, prompter)
        phases = [await run.run_peak(progress), await run.run_closed_loop(progress)]
        notes = [*_dialect_notes(target, wire.url, dialect, tokens, reported)]
        notes += [note for phase in phases for note in _phase_notes(phase)]
    return BenchResult(
        url=wire.url,
        model=target.model,
        workload=load.workload,
        tokens_per_word=tokens.per_word,
        template_tokens=tokens.template,
        phases=tuple(phases),
        notes=tuple(notes),
    )


async def _detect_dialect(
    wire: BenchClient, prompter: PromptGenerator
) -> tuple[RequestDialect, PromptTokenModel, bool]:
    """Return the endpoint's dialect, its token count of prompts, and True if its streams report usage."""
    model = wire.target.model
    refusal: RequestRefused | None = None
    for dialect in DIALECTS:
        try:
            first = await _send_probe(wire, dialect.build_body(model, prompter.generate(PROBE_WORDS[0]), 1))
        except RequestRefused as error:
            refusal = refusal or error
            continue
        if first.input_tokens is not None:
            second = await _send_probe(wire, dialect.build_body(model, prompter.generate(PROBE_WORDS[1]), 1))
            counts = [first.input_tokens, second.input_tokens]
        else:
            plain = [dialect.build_body(model, prompter.generate(words), 1, stream=False) for words in PROBE_WORDS]
            counts = [await _with_timeout(wire, wire.count_prompt_tokens(body)) for body in plain]
        tokens = fit_token_model(((PROBE_WORDS[0], counts[0]), (PROBE_WORDS[1], counts[1])))
        return dialect, tokens, first.output_tokens is not None
    assert refusal is not None
    raise refusal


async def _send_probe(wire: BenchClient, body: bytes) -> RequestTrace:
    trace = RequestTrace()
    await _with_timeout(wire, wire.stream(body, trace))
    return trace


async def _with_timeout(wire: BenchClient, request: Awaitable[T]) -> T:
    """Await one short request within a total time: a stream of keep-alives is no response."""
    try:
        async with asyncio.timeout(2 * wire.limits.idle_s):
            return await request
    except TimeoutError as error:
        message = f"no complete response to one short request in {2 * wire.limits.idle_s:g} s"
        hint = "check the server's load, then run the bench again"
        raise ReconcileError("AW-REC-16", message, where=wire.place, hint=hint) from error


class _BenchRun:
    def __init__(
        self,
        wire: BenchClient,
        load: LoadSpec,
        dialect: RequestDialect,
        tokens: PromptTokenModel,
        prompter: PromptGenerator,
    ) -> None:
        self._wire, self._load = wire, load
        self._dialect, self._tokens, self._prompter = dialect, tokens, prompter
        self._sent: list[tuple[Arrival, float, RequestTrace]] = []
        self._epoch = 0.0

    async def run_peak(self, progress: ProgressCallback | None) -> BenchPhase:
        """Open loop: send every arrival at its time, then wait a bounded time for the last responses."""
        arrivals = peak_arrivals(self._load)
        bodies = [self._build_body(arrival) for arrival in arrivals]
        started_at = self._start_phase()
        tasks = []
        async with self._report_progress("peak", self._load.peak_s, progress):
            for arrival, body in zip(arrivals, bodies, strict=True):
                await asyncio.sleep(max(0.0, arrival.at_s - self._elapsed()))
                tasks.append(asyncio.create_task(self._send_request(arrival, body, arrival.at_s)))
            await asyncio.sleep(max(0.0, self._load.peak_s - self._elapsed()))
            await _finish_tasks(tasks, self._wire.limits.drain_s)
        return self._build_phase("peak", started_at, self._load.peak_s)

    async def run_closed_loop(self, progress: ProgressCallback | None) -> BenchPhase:
        """Closed loop: each worker sends its next request after a response; the end cancels running requests."""
        arrivals = closed_loop_arrivals(self._load)
        started_at = self._start_phase()
        async with self._report_progress("closed", self._load.closed_s, progress):
            workers = [asyncio.create_task(self._worker(arrivals)) for _ in range(self._load.concurrency)]
            await _finish_tasks(workers, self._load.closed_s)
        return self._build_phase("closed", started_at, self._load.closed_s)

    async def _worker(self, arrivals: Iterator[Arrival]) -> None:
        while True:
            arrival = next(arrivals)
            trace = await self._send_request(arrival, self._build_body(arrival), self._elapsed())
            if trace.error is not None:
                await asyncio.sleep(PAUSE_AFTER_FAILURE_S)

    def _build_body(self, arrival: Arrival) -> bytes:
        prompt = self._prompter.generate(self._tokens.count_words(arrival.input_tokens))
        return self._dialect.build_body(self._wire.target.model, prompt, arrival.output_tokens)

    async def _send_request(self, arrival: Arrival, body: bytes, due_s: float) -> RequestTrace:
        trace = RequestTrace()
        self._sent.append((arrival, due_s, trace))
        try:
            await self._wire.stream(body, trace)
        except ReconcileError as error:
            trace.error = error
        return trace

    def _start_phase(self) -> float:
        self._sent = []
        self._epoch = self._wire.clock()
        return time.time()

    def _elapsed(self) -> float:
        return self._wire.clock() - self._epoch

    def _build_phase(self, name: str, started_at: float, load_s: float) -> BenchPhase:
        elapsed = self._elapsed()
        requests = tuple(self._build_timing(*sent) for sent in self._sent if sent[2].sent is not None)
        _require_answers(name, [trace for _, _, trace in self._sent], self._wire)
        ended_at = started_at + elapsed
        return BenchPhase(name=name, started_at=started_at, ended_at=ended_at, load_s=load_s, requests=requests)

    def _build_timing(self, arrival: Arrival, due_s: float, trace: RequestTrace) -> BenchRequestTiming:
        moments = (trace.sent, trace.first, trace.last, trace.ended)
        sent_s, first_s, last_s, ended_s = (None if at is None else at - self._epoch for at in moments)
        assert sent_s is not None
        return BenchRequestTiming(
            due_s=due_s,
            sent_s=sent_s,
            first_s=first_s,
            last_s=last_s,
            ended_s=self._elapsed() if ended_s is None else ended_s,
            asked_tokens=arrival.output_tokens,
            input_tokens=trace.input_tokens,
            output_tokens=trace.chunks if trace.output_tokens is None else trace.output_tokens,
            chunks=trace.chunks,
            outcome="failed" if trace.error is not None else "finished" if trace.finished else "cut",
            code="" if trace.error is None else trace.error.code,
            reason="" if trace.error is None else trace.error.message,
        )

    @asynccontextmanager
    async def _report_progress(
        self, phase: str, total_s: float, progress: ProgressCallback | None
    ) -> AsyncIterator[None]:
        if progress is None:
            yield
            return
        ticker = asyncio.create_task(self._report_periodically(phase, total_s, progress))
        try:
            yield
        finally:
            ticker.cancel()
            progress(self._current_progress(phase, total_s))

    async def _report_periodically(self, phase: str, total_s: float, progress: ProgressCallback) -> None:
        while True:
            progress(self._current_progress(phase, total_s))
            await asyncio.sleep(PROGRESS_INTERVAL_S)

    def _current_progress(self, phase: str, total_s: float) -> BenchProgress:
        failed = sum(1 for _, _, trace in self._sent if trace.error is not None)
        finished = sum(1 for _, _, trace in self._sent if trace.finished and trace.error is None)
        return BenchProgress(phase, self._elapsed(), total_s, len(self._sent), finished, failed)


async def _finish_tasks(tasks: list[asyncio.Task[None]] | list[asyncio.Task[RequestTrace]], timeout_s: float) -> None:
    """Wait at most `timeout_s`, cancel the rest, and raise every other error."""
    waiting: list[asyncio.Task[object]] = [*tasks]
    if waiting:
        _, pending = await asyncio.wait(waiting, timeout=timeout_s)
        for task in pending:
            task.cancel()
    for outcome in await asyncio.gather(*waiting, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome


def _require_answers(phase: str, traces: list[RequestTrace], wire: BenchClient) -> None:
    """Raise the most frequent error of a phase in which no request got any content."""
    if any(trace.chunks for trace in traces):
        return
    errors = [trace.error for trace in traces if trace.error is not None]
    if not errors:
        message = f"none of the {len(traces)} requests of the {phase} phase was answered in time"
        raise ReconcileError("AW-REC-16", message, where=wire.place, hint="check that the server is not overloaded")
    common = Counter(error.code for error in errors).most_common(1)[0][0]
    error = next(error for error in errors if error.code == common)
    message = f"all {len(traces)} requests of the {phase} phase failed; most often: {error.message}"
    raise ReconcileError(common, message, where=error.where, hint=error.hint) from error


def _dialect_notes(
    target: BenchTarget, url: str, dialect: RequestDialect, tokens: PromptTokenModel, reported: bool
) -> Iterable[str]:
    if not dialect.ignore_eos:
        yield "the endpoint refuses ignore_eos: responses may end before the planned length"
    if not reported:
        yield "the endpoint reports no usage in streams: each chunk with content counts as one token"
    if tokens.guessed:
        yield f"prompt lengths assume {tokens.per_word} tokens per word: the endpoint does not count prompt tokens"
    local = url.startswith(("http://127.", "http://localhost", "http://[::1]"))
    if target.key and url.startswith("http://") and not local:
        yield "the key was sent without encryption: use https"
    if not target.verify_tls:
        yield "the endpoint's certificate was not verified"


def _phase_notes(phase: BenchPhase) -> Iterable[str]:
    total = len(phase.requests)
    if phase.late_count:
        worst = max(request.late_s for request in phase.requests)
        yield f"{phase.name}: {phase.late_count} of {total} requests were sent late, the latest by {worst:.2f} s"
    failures = Counter((request.code, request.reason) for request in phase.requests if request.outcome == "failed")
    for (code, reason), count in sorted(failures.items()):
        yield f"{phase.name}: {count} of {total} requests failed: {code} {reason}"
    if phase.name == "peak" and phase.count("cut"):
        yield f"peak: {phase.count('cut')} of {total} requests were cancelled after the drain"
    answered = [request for request in phase.requests if request.outcome == "finished"]
    planned_tokens = sum(request.asked_tokens for request in answered)
    got = sum(request.output_tokens for request in answered)
    if answered and not 0.95 * planned_tokens <= got <= 1.05 * planned_tokens:
        mean, planned = got / len(answered), planned_tokens / len(answered)
        yield f"{phase.name}: responses had {mean:.0f} tokens on average, {planned:.0f} were planned"
