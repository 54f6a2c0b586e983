"""A batch that this process runs: its lock, its input, and the log of its results.

A result is one line of the log, with the usage record of its request. It is written before the record, so a crash
leaves both, or neither and the line runs again, or a result without its record. The next process with the lock then
adds exactly this record. Ids of requests are made of batch and line, so no record is added twice.
"""

import errno
import fcntl
import mmap
import os
from array import array
from contextlib import ExitStack, suppress
from typing import Any, BinaryIO, Literal

import msgspec

from archwright.contract.record import replace
from archwright.contract.served import RequestRecord
from archwright.home import Home, open_private, write_json
from archwright.monitor.wal.compaction import read_served
from archwright.serving.batches.batch_store import (
    OPEN_STATUSES,
    Batch,
    BatchError,
    BatchErrors,
    BatchStore,
)
from archwright.serving.batches.open_batches import OPEN_FOLDER, InputLine, decode_fields, decode_line
from archwright.serving.http.body_structure import check_large_body
from archwright.serving.http.errors import ApiError, bad_request
from archwright.store import Store

MAX_LINES = 50_000
MAX_ERRORS = 100  # that a failed batch lists
# Records of results that are this much older than the last result are certainly written: no request lasts longer.
RECORD_DELAY_S = 900.0
Outcome = Literal["completed", "expired", "cancelled", "failed"]
_NOT_RUN = {
    "expired": "This request could not be executed before the completion window expired.",
    "cancelled": "This request was not executed because the batch was cancelled.",
    "failed": "This request was not executed because the batch failed.",
}


class LineResult(msgspec.Struct, frozen=True, gc=False):
    """The result of line `number`, from 0. `record`: its usage record, None if it was refused before it ran."""

    number: int
    request_id: str
    status: int
    body: msgspec.Raw
    record: RequestRecord | None = None


_decode_result = msgspec.json.Decoder(LineResult).decode


