"""Files and batches of one tenant: the objects that clients see, as JSON files in a folder of the home.

A file is its bytes (`ID.jsonl`) and its object (`ID.json`, written last). A batch is its object, a log of results
while it runs (`ID.log`), and a mark if it was cancelled (`ID.cancel`). `open_batches` lists those that are not done.
Design: no rows of the database, so batches are backed up, moved and erased with their home. Only the process with the
lock writes the object of a batch. An id begins with the time of its creation, so names sort by time.
"""

import re
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from http import HTTPStatus
from pathlib import Path
from typing import Literal, TypeVar

import msgspec

from archwright.contract.record import Record, replace
from archwright.home import Home, write_atomic, write_json
from archwright.monitor.wal.disk_reserve import RESERVE_BYTES, count_free_bytes
from archwright.serving.batches.open_batches import OPEN_FOLDER, OpenBatch, list_open_batches, read_model
from archwright.serving.http.errors import ApiError, bad_request, service_unavailable, too_many_requests

WINDOW_S, RETENTION_S = 24 * 3_600, 30 * 24 * 3_600
TENANT_BYTES, MAX_FILES, MAX_OPEN_BATCHES, MAX_BATCHES = 2 << 30, 1_000, 100, 50_000
MIN_FREE_BYTES = 8 * RESERVE_BYTES  # below, no file is accepted and no line is begun
OPEN_STATUSES = ("validating", "in_progress", "finalizing")
_ID = re.compile(r"(?:file-|batch_)[0-9a-f]{31}[oe]?")


class FileObject(Record):
    """A stored file. Times are whole seconds since the epoch."""

    id: str
    bytes: int
    created_at: int
    expires_at: int
    filename: str
    purpose: Literal["batch", "batch_output"]
    object: Literal["file"] = "file"
    status: Literal["processed"] = "processed"


class BatchError(Record):
    """A fault of a batch; `line` counts from 1."""

    code: str
    message: str
    param: str | None = None
    line: int | None = None


class BatchErrors(Record):
    data: tuple[BatchError, ...]
    object: Literal["list"] = "list"


class Batch(Record):
    """A batch; `key_id` pays for it. Times are whole seconds since the epoch, None until it has that status."""

    id: str
    endpoint: str
    input_file_id: str
    key_id: str
    created_at: int
    expires_at: int
    completion_window: Literal["24h"] = "24h"
    status: str = "validating"
    errors: BatchErrors | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    in_progress_at: int | None = None
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: dict[Literal["total", "completed", "failed"], int] | None = None
    metadata: dict[str, str] | None = None
    object: Literal["batch"] = "batch"


T = TypeVar("T", FileObject, Batch)


def create_id(prefix: str, at: float) -> str:
    """Return a new id: 44 bits of milliseconds since the epoch, 80 random bits."""
    return f"{prefix}{int(at * 1000) & 0xFFFFFFFFFFF:011x}{secrets.token_hex(10)}"


