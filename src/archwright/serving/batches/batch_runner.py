"""Runs the batches of a home in a worker, line by line, like requests of the batch's key.

A line is begun only while a slot of its model is free and no request waits for one, and it comes last in the queue. So
an interactive request waits at most for a running line. A line has the reservation, cache, residency and record of a
request. Rate limits and engines that are not ready delay it; every other error is its result.
Each batch is run by one worker; if that worker ends, another one continues within POLL_S.
Design: while the process stops, nothing is written of a line that is cut off, as after kill -9. The line runs again.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager, suppress
from http import HTTPStatus
from types import SimpleNamespace
from typing import cast

import msgspec

from archwright.access.api_keys import Principal
from archwright.contract.served import RequestRecord
from archwright.engines.http_request_parser import RequestHead
from archwright.errors import ArchwrightError, StoreError, boundary
from archwright.monitor.trace_exporter import TraceContent
from archwright.monitor.wal.disk_reserve import count_free_bytes
from archwright.serving.batches.batch_store import OPEN_STATUSES, BatchError, Outcome, remove_expired_files
from archwright.serving.batches.locked_batch import LineResult, LockedBatch
from archwright.serving.batches.open_batches import OpenBatch, is_gateway_running, list_open_batches, mark_gateway
from archwright.serving.batches.tenant_space import MIN_FREE_BYTES, disk_full, is_without_space
from archwright.serving.handlers.gateway_context import GatewayContext
from archwright.serving.handlers.request_handler import HandlerContext, MeteredHandler, RequestHandler
from archwright.serving.http.body_structure import LARGE_BODY_BYTES, check_large_body
from archwright.serving.http.client_limits import BodyQuota
from archwright.serving.http.errors import ApiError, to_api_error
from archwright.serving.http.http_request import Admitted, HttpRequest
from archwright.serving.http.http_response import (
    HeaderField,
    HttpResponse,
    Peer,
    ResponseBuffer,
    body_too_large,
    early_end_error,
)
from archwright.serving.settings.config import Endpoint

POLL_S, SLOT_POLL_S, SAVE_S, SWEEP_S, LONGEST_WAIT_S = 0.5, 0.02, 2.0, 3_600.0, 60
DISK_WAIT_S = 600.0  # that a batch waits for free disk before it fails
WAITS_FOR_DISK = {"reason": "disk"}
FAILURE_REASONS = ("invalid_input", "invalid_api_key", "file_quota_exceeded", "disk_full")
MAX_BATCHES, MAX_TENANT_BATCHES = 16, 4  # that a worker runs at once
MAX_LINES_AT_ONCE = 128  # of a batch
MAX_TRIES = 3  # of a line whose engine fails
LineRoute = tuple[Callable[[HandlerContext], RequestHandler], bool]
"""How lines of an endpoint are prepared, and whether image data may exceed the limit of the body."""
# In place of a connection, which a line has not.
_NOBODY = cast(Peer, SimpleNamespace(address="", left=False, release_bytes=lambda: None))


class _LineResponse(HttpResponse):
    """Holds the complete response of a line, and the record of its request until the response is written."""

    __slots__ = ("body", "content", "quota", "record", "status")

    def __init__(self, request_id: str, head: RequestHead, buffer: ResponseBuffer) -> None:
        super().__init__(head, _NOBODY, buffer)
        self.quota = BodyQuota(buffer.bodies)  # a large line counts as memory of its tenant
        self.id, self.status, self.body = request_id, 0, b""
        self.record: RequestRecord | None = None
        self.content: TraceContent | None = None

    def send(self, status: int, body: bytes, content_type: str, headers: Iterable[HeaderField] = ()) -> None:
        self.status, self.body, self.finished = int(status), body, True

    def record_request(self, record: RequestRecord, content: TraceContent | None) -> None:
        self.record, self.content = record, content

    def hold_bytes(self, tenant: str, size: int) -> None:
        self.quota.set_size(tenant, max(0, self.quota.size + size), self.limits)

    def flush(self) -> None:
        """The record is not written yet."""


class BatchRun:
    """One batch that this worker runs. `stopping`: begin no further line. `responses`: of running lines."""

    def __init__(
        self, gateway: GatewayContext, buffer: ResponseBuffer, routes: Mapping[str, LineRoute], job: LockedBatch
    ) -> None:
        self.job, self.stopping = job, False
        self.responses: set[_LineResponse] = set()
        self._gateway, self._buffer, self._routes = gateway, buffer, routes
        self._gate = asyncio.Lock()
        self._remaining: deque[int] = deque()
        self._tries: dict[int, int] = {}
        self._resume_at = self._save_at = 0.0
        self._endpoint: Endpoint | None = None  # known after the first line
        self._outcome: Outcome = "completed"
        self._errors: tuple[BatchError, ...] = ()
        self._full_since: float | None = None

    async def run(self) -> None:
        """Take the batch from its stored state to its end, or until the process stops."""
        job = self.job
        is_open, is_new = job.batch.status in OPEN_STATUSES, job.batch.status == "validating"
        errors = await asyncio.to_thread(job.read_input) if is_open else ()
        if errors or not is_open:
            self._errors, self._outcome = errors, "failed"
        elif await self._open_results():
            if not is_new:
                await self._add_missing_records()
            if job.batch.outcome is None:
                await self._run_lines()
        if not self.stopping:
            await asyncio.to_thread(job.finish, self._outcome, int(self._gateway.clock()), self._errors)
            self._report_end()

    async def _open_results(self) -> bool:
        """Open the files of results. False if there is no space for them, so that the batch ends."""
        job = self.job
        try:
            await asyncio.to_thread(job.open_results)
            if job.batch.status != "validating":
                return True
            now = int(self._gateway.clock())
            await asyncio.to_thread(job.save, status="in_progress", in_progress_at=now)
        except ApiError as error:
            if job.batch.status != "validating":
                raise  # it has results, and is tried again
            self._fail(error)
            if job.is_cancelled:
                self._outcome = "cancelled"
            return False
        return True

    async def _run_lines(self) -> None:
        """Run the lines that have no result."""
        self._remaining.extend(self.job.list_remaining())
        slots = sum(pool.slots for pool in self._gateway.pools.values())
        count = min(MAX_LINES_AT_ONCE, max(1, slots), len(self._remaining))
        # Each ends only after its line: a cancelled line would be charged without a record.
        results = await asyncio.gather(*(self._work() for _ in range(count)), return_exceptions=True)
        for failed in (one for one in results if isinstance(one, BaseException)):
            raise failed

    def _fail(self, error: ApiError) -> None:
        """End the batch with this error; the first one counts."""
        if self._outcome == "completed":
            code = error.openai_code or "server_error"
            self._outcome, self._errors = "failed", (BatchError(code=code, message=error.message),)

    def _report_end(self) -> None:
        """Count a failed batch by its reason, and log it."""
        batch = self.job.batch
        if batch.status != "failed" or batch.errors is None:
            return
        code = batch.errors.data[0].code
        reason = code if code in FAILURE_REASONS else "invalid_input"
        self._gateway.exposition.counter("batch_failures", {"reason": reason}).add()
        self._gateway.journal.warning("batch failed", batch=batch.id, tenant=self.job.tenant, reason=code)

    async def _add_missing_records(self) -> None:
        """Write the usage records that a crash lost, and enter their cost into the accounts."""
        gateway = self._gateway
        for record in await asyncio.to_thread(self.job.find_unrecorded, gateway.store, gateway.home):
            principal = gateway.accounting.keys.find_principal(record.key_id)
            if principal is not None:
                tokens = record.input_tokens + record.output_tokens
                gateway.accounting.accounts.add_usage(principal, tokens, record.cost_usd or 0.0)
            gateway.record_request(record, None)
        gateway.flush()

    async def _work(self) -> None:
        """Run lines one after the other, until all are begun or the batch ends early."""
        try:
            while (line := await self._begin_next()) is not None:
                await line
        except BaseException:
            self.stopping = True
            raise

    async def _begin_next(self) -> asyncio.Task[None] | None:
        """Begin a line when there is a free slot; one at a time, so that each takes its slot first."""
        async with self._gate:
            while self._remaining and (principal := self._find_payer()) is not None:
                now = self._gateway.now()
                if now >= self._save_at:
                    self._save_at = now + SAVE_S
                    with suppress(ApiError):  # without space the counts are saved later
                        await asyncio.to_thread(self.job.save)
                    continue
                if now >= self._resume_at and not self.is_waiting_for_disk and self._has_free_slot():
                    line = self._begin_line(self._remaining.popleft(), principal)
                    await asyncio.sleep(0)
                    if line is not None:
                        return line
                else:
                    await asyncio.sleep(SLOT_POLL_S)
            return None

    def _find_payer(self) -> Principal | None:
        """Return the principal of the batch's key; None if no further line may begin. Raises StoreError."""
        job = self.job
        principal = self._gateway.accounting.keys.find_principal(job.batch.key_id)
        if job.is_cancelled:
            self._outcome = "cancelled"
        elif self._gateway.clock() >= job.batch.expires_at:
            self._outcome = "expired"
        elif principal is None:
            message = "The API key of this batch was revoked or has expired."
            self._fail(ApiError(HTTPStatus.UNAUTHORIZED, message, "invalid_api_key"))
        elif self._waits_for_disk(DISK_WAIT_S):
            self._fail(disk_full())
        return principal if self._outcome == "completed" and not self.stopping else None

    def _waits_for_disk(self, limit_s: float) -> bool:
        """Check the free disk. True if there has been too little to begin a line for `limit_s`."""
        now = self._gateway.now()
        if count_free_bytes(self._gateway.home) >= MIN_FREE_BYTES:
            self._full_since = None
            return False
        if self._full_since is None:
            self._full_since = now
            batch, tenant = self.job.batch.id, self.job.tenant
            self._gateway.journal.warning("batch waits for disk", batch=batch, tenant=tenant, at_most_s=limit_s)
        return now - self._full_since >= limit_s

    @property
    def is_waiting_for_disk(self) -> bool:
        return self._full_since is not None

    def _has_free_slot(self) -> bool:
        """True if a pool of the batch's model can take a line at once."""
        pools = self._gateway.pools
        names = () if self._endpoint is None else self._endpoint.serving_pools
        serving = [pools[name] for name in names if name in pools]
        return not serving or any(pool.has_free_slot for pool in serving)  # without a pool the line gets an error

    def _begin_line(self, number: int, principal: Principal) -> asyncio.Task[None] | None:
        """Begin a line. Return None if its error was written, or if its model has no free slot."""
        line, keys_version = self.job.read_line(number), self._gateway.accounting.keys.version
        head = RequestHead("POST", line.url, 1, {b"content-type": b"application/json"})
        response = _LineResponse(self.job.request_id(number), head, self._buffer)
        admitted = Admitted(principal, keys_version, background=True)
        request = HttpRequest(response.id, head, response.received_at, admitted, bytes(line.body))
        try:
            with boundary("line of a batch"):
                handler = self._prepare(request, response)
        except ArchwrightError as error:
            response.quota.release()
            if not self._prepare_retry(number, response, to_api_error(error)):
                self._write_result(number, response)
            return None
        self._endpoint = handler.endpoint
        if not self._has_free_slot():
            response.quota.release()
            self._remaining.appendleft(number)
            return None
        self.responses.add(response)
        return response.start_work(self._answer(number, handler, response))

    def _prepare(self, request: HttpRequest, response: _LineResponse) -> MeteredHandler:
        """Raises ApiError as for a request with the same body."""
        prepare, images = self._routes[request.head.path]
        body, limit = request.body, self._buffer.limits.largest_body(images=images, upload=False)
        if len(body) > limit:
            raise body_too_large(limit)
        if len(body) > LARGE_BODY_BYTES:
            response.hold_bytes(request.principal.tenant, check_large_body(body))
        handler = prepare(HandlerContext(self._gateway, request, response, ""))
        assert isinstance(handler, MeteredHandler), "lines cost something"
        handler.ledger = response
        return handler

    async def _answer(self, number: int, handler: MeteredHandler, response: _LineResponse) -> None:
        """Run a line, and write its result or have it run again."""
        error: ArchwrightError | None = None
        try:
            response.begin_work()
            with boundary("line of a batch"):
                (reservation,) = self._gateway.accounting.reserve([(handler.request, handler.worst_case, False)])
                await handler.run(reservation)
        except ArchwrightError as caught:
            error = caught
        except asyncio.CancelledError:
            if response.stop_reason is None:
                raise  # the event loop ends
            error = response.stop_error or early_end_error(response.stop_reason, response.limits)
        finally:
            response.end_work()
            response.quota.release()
            self.responses.discard(response)
        if error is not None and (self.stopping or self._prepare_retry(number, response, to_api_error(error))):
            return
        self._write_result(number, response)
        await self._settle(number, response)

    def _prepare_retry(self, number: int, response: _LineResponse, error: ApiError) -> bool:
        """Have the line run again later; else set the error as its response and return False."""
        tries = self._tries[number] = self._tries.get(number, 0) + 1
        record = response.record
        is_charged = record is not None and bool(record.cost_usd or record.output_tokens)
        wait_s = None if is_charged else decide_retry(error, tries)
        if wait_s is None:
            response.send_error(error)
            return False
        self._remaining.appendleft(number)
        self._resume_at = max(self._resume_at, self._gateway.now() + wait_s)
        return True

    def _write_result(self, number: int, response: _LineResponse) -> None:
        """Write the result before the record, in the tick of the settlement: no flush comes between.

        A line whose result has no space is charged, because an engine worked for it, and ends the batch."""
        body = msgspec.Raw(response.body.replace(b"\n", b" "))
        try:
            self.job.append(LineResult(number, response.id, response.status, body, response.record))
        except ApiError as error:
            if not is_without_space(error):
                raise
            self._fail(error)

    async def _settle(self, number: int, response: _LineResponse) -> None:
        """Write the record. Without database or disk it waits, since another process would add the record too."""
        record = None if number in self.job.recorded else response.record
        while True:
            try:
                if record is not None:
                    self._gateway.record_request(record, response.content)
                record = None
                self._gateway.flush()
                return
            except (ApiError, StoreError):
                await asyncio.sleep(POLL_S)