class LockedBatch:
    """A locked batch. `recorded`: the lines whose usage record exists."""

    def __init__(self, home: Home, tenant: str, batch_id: str) -> None:
        """Raises BlockingIOError if a process runs the batch, FileNotFoundError and ApiError 404 if it is gone."""
        self.store, self.tenant = BatchStore(home, tenant), tenant
        self.recorded: set[int] = set()
        self._mark = home.batches / OPEN_FOLDER / batch_id
        self._starts = array("Q")  # position of each line in the input
        self._results: dict[int, tuple[int, int]] = {}  # position and length in the log
        self._failed = 0
        self._input: bytes | mmap.mmap = b""
        self._log: BinaryIO | None = None
        with ExitStack() as opened:
            lock = opened.enter_context(open(self._mark, "rb"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self.batch = self.store.find(Batch, batch_id)
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    @property
    def is_cancelled(self) -> bool:
        return self.store.path(self.batch.id, "cancel").exists()

    def list_remaining(self) -> list[int]:
        """Return the lines without a result."""
        return [number for number in range(len(self._starts)) if number not in self._results]

    def request_id(self, number: int) -> str:
        return f"req_{self.batch.id}_{number:05d}"

    def save(self, **changes: Any) -> None:
        """Write the object of the batch with `changes` and the present counts."""
        done, failed = len(self._results), self._failed
        counts = {"total": len(self._starts), "completed": done - failed, "failed": failed}
        self.batch = replace(self.batch, request_counts=counts, **changes)
        write_json(self.store.path(self.batch.id, "json"), self.batch)

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

    def open_log(self) -> None:
        """Open the log and find its results; what a crash cut off is removed."""
        log = self._log = self._opened.enter_context(open_private(self.store.path(self.batch.id, "log"), "a+b"))
        log.seek(0)
        at = 0
        with suppress(msgspec.DecodeError):
            for line in log:
                if not line.endswith(b"\n"):
                    break
                self._count(_decode_result(line), at, len(line))
                at += len(line)
        log.truncate(at)

    def append(self, result: LineResult) -> None:
        """Write a result: durable against kill -9. Raises OSError, with nothing written, on a full disk."""
        assert self._log is not None, "the log is not open"
        data, at = msgspec.json.encode(result) + b"\n", os.fstat(self._log.fileno()).st_size
        if os.write(self._log.fileno(), data) < len(data):
            os.ftruncate(self._log.fileno(), at)
            raise OSError(errno.ENOSPC, "no space for the result of a batch")
        self._count(result, at, len(data))

    def _count(self, result: LineResult, at: int, size: int) -> None:
        self._results[result.number] = at, size
        self._failed += result.status >= 400

    def find_unrecorded(self, store: Store, home: Home) -> list[RequestRecord]:
        """Return the usage records of results that the ledger lacks, and note the lines that it has."""
        records = {number: one.record for number in self._results if (one := self._read_result(number)).record}
        times = [one.at for one in records.values() if one is not None]
        since = max([float(self.batch.created_at), *times]) - RECORD_DELAY_S
        ids = {self.request_id(number): number for number in range(len(self._starts))}
        found = read_served(store, home, (since, None), self.tenant)
        self.recorded = {ids[one.request_id] for one in found if one.request_id in ids}
        return [one for number, one in records.items() if one and one.at >= since and number not in self.recorded]

    def _read_result(self, number: int) -> LineResult:
        assert self._log is not None, "the log is not open"
        at, size = self._results[number]
        return _decode_result(os.pread(self._log.fileno(), size, at))

    def finish(self, outcome: Outcome, now: int, errors: tuple[BatchError, ...] = ()) -> None:
        """Write the files of results and the last state. A crash before its end repeats it with the same ids."""
        if self.batch.status in OPEN_STATUSES:
            changes: dict[str, Any] = {"errors": BatchErrors(data=errors)} if errors else {}
            if self._log is not None:
                self.save(status="finalizing", finalizing_at=now)
                changes |= self._write_files(outcome)
            cancelling_at = self.store.find_batch(self.batch.id).cancelling_at
            self.save(status=outcome, **{f"{outcome}_at": now, "cancelling_at": cancelling_at, **changes})
        for path in (self.store.path(self.batch.id, "log"), self.store.path(self.batch.id, "cancel"), self._mark):
            path.unlink(missing_ok=True)

    def _write_files(self, outcome: Outcome) -> dict[str, str]:
        """Write the output file and the error file in the order of the input; return their ids by field."""
        written = {}
        for field in ("output_file_id", "error_file_id"):
            name, part = f"file-{self.batch.id[6:]}{field[0]}", self.store.path(self.batch.id, field)
            with open_private(part, "wb") as file:
                for number in range(len(self._starts)):
                    line, failed = self._build_line(number, outcome)
                    if failed == (field == "error_file_id"):
                        file.write(msgspec.json.encode(line) + b"\n")
                file.flush()
                os.fsync(file.fileno())
                size = file.tell()
            if not size:
                part.unlink()
            else:
                part.replace(self.store.path(name, "jsonl"))
                self.store.describe_file(name, f"{self.batch.id}_{field[:-8]}.jsonl", "batch_output")
                written[field] = name
        return written

    def _build_line(self, number: int, outcome: Outcome) -> tuple[dict[str, Any], bool]:
        """Return a line of the results, and whether its request failed."""
        line = {"id": f"batch_req_{self.batch.id[6:]}{number:05d}", "custom_id": self.read_line(number).custom_id}
        if number not in self._results:
            error = {"code": f"batch_{outcome}", "message": _NOT_RUN[outcome]}
            return {**line, "response": None, "error": error}, True
        one = self._read_result(number)
        response = {"status_code": one.status, "request_id": one.request_id, "body": one.body}
        return {**line, "response": response, "error": None}, one.status >= 400
