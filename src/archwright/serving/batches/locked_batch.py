"""A batch that this process runs: its lock, its input, its results, and the log of their usage records.

A result is written to the output file or the error file as soon as its request ends, after its usage record went to the
log. Both come before the record in the ledger. So a crash leaves all, or no result and the request runs again, or a
result whose record the ledger lacks. The next process with the lock then adds exactly this record. Ids of requests are
made of batch and line, so no record is added twice.
Design: space for an error of each line is held from the start. So the end of a batch needs almost no disk, and a batch
without space can end with its results so far.
"""

import fcntl
import mmap
import os
from array import array
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any

import msgspec

from archwright.contract.record import replace
from archwright.contract.served import RequestRecord
from archwright.home import Home, write_json
from archwright.monitor.wal.compaction import read_served
from archwright.serving.batches.batch_store import (
    FILE_SUFFIXES,
    OPEN_STATUSES,
    BatchError,
    BatchErrors,
    BatchStore,
    Outcome,
    StoredBatch,
    result_name,
)
from archwright.serving.batches.open_batches import OPEN_FOLDER, InputLine, decode_fields, decode_line
from archwright.serving.batches.result_file import ResultFile
from archwright.serving.batches.tenant_space import create_file, refuse_full_disk, write_at
from archwright.serving.http.body_structure import check_large_body
from archwright.serving.http.errors import ApiError, bad_request
from archwright.store import Store

MAX_LINES = 50_000
MAX_ERRORS = 100  # that a failed batch lists
# Records of results that are this much older than the last result are certainly written: no request lasts longer.
RECORD_DELAY_S = 900.0
_NOT_RUN: dict[Outcome, str] = {
    "expired": "This request could not be executed before the completion window expired.",
    "cancelled": "This request was not executed because the batch was cancelled.",
    "failed": "This request has no result because the batch failed.",
}


class LineResult(msgspec.Struct, frozen=True, gc=False):
    """The result of line `number`, from 0. `record`: its usage record, None if it was refused before it ran."""

    number: int
    request_id: str
    status: int
    body: msgspec.Raw
    record: RequestRecord | None = None