class BatchStore:
    """The files and batches of a tenant."""

    def __init__(self, home: Home, tenant: str, clock: Callable[[], float] = time.time, port: int = 0) -> None:
        self._home, self._tenant, self._clock, self._port = home, tenant, clock, port
        self._folder = home.batches / tenant

    def path(self, name: str, suffix: str) -> Path:
        return self._folder / f"{name}.{suffix}"

    def find(self, kind: type[T], name: str) -> T:
        """Return a file or batch. Raises ApiError 404 if it does not exist, or belongs to another tenant."""
        with suppress(FileNotFoundError):
            if _ID.fullmatch(name) and name.startswith(_PREFIXES[kind]):
                found = msgspec.json.decode(self.path(name, "json").read_bytes(), type=kind)
                if isinstance(found, Batch) or found.expires_at > self._clock():
                    return found
        message = f"No such {_PREFIXES[kind][:-1]}: {name[:80]!r}."
        raise ApiError(HTTPStatus.NOT_FOUND, message, "not_found", param=f"{_PREFIXES[kind][:-1]}_id")

    def list_objects(
        self, kind: type[T], limit: int, after: str, *, newest_first: bool, purpose: str = ""
    ) -> tuple[list[T], bool]:
        """Return `limit` objects after the id `after`, and whether more follow. `purpose`: of files; empty: any."""
        paths = self._folder.glob(f"{_PREFIXES[kind]}*.json")
        found: list[T] = []
        for name in sorted((path.stem for path in paths), reverse=newest_first):
            if after and (name >= after if newest_first else name <= after):
                continue
            with suppress(ApiError):  # it was deleted, or has expired
                one = self.find(kind, name)
                if not purpose or getattr(one, "purpose", purpose) == purpose:
                    found.append(one)
            if len(found) > limit:
                return found[:-1], True
        return found, False

    def add_file(self, filename: str, data: bytes) -> FileObject:
        """Store the input of a batch. Raises ApiError 429 and 503 if the tenant or the disk has no space."""
        self._home.folder("batches", self._tenant)
        sizes = [path.stat().st_size for path in self._folder.glob("*.jsonl")]
        if len(sizes) >= MAX_FILES or sum(sizes) + len(data) > TENANT_BYTES:
            message = f"This tenant has {MAX_FILES:,} files or {TENANT_BYTES >> 30} GiB. Delete files that are done."
            raise too_many_requests(message, "file_quota_exceeded")
        if count_free_bytes(self._home) - len(data) < MIN_FREE_BYTES:
            raise service_unavailable("The disk has no space for this file. Retry later.", "disk_full", 60)
        name = create_id("file-", self._clock())
        write_atomic(self.path(name, "jsonl"), data)
        return self.describe_file(name, filename, "batch")

    def describe_file(self, name: str, filename: str, purpose: Literal["batch", "batch_output"]) -> FileObject:
        """Write the object of a file whose bytes are stored."""
        now, size = int(self._clock()), self.path(name, "jsonl").stat().st_size
        expires_at = now + RETENTION_S
        found = FileObject(
            id=name, bytes=size, created_at=now, expires_at=expires_at, filename=filename, purpose=purpose
        )
        write_json(self.path(name, "json"), found)
        return found

    def delete_file(self, name: str) -> None:
        """Raises ApiError 404, and 409 for the input of a batch that is not done."""
        self.find(FileObject, name)
        mine = [one for one, batch in list_open_batches(self._home) if batch.tenant == self._tenant]
        for batch_id in (one for one in mine if self.path(one, "json").exists()):
            if self.find(Batch, batch_id).input_file_id == name:
                message = f"The batch {batch_id} still reads this file. Cancel the batch first."
                raise ApiError(HTTPStatus.CONFLICT, message, "file_in_use")
        for suffix in ("json", "jsonl"):
            self.path(name, suffix).unlink(missing_ok=True)

    def create_batch(self, input_file_id: str, endpoint: str, key_id: str, metadata: dict[str, str] | None) -> Batch:
        """Raises ApiError 400 for a file that is no input, 404 without it, 429 and 503 without space for more."""
        if self.find(FileObject, input_file_id).purpose != "batch":
            raise bad_request("The purpose of the input file must be 'batch'.", "input_file_id", "invalid_purpose")
        if [one.tenant for _, one in list_open_batches(self._home)].count(self._tenant) >= MAX_OPEN_BATCHES:
            message = f"This tenant has {MAX_OPEN_BATCHES} batches that are not done. Retry when one is done."
            raise too_many_requests(message, "too_many_batches")
        if sum(1 for _ in self._folder.glob("batch_*.json")) >= MAX_BATCHES:
            message = f"This tenant created {MAX_BATCHES:,} batches in 30 days. Send more requests in each."
            raise too_many_requests(message, "too_many_batches")
        if count_free_bytes(self._home) < MIN_FREE_BYTES:
            raise service_unavailable("The disk has no space for this batch. Retry later.", "disk_full", 60)
        now = self._clock()
        batch = Batch(
            id=create_id("batch_", now),
            endpoint=endpoint,
            input_file_id=input_file_id,
            key_id=key_id,
            created_at=int(now),
            expires_at=int(now) + WINDOW_S,
            metadata=metadata,
        )
        # First: the name of a batch that does not exist does no harm.
        model, expires_at = read_model(self.path(input_file_id, "jsonl")), batch.expires_at
        mark = OpenBatch(tenant=self._tenant, port=self._port, model=model, expires_at=expires_at)
        write_json(self._home.folder("batches", OPEN_FOLDER) / batch.id, mark)
        write_json(self.path(batch.id, "json"), batch)
        return batch

    def find_batch(self, name: str) -> Batch:
        """Return a batch as clients see it. Raises ApiError 404."""
        batch = self.find(Batch, name)
        with suppress(FileNotFoundError):
            if batch.status in OPEN_STATUSES:
                at = int(self.path(name, "cancel").stat().st_mtime)
                return replace(batch, status="cancelling", cancelling_at=at)
        return batch

    def cancel_batch(self, name: str) -> Batch:
        """Begin no further line; running lines finish. Raises ApiError 404, and 409 for a batch that is done."""
        batch = self.find(Batch, name)
        if batch.status not in OPEN_STATUSES:
            message = f"A batch with the status {batch.status!r} cannot be cancelled."
            raise ApiError(HTTPStatus.CONFLICT, message, "batch_done")
        self.path(name, "cancel").touch(0o600)
        return self.find_batch(name)


_PREFIXES: dict[type, str] = {FileObject: "file-", Batch: "batch_"}


def remove_expired_files(home: Home, now: float) -> None:
    """Delete what nobody changed for the time of retention."""
    for path in home.batches.glob("*/*"):
        with suppress(FileNotFoundError):
            if path.stat().st_mtime + RETENTION_S < now:
                path.unlink()