def decide_retry(error: ApiError, tries: int) -> int | None:
    """Return the seconds until a line is tried again; None if the error is its result."""
    if error.openai_code == "insufficient_quota" or error.status < HTTPStatus.TOO_MANY_REQUESTS:
        return None
    if error.status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        return None if error.retry_after_s is None else min(LONGEST_WAIT_S, error.retry_after_s)
    return None if tries >= MAX_TRIES else 2**tries


class BatchRunner:
    """The batches that this worker runs. `routes`: by endpoint."""

    def __init__(self, gateway: GatewayContext, buffer: ResponseBuffer, routes: Mapping[str, LineRoute]) -> None:
        self._gateway, self._buffer, self._routes = gateway, buffer, routes
        self._runs: dict[asyncio.Task[None], BatchRun] = {}
        self._drained_at: float | None = None
        self._sweep_at = 0.0

    @asynccontextmanager
    async def run(self) -> AsyncIterator[None]:
        """Run batches until the end of the block. Lines that run then may take `drain_s` since `stop`."""
        running = mark_gateway(self._gateway.home, self._gateway.config.port)
        with suppress(OSError):  # bound now, because a full disk takes no new series
            self._bind_metrics()
        poll = asyncio.create_task(self._gateway.repeat(self._check_once, POLL_S, "batches", "batches not read"))
        try:
            yield
        finally:
            running.close()
            poll.cancel()
            left_s = self.stop() - self._gateway.now()
            if self._runs:
                await asyncio.wait(self._runs, timeout=max(0.0, left_s))

    def _bind_metrics(self) -> None:
        exposition = self._gateway.exposition
        exposition.bind("batches_waiting", WAITS_FOR_DISK)
        for reason in FAILURE_REASONS:
            exposition.bind("batch_failures", {"reason": reason})

    def stop(self) -> float:
        """Begin no further line. Another worker continues a batch once its running lines are done."""
        if self._drained_at is None:
            self._drained_at = self._gateway.now() + self._buffer.limits.drain_s
        for one in self._runs.values():
            one.stopping = True
        return self._drained_at

    async def _check_once(self) -> None:
        now, home = self._gateway.now(), self._gateway.home
        for response in [one for run in self._runs.values() for one in run.responses]:
            response.check_deadlines(now)
        with suppress(OSError):
            waiting = sum(run.is_waiting_for_disk for run in self._runs.values())
            self._gateway.exposition.record("batches_waiting", WAITS_FOR_DISK, waiting)
        for batch_id, one in list_open_batches(home) if self._drained_at is None else ():
            tenants = [run.job.tenant for run in self._runs.values()]
            has_place = len(tenants) < MAX_BATCHES and tenants.count(one.tenant) < MAX_TENANT_BATCHES
            if has_place and self._may_run(one):
                try:
                    job = LockedBatch(home, one.tenant, batch_id)
                except (BlockingIOError, FileNotFoundError, ApiError):
                    continue  # another worker or this one runs it, or it is done
                run = BatchRun(self._gateway, self._buffer, self._routes, job)
                task = asyncio.create_task(self._run_batch(run))
                self._runs[task] = run
                task.add_done_callback(self._runs.pop)
        if now >= self._sweep_at:
            self._sweep_at = now + SWEEP_S
            await asyncio.to_thread(remove_expired_files, home, self._gateway.clock())

    def _may_run(self, batch: OpenBatch) -> bool:
        """True if this gateway accepted the batch, or may replace the gateway that did."""
        gateway = self._gateway
        if batch.port == gateway.config.port:
            return True
        with suppress(ApiError):
            if gateway.clock() < batch.expires_at:  # an expired batch only ends
                gateway.directory.resolve(batch.model, None)
            return not is_gateway_running(gateway.home, batch.port)
        return False

    async def _run_batch(self, run: BatchRun) -> None:
        try:
            with boundary("batch"):
                await run.run()
        except ArchwrightError as error:
            self._gateway.journal.error("batch interrupted", batch=run.job.batch.id, **error.as_dict())
            await asyncio.sleep(LONGEST_WAIT_S / 10)
        finally:
            run.job.close()