class LogLine(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A line of the log. The log of an older version has the results too."""

    number: int
    record: RequestRecord | None = None
    request_id: str = ""
    status: int = 0
    body: msgspec.Raw = msgspec.Raw()


_decode_log_line = msgspec.json.Decoder(LogLine).decode


class LockedBatch:
    """A locked batch. `recorded`: the lines whose usage record exists."""

    def __init__(self, home: Home, tenant: str, batch_id: str) -> None:
        """Raises BlockingIOError if a process runs the batch, FileNotFoundError and ApiError 404 if it is gone."""
        self.store, self.tenant = BatchStore(home, tenant), tenant
        self.recorded: set[int] = set()
        self._mark = home.batches / OPEN_FOLDER / batch_id
        self._starts = array("Q")  # position of each line in the input
        self._records: dict[int, RequestRecord] = {}  # of results that an earlier process wrote
        self._input: bytes | mmap.mmap = b""
        self._output: ResultFile | None = None
        self._errors: ResultFile | None = None
        self._log = -1
        with ExitStack() as opened:
            lock = opened.enter_context(open(self._mark, "rb"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.batch = self.store.find(StoredBatch, batch_id)
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    @property
    def is_cancelled(self) -> bool:
        return self.store.path(self.batch.id, "cancel").exists()

    def list_remaining(self) -> list[int]:
        """Return the lines without a result."""
        return [number for number in range(len(self._starts)) if not self._has_result(number)]

    def request_id(self, number: int) -> str:
        return f"req_{self.batch.id}_{number:05d}"

    def save(self, **changes: Any) -> None:
        """Write the object of the batch with `changes`, and with the present counts until its last request ended.

        Raises ApiError 503 without space."""
        if self.batch.outcome is None:
            completed, failed = (0 if file is None else file.count for file in (self._output, self._errors))
            changes["request_counts"] = {"total": len(self._starts), "completed": completed, "failed": failed}
        batch = replace(self.batch, **changes)
        with refuse_full_disk():
            write_json(self.store.path(batch.id, "json"), batch)
        self.batch = batch

    def read_input(self) -> tuple[BatchError, ...]:
        """Find and check the lines; return what is wrong with them. Blank lines do not count."""
        path = self.store.path(self.batch.input_file_id, "jsonl")
        if not path.exists():
            return (BatchError(code="input_file_deleted", message="The input file was deleted."),)
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size:
                self._input = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        errors: list[BatchError] = []
        known, model, at, row, blank = set[str](), "", 0, 0, 0
        while at < len(self._input) and len(errors) < MAX_ERRORS and max(len(self._starts), blank) <= MAX_LINES:
            line, row = self._read_at(at), row + 1
            blank += not line.strip()
            if line.strip():
                self._starts.append(at)
                try:
                    model = self._check_line(line, known, model)
                except ApiError as error:
                    code = error.openai_code or "invalid_json_line"
                    errors.append(BatchError(code=code, message=error.message, param=error.param, line=row))
            at += len(line) + 1
        count = len(self._starts)
        if not count or max(count, blank) > MAX_LINES:
            begins = f"The first {row:,} lines have {count:,} requests, and {blank:,} are blank."
            message = f"{begins} Send 1 to {MAX_LINES:,} requests and at most as many blank lines."
            errors.append(BatchError(code="invalid_request_count", message=message))
        return tuple(errors)

    def read_line(self, number: int) -> InputLine:
        return decode_line(self._read_at(self._starts[number]))

    def _read_at(self, at: int) -> bytes:
        end = self._input.find(b"\n", at)
        return self._input[at:] if end < 0 else self._input[at:end]

    def _check_line(self, data: bytes, known: set[str], model: str) -> str:
        """Return the model of the batch. Raises ApiError 400."""
        check_large_body(data)
        try:
            line = decode_line(data)
            fields = decode_fields(line.body)
        except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
            raise bad_request(f"The line is not a valid request: {error}.") from None
        if line.custom_id in known:
            raise bad_request(f"The id {line.custom_id[:80]!r} occurs twice.", "custom_id", "duplicate_custom_id")
        known.add(line.custom_id)
        if line.url != self.batch.endpoint:
            raise bad_request(f"The url must be that of the batch, {self.batch.endpoint}.", "url", "mismatched_url")
        if fields.stream:
            raise bad_request("A batch streams no response. Remove 'stream'.", "stream", "stream_unsupported")
        if model and fields.model != model:
            raise bad_request(f"All requests must name one model, here {model[:80]!r}.", "model", "mismatched_model")
        return fields.model

    def open_results(self) -> None:
        """Open the files of results and the log; find what an earlier process wrote.

        Raises ApiError 429 and 503 without space for an error of each line; a batch that has not begun has then no
        files of results."""
        try:
            self._open_files()
        except ApiError:
            if self.batch.status == "validating":
                self._output = self._errors = None
                self._delete_results()
            raise

    def _delete_results(self) -> None:
        for field in ("output_file_id", "error_file_id"):
            for suffix in FILE_SUFFIXES:
                self.store.path(result_name(self.batch.id, field), suffix).unlink(missing_ok=True)

    def _open_files(self) -> None:
        self._output = self._open_result_file("output_file_id")
        self._errors = self._open_result_file("error_file_id")
        self._log = create_file(self.store.path(self.batch.id, "log"))
        self._opened.callback(os.close, self._log)
        older = self._read_log()
        self._errors.hold(sum(self._count_held(number) for number in self.list_remaining()))
        for line in older:
            if not self._has_result(line.number):
                self.append(LineResult(line.number, line.request_id, line.status, line.body))

    def _open_result_file(self, field: str) -> ResultFile:
        path = self.store.path(result_name(self.batch.id, field), "jsonl")
        file = ResultFile(path, len(self._starts), self.store.space)
        self._opened.callback(file.close)
        file.recover(partial(build_line_start, self.batch.id))
        return file

    def _read_log(self) -> list[LogLine]:
        """Read the records, and remove what a crash cut off. Return the lines of an older version, with results."""
        older: list[LogLine] = []
        end = 0
        with open(self._log, "rb", closefd=False) as log, suppress(msgspec.DecodeError):
            for data in log:
                if not data.endswith(b"\n"):
                    break
                line = _decode_log_line(data)
                end += len(data)
                if line.record is not None:
                    self._records[line.number] = line.record
                if line.status:
                    older.append(line)
        os.ftruncate(self._log, end)
        return older

    def append(self, result: LineResult) -> None:
        """Write a result: durable against kill -9. Raises ApiError 429 and 503 without space: it then has none."""
        output, errors = self._result_files()
        number, failed = result.number, result.status >= 400
        response = {"status_code": result.status, "request_id": result.request_id, "body": result.body}
        line = self._build_line(number, response, None)
        if result.record is not None:
            self._append_to_log(LogLine(number, result.record))
        (errors if failed else output).append(number, line)
        errors.release_held(self._count_held(number))

    def _append_to_log(self, line: LogLine) -> None:
        end = os.fstat(self._log).st_size
        try:
            write_at(self._log, msgspec.json.encode(line) + b"\n", end)
        except ApiError:
            os.ftruncate(self._log, end)
            raise

    def find_unrecorded(self, store: Store, home: Home) -> list[RequestRecord]:
        """Return the usage records of results that the ledger lacks, and note the lines that it has."""
        records = {number: record for number, record in self._records.items() if self._has_result(number)}
        since = max([float(self.batch.created_at), *(record.at for record in records.values())]) - RECORD_DELAY_S
        ids = {self.request_id(number): number for number in range(len(self._starts))}
        self.recorded = set()
        for record in read_served(store, home, (since, None), tenant=self.tenant):
            if record.request_id in ids:
                self.recorded.add(ids[record.request_id])
        return [one for number, one in records.items() if one.at >= since and number not in self.recorded]

    def finish(self, outcome: Outcome, now: int, errors: tuple[BatchError, ...] = ()) -> None:
        """Write the errors of lines without a result, and the last state. After a crash it goes on with its outcome."""
        if self.batch.status in OPEN_STATUSES:
            cancelling_at = self.batch.cancelling_at or self.store.read_cancellation(self.batch.id)
            self.store.free_spare(self.batch.id)
            if self.batch.outcome is None:
                listed = BatchErrors(data=errors) if errors else None
                state = {"status": "finalizing", "finalizing_at": now} if self._errors is not None else {}
                self.save(outcome=outcome, cancelling_at=cancelling_at, errors=listed, **state)
            ended = self.batch.outcome or outcome
            files = {} if self._errors is None else self._finish_files(ended)
            self.save(status=ended, **{f"{ended}_at": now}, **files)
        for path in (*(self.store.path(self.batch.id, one) for one in ("log", "spare", "cancel")), self._mark):
            path.unlink(missing_ok=True)

    def _finish_files(self, outcome: Outcome) -> dict[str, str]:
        """Complete the output file and the error file; return their ids by field."""
        output, errors = self._result_files()
        for number in self.list_remaining():
            error = {"code": f"batch_{outcome}", "message": _NOT_RUN[outcome]}
            errors.write_held(number, self._build_line(number, None, error), self._count_held(number))
        written = {}
        for field, file in (("output_file_id", output), ("error_file_id", errors)):
            name = result_name(self.batch.id, field)
            if file.finish():
                self.store.describe_file(name, f"{self.batch.id}_{field[:-8]}.jsonl", "batch_output")
                written[field] = name
        return written

    def _result_files(self) -> tuple[ResultFile, ResultFile]:
        assert self._output is not None and self._errors is not None, "the results are not open"
        return self._output, self._errors

    def _has_result(self, number: int) -> bool:
        return any(file.has_line(number) for file in self._result_files())

    def _count_held(self, number: int) -> int:
        """Return the bytes of the largest error that a line without a result gets."""
        longest = max(_NOT_RUN, key=lambda outcome: len(outcome) + len(_NOT_RUN[outcome]))
        error = {"code": f"batch_{longest}", "message": _NOT_RUN[longest]}
        return len(self._build_line(number, None, error))

    def _build_line(self, number: int, response: dict[str, Any] | None, error: dict[str, str] | None) -> bytes:
        """Return a line of the results."""
        custom_id = self.read_line(number).custom_id
        rest = msgspec.json.encode({"custom_id": custom_id, "response": response, "error": error})
        return b"%b%b\n" % (build_line_start(self.batch.id, number), rest[1:])


def build_line_start(batch_id: str, number: int) -> bytes:
    """Return the first bytes of a line of the results."""
    return f'{{"id":"batch_req_{batch_id.removeprefix("batch_")}{number:05d}",'.encode()
